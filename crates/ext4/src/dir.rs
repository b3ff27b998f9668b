//! Directory blocks: one linear block, or a hash tree (`dir_index`) over many.

use crate::block::Block;
use crate::crc32c::crc32c;
use crate::hash::{HASH_VERSION, hash};
use crate::put;
use crate::{BLOCK_BYTES, Error, Result};

/// The last 12 bytes of every leaf look like an unused entry and hold its checksum.
const TAIL_BYTES: usize = 12;
const LEAF_BYTES: usize = BLOCK_BYTES - TAIL_BYTES;
/// Where the entries of the tree's root begin: after `.`, `..` and eight bytes of parameters.
const ROOT_ENTRIES_AT: usize = 32;
/// Where the entries of an inner node begin: after one empty entry as long as the block.
const NODE_ENTRIES_AT: usize = 8;
const INDEX_ENTRY_BYTES: usize = 8;
const INDEX_TAIL_BYTES: usize = 8;
const ROOT_ENTRIES_MAX: usize =
    (BLOCK_BYTES - ROOT_ENTRIES_AT - INDEX_TAIL_BYTES) / INDEX_ENTRY_BYTES;
const NODE_ENTRIES_MAX: usize =
    (BLOCK_BYTES - NODE_ENTRIES_AT - INDEX_TAIL_BYTES) / INDEX_ENTRY_BYTES;
const DIRECTORY: u8 = 2;

/// A name on its way into a directory block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'t> {
    pub(crate) name: &'t [u8],
    pub(crate) inode: u32,
    /// The entry's type byte.
    pub(crate) kind: u8,
}

/// What a directory's blocks depend on besides its entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'t> {
    pub(crate) inode: u32,
    pub(crate) parent: u32,
    /// The inode's checksum seed.
    pub(crate) seed: u32,
    pub(crate) hash_seed: &'t [u8; 16],
}

/// A directory's blocks, and whether they are a hash tree.
pub(crate) struct Blocks {
    pub(crate) blocks: Vec<Block>,
    pub(crate) indexed: bool,
}

/// Lays out the directory at `place` with `entries` (without `.` and `..`).
pub(crate) fn layout(place: Place<'_>, entries: &[Named<'_>]) -> Result<Blocks> {
    let dots = dots(place);
    let bytes: usize = dots.iter().chain(entries).map(|e| entry_bytes(e.name)).sum();
    if bytes <= LEAF_BYTES {
        let all: Vec<_> = dots.iter().chain(entries).copied().collect();
        return Ok(Blocks { blocks: vec![leaf(&all, place.seed)], indexed: false });
    }
    tree(place, entries)
}

fn dots(place: Place<'_>) -> [Named<'static>; 2] {
    [
        Named { name: b".", inode: place.inode, kind: DIRECTORY },
        Named { name: b"..", inode: place.parent, kind: DIRECTORY },
    ]
}

fn entry_bytes(name: &[u8]) -> usize {
    (8 + name.len()).next_multiple_of(4)
}

fn put_entry(block: &mut Block, at: usize, entry: &Named<'_>, length: usize) {
    put::u32(block, at, entry.inode);
    put::u16(block, at + 4, length as u16);
    block[at + 6] = entry.name.len() as u8;
    block[at + 7] = entry.kind;
    put::bytes(block, at + 8, entry.name);
}

