//! Block groups: how many there are, where their tables lie, their bitmaps and descriptors.

use std::io::{Seek, Write};
use std::ops::Range;

use crate::block::{
    BLOCKS_PER_GROUP, Block, DESCRIPTOR_BYTES, DESCRIPTORS_PER_BLOCK, INODES_PER_BLOCK,
    INODES_PER_GROUP_MAX,
};
use crate::crc32c::crc32c;
use crate::put;
use crate::writer::Stream;
use crate::{BLOCK_BYTES, Error, Result};

const FLAG_INODES_UNINIT: u16 = 1;
const FLAG_BLOCKS_UNINIT: u16 = 2;
const FLAG_TABLE_ZEROED: u16 = 4;

/// The numbers that an image's groups follow from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) groups: u64,
    pub(crate) inodes_per_group: u64,
    /// Blocks of the whole image.
    pub(crate) blocks: u64,
    /// Blocks of superblock and descriptors, used from 0 on.
    front: u64,
    /// Where contents begin; between `front` and here is free room.
    contents: u64,
    /// Where the bitmaps begin.
    tables: u64,
    /// Blocks between `contents` and `tables` that nothing refers to, in order.
    unused: Vec<Range<u64>>,
}

/// What a [`Geometry`] is computed from.
pub(crate) struct Wanted {
    /// Blocks kept for descriptors.
    pub(crate) descriptor_room: u64,
    /// Where the bitmaps will begin.
    pub(crate) tables: u64,
    /// Inodes, at least.
    pub(crate) inodes: u64,
    /// Blocks of the image, where they are given.
    pub(crate) blocks: Option<u64>,
    /// Free blocks at the end, where the size is computed.
    pub(crate) reserve: u64,
    /// Blocks before the bitmaps that nothing refers to, in order: contents that were given up.
    pub(crate) unused: Vec<Range<u64>>,
}

impl Geometry {
    pub(crate) fn compute(wanted: &Wanted) -> Result<Self> {
        let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
        if let Some(blocks) = wanted.blocks {
            let groups = blocks.div_ceil(BLOCKS_PER_GROUP).max(1);
            let geometry = Self::with_groups(wanted, groups, blocks)?;
            return if geometry.end() <= blocks {
                Ok(geometry)
            } else {
                let needed = bytes(geometry.end());
                Err(Error::TooSmall { needed, given: bytes(blocks) })
            };
        }
        // More groups need more tables, which may need more groups: go up until it fits.
        let mut groups = 1;
        loop {
            let geometry = Self::with_groups(wanted, groups, 0);
            let needed = match &geometry {
                Ok(geometry) => geometry.end() + wanted.reserve,
                Err(_) => u64::MAX,
            };
            if needed <= groups * BLOCKS_PER_GROUP {
                // Room for many inodes can take more groups than there are blocks to fill.
                let blocks = needed.max((groups - 1) * BLOCKS_PER_GROUP + 1);
                return Self::with_groups(wanted, groups, blocks);
            }
            groups += 1;
            let max = wanted.descriptor_room * DESCRIPTORS_PER_BLOCK;
            if groups > max {
                let (value, max) = (bytes(wanted.tables), bytes(max * BLOCKS_PER_GROUP));
                return Err(Error::TooLarge { what: "the image's size", value, max });
            }
        }
    }

