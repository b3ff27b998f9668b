//! Extended attributes: in the inode's spare bytes, in a block, and values in inodes of their own.

use super::error::{Error, Result};
use super::get;
use crate::Xattr;
use crate::crc32c::crc32c;

pub(super) const MAGIC: u32 = 0xea02_0000;
const ENTRY_HEADER_BYTES: usize = 16;
const BLOCK_HEADER_BYTES: usize = 32;
/// As on disk: its name goes by a number, and the kernel keeps it to itself.
pub(super) const INLINE_DATA: &[u8] = b"system.data";

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bytes(Vec<u8>),
    /// The content of an inode, and its length.
    Inode(u32, usize),
}

/// The prefix that a namespace's number stands for.
fn prefix(namespace: u8) -> Option<&'static [u8]> {
    Some(match namespace {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        5 => b"lustre.",
        6 => b"security.",
        7 => b"system.",
        8 => b"system.richacl",
        9 => b"encryption.",
        10 => b"gnu.",
        _ => return None,
    })
}

/// The attributes in an inode's spare bytes; values count from behind the magic number.
pub(super) fn in_inode(spare: &[u8]) -> Option<Vec<(Vec<u8>, Value)>> {
    match spare.len() >= 8 && get::u32(spare, 0) == MAGIC {
        true => list(&spare[4..], 0),
        false => Some(Vec::new()),
    }
}

/// The attributes in the block `number`. `seed` is the file system's.
pub(super) fn in_block(
    bytes: &[u8],
    number: u64,
    seed: Option<u32>,
) -> Result<Vec<(Vec<u8>, Value)>> {
    if get::u32(bytes, 0) != MAGIC || get::u32(bytes, 8) != 1 {
        return Err(Error::block(number, "it should hold extended attributes"));
    }
    if let Some(seed) = seed {
        let crc = crc32c(crc32c(seed, &number.to_le_bytes()), &bytes[..16]);
        if get::u32(bytes, 16) != crc32c(crc32c(crc, &[0; 4]), &bytes[20..]) {
            return Err(Error::block(number, "its checksum is wrong"));
        }
    }
    list(bytes, BLOCK_HEADER_BYTES)
        .ok_or_else(|| Error::block(number, "its extended attributes do not fit into it"))
}

/// Entries from `at` on until one that begins with four zero bytes.
fn list(buf: &[u8], mut at: usize) -> Option<Vec<(Vec<u8>, Value)>> {
    let mut found = Vec::new();
    loop {
        let entry = buf.get(at..)?;
        if entry.get(..4)? == [0; 4] {
            return Some(found);
        }
        let header = entry.get(..ENTRY_HEADER_BYTES)?;
        let name = entry.get(ENTRY_HEADER_BYTES..ENTRY_HEADER_BYTES + usize::from(header[0]))?;
        let name = [prefix(header[1])?, name].concat();
        let (inode, size) = (get::u32(header, 4), get::u32(header, 8) as usize);
        let start = usize::from(get::u16(header, 2));
        let value = match inode {
            _ if size == 0 => Value::Bytes(Vec::new()),
            0 => Value::Bytes(buf.get(start..start.checked_add(size)?)?.to_vec()),
            _ => Value::Inode(inode, size),
        };
        found.push((name, value));
        at += (ENTRY_HEADER_BYTES + usize::from(header[0])).next_multiple_of(4);
    }
}

/// As `getxattr(2)` gives it: ACLs have a form of their own on disk. `None` where it is no ACL.
pub(super) fn decoded(name: Vec<u8>, value: Vec<u8>) -> Option<Xattr> {
    let value = match &name[..] {
        b"system.posix_acl_access" | b"system.posix_acl_default" => acl(&value)?,
        _ => value,
    };
    Some(Xattr { name: name.into(), value: value.into() })
}

/// From version 1, with ids only where they mean something, to version 2.
fn acl(disk: &[u8]) -> Option<Vec<u8>> {
    const NO_ID: [u8; 4] = [0xff; 4];
    let mut rest = disk.strip_prefix(&1u32.to_le_bytes())?;
    let mut wire = 2u32.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let (entry, behind) = rest.split_at_checked(4)?;
        wire.extend_from_slice(entry);
        rest = behind;
        match get::u16(entry, 0) {
            0x02 | 0x08 => {
                let (id, behind) = rest.split_at_checked(4)?;
                wire.extend_from_slice(id);
                rest = behind;
            }
            0x01 | 0x04 | 0x10 | 0x20 => wire.extend_from_slice(&NO_ID),
            _ => return None,
        }
    }
    Some(wire)
}
