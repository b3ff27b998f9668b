//! Little-endian loads from fixed places of a structure whose length has been checked.

pub(super) fn u16(buf: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([buf[at], buf[at + 1]])
}

pub(super) fn u32(buf: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([buf[at], buf[at + 1], buf[at + 2], buf[at + 3]])
}

/// The low half at `lo`, the high half at `hi`: how ext4 widened 32-bit fields.
pub(super) fn split_u64(buf: &[u8], lo: usize, hi: usize) -> u64 {
    u64::from(u32(buf, lo)) | u64::from(u32(buf, hi)) << 32
}

/// The low half at `lo`, the high half at `hi`: how ext4 widened 16-bit fields.
pub(super) fn split_u32(buf: &[u8], lo: usize, hi: usize) -> u32 {
    u32::from(u16(buf, lo)) | u32::from(u16(buf, hi)) << 16
}