    fn with_groups(wanted: &Wanted, groups: u64, blocks: u64) -> Result<Self> {
        let inodes_per_group = wanted.inodes.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK);
        if inodes_per_group > INODES_PER_GROUP_MAX {
            let max = groups * INODES_PER_GROUP_MAX;
            return Err(Error::TooLarge { what: "the inode count", value: wanted.inodes, max });
        }
        Ok(Geometry {
            groups,
            inodes_per_group,
            blocks,
            front: 1 + groups.div_ceil(DESCRIPTORS_PER_BLOCK),
            contents: 1 + wanted.descriptor_room,
            tables: wanted.tables,
            unused: wanted.unused.clone(),
        })
    }

    pub(crate) fn inodes(&self) -> u64 {
        self.groups * self.inodes_per_group
    }

    /// Blocks of one group's inode table.
    fn table_blocks(&self) -> u64 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    /// The first block behind everything.
    fn end(&self) -> u64 {
        self.tables + self.groups * (2 + self.table_blocks())
    }

    /// Blocks in use.
    fn used(&self) -> u64 {
        let unused: u64 = self.unused.iter().map(|r| r.end - r.start).sum();
        self.front + self.end() - self.contents - unused
    }

    pub(crate) fn free(&self) -> u64 {
        self.blocks - self.used()
    }

    /// The group's blocks in use: the first two ranges without the others, counted from its first
    /// block.
    fn used_in(&self, group: u64) -> ([Range<u64>; 2], Vec<Range<u64>>) {
        let first = group * BLOCKS_PER_GROUP;
        let clip = |block: u64| block.saturating_sub(first).min(BLOCKS_PER_GROUP);
        let used = [clip(0)..clip(self.front), clip(self.contents)..clip(self.end())];
        let from = self.unused.partition_point(|r| r.end <= first);
        let unused = self.unused[from..].iter().take_while(|r| r.start < first + BLOCKS_PER_GROUP);
        (used, unused.map(|r| clip(r.start)..clip(r.end)).collect())
    }

    /// Blocks that the group really has; the last one may be short.
    fn blocks_in(&self, group: u64) -> u64 {
        (self.blocks - group * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP)
    }
}

/// The tables' content: what the bitmaps and descriptors say about inodes.
pub(crate) struct Usage {
    /// A bit for each inode up to some number, set where it is taken; those beyond are free.
    pub(crate) inodes: Vec<u8>,
    /// The numbers of all directories, in ascending order.
    pub(crate) directories: Vec<u32>,
}

impl Usage {
    /// The bits of a group's inodes, as far as any of them may be taken.
    fn inodes_in(&self, geometry: &Geometry, group: u64) -> &[u8] {
        let bytes = geometry.inodes_per_group as usize / 8;
        let from = (group as usize * bytes).min(self.inodes.len());
        &self.inodes[from..(from + bytes).min(self.inodes.len())]
    }
}

/// Writes all bitmaps to `stream`, at the geometry's place, and returns the descriptors.
pub(crate) fn write_bitmaps<W: Write + Seek>(
    stream: &mut Stream<W>,
    geometry: &Geometry,
    usage: &Usage,
    seed: u32,
) -> Result<Vec<u8>> {
    let mut descriptors: Vec<Descriptor> = Vec::with_capacity(geometry.groups as usize);
    for group in 0..geometry.groups {
        let mut descriptor = Descriptor::new(geometry, usage, group);
        if descriptor.flags & FLAG_BLOCKS_UNINIT == 0 {
            let ([front, contents], unused) = geometry.used_in(group);
            let padding = geometry.blocks_in(group)..BLOCKS_PER_GROUP;
            let bitmap = bitmap(&[front, contents, padding], &unused);
            descriptor.block_bitmap_checksum = crc32c(seed, &bitmap);
            stream.append(&bitmap)?;
        } else {
            stream.skip(1)?;
        }
        descriptors.push(descriptor);
    }
    for (descriptor, group) in descriptors.iter_mut().zip(0..) {
        if descriptor.flags & FLAG_INODES_UNINIT == 0 {
            // Bits behind the group's last inode are set.
            let mut bitmap = [0xff; BLOCK_BYTES];
            let covered = &mut bitmap[..geometry.inodes_per_group as usize / 8];
            covered.fill(0);
            put::bytes(covered, 0, usage.inodes_in(geometry, group));
            descriptor.inode_bitmap_checksum = crc32c(seed, covered);
            stream.append(&bitmap)?;
        } else {
            stream.skip(1)?;
        }
    }
    let encoded = descriptors.iter().zip(0u32..).flat_map(|(d, group)| d.encode(group, seed));
    Ok(encoded.collect())
}

/// Writes the inode tables of all groups: they lie side by side, so they are one array.
pub(crate) fn write_inodes<W: Write + Seek>(
    stream: &mut Stream<W>,
    geometry: &Geometry,
    mut table: Vec<u8>,
) -> Result<()> {
    table.resize(table.len().next_multiple_of(BLOCK_BYTES), 0);
    stream.append(&table)?;
    let blocks = (table.len() / BLOCK_BYTES) as u64;
    stream.skip(geometry.groups * geometry.table_blocks() - blocks)
}

