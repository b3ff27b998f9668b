//! Extent trees, walked in the file's order with one block for each level in memory.

use std::io::{Read, Seek};

use super::blocks::Blocks;
use super::error::{Error, Result};
use super::get;
use super::inode::Inode;
use crate::crc32c::crc32c;

const MAGIC: u16 = 0xf30a;
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;
/// The kernel makes no deeper trees.
const DEPTH_MAX: u16 = 5;
/// Longer ones are that much longer than they say, and not written to yet.
const WRITTEN_BLOCKS_MAX: u32 = 32_768;
const FILE_BLOCKS_MAX: u64 = 1 << 32;

/// Blocks of a file that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) file_block: u64,
    pub(super) image_block: u64,
    pub(super) blocks: u64,
    /// False: reserved only, reads as zeros.
    pub(super) is_written: bool,
}

/// Where in a tree the walk is. Extents come in the file's order and never overlap, so it ends.
#[derive(Debug)]
pub(super) struct Extents {
    inode: u32,
    /// The seed of the nodes' checksums, where there are any.
    seed: Option<u32>,
    levels: Vec<Level>,
    /// The file's first block that the next extent may have.
    from: u64,
    /// Blocks of extents so far; no file has more than the image.
    mapped: u64,
}

/// A node that the walk is in.
#[derive(Debug)]
struct Level {
    bytes: Vec<u8>,
    depth: u16,
    entries: usize,
    next: usize,
    /// The file's block before which everything below it ends.
    end: u64,
}

impl Extents {
    /// At the start of an inode's tree. `seed` is the file system's.
    pub(super) fn new(inode: &Inode, seed: Option<u32>) -> Result<Self> {
        let bytes = inode.content().to_vec();
        let capacity = (bytes.len() - HEADER_BYTES) / ENTRY_BYTES;
        let (depth, entries) = header(&bytes, capacity)
            .ok_or_else(|| Error::inode(inode.number, "its extent tree has no right root"))?;
        if depth > DEPTH_MAX || depth > 0 && entries == 0 {
            return Err(Error::inode(inode.number, "its extent tree has an impossible depth"));
        }
        let root = Level { bytes, depth, entries, next: 0, end: FILE_BLOCKS_MAX };
        let seed = seed.map(|seed| inode.seed(seed));
        Ok(Extents { inode: inode.number, seed, levels: vec![root], from: 0, mapped: 0 })
    }

    /// The next extent.
    pub(super) fn next<R: Read + Seek>(
        &mut self,
        blocks: &mut Blocks<R>,
    ) -> Result<Option<Extent>> {
        while let Some(level) = self.levels.last_mut() {
            if level.next == level.entries {
                self.levels.pop();
                continue;
            }
            let at = HEADER_BYTES + level.next * ENTRY_BYTES;
            level.next += 1;
            let (depth, end, is_last) = (level.depth, level.end, level.next == level.entries);
            let entry = &level.bytes[at..];
            let file_block = u64::from(get::u32(entry, 0));
            if depth == 0 {
                let extent = leaf(entry, file_block);
                return self.checked(extent, end, blocks.count).map(Some);
            }
            let end = if is_last { end } else { get::u32(entry, ENTRY_BYTES).into() };
            if file_block < self.from || file_block >= end {
                return Err(self.damaged("its extent tree is out of order"));
            }
            let child = u64::from(get::u32(entry, 4)) | u64::from(get::u16(entry, 8)) << 32;
            let node = self.node(blocks, child, depth - 1, end)?;
            self.levels.push(node);
        }
        Ok(None)
    }

    fn damaged(&self, why: &'static str) -> Error {
        Error::inode(self.inode, why)
    }

    fn node<R: Read + Seek>(
        &self,
        blocks: &mut Blocks<R>,
        number: u64,
        depth: u16,
        end: u64,
    ) -> Result<Level> {
        let bytes = blocks.block(number)?.to_vec();
        let capacity = (bytes.len() - HEADER_BYTES - CHECKSUM_BYTES) / ENTRY_BYTES;
        let (found, entries) = header(&bytes, capacity)
            .ok_or_else(|| Error::block(number, "it should be a node of an extent tree"))?;
        if found != depth || entries == 0 {
            return Err(Error::block(number, "it is no node for its place in an extent tree"));
        }
        if let Some(seed) = self.seed {
            let tail = HEADER_BYTES + usize::from(get::u16(&bytes, 4)) * ENTRY_BYTES;
            if get::u32(&bytes, tail) != crc32c(seed, &bytes[..tail]) {
                return Err(Error::block(number, "its checksum is wrong"));
            }
        }
        Ok(Level { bytes, depth, entries, next: 0, end })
    }

    fn checked(&mut self, extent: Extent, end: u64, image_blocks: u64) -> Result<Extent> {
        let file_end = extent.file_block + extent.blocks;
        if extent.blocks == 0 || extent.file_block < self.from || file_end > end {
            return Err(self.damaged("its extents are out of order"));
        }
        if extent.image_block == 0 || extent.image_block + extent.blocks > image_blocks {
            return Err(self.damaged("an extent is not in the image"));
        }
        self.mapped += extent.blocks;
        if self.mapped > image_blocks {
            return Err(self.damaged("it has more blocks than the image"));
        }
        self.from = file_end;
        Ok(extent)
    }
}

/// Depth and number of entries of a node with room for `capacity`, `None` where it is none.
fn header(bytes: &[u8], capacity: usize) -> Option<(u16, usize)> {
    let (entries, max) = (get::u16(bytes, 2).into(), get::u16(bytes, 4).into());
    let is_right = get::u16(bytes, 0) == MAGIC && entries <= max && max <= capacity;
    is_right.then(|| (get::u16(bytes, 6), entries))
}

fn leaf(entry: &[u8], file_block: u64) -> Extent {
    let length = u32::from(get::u16(entry, 4));
    let is_written = length <= WRITTEN_BLOCKS_MAX;
    let blocks = if is_written { length } else { length - WRITTEN_BLOCKS_MAX };
    let image_block = u64::from(get::u32(entry, 8)) | u64::from(get::u16(entry, 6)) << 32;
    Extent { file_block, image_block, blocks: blocks.into(), is_written }
}
