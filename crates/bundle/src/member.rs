//! The tar around the files: headers, padding and the end, all of which follow from the manifest.

use crate::zstd_frame::{stored, stored_bytes};
use crate::{Error, FileEntry, MANIFEST_BYTES_MAX, Result};

/// The manifest's name in the archive.
pub(crate) const MANIFEST_NAME: &str = "manifest.json";

const RECORD_BYTES: u64 = 512;
/// Two empty records end an archive.
const END_BYTES: u64 = 2 * RECORD_BYTES;

/// A tar header for a file of ours: the same bytes for the same name and size, always.
pub(crate) fn tar_header(name: &str, size: u64) -> Result<[u8; 512]> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// Zero bytes that follow a member of `size` bytes up to the next 512.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % RECORD_BYTES
}

/// The frame that a packed file begins with: the manifest, stored, as a member of the archive.
pub(crate) fn head(json: &[u8]) -> Result<Vec<u8>> {
    let mut content = tar_header(MANIFEST_NAME, json.len() as u64)?.to_vec();
    content.extend_from_slice(json);
    content.resize(content.len() + padding(json.len() as u64) as usize, 0);
    Ok(stored(&content))
}

/// The length of [`head`] once decompressed, for a manifest of `bytes`.
pub(crate) fn head_raw_bytes(bytes: u64) -> u64 {
    RECORD_BYTES + bytes + padding(bytes)
}

/// The length of [`head`].
pub(crate) fn head_bytes(bytes: u64) -> u64 {
    stored_bytes(head_raw_bytes(bytes))
}

/// What lies before the manifest's file number `index`, or behind the last one: the padding of the
/// file before, then a header or the archive's end. Uncompressed.
pub(crate) fn glue(files: &[FileEntry], index: usize) -> Result<Vec<u8>> {
    let before = index.checked_sub(1).and_then(|i| files.get(i));
    let mut glue = vec![0; before.map_or(0, |file| padding(file.size)) as usize];
    match files.get(index) {
        Some(file) => glue.extend(tar_header(&file.name, file.size)?),
        None => glue.resize(glue.len() + END_BYTES as usize, 0),
    }
    Ok(glue)
}

/// The length of [`glue`].
pub(crate) fn glue_raw_bytes(files: &[FileEntry], index: usize) -> u64 {
    let before = index.checked_sub(1).and_then(|i| files.get(i));
    let own = if index < files.len() { RECORD_BYTES } else { END_BYTES };
    before.map_or(0, |file| padding(file.size)) + own
}

/// The manifest's bytes, out of the frame that the packed file behind `read` begins with; exactly
/// that frame is read.
///
/// # Errors
/// Where it begins with anything else.
pub fn read_manifest(read: &mut impl std::io::Read) -> Result<Vec<u8>> {
    let not_ours = || Error::format("it does not begin with manifest.json");
    // Everything before the manifest's first byte: frame header, block header, tar header.
    let before = stored_bytes(RECORD_BYTES) as usize;
    let mut start = vec![0; before];
    fill(read, &mut start)?;
    let header = tar::Header::from_byte_slice(&start[before - RECORD_BYTES as usize..]);
    let size = header.entry_size().map_err(|_| not_ours())?;
    if size > MANIFEST_BYTES_MAX {
        return Err(Error::format(format!(
            "its manifest has {size} bytes, {} are allowed",
            MANIFEST_BYTES_MAX
        )));
    }
    let mut frame = start;
    frame.resize(head_bytes(size) as usize, 0);
    fill(read, &mut frame[before..])?;
    let json = unstore(&frame[before - RECORD_BYTES as usize - 3..], size);
    match json {
        Some(json) if head(&json)? == frame => Ok(json),
        _ => Err(not_ours()),
    }
}

/// The manifest's bytes out of the blocks of [`head`]; whoever calls compares the whole.
fn unstore(mut blocks: &[u8], size: u64) -> Option<Vec<u8>> {
    let mut content = Vec::with_capacity(head_raw_bytes(size) as usize);
    while let Some((header, rest)) = blocks.split_first_chunk::<3>() {
        let bytes = u32::from_le_bytes([header[0], header[1], header[2], 0]) >> 3;
        let (block, rest) = rest.split_at_checked(bytes as usize)?;
        content.extend_from_slice(block);
        blocks = rest;
    }
    let from = RECORD_BYTES as usize;
    Some(content.get(from..from + size as usize)?.to_vec())
}

fn fill(read: &mut impl std::io::Read, buffer: &mut [u8]) -> Result<()> {
    read.read_exact(buffer).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::format("it ends in the middle of its manifest"),
        _ => Error::Io(e),
    })
}