fn bitmap(used: &[Range<u64>], unused: &[Range<u64>]) -> Block {
    let mut bitmap = [0; BLOCK_BYTES];
    for bit in used.iter().cloned().flatten() {
        bitmap[bit as usize / 8] |= 1 << (bit % 8);
    }
    for bit in unused.iter().cloned().flatten() {
        bitmap[bit as usize / 8] &= !(1 << (bit % 8));
    }
    bitmap
}

/// A group descriptor's fields.
struct Descriptor {
    block_bitmap: u64,
    inode_bitmap: u64,
    inode_table: u64,
    free_blocks: u64,
    free_inodes: u64,
    /// Inodes behind the last one that is taken.
    unused_inodes: u64,
    directories: u64,
    flags: u16,
    block_bitmap_checksum: u32,
    inode_bitmap_checksum: u32,
}

impl Descriptor {
    fn new(geometry: &Geometry, usage: &Usage, group: u64) -> Self {
        let per_group = geometry.inodes_per_group;
        let (used, unused) = geometry.used_in(group);
        let blocks = |ranges: &[Range<u64>]| ranges.iter().map(|r| r.end - r.start).sum::<u64>();
        let used_blocks = blocks(&used) - blocks(&unused);
        let first_inode = group * per_group;
        let inodes = usage.inodes_in(geometry, group);
        let used_inodes: u64 = inodes.iter().map(|byte| u64::from(byte.count_ones())).sum();
        let last = inodes.iter().rposition(|&byte| byte != 0);
        let unused_inodes = last.map_or(per_group, |at| {
            per_group - (8 * at as u64 + u64::from(u8::BITS - inodes[at].leading_zeros()))
        });
        let below =
            |number: u64| usage.directories.partition_point(|&d| u64::from(d) <= number) as u64;
        let mut flags = FLAG_TABLE_ZEROED;
        // The last group's bitmap also says where the image ends.
        if used_blocks == 0 && group + 1 < geometry.groups {
            flags |= FLAG_BLOCKS_UNINIT;
        }
        if used_inodes == 0 {
            flags |= FLAG_INODES_UNINIT;
        }
        let tables = geometry.tables + 2 * geometry.groups;
        Descriptor {
            block_bitmap: geometry.tables + group,
            inode_bitmap: geometry.tables + geometry.groups + group,
            inode_table: tables + group * geometry.table_blocks(),
            free_blocks: geometry.blocks_in(group) - used_blocks,
            free_inodes: per_group - used_inodes,
            unused_inodes,
            directories: below(first_inode + per_group) - below(first_inode),
            flags,
            block_bitmap_checksum: 0,
            inode_bitmap_checksum: 0,
        }
    }

    fn encode(&self, group: u32, seed: u32) -> [u8; DESCRIPTOR_BYTES] {
        let mut buf = [0; DESCRIPTOR_BYTES];
        put::split_u64(&mut buf, 0x00, 0x20, self.block_bitmap);
        put::split_u64(&mut buf, 0x04, 0x24, self.inode_bitmap);
        put::split_u64(&mut buf, 0x08, 0x28, self.inode_table);
        put::split_u32(&mut buf, 0x0c, 0x2c, self.free_blocks as u32);
        put::split_u32(&mut buf, 0x0e, 0x2e, self.free_inodes as u32);
        put::split_u32(&mut buf, 0x10, 0x30, self.directories as u32);
        put::u16(&mut buf, 0x12, self.flags);
        put::split_u32(&mut buf, 0x18, 0x38, self.block_bitmap_checksum);
        put::split_u32(&mut buf, 0x1a, 0x3a, self.inode_bitmap_checksum);
        put::split_u32(&mut buf, 0x1c, 0x32, self.unused_inodes as u32);
        let checksum = crc32c(crc32c(seed, &group.to_le_bytes()), &buf);
        put::u16(&mut buf, 0x1e, checksum as u16);
        buf
    }
}