/// A block of entries, the last stretched to the tail, and its checksum.
fn leaf(entries: &[Named<'_>], seed: u32) -> Block {
    let mut block = [0; BLOCK_BYTES];
    let mut at = 0;
    for (i, entry) in entries.iter().enumerate() {
        let last = i + 1 == entries.len();
        let length = if last { LEAF_BYTES - at } else { entry_bytes(entry.name) };
        put_entry(&mut block, at, entry, length);
        at += length;
    }
    put::u16(&mut block, LEAF_BYTES + 4, TAIL_BYTES as u16);
    block[LEAF_BYTES + 7] = 0xde;
    let checksum = crc32c(seed, &block[..LEAF_BYTES]);
    put::u32(&mut block, LEAF_BYTES + 8, checksum);
    block
}

/// A pointer to a directory block and the first hash in it.
struct Pointer {
    hash: u32,
    block: u32,
}

fn tree(place: Place<'_>, entries: &[Named<'_>]) -> Result<Blocks> {
    let mut hashed: Vec<_> = entries.iter().map(|e| (hash(e.name, place.hash_seed), *e)).collect();
    hashed.sort_by_key(|(key, entry)| (*key, entry.name));

    // The root is block 0; leaves and inner nodes follow in order.
    let mut blocks = vec![[0; BLOCK_BYTES]];
    let mut pointers = Vec::new();
    let mut previous = None;
    let mut start = 0;
    while start < hashed.len() {
        let mut room = LEAF_BYTES;
        let fits = |(_, e): &&((u32, u32), Named<'_>)| {
            let fits = entry_bytes(e.name) <= room;
            room = room.saturating_sub(entry_bytes(e.name));
            fits
        };
        let count = hashed[start..].iter().take_while(fits).count();
        let here: Vec<_> = hashed[start..start + count].iter().map(|(_, e)| *e).collect();
        let (first, last) = (hashed[start].0.0, hashed[start + count - 1].0.0);
        // An odd hash says that names of the same hash are in the block before, too.
        let continued = u32::from(previous == Some(first));
        pointers.push(Pointer { hash: first | continued, block: blocks.len() as u32 });
        blocks.push(leaf(&here, place.seed));
        previous = Some(last);
        start += count;
    }
    let mut levels = 0;
    if pointers.len() > ROOT_ENTRIES_MAX {
        let mut above = Vec::new();
        for node in pointers.chunks(NODE_ENTRIES_MAX) {
            above.push(Pointer { hash: node[0].hash, block: blocks.len() as u32 });
            blocks.push(inner(node, place.seed));
        }
        pointers = above;
        levels = 1;
    }
    if pointers.len() > ROOT_ENTRIES_MAX {
        let (value, max) = (entries.len() as u64, (ROOT_ENTRIES_MAX * NODE_ENTRIES_MAX) as u64);
        return Err(Error::TooLarge { what: "a directory's number of entries", value, max });
    }
    blocks[0] = root(place, &pointers, levels);
    Ok(Blocks { blocks, indexed: true })
}

fn root(place: Place<'_>, pointers: &[Pointer], levels: u8) -> Block {
    let mut block = [0; BLOCK_BYTES];
    let [dot, dotdot] = dots(place);
    put_entry(&mut block, 0, &dot, 12);
    put_entry(&mut block, 12, &dotdot, BLOCK_BYTES - 12);
    block[28] = HASH_VERSION;
    block[29] = 8; // the length of these parameters
    block[30] = levels;
    index(&mut block, ROOT_ENTRIES_AT, ROOT_ENTRIES_MAX, pointers, place.seed);
    block
}

fn inner(pointers: &[Pointer], seed: u32) -> Block {
    let mut block = [0; BLOCK_BYTES];
    put::u16(&mut block, 4, BLOCK_BYTES as u16);
    index(&mut block, NODE_ENTRIES_AT, NODE_ENTRIES_MAX, pointers, seed);
    block
}

/// Writes `pointers` from `at` on; the first one's hash is implied and its place holds the counts.
fn index(block: &mut Block, at: usize, max: usize, pointers: &[Pointer], seed: u32) {
    for (i, pointer) in pointers.iter().enumerate() {
        put::u32(block, at + i * INDEX_ENTRY_BYTES, pointer.hash);
        put::u32(block, at + i * INDEX_ENTRY_BYTES + 4, pointer.block);
    }
    put::u16(block, at, max as u16);
    put::u16(block, at + 2, pointers.len() as u16);
    let tail = at + max * INDEX_ENTRY_BYTES;
    let crc = crc32c(seed, &block[..at + pointers.len() * INDEX_ENTRY_BYTES]);
    // The tail's reserved word and the checksum's own place count as zeros.
    let checksum = crc32c(crc, &[0; 8]);
    put::u32(block, tail + 4, checksum);
}
