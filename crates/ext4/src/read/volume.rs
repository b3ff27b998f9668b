//! The superblock: what a file system is, and where its tables are.

use super::error::{Error, Result};
use super::get;
use crate::crc32c::crc32c;

/// Where in the image the superblock is, and its size.
pub(super) const OFFSET: u64 = 1024;
pub(super) const BYTES: usize = 1024;

const MAGIC: u16 = 0xef53;
/// 64 KiB: more than any kernel's page.
const BLOCK_BITS_MAX: u32 = 16;
const INODE_BYTES_MIN: usize = 128;
const DESCRIPTOR_BYTES_MIN: usize = 32;
const DESCRIPTOR_BYTES_64: usize = 64;

const INCOMPAT_FILETYPE: u32 = 0x2;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_CHECKSUM_SEED: u32 = 0x2000;
const INCOMPAT_LARGE_DIRECTORY: u32 = 0x4000;
const RO_COMPAT_CHECKSUMS: u32 = 0x400;
/// filetype, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt,
/// casefold: the reader knows them, or meets them again where they matter.
const INCOMPAT_KNOWN: u32 =
    0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000;

/// A bit and the name that `mke2fs -O` has for it.
type Feature = (u32, &'static str);

const COMPAT: [Feature; 11] = [
    (0x1, "dir_prealloc"),
    (0x2, "imagic_inodes"),
    (0x4, "has_journal"),
    (0x8, "ext_attr"),
    (0x10, "resize_inode"),
    (0x20, "dir_index"),
    (0x40, "lazy_bg"),
    (0x200, "sparse_super2"),
    (0x400, "fast_commit"),
    (0x800, "stable_inodes"),
    (0x1000, "orphan_file"),
];
const INCOMPAT: [Feature; 16] = [
    (0x1, "compression"),
    (0x2, "filetype"),
    (0x4, "needs_recovery"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x40, "extent"),
    (0x80, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x10000, "encrypt"),
    (0x20000, "casefold"),
];
const RO_COMPAT: [Feature; 15] = [
    (0x1, "sparse_super"),
    (0x2, "large_file"),
    (0x4, "btree_dir"),
    (0x8, "huge_file"),
    (0x10, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x400, "metadata_csum"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x10000, "orphan_present"),
];

/// What the superblock says about the whole file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The label, without the zeros behind it.
    pub label: Vec<u8>,
    /// The UUID.
    pub uuid: [u8; 16],
    /// Bytes in a block: 1 to 64 KiB.
    pub block_bytes: u64,
    /// Blocks of the file system.
    pub blocks: u64,
    /// Blocks that are free.
    pub free_blocks: u64,
    /// Of those, blocks that only root may use.
    pub reserved_blocks: u64,
    /// Inodes that there is room for.
    pub inodes: u32,
    /// Inodes that are free.
    pub free_inodes: u32,
    /// Block groups.
    pub groups: u64,
    /// Features by the names that `mke2fs -O` has for them; those it has none for are left out.
    pub features: Vec<&'static str>,
    /// Whether it was unmounted cleanly and no error was found since.
    pub clean: bool,
    /// Whether metadata carries checksums, which the reader then checks.
    pub checksums: bool,
}

/// Where the tables are and what they look like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) first_data_block: u64,
    pub(super) blocks_per_group: u64,
    pub(super) inodes_per_group: u32,
    pub(super) inode_bytes: usize,
    pub(super) descriptor_bytes: usize,
    /// The first inode that is not the file system's own.
    pub(super) first_inode: u32,
    /// The seed of all checksums, where there are any.
    pub(super) seed: Option<u32>,
    /// Entries have a type byte; else the length of their name has 16 bits.
    pub(super) has_types: bool,
    /// A directory's size has 64 bits.
    pub(super) large_directories: bool,
}

/// Reads a superblock of [`BYTES`] bytes.
pub(super) fn parse(buf: &[u8]) -> Result<(Volume, Layout)> {
    if buf.len() < BYTES || get::u16(buf, 0x38) != MAGIC {
        return Err(Error::NotExt4);
    }
    let incompat = get::u32(buf, 0x60);
    let has_checksums = get::u32(buf, 0x64) & RO_COMPAT_CHECKSUMS != 0;
    if has_checksums && get::u32(buf, 0x3fc) != crc32c(!0, &buf[..0x3fc]) {
        return Err(Error::superblock("its checksum is wrong"));
    }
    if has_checksums && buf[0x175] != 1 {
        return Err(unsupported("its kind of checksums"));
    }
    check_features(incompat)?;
    let layout = layout(buf, incompat, has_checksums)?;
    let volume = volume(buf, incompat, has_checksums, &layout)?;
    Ok((volume, layout))
}

fn unsupported(what: &'static str) -> Error {
    Error::Unsupported { place: "the superblock".into(), what }
}

