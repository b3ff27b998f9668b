//! Extent trees: in the inode up to four extents, in blocks of their own beyond.

use std::io::{Seek, Write};

use crate::crc32c::crc32c;
use crate::file::Run;
use crate::put;
use crate::writer::Stream;
use crate::{BLOCK_BYTES, Result};

const MAGIC: u16 = 0xf30a;
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 12;
/// An initialised extent covers at most this many blocks.
const EXTENT_BLOCKS_MAX: u32 = 32_768;
/// Entries in the 60 bytes of an inode.
const INODE_ENTRIES: usize = 4;
/// Entries in a block, whose last four bytes are its checksum.
const BLOCK_ENTRIES: usize = (BLOCK_BYTES - HEADER_BYTES - 4) / ENTRY_BYTES;

/// The root of an extent tree, as it goes into `i_block`, and the blocks that the rest took.
pub(crate) struct ExtentRoot {
    pub(crate) bytes: [u8; 60],
    pub(crate) tree_blocks: u64,
}

/// A leaf's or an index's entry, told apart by its depth.
struct Entry {
    file_block: u32,
    image_block: u64,
    /// Zero in an index.
    blocks: u32,
}

/// Builds the tree over `runs`, writing what does not fit into the inode to `stream`.
/// `seed` is the checksum seed of the inode.
pub(crate) fn write<W: Write + Seek>(
    stream: &mut Stream<W>,
    runs: &[Run],
    seed: u32,
) -> Result<ExtentRoot> {
    let mut entries: Vec<Entry> = runs.iter().flat_map(extents).collect();
    let mut depth = 0;
    let mut tree_blocks = 0;
    while entries.len() > INODE_ENTRIES {
        let mut above = Vec::with_capacity(entries.len().div_ceil(BLOCK_ENTRIES));
        for node in entries.chunks(BLOCK_ENTRIES) {
            let mut block = [0; BLOCK_BYTES];
            encode(&mut block, node, BLOCK_ENTRIES, depth);
            let checksum = crc32c(seed, &block[..BLOCK_BYTES - 4]);
            put::u32(&mut block, BLOCK_BYTES - 4, checksum);
            let file_block = node[0].file_block;
            above.push(Entry { file_block, image_block: stream.next(), blocks: 0 });
            stream.append(&block)?;
            tree_blocks += 1;
        }
        entries = above;
        depth += 1;
    }
    let mut bytes = [0; 60];
    encode(&mut bytes, &entries, INODE_ENTRIES, depth);
    Ok(ExtentRoot { bytes, tree_blocks })
}

fn extents(run: &Run) -> impl Iterator<Item = Entry> + use<> {
    let run = *run;
    (0..run.blocks).step_by(EXTENT_BLOCKS_MAX as usize).map(move |done| Entry {
        file_block: run.file_block + done,
        image_block: run.image_block + u64::from(done),
        blocks: (run.blocks - done).min(EXTENT_BLOCKS_MAX),
    })
}

fn encode(buf: &mut [u8], entries: &[Entry], max: usize, depth: u16) {
    put::u16(buf, 0, MAGIC);
    put::u16(buf, 2, entries.len() as u16);
    put::u16(buf, 4, max as u16);
    put::u16(buf, 6, depth);
    for (entry, at) in entries.iter().zip((HEADER_BYTES..).step_by(ENTRY_BYTES)) {
        put::u32(buf, at, entry.file_block);
        let high = (entry.image_block >> 32) as u16;
        if depth == 0 {
            put::u16(buf, at + 4, entry.blocks as u16);
            put::u16(buf, at + 6, high);
            put::u32(buf, at + 8, entry.image_block as u32);
        } else {
            put::u32(buf, at + 4, entry.image_block as u32);
            put::u16(buf, at + 8, high);
        }
    }
}
