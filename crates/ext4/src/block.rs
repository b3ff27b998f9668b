//! Blocks and the numbers that follow from their size.

use crate::BLOCK_BYTES;

/// A block's bytes.
pub(crate) type Block = [u8; BLOCK_BYTES];

/// Blocks in a group: as many as a bitmap of one block has bits.
pub(crate) const BLOCKS_PER_GROUP: u64 = 8 * BLOCK_BYTES as u64;
/// Inodes in a group at most, for the same reason.
pub(crate) const INODES_PER_GROUP_MAX: u64 = 8 * BLOCK_BYTES as u64;
/// Bytes of a group descriptor with the `64bit` feature.
pub(crate) const DESCRIPTOR_BYTES: usize = 64;
/// Bytes of an inode on disk.
pub(crate) const INODE_BYTES: usize = 256;
/// Inodes in a block of an inode table.
pub(crate) const INODES_PER_BLOCK: u64 = (BLOCK_BYTES / INODE_BYTES) as u64;
/// Group descriptors in a block.
pub(crate) const DESCRIPTORS_PER_BLOCK: u64 = (BLOCK_BYTES / DESCRIPTOR_BYTES) as u64;

/// Room for descriptors where the size is not known beforehand: 8,192 groups, 1 TiB.
pub(crate) const DESCRIPTOR_BLOCKS_ROOM: u64 = 128;

/// The whole blocks that `bytes` fill, the last perhaps in part.
pub(crate) fn blocks_for(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES as u64)
}