fn check_features(incompat: u32) -> Result<()> {
    let refused = [
        (INCOMPAT_RECOVER, "a journal that was not replayed (e2fsck -p or a mount does it)"),
        (INCOMPAT_JOURNAL_DEVICE, "a journal without a file system"),
        (INCOMPAT_META_BG, "a file system with meta_bg"),
        (!INCOMPAT_KNOWN, "a feature that it needs"),
    ];
    match refused.into_iter().find(|(bits, _)| incompat & bits != 0) {
        Some((_, what)) => Err(unsupported(what)),
        None => Ok(()),
    }
}

fn layout(buf: &[u8], incompat: u32, has_checksums: bool) -> Result<Layout> {
    let is_old = get::u32(buf, 0x4c) == 0;
    let is_64 = incompat & INCOMPAT_64BIT != 0;
    let seed = if incompat & INCOMPAT_CHECKSUM_SEED != 0 {
        get::u32(buf, 0x270)
    } else {
        crc32c(!0, &buf[0x68..0x78])
    };
    let layout = Layout {
        first_data_block: get::u32(buf, 0x14).into(),
        blocks_per_group: get::u32(buf, 0x20).into(),
        inodes_per_group: get::u32(buf, 0x28),
        inode_bytes: if is_old { INODE_BYTES_MIN } else { get::u16(buf, 0x58).into() },
        descriptor_bytes: if is_64 { get::u16(buf, 0xfe).into() } else { DESCRIPTOR_BYTES_MIN },
        first_inode: if is_old { 11 } else { get::u32(buf, 0x54) },
        seed: has_checksums.then_some(seed),
        has_types: incompat & INCOMPAT_FILETYPE != 0,
        large_directories: incompat & INCOMPAT_LARGE_DIRECTORY != 0,
    };
    let block_bytes = block_bytes(buf)?;
    let fits = |bytes: usize, min: usize| {
        bytes >= min && bytes.is_power_of_two() && bytes as u64 <= block_bytes
    };
    if !fits(layout.inode_bytes, INODE_BYTES_MIN) {
        return Err(Error::superblock("its inodes have no possible size"));
    }
    let min = if is_64 { DESCRIPTOR_BYTES_64 } else { DESCRIPTOR_BYTES_MIN };
    if !fits(layout.descriptor_bytes, min) {
        return Err(Error::superblock("its group descriptors have no possible size"));
    }
    if layout.first_data_block > OFFSET / block_bytes {
        return Err(Error::superblock("its first block is not where it can be"));
    }
    let per_bitmap = 8 * block_bytes;
    if layout.inodes_per_group == 0 || u64::from(layout.inodes_per_group) > per_bitmap {
        return Err(Error::superblock("its groups have an impossible number of inodes"));
    }
    if layout.blocks_per_group == 0 {
        return Err(Error::superblock("its groups have no blocks"));
    }
    Ok(layout)
}

fn block_bytes(buf: &[u8]) -> Result<u64> {
    match get::u32(buf, 0x18).checked_add(10) {
        Some(bits @ 0..=BLOCK_BITS_MAX) => Ok(1 << bits),
        _ => Err(Error::superblock("its blocks have no possible size")),
    }
}

fn volume(buf: &[u8], incompat: u32, checksums: bool, layout: &Layout) -> Result<Volume> {
    let is_64 = incompat & INCOMPAT_64BIT != 0;
    let count = |lo: usize, hi: usize| {
        if is_64 { get::split_u64(buf, lo, hi) } else { get::u32(buf, lo).into() }
    };
    let blocks = count(0x04, 0x150);
    let in_groups = blocks.saturating_sub(layout.first_data_block);
    if in_groups == 0 {
        return Err(Error::superblock("it has no blocks"));
    }
    let groups = in_groups.div_ceil(layout.blocks_per_group);
    let inodes = get::u32(buf, 0x00);
    if groups.checked_mul(layout.inodes_per_group.into()) != Some(inodes.into()) {
        return Err(Error::superblock("its number of inodes is not that of its groups"));
    }
    let words = [(0x5c, &COMPAT[..]), (0x60, &INCOMPAT), (0x64, &RO_COMPAT)];
    let named = |(at, names): (usize, &'static [Feature])| {
        let word = get::u32(buf, at);
        names.iter().filter(move |(bit, _)| word & bit != 0).map(|(_, name)| *name)
    };
    let label = &buf[0x78..0x88];
    Ok(Volume {
        label: label.split(|&b| b == 0).next().unwrap_or_default().to_vec(),
        uuid: std::array::from_fn(|i| buf[0x68 + i]),
        block_bytes: block_bytes(buf)?,
        blocks,
        free_blocks: count(0x0c, 0x158),
        reserved_blocks: count(0x08, 0x154),
        inodes,
        free_inodes: get::u32(buf, 0x10),
        groups,
        features: words.into_iter().flat_map(named).collect(),
        clean: get::u16(buf, 0x3a) & 3 == 1,
        checksums,
    })
}
