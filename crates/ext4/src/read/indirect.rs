//! Maps of blocks as of ext2 and ext3: pointers in the inode, and blocks of pointers, up to three
//! deep. ext4 still has them: `e2fsck` makes `lost+found` with one. They carry no checksums.

use std::io::{Read, Seek};

use super::blocks::Blocks;
use super::error::{Error, Result};
use super::extents::Extent;
use super::get;
use super::inode::Inode;

/// Pointers in the inode that are to content; the three behind them are to blocks of pointers.
const DIRECT: usize = 12;
const POINTER_BYTES: usize = 4;

/// Where in a map the walk is.
#[derive(Debug)]
pub(super) struct Indirect {
    inode: u32,
    levels: Vec<Level>,
    /// The file's block that the next pointer is for.
    at: u64,
    /// The file's first block behind its size.
    end: u64,
    /// Blocks of content and of pointers so far; no file has more than the image.
    mapped: u64,
}

/// Pointers that the walk is in.
#[derive(Debug)]
struct Level {
    bytes: Vec<u8>,
    next: usize,
    /// How deep the blocks of pointers below are; `None`: the inode's own pointers.
    depth: Option<u32>,
}

impl Indirect {
    /// At the start of an inode's map.
    pub(super) fn new(inode: &Inode, block_bytes: u64) -> Self {
        let root = Level { bytes: inode.content().to_vec(), next: 0, depth: None };
        let end = inode.size.div_ceil(block_bytes);
        Indirect { inode: inode.number, levels: vec![root], at: 0, end, mapped: 0 }
    }

    /// The next block, as an extent.
    pub(super) fn next<R: Read + Seek>(
        &mut self,
        blocks: &mut Blocks<R>,
    ) -> Result<Option<Extent>> {
        let per_block = (blocks.block_bytes / POINTER_BYTES) as u64;
        while let Some(level) = self.levels.last_mut() {
            if level.next * POINTER_BYTES == level.bytes.len() {
                self.levels.pop();
                continue;
            }
            if self.at >= self.end {
                break;
            }
            let number = u64::from(get::u32(&level.bytes, level.next * POINTER_BYTES));
            let depth = level.depth.unwrap_or(level.next.saturating_sub(DIRECT - 1) as u32);
            level.next += 1;
            if number == 0 {
                self.at += per_block.pow(depth);
                continue;
            }
            self.mapped += 1;
            if number >= blocks.count || self.mapped > blocks.count {
                return Err(Error::inode(self.inode, "its map leads out of the image"));
            }
            if depth == 0 {
                self.at += 1;
                let file_block = self.at - 1;
                let extent =
                    Extent { file_block, image_block: number, blocks: 1, is_written: true };
                return Ok(Some(extent));
            }
            let bytes = blocks.block(number)?.to_vec();
            self.levels.push(Level { bytes, next: 0, depth: Some(depth - 1) });
        }
        Ok(None)
    }
}
