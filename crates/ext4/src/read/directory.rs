//! Directory blocks. Hash trees need no care: their inner nodes look like blocks of one empty
//! entry, so that every directory is a list.

use std::ops::ControlFlow;

use super::error::{Error, Result};
use super::get;
use super::inode::{FLAG_INDEX, Inode};
use super::volume::Layout;
use crate::crc32c::crc32c;
use crate::tree::check_name;

const ENTRY_HEADER_BYTES: usize = 8;
/// The last bytes of a leaf look like an unused entry and hold its checksum.
const TAIL_BYTES: usize = 12;
const TAIL_TYPE: u8 = 0xde;
const INDEX_ENTRY_BYTES: usize = 8;
const INDEX_TAIL_BYTES: usize = 8;

/// A name in a directory, `.` and `..` left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name: 1 to 255 bytes without `/` and NUL.
    pub name: Box<[u8]>,
    /// The number of its inode.
    pub inode: u32,
}

/// Takes a name and an inode's number; says whether to go on.
pub(super) type Visit<'v> = dyn FnMut(&[u8], u32) -> Result<ControlFlow<()>> + 'v;

/// Calls `visit` with the names and inode numbers in `bytes`: a block without its checksum, or
/// inline entries.
pub(super) fn scan(
    directory: &Inode,
    layout: &Layout,
    bytes: &[u8],
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>> {
    let damaged = |why| Error::inode(directory.number, why);
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest.len() < ENTRY_HEADER_BYTES {
            return Err(damaged("an entry is cut by the end of its block"));
        }
        // 64 KiB do not fit into 16 bits.
        let length = match get::u16(rest, 4) {
            0 | u16::MAX if bytes.len() >= usize::from(u16::MAX) - TAIL_BYTES => bytes.len(),
            length => length.into(),
        };
        let name_bytes = match layout.has_types {
            true => rest[6].into(),
            false => get::u16(rest, 6).into(),
        };
        if length % 4 != 0
            || length < ENTRY_HEADER_BYTES
            || length > rest.len()
            || name_bytes > length - ENTRY_HEADER_BYTES
        {
            return Err(damaged("an entry does not fit into its block"));
        }
        at += length;
        let (number, name) = (get::u32(rest, 0), &rest[ENTRY_HEADER_BYTES..][..name_bytes]);
        match name {
            _ if number == 0 => continue,
            b"." if number != directory.number => {
                return Err(damaged("its entry for itself is another's"));
            }
            b"." | b".." => continue,
            _ => check_name(name).map_err(|_| damaged("an entry has an impossible name"))?,
        }
        if number < layout.first_inode {
            return Err(damaged("a name leads to an inode of the file system itself"));
        }
        if visit(name, number)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// A block without its checksum, once that is found right. `seed` is the file system's.
pub(super) fn checked<'b>(directory: &Inode, block: &'b [u8], seed: u32) -> Result<&'b [u8]> {
    let seed = directory.seed(seed);
    let (entries, tail) = block.split_at(block.len() - TAIL_BYTES);
    let has_tail = tail[..8] == [0, 0, 0, 0, TAIL_BYTES as u8, 0, 0, TAIL_TYPE];
    if has_tail && get::u32(tail, 8) == crc32c(seed, entries) {
        return Ok(entries);
    }
    // Linux makes a full directory's first block the root of a tree and leaves the old tail there,
    // so a block that looks like a leaf may be none.
    match directory.flags & FLAG_INDEX != 0 && index_is_right(block, seed) {
        true => Ok(block),
        false => Err(Error::inode(directory.number, "the checksum of its entries is wrong")),
    }
}

/// Whether a block of a hash tree has the right checksum: over its pointers and, as zeros, itself.
fn index_is_right(block: &[u8], seed: u32) -> bool {
    // The root begins with `.`, 12 bytes long, and eight bytes of parameters behind `..`.
    let at = match get::u16(block, 4) {
        12 => 32,
        _ => 8,
    };
    let (max, count) = (usize::from(get::u16(block, at)), usize::from(get::u16(block, at + 2)));
    let tail = at + max * INDEX_ENTRY_BYTES;
    if count > max || tail + INDEX_TAIL_BYTES > block.len() {
        return false;
    }
    let crc = crc32c(seed, &block[..at + count * INDEX_ENTRY_BYTES]);
    let crc = crc32c(crc32c(crc, &block[tail..tail + 4]), &[0; 4]);
    crc == get::u32(block, tail + 4)
}
