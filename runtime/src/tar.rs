//! Reads tar archives, strictly.
//!
//! Tar readers disagree about odd archives, and what a scanner reads otherwise than a runtime is a
//! way in. So this one takes only what Go's `archive/tar`, GNU tar and libarchive read alike, and
//! refuses everything else by the entry's name:
//!
//! | what | decision |
//! |---|---|
//! | v7, ustar, GNU, pax and star headers; base-256 numbers; pre-1970 and sub-second times | read |
//! | pax `path linkpath size uid gid mtime`, `SCHILY.xattr.*`, `LIBARCHIVE.xattr.*` | read |
//! | GNU long names and links | read |
//! | other pax keywords (names of owners, access times, vendor keys) | ignored |
//! | a size on links, directories, devices and fifos | refused |
//! | a keyword twice in one pax header; a pax and a GNU name for one entry | refused |
//! | global pax headers that carry more than a comment, or stand between a header and its entry | refused |
//! | pax `SCHILY.devmajor`, `.devminor`, `.realsize`, `SUN.holesdata`; v7 headers with a prefix | refused |
//! | records that are malformed, numbers that overflow, NUL in or empty names | refused |
//! | a plain file whose name ends in `/`; unknown entry types | refused |
//! | GNU sparse files: old `S` headers, pax 0.0, 0.1, 1.0 | read, as data and holes |
//! | sparse maps over 10,000 pieces, out of order, beyond the size, of other bytes than stored, with gaps that readers fill unlike (pieces of broken blocks) | refused |
//! | `GNU.sparse.*` records of no or several forms, or on other types; a pax size on an `S` header | refused |
//! | one zero block with more headers after it; bytes other than zero after the end | refused |
//! | no end marker | read, as all three do |
//! | metadata of one entry over 1 MiB | refused |

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use reader::{Entry, Kind, Reader};
pub use writer::Writer;

/// Long names and pax headers of one entry are at most this long.
const METADATA_BYTES_MAX: u64 = 1 << 20;
const BLOCK_BYTES: usize = 512;

/// Whether a block is a header: its checksum is right.
pub(crate) fn is_header(block: &[u8; BLOCK_BYTES]) -> bool {
    header::sum_is_right(block).unwrap_or(false)
}
