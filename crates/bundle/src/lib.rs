//! What a bundle is: the packed file, its manifest, and the small values both are made of.
//!
//! This crate reads and writes bytes; it touches no network and starts no process.
//!
//! # The packed file
//!
//! A bundle is an ordinary `.tar.zst`: any `zstd -d | tar x` opens it and finds `manifest.json` and
//! the files that the manifest names ([`Kind::files`]), in its order. It is immutable and named by
//! the SHA-256 of the packed file. Inside it is a sequence of independent zstd frames (RFC 8878),
//! so that a reader can fetch, check and decompress any of them by itself, and take from another
//! bundle those that it has. All numbers are little-endian.
//!
//! | what | frame | content |
//! |---|---|---|
//! | head | stored | tar header of `manifest.json`, the manifest, padding |
//! | for each file: | | |
//! | - glue | stored | padding of the file before, tar header of this one |
//! | - its frames | data or zero | the file, in order |
//! | glue | stored | padding of the last file, 1,024 zeros that end the archive |
//! | frame table | skippable, `0x184D2A5C` | see below |
//! | seek table | skippable, `0x184D2A5E` | zstd's seekable format, without checksums; one entry for each frame above, the frame table counting as one of 0 raw bytes |
//!
//! - A **data** frame is whatever zstd makes of 1 to [`FRAME_BYTES_MAX`] bytes: one frame with its
//!   content's size, without dictionary, with a window of at most [`WINDOW_BYTES_MAX`].
//! - A **stored** frame holds its content uncompressed and a **zero** frame a run of zeros
//!   (repeated-byte blocks: 32 KiB for each GiB). Both are magic, descriptor `0x80`, window
//!   descriptor `0x38` (128 KiB), content size in four bytes, then blocks of 128 KiB, the last one
//!   shorter; no checksum. So their bytes follow from their content.
//! - Tar headers are GNU's, mode 0644, owner 0, time 0. Frames never cross a file's end, and begin
//!   at multiples of [`BLOCK_BYTES`] of their file. The writer cuts where regions of the disk image
//!   begin, around runs of zeros of 64 KiB and more, and where the content says so; readers do not
//!   care.
//!
//! The **frame table** is `imgframe`, the number 1 (u32), the number of frames (u32, at most
//! [`FRAMES_MAX`]), and for each data or zero frame, in the file's order:
//!
//! | bytes | data | zero |
//! |---|---|---|
//! | 4 | raw length, at most [`FRAME_BYTES_MAX`] | at most [`ZERO_BYTES_MAX`] |
//! | 4 | packed length, at most 257/256 of the raw length and 1,024 | 0 |
//! | 32 | SHA-256 of the raw bytes | 0 |
//! | 32 | SHA-256 of the frame | 0 |
//!
//! It is binary because it is the one part whose size counts (72 bytes for 256 KiB; in JSON it would
//! be three times that) and because a table of fixed entries has one spelling and is checked
//! before memory is taken. It holds lengths only, no offsets: frames that overlap, leave gaps or lie
//! outside can not be said.
//!
//! # What is signed
//!
//! The **manifest**: the very bytes of `manifest.json`. It names the frame table by digest, and the
//! table every data frame; all other bytes follow from the two. So the signed manifest alone decides
//! every byte of the packed file, though it lies inside: nothing in it depends on its own frame,
//! whose length follows from the manifest's. A catalog names a bundle by the packed file's digest and
//! publishes, as blobs by their digests, the manifest and the frame table (both can be cut out of the
//! file: [`Outline::json`], [`Outline::table`]). A host that trusts a manifest builds an [`Outline`]
//! and calls [`Outline::assemble`]: every frame is checked before it is decompressed and after. What
//! a file says without a signature it can only say of itself: [`read_manifest`], [`Outline::read`].
//!
//! The manifest's JSON may end in spaces before its last newline: the writer leaves room for
//! numbers that it learns last.

mod arch;
mod assemble;
mod chunks;
mod cut;
mod digest;
mod error;
mod export;
mod manifest;
mod member;
mod name;
mod outline;
mod pack;
mod table;
mod test;
mod zstd_frame;

pub use arch::Arch;
pub use assemble::Form;
pub use chunks::{Bytes, CHUNKS_BYTES_MAX, Chunks, Known};
pub use digest::{Digest, Hasher, HashingReader, HashingWriter};
pub use error::{Error, Result};
pub use manifest::{
    AgentInfo, Blob, Boot, Database, FileEntry, ImageConfig, Init, Kind, MANIFEST_BYTES_MAX,
    Manifest, Package, ROOTFS, Reference, SBOM, SCHEMA, Source,
};
pub use member::read_manifest;
pub use name::{Name, Version};
pub use outline::{Outline, Piece};
pub use pack::{Content, Packing, pack};
pub use table::{FRAME_BYTES_MAX, FRAMES_MAX, Frame, ZERO_BYTES_MAX};
pub use test::{Check, TEST_SECONDS_MAX, TESTS_MAX, Test, TestResult};
pub use zstd_frame::WINDOW_BYTES_MAX;

/// A block of a disk image: frames of a file begin at multiples of it.
pub const BLOCK_BYTES: u64 = 4096;
