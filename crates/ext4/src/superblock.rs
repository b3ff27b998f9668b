//! The superblock.

use crate::crc32c::crc32c;
use crate::group::Geometry;
use crate::hash::HASH_VERSION;
use crate::journal::Journal;
use crate::put;
use crate::{BLOCK_BYTES, Options, block};

/// Where in the image the superblock is, and its size.
const OFFSET: usize = 1024;
const BYTES: usize = 1024;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_EXT_ATTR: u32 = 0x8;
const COMPAT_DIR_INDEX: u32 = 0x20;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const INCOMPAT: u32 = 0x2 | 0x40 | 0x80 | 0x200; // filetype, extent, 64bit, flex_bg
const INCOMPAT_CHECKSUM_SEED: u32 = 0x2000;
const RO_COMPAT: u32 = 0x2 | 0x8 | 0x20 | 0x40 | 0x400; // large_file, huge_file, dir_nlink, extra_isize, metadata_csum
const FLAG_UNSIGNED_HASH: u32 = 2;
/// The first inode that is not the file system's own.
pub(crate) const FIRST_INODE: u32 = 11;

/// The first blocks of the image: superblock and group descriptors.
pub(crate) fn front(
    options: &Options,
    geometry: &Geometry,
    free_inodes: u64,
    journal: Option<&Journal>,
    descriptors: &[u8],
) -> Vec<u8> {
    let mut front = vec![0; BLOCK_BYTES];
    let superblock = &mut front[OFFSET..OFFSET + BYTES];
    counts(superblock, options, geometry, free_inodes);
    identity(superblock, options);
    if let Some(journal) = journal {
        put::u32(superblock, 0xe0, journal.inode);
        superblock[0xfd] = 1; // the copy below is of i_block
        put::bytes(superblock, 0x10c, &journal.content);
        put::split_u64(superblock, 0x10c + 64, 0x10c + 60, journal.bytes());
    }
    let compat = COMPAT_EXT_ATTR
        | COMPAT_DIR_INDEX
        | COMPAT_SPARSE_SUPER2
        | if journal.is_some() { COMPAT_HAS_JOURNAL } else { 0 };
    put::u32(superblock, 0x5c, compat);
    let seed = options.checksum_seed;
    put::u32(superblock, 0x60, INCOMPAT | if seed.is_some() { INCOMPAT_CHECKSUM_SEED } else { 0 });
    put::u32(superblock, 0x270, seed.unwrap_or(0));
    put::u32(superblock, 0x64, RO_COMPAT);
    let checksum = crc32c(!0, &superblock[..0x3fc]);
    put::u32(superblock, 0x3fc, checksum);
    front.extend_from_slice(descriptors);
    front
}

fn counts(superblock: &mut [u8], options: &Options, geometry: &Geometry, free_inodes: u64) {
    let reserved = geometry.blocks / 100 * u64::from(options.reserved_percent.min(50));
    put::u32(superblock, 0x00, geometry.inodes() as u32);
    put::split_u64(superblock, 0x04, 0x150, geometry.blocks);
    put::split_u64(superblock, 0x08, 0x154, reserved);
    put::split_u64(superblock, 0x0c, 0x158, geometry.free());
    put::u32(superblock, 0x10, free_inodes as u32);
    put::u32(superblock, 0x18, 2); // block size: 1024 << 2
    put::u32(superblock, 0x1c, 2);
    put::u32(superblock, 0x20, block::BLOCKS_PER_GROUP as u32);
    put::u32(superblock, 0x24, block::BLOCKS_PER_GROUP as u32);
    put::u32(superblock, 0x28, geometry.inodes_per_group as u32);
}

fn identity(superblock: &mut [u8], options: &Options) {
    put::u16(superblock, 0x36, u16::MAX); // no check after a number of mounts
    put::u16(superblock, 0x38, 0xef53);
    put::u16(superblock, 0x3a, 1); // clean
    put::u16(superblock, 0x3c, 1); // on errors: continue
    put::u32(superblock, 0x4c, 1); // dynamic inode size
    put::u32(superblock, 0x54, FIRST_INODE);
    put::u16(superblock, 0x58, block::INODE_BYTES as u16);
    put::bytes(superblock, 0x68, &options.uuid);
    let label = options.label.as_bytes();
    put::bytes(superblock, 0x78, &label[..label.len().min(16)]);
    put::bytes(superblock, 0xec, &options.hash_seed);
    superblock[0xfc] = HASH_VERSION;
    put::u16(superblock, 0xfe, block::DESCRIPTOR_BYTES as u16);
    put::u32(superblock, 0x100, 0xc); // default mount options: user_xattr, acl
    put::u16(superblock, 0x15c, 32);
    put::u16(superblock, 0x15e, 32);
    put::u32(superblock, 0x160, FLAG_UNSIGNED_HASH);
    superblock[0x174] = 4; // sixteen groups in a flexible one
    superblock[0x175] = 1; // checksums are CRC-32C
}
