//! Inodes as they lie in an inode table: 256 bytes, attributes in the spare ones.

use crate::block::INODE_BYTES;
use crate::crc32c::crc32c;
use crate::put;
use crate::tree::SYMLINK_BYTES_MAX;
use crate::{Error, Kind, Meta, Result, Time, xattr};

/// Bytes of an inode that fields take: 128 of the classic form and 32 more.
const EXTRA_BYTES: u16 = 32;
const FIELDS_BYTES: usize = 128 + EXTRA_BYTES as usize;
/// What is left for attributes.
pub(crate) const XATTR_ROOM: usize = INODE_BYTES - FIELDS_BYTES;

/// The largest storable time: 34 bits of seconds, counted from 1901.
const SECONDS_MAX: i64 = (1 << 34) - 1 - (1 << 31);
const SECONDS_MIN: i64 = -(1 << 31);

/// `i_flags`: the content is found through extents.
pub(crate) const FLAG_EXTENTS: u32 = 0x0008_0000;
/// `i_flags`: the directory is a hash tree.
pub(crate) const FLAG_INDEX: u32 = 0x0000_1000;

/// An inode on its way to the table.
#[derive(Debug)]
pub(crate) struct Inode<'t> {
    pub(crate) number: u32,
    pub(crate) meta: &'t Meta,
    /// The type bits of the mode.
    pub(crate) type_bits: u16,
    pub(crate) links: u16,
    pub(crate) size: u64,
    /// Blocks taken by content, extent tree and attributes.
    pub(crate) blocks: u64,
    pub(crate) flags: u32,
    /// `i_block`: the root of the extent tree, a short symlink's target, or a device's number.
    pub(crate) content: [u8; 60],
    pub(crate) xattr_block: u64,
    /// In-inode attributes, empty or [`XATTR_ROOM`] bytes.
    pub(crate) xattrs: Vec<u8>,
}

impl Inode<'_> {
    /// The inode's bytes. `seed` is the file system's checksum seed.
    pub(crate) fn encode(&self, seed: u32) -> Result<[u8; INODE_BYTES]> {
        let mut buf = [0; INODE_BYTES];
        let sectors = self.blocks * 8;
        put::u16(&mut buf, 0, self.type_bits | self.meta.mode & 0o7777);
        put::split_u32(&mut buf, 2, 120, self.meta.uid);
        put::split_u64(&mut buf, 4, 108, self.size);
        put::split_u32(&mut buf, 24, 122, self.meta.gid);
        put::u16(&mut buf, 26, self.links);
        put::u32(&mut buf, 28, sectors as u32);
        put::u16(&mut buf, 116, (sectors >> 32) as u16);
        put::u32(&mut buf, 32, self.flags);
        put::bytes(&mut buf, 40, &self.content);
        put::u32(&mut buf, 104, self.xattr_block as u32);
        put::u16(&mut buf, 118, (self.xattr_block >> 32) as u16);
        put::u16(&mut buf, 128, EXTRA_BYTES);
        let (seconds, extra) = encode_time(self.meta.mtime)?;
        // Access, change, modification and creation, each with its extra word.
        for (at, extra_at) in [(8, 140), (12, 132), (16, 136), (144, 148)] {
            put::u32(&mut buf, at, seconds);
            put::u32(&mut buf, extra_at, extra);
        }
        put::bytes(&mut buf, FIELDS_BYTES, &self.xattrs);
        let checksum = crc32c(checksum_seed(seed, self.number), &buf);
        put::split_u32(&mut buf, 124, 130, checksum);
        Ok(buf)
    }
}

/// Whether an inode can be stored, apart from the room for it: its time, its attributes, a device's
/// number, a symlink's length. A tree is checked again when it is written; this tells which entry
/// is to blame.
///
/// # Errors
/// What is wrong with it.
pub fn check(meta: &Meta, kind: &Kind) -> Result<()> {
    encode_time(meta.mtime)?;
    xattr::Blocks::default().place(&meta.xattrs, XATTR_ROOM)?;
    match kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            device(*major, *minor).map(|_| ())
        }
        Kind::Symlink(target) => check_target(target),
        Kind::Directory(_) | Kind::File(_) | Kind::Fifo | Kind::Socket => Ok(()),
    }
}

/// Whether a symlink can have this target.
pub(crate) fn check_target(target: &[u8]) -> Result<()> {
    if target.is_empty() || target.len() > SYMLINK_BYTES_MAX {
        let (what, max) = ("a symlink target's length", SYMLINK_BYTES_MAX as u64);
        return Err(Error::TooLarge { what, value: target.len() as u64, max });
    }
    Ok(())
}

/// The seed of every checksum that belongs to an inode: its number and its generation, always 0.
pub(crate) fn checksum_seed(seed: u32, number: u32) -> u32 {
    crc32c(crc32c(seed, &number.to_le_bytes()), &[0; 4])
}

fn encode_time(time: Time) -> Result<(u32, u32)> {
    if !(SECONDS_MIN..=SECONDS_MAX).contains(&time.seconds) {
        return Err(Error::Time { seconds: time.seconds });
    }
    let low = time.seconds as i32;
    let epoch = (time.seconds - i64::from(low)) >> 32;
    Ok((low as u32, epoch as u32 | time.nanoseconds << 2))
}

/// A device's number as `i_block` holds it: the old form where it fits, else the new one.
pub(crate) fn device(major: u32, minor: u32) -> Result<[u8; 60]> {
    for (what, value, max) in
        [("a major number", major, 0xfff), ("a minor number", minor, 0xf_ffff)]
    {
        if value > max {
            return Err(Error::TooLarge { what, value: value.into(), max: max.into() });
        }
    }
    let mut content = [0; 60];
    if major < 256 && minor < 256 {
        put::u32(&mut content, 0, major << 8 | minor);
    } else {
        put::u32(&mut content, 4, minor & 0xff | major << 8 | (minor & !0xff) << 12);
    }
    Ok(content)
}
