//! Inodes as they lie in an inode table.

use super::error::{Error, Result};
use super::get;
use super::volume::Layout;
use crate::Time;
use crate::crc32c::crc32c;

/// Bytes of the classic form, which every inode has.
const CLASSIC_BYTES: usize = 128;
const NANOSECONDS: u32 = 1_000_000_000;

pub(super) const FLAG_ENCRYPTED: u32 = 0x0000_0800;
pub(super) const FLAG_INDEX: u32 = 0x0000_1000;
pub(super) const FLAG_EXTENTS: u32 = 0x0008_0000;
pub(super) const FLAG_VALUE: u32 = 0x0020_0000;
pub(super) const FLAG_INLINE: u32 = 0x1000_0000;
const FLAG_HUGE: u32 = 0x0004_0000;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

/// All that an inode says, as `stat(2)` would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub number: u32,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: the low 12 bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The content's length in bytes; a symlink's target's, a directory's blocks'.
    pub size: u64,
    /// Names; 1 for a directory with more than 65,000.
    pub links: u16,
    /// Room taken, in units of 512 bytes.
    pub sectors: u64,
    /// Time of the last read.
    pub atime: Time,
    /// Time of the last change to the content.
    pub mtime: Time,
    /// Time of the last change to the inode.
    pub ctime: Time,
    /// Time it was made, where inodes have room to say so.
    pub crtime: Option<Time>,
    /// `i_flags`, as `lsattr` shows some of them.
    pub flags: u32,
    pub(super) generation: u32,
    /// The block of attributes, 0 for none.
    pub(super) xattr_block: u64,
    /// Its bytes in the table.
    pub(super) raw: Box<[u8]>,
}

impl Kind {
    /// The type bits of `st_mode`.
    pub fn mode_bits(self) -> u16 {
        match self {
            Kind::Fifo => 0o010000,
            Kind::CharDevice { .. } => 0o020000,
            Kind::Directory => 0o040000,
            Kind::BlockDevice { .. } => 0o060000,
            Kind::File => 0o100000,
            Kind::Symlink => 0o120000,
            Kind::Socket => 0o140000,
        }
    }
}

impl Inode {
    /// Reads the inode `number` from its `raw` bytes, [`Layout::inode_bytes`] of them.
    pub(super) fn parse(
        number: u32,
        raw: &[u8],
        layout: &Layout,
        block_bytes: usize,
    ) -> Result<Self> {
        let (mode, links) = (get::u16(raw, 0), get::u16(raw, 26));
        if mode == 0 || links == 0 {
            return Err(Error::inode(number, "it is free"));
        }
        let extra = extra_bytes(number, raw)?;
        if let Some(seed) = layout.seed {
            check(number, raw, extra, seed)?;
        }
        let kind = kind(mode, raw).ok_or_else(|| Error::inode(number, "its type is unknown"))?;
        let size = if kind == Kind::File || kind == Kind::Directory && layout.large_directories {
            get::split_u64(raw, 4, 108)
        } else {
            get::u32(raw, 4).into()
        };
        let flags = get::u32(raw, 32);
        let blocks = u64::from(get::u32(raw, 28)) | u64::from(get::u16(raw, 116)) << 32;
        let unit = if flags & FLAG_HUGE != 0 { block_bytes as u64 / 512 } else { 1 };
        let time = |at: usize, extra_at: usize| {
            let has_extra = extra_at + 4 <= CLASSIC_BYTES + extra;
            let word = if has_extra { get::u32(raw, extra_at) } else { 0 };
            let seconds = i64::from(get::u32(raw, at) as i32) + (i64::from(word & 3) << 32);
            match word >> 2 {
                nanoseconds @ 0..NANOSECONDS => Ok(Time { seconds, nanoseconds }),
                _ => Err(Error::inode(number, "a time has more nanoseconds than a second")),
            }
        };
        Ok(Inode {
            number,
            kind,
            mode: mode & 0o7777,
            uid: get::split_u32(raw, 2, 120),
            gid: get::split_u32(raw, 24, 122),
            size,
            links,
            sectors: blocks * unit,
            atime: time(8, 140)?,
            mtime: time(16, 136)?,
            ctime: time(12, 132)?,
            crtime: if extra >= 24 { Some(time(144, 148)?) } else { None },
            flags,
            generation: get::u32(raw, 100),
            xattr_block: u64::from(get::u32(raw, 104)) | u64::from(get::u16(raw, 118)) << 32,
            raw: raw.into(),
        })
    }

    /// `i_block`: the root of the extent tree, a short symlink's target, inline data.
    pub(super) fn content(&self) -> &[u8] {
        &self.raw[40..100]
    }

    /// The bytes behind all fields, where attributes are.
    pub(super) fn spare(&self) -> &[u8] {
        let extra = extra_bytes(self.number, &self.raw).unwrap_or(0);
        self.raw.get(CLASSIC_BYTES + extra..).unwrap_or_default()
    }

    /// The seed of the checksums of what belongs to the inode, from the file system's.
    pub(super) fn seed(&self, seed: u32) -> u32 {
        own_seed(self.number, self.generation, seed)
    }
}

fn own_seed(number: u32, generation: u32, seed: u32) -> u32 {
    crc32c(crc32c(seed, &number.to_le_bytes()), &generation.to_le_bytes())
}

/// How many bytes of fields follow the classic ones.
fn extra_bytes(number: u32, raw: &[u8]) -> Result<usize> {
    if raw.len() == CLASSIC_BYTES {
        return Ok(0);
    }
    match usize::from(get::u16(raw, CLASSIC_BYTES)) {
        extra if extra % 4 == 0 && CLASSIC_BYTES + extra <= raw.len() => Ok(extra),
        _ => Err(Error::inode(number, "its fields do not fit into it")),
    }
}

/// Compares the checksum, of 32 bits where there is room for the high half, else of 16.
fn check(number: u32, raw: &[u8], extra: usize, seed: u32) -> Result<()> {
    const LOW: usize = 124;
    const HIGH: usize = 130;
    let own = own_seed(number, get::u32(raw, 100), seed);
    let crc = crc32c(crc32c(own, &raw[..LOW]), &[0; 2]);
    let is_right = if extra >= 4 {
        let crc = crc32c(crc32c(crc, &raw[LOW + 2..HIGH]), &[0; 2]);
        crc32c(crc, &raw[HIGH + 2..]) == get::split_u32(raw, LOW, HIGH)
    } else {
        crc32c(crc, &raw[LOW + 2..]) as u16 == get::u16(raw, LOW)
    };
    if is_right { Ok(()) } else { Err(Error::inode(number, "its checksum is wrong")) }
}

fn kind(mode: u16, raw: &[u8]) -> Option<Kind> {
    let (old, new) = (get::u32(raw, 40), get::u32(raw, 44));
    // The old form has eight bits for each; where it is empty the new one holds.
    let (major, minor) = match old {
        0 => (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00),
        _ => (old >> 8 & 0xff, old & 0xff),
    };
    Some(match mode & 0o170000 {
        0o010000 => Kind::Fifo,
        0o020000 => Kind::CharDevice { major, minor },
        0o040000 => Kind::Directory,
        0o060000 => Kind::BlockDevice { major, minor },
        0o100000 => Kind::File,
        0o120000 => Kind::Symlink,
        0o140000 => Kind::Socket,
        _ => return None,
    })
}
