//! Little-endian stores into fixed places of a structure.

pub(crate) fn u16(buf: &mut [u8], at: usize, value: u16) {
    buf[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn u32(buf: &mut [u8], at: usize, value: u32) {
    buf[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn bytes(buf: &mut [u8], at: usize, value: &[u8]) {
    buf[at..at + value.len()].copy_from_slice(value);
}

/// The low half at `lo`, the high half at `hi`: how ext4 widened 32-bit fields.
pub(crate) fn split_u64(buf: &mut [u8], lo: usize, hi: usize, value: u64) {
    u32(buf, lo, value as u32);
    u32(buf, hi, (value >> 32) as u32);
}

/// The low half at `lo`, the high half at `hi`: how ext4 widened 16-bit fields.
pub(crate) fn split_u32(buf: &mut [u8], lo: usize, hi: usize, value: u32) {
    u16(buf, lo, value as u16);
    u16(buf, hi, (value >> 16) as u16);
}
