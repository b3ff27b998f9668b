//! The journal (JBD2), empty: for volumes that are written to and kept.

use std::io::{Seek, Write};

use crate::extent;
use crate::file::Run;
use crate::inode::checksum_seed;
use crate::writer::Stream;
use crate::{BLOCK_BYTES, Result};

const INODE: u32 = 8;
const MAGIC: u32 = 0xc03b_3998;
const SUPERBLOCK_V2: u32 = 4;
/// JBD2 refuses fewer blocks.
const BLOCKS_MIN: u64 = 1024;
/// 128 MiB: more buys nothing.
const BLOCKS_MAX: u64 = 32_768;

/// Where the journal is.
pub(crate) struct Journal {
    pub(crate) inode: u32,
    /// The root of its extent tree.
    pub(crate) content: [u8; 60],
    pub(crate) blocks: u64,
}

impl Journal {
    /// The usual size for a volume of `volume` blocks.
    pub(crate) fn blocks_for(volume: u64) -> u64 {
        (volume / 64).clamp(BLOCKS_MIN, BLOCKS_MAX)
    }

    /// Places an empty journal of `blocks` blocks at the stream's end.
    pub(crate) fn write<W: Write + Seek>(
        stream: &mut Stream<W>,
        blocks: u64,
        uuid: &[u8; 16],
        seed: u32,
    ) -> Result<Self> {
        let run = Run { file_block: 0, image_block: stream.next(), blocks: blocks as u32 };
        stream.append(&superblock(blocks as u32, uuid))?;
        stream.skip(blocks - 1)?;
        let root = extent::write(stream, &[run], checksum_seed(seed, INODE))?;
        Ok(Journal { inode: INODE, content: root.bytes, blocks })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.blocks * BLOCK_BYTES as u64
    }
}

/// Everything in a journal is big-endian.
fn superblock(blocks: u32, uuid: &[u8; 16]) -> [u8; BLOCK_BYTES] {
    let mut buf = [0; BLOCK_BYTES];
    let fields = [
        (0, MAGIC),
        (4, SUPERBLOCK_V2),
        (12, BLOCK_BYTES as u32),
        (16, blocks),
        (20, 1), // the first block of the log
        (24, 1), // the first commit id expected
        (64, 1), // one file system uses it
    ];
    for (at, value) in fields {
        buf[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    buf[48..64].copy_from_slice(uuid);
    buf[256..272].copy_from_slice(uuid);
    buf
}
