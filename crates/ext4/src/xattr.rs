//! Extended attributes: in the inode's spare bytes where they fit, else in a block, which inodes
//! with the same attributes share.

use std::collections::HashMap;

use crate::block::Block;
use crate::crc32c::crc32c;
use crate::put;
use crate::{BLOCK_BYTES, Error, Result, Xattr};

const MAGIC: u32 = 0xea02_0000;
const ENTRY_HEADER_BYTES: usize = 16;
const BLOCK_HEADER_BYTES: usize = 32;
/// The kernel shares a block between at most this many inodes.
const SHARED_MAX: u32 = 1024;

/// Attribute names on disk have a number for their namespace. Longer prefixes come first.
const NAMESPACES: [(&[u8], u8); 6] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
    (b"system.", 7),
];

/// An attribute as ext4 stores it, in the order in which a block wants them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Stored {
    namespace: u8,
    name_bytes: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Where an inode's attributes go.
#[derive(Debug)]
pub(crate) enum Placed {
    /// Into the inode: these bytes, the magic number first. Empty where there are none.
    Inode(Vec<u8>),
    /// Into the block with this index in the [`Blocks`].
    Block(usize),
}

/// The attribute blocks of an image, each distinct content once (per [`SHARED_MAX`] users).
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    blocks: Vec<Shared>,
    by_content: HashMap<Vec<Stored>, usize>,
}

#[derive(Debug)]
struct Shared {
    bytes: Box<Block>,
    users: u32,
}

impl Blocks {
    /// Places one inode's attributes; `room` is what its inode has to spare.
    pub(crate) fn place(&mut self, xattrs: &[Xattr], room: usize) -> Result<Placed> {
        if xattrs.is_empty() {
            return Ok(Placed::Inode(Vec::new()));
        }
        let mut stored = xattrs.iter().map(store).collect::<Result<Vec<_>>>()?;
        stored.sort();
        if let Some(pair) =
            stored.windows(2).find(|p| (p[0].namespace, &p[0].name) == (p[1].namespace, &p[1].name))
        {
            return Err(Error::xattr(&pair[0].name, "it is there twice"));
        }
        let mut body = vec![0; room];
        put::u32(&mut body, 0, MAGIC);
        if encode(&mut body[4..], 0, &stored, false).is_some() {
            return Ok(Placed::Inode(body));
        }
        if let Some(&index) = self.by_content.get(&stored)
            && self.blocks[index].users < SHARED_MAX
        {
            self.blocks[index].users += 1;
            return Ok(Placed::Block(index));
        }
        let mut bytes: Box<Block> = Box::new([0; BLOCK_BYTES]);
        let hash = encode(&mut bytes[..], BLOCK_HEADER_BYTES, &stored, true)
            .ok_or_else(|| Error::xattr(&xattrs[0].name, "the attributes need over 4 KiB"))?;
        put::u32(&mut bytes[..], 0, MAGIC);
        put::u32(&mut bytes[..], 8, 1);
        put::u32(&mut bytes[..], 12, hash);
        self.blocks.push(Shared { bytes, users: 1 });
        self.by_content.insert(stored, self.blocks.len() - 1);
        Ok(Placed::Block(self.blocks.len() - 1))
    }

    /// The blocks, finished for their places from `first` on.
    pub(crate) fn finish(mut self, first: u64, seed: u32) -> impl Iterator<Item = Box<Block>> {
        for (shared, place) in self.blocks.iter_mut().zip(first..) {
            put::u32(&mut shared.bytes[..], 4, shared.users);
            let crc = crc32c(crc32c(seed, &place.to_le_bytes()), &shared.bytes[..]);
            put::u32(&mut shared.bytes[..], 16, crc);
        }
        self.blocks.into_iter().map(|shared| shared.bytes)
    }
}

fn store(xattr: &Xattr) -> Result<Stored> {
    let (prefix, namespace) = NAMESPACES
        .into_iter()
        .find(|(prefix, _)| xattr.name.starts_with(prefix))
        .ok_or_else(|| Error::xattr(&xattr.name, "ext4 knows no such namespace"))?;
    let name = xattr.name[prefix.len()..].to_vec();
    let value = match namespace {
        2 | 3 if !name.is_empty() => {
            return Err(Error::xattr(&xattr.name, "ext4 knows no such attribute"));
        }
        2 | 3 => acl(xattr)?,
        _ if name.is_empty() => return Err(Error::xattr(&xattr.name, "its name is empty")),
        _ => xattr.value.to_vec(),
    };
    if name.len() > 255 {
        return Err(Error::xattr(&xattr.name, "its name is longer than 255 bytes"));
    }
    Ok(Stored { namespace, name_bytes: name.len(), name, value })
}

/// POSIX ACLs have a form of their own on disk: version 1, and no id where none is needed.
fn acl(xattr: &Xattr) -> Result<Vec<u8>> {
    const WIRE_VERSION: [u8; 4] = 2u32.to_le_bytes();
    const WITH_ID: [u16; 2] = [0x02, 0x08];
    const WITHOUT_ID: [u16; 4] = [0x01, 0x04, 0x10, 0x20];

    let wrong = || Error::xattr(&xattr.name, "it is not a POSIX ACL");
    let entries = xattr.value.strip_prefix(&WIRE_VERSION).ok_or_else(wrong)?;
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(wrong());
    }
    let mut disk = 1u32.to_le_bytes().to_vec();
    for entry in entries {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        match tag {
            _ if WITHOUT_ID.contains(&tag) => disk.extend_from_slice(&entry[..4]),
            _ if WITH_ID.contains(&tag) => disk.extend_from_slice(entry),
            _ => return Err(wrong()),
        }
    }
    Ok(disk)
}

/// Writes entries from `start` on and values from the end backwards; the hash over all entries,
/// or `None` where they do not fit. Only blocks carry hashes.
fn encode(buf: &mut [u8], start: usize, stored: &[Stored], hashed: bool) -> Option<u32> {
    let mut at = start;
    let mut end = buf.len();
    let mut all = 0u32;
    for xattr in stored {
        let entry_bytes = (ENTRY_HEADER_BYTES + xattr.name.len()).next_multiple_of(4);
        let value_bytes = xattr.value.len().next_multiple_of(4);
        end = end.checked_sub(value_bytes)?;
        // Four zero bytes end the list of entries.
        if at + entry_bytes + 4 > end {
            return None;
        }
        buf[at] = xattr.name.len() as u8;
        buf[at + 1] = xattr.namespace;
        put::u16(buf, at + 2, if xattr.value.is_empty() { 0 } else { end as u16 });
        put::u32(buf, at + 8, xattr.value.len() as u32);
        put::bytes(buf, at + ENTRY_HEADER_BYTES, &xattr.name);
        put::bytes(buf, end, &xattr.value);
        if hashed {
            let hash = entry_hash(xattr);
            put::u32(buf, at + 12, hash);
            all = all.rotate_left(16) ^ hash;
        }
        at += entry_bytes;
    }
    Some(all)
}

fn entry_hash(xattr: &Stored) -> u32 {
    let name = xattr.name.iter().fold(0u32, |hash, &b| hash.rotate_left(5) ^ u32::from(b));
    xattr.value.chunks(4).fold(name, |hash, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}
