//! Where a root file system comes from: every source becomes layers on local disk.

mod layer;
mod pipe;

pub use layer::{Compression, Decompressed, LAYER_BYTES_MAX, Layer, Verified, into_error};
pub use pipe::Pipe;

/// A tar header's checksum as it states it and as it is; `None` where the field is not octal.
pub(crate) fn tar_checksum(block: &[u8; 512]) -> Option<(u32, u32)> {
    let field = &block[148..156];
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    let stated = u32::from_str_radix(text, 8).ok()?;
    let rest = block[..148].iter().chain(&block[156..]);
    let found = rest.map(|&b| u32::from(b)).sum::<u32>() + 8 * u32::from(b' ');
    Some((stated, found))
}
