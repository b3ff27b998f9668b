//! zstd frames: those whose bytes follow from their content, and what is asked of all others.
//!
//! The format is RFC 8878; the seek table is zstd's `contrib/seekable_format`.

use crate::{Error, Result};

const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// Skippable frames may have one of sixteen numbers; this one is the frame table's.
const TABLE_MAGIC: [u8; 4] = 0x184d_2a5c_u32.to_le_bytes();
/// The one that the seekable format prescribes.
const SEEK_MAGIC: [u8; 4] = 0x184d_2a5e_u32.to_le_bytes();
const SEEK_FOOTER_MAGIC: [u8; 4] = 0x8f92_eab1_u32.to_le_bytes();
/// Magic and length of a skippable frame.
pub(crate) const SKIPPABLE_HEADER_BYTES: u64 = 8;

/// Frame header descriptor: the content's size follows in four bytes, and a window before it; no
/// checksum, no dictionary.
const PLAIN_DESCRIPTOR: u8 = 0x80;
/// Window descriptor of 128 KiB, the most that one block can hold.
const PLAIN_WINDOW: u8 = 0x38;
const PLAIN_HEADER_BYTES: u64 = 4 + 1 + 1 + 4;
const BLOCK_BYTES_MAX: u64 = 128 << 10;
const BLOCK_HEADER_BYTES: u64 = 3;
const BLOCK_RAW: u32 = 0;
const BLOCK_REPEATED: u32 = 1;

/// A window is at most this long: what RFC 8878 asks every decoder to support.
pub const WINDOW_BYTES_MAX: u64 = 8 << 20;

/// A frame that holds `content` as it is.
pub(crate) fn stored(content: &[u8]) -> Vec<u8> {
    let mut frame = plain_header(content.len() as u64);
    let mut rest = content;
    loop {
        let (block, more) = rest.split_at(rest.len().min(BLOCK_BYTES_MAX as usize));
        frame.extend(block_header(block.len() as u64, BLOCK_RAW, more.is_empty()));
        frame.extend_from_slice(block);
        rest = more;
        if rest.is_empty() {
            return frame;
        }
    }
}

/// The length of [`stored`] for content of `bytes`.
pub(crate) fn stored_bytes(bytes: u64) -> u64 {
    PLAIN_HEADER_BYTES + blocks(bytes) * BLOCK_HEADER_BYTES + bytes
}

/// A frame of `bytes` zeros: four bytes for each 128 KiB.
pub(crate) fn zeros(bytes: u64) -> Vec<u8> {
    let mut frame = plain_header(bytes);
    let mut left = bytes;
    loop {
        let block = left.min(BLOCK_BYTES_MAX);
        left -= block;
        frame.extend(block_header(block, BLOCK_REPEATED, left == 0));
        frame.push(0);
        if left == 0 {
            return frame;
        }
    }
}

/// The length of [`zeros`].
pub(crate) fn zeros_bytes(bytes: u64) -> u64 {
    PLAIN_HEADER_BYTES + blocks(bytes) * (BLOCK_HEADER_BYTES + 1)
}

fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES_MAX).max(1)
}

fn plain_header(content_bytes: u64) -> Vec<u8> {
    let mut frame = Vec::from(MAGIC);
    frame.extend([PLAIN_DESCRIPTOR, PLAIN_WINDOW]);
    frame.extend((content_bytes as u32).to_le_bytes());
    frame
}

fn block_header(bytes: u64, kind: u32, last: bool) -> [u8; 3] {
    let header = u32::from(last) | kind << 1 | (bytes as u32) << 3;
    let [a, b, c, _] = header.to_le_bytes();
    [a, b, c]
}

/// The skippable frame that holds the frame table.
pub(crate) fn table_frame(table: &[u8]) -> Vec<u8> {
    let mut frame = Vec::from(TABLE_MAGIC);
    frame.extend((table.len() as u32).to_le_bytes());
    frame.extend_from_slice(table);
    frame
}

/// The skippable frame at the end of a file in the seekable format: packed and raw bytes of every
/// frame before it.
pub(crate) fn seek_table(frames: impl ExactSizeIterator<Item = (u64, u64)>) -> Vec<u8> {
    let count = frames.len();
    let mut frame = Vec::from(SEEK_MAGIC);
    let payload = seek_table_bytes(count as u64) - SKIPPABLE_HEADER_BYTES;
    frame.extend((payload as u32).to_le_bytes());
    for (packed, raw) in frames {
        frame.extend((packed as u32).to_le_bytes());
        frame.extend((raw as u32).to_le_bytes());
    }
    frame.extend((count as u32).to_le_bytes());
    frame.push(0); // No checksums: the frame table has better ones.
    frame.extend(SEEK_FOOTER_MAGIC);
    frame
}

/// The length of [`seek_table`] for `frames` frames.
pub(crate) fn seek_table_bytes(frames: u64) -> u64 {
    SKIPPABLE_HEADER_BYTES + 8 * frames + 9
}

/// Decompresses `packed` into `raw`, which it must fill. It must be one frame and nothing else,
/// say how much it holds, need no dictionary and no window over [`WINDOW_BYTES_MAX`].
///
/// # Errors
/// Where it is something else. No memory is taken beyond `raw`.
pub(crate) fn open(
    decoder: &mut zstd::bulk::Decompressor<'_>,
    packed: &[u8],
    raw: &mut [u8],
) -> Result<()> {
    check_header(packed, raw.len() as u64)?;
    let length = zstd::zstd_safe::find_frame_compressed_size(packed)
        .map_err(|_| Error::format("a frame is cut short"))?;
    if length != packed.len() {
        return Err(Error::format("bytes follow a frame where only one must be"));
    }
    match decoder.decompress_to_buffer(packed, raw) {
        Ok(bytes) if bytes == raw.len() => Ok(()),
        Ok(_) => Err(Error::format("a frame holds less than it says")),
        Err(e) => Err(Error::format(format!("a frame does not decompress: {e}"))),
    }
}

fn check_header(packed: &[u8], raw_bytes: u64) -> Result<()> {
    let short = || Error::format("a frame is cut short");
    let rest = packed.strip_prefix(&MAGIC).ok_or_else(|| Error::format("a frame is not zstd"))?;
    let (&descriptor, rest) = rest.split_first().ok_or_else(short)?;
    if descriptor & 0b1011 != 0 {
        return Err(Error::format("a frame needs a dictionary"));
    }
    let single_segment = descriptor & 0x20 != 0;
    let (window, rest) = match single_segment {
        true => (raw_bytes, rest),
        false => {
            let (&byte, rest) = rest.split_first().ok_or_else(short)?;
            let base = 1u64 << (10 + (byte >> 3));
            (base + base / 8 * u64::from(byte & 7), rest)
        }
    };
    let size_bytes = match descriptor >> 6 {
        0 if single_segment => 1,
        0 => return Err(Error::format("a frame does not say how much it holds")),
        flag => 1 << flag,
    };
    let bytes = rest.get(..size_bytes).ok_or_else(short)?;
    let mut content = bytes.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
    if size_bytes == 2 {
        content += 256;
    }
    if content != raw_bytes {
        return Err(Error::format(format!(
            "a frame holds {content} bytes, the frame table says {raw_bytes}"
        )));
    }
    if window > WINDOW_BYTES_MAX {
        return Err(Error::format(format!(
            "a frame needs a window of {window} bytes, {WINDOW_BYTES_MAX} are allowed"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_our_own_decompress_and_are_as_long_as_computed() {
        for bytes in [0, 1, 512, (128 << 10) - 1, 128 << 10, (128 << 10) + 1, 1_000_000] {
            let content: Vec<u8> = (0..bytes).map(|i| ((i * i) >> 5) as u8).collect();
            let frame = stored(&content);
            assert_eq!(frame.len() as u64, stored_bytes(bytes));
            assert_eq!(zstd::decode_all(&frame[..]).unwrap(), content);
            let frame = zeros(bytes);
            assert_eq!(frame.len() as u64, zeros_bytes(bytes));
            assert_eq!(zstd::decode_all(&frame[..]).unwrap(), vec![0; bytes as usize]);
        }
        assert!(zeros_bytes(1 << 30) <= 33 << 10);
    }

    #[test]
    fn only_one_frame_of_the_right_length_opens() {
        let content = vec![7u8; 300_000];
        let compress = |with: &dyn Fn(&mut zstd::bulk::Compressor<'_>)| {
            let mut compressor = zstd::bulk::Compressor::new(3).unwrap();
            with(&mut compressor);
            compressor.compress(&content).unwrap()
        };
        let try_open = |packed: &[u8], bytes: usize| {
            let mut decoder = zstd::bulk::Decompressor::new().unwrap();
            let mut raw = vec![0; bytes];
            open(&mut decoder, packed, &mut raw).map(|()| raw).map_err(|e| e.to_string())
        };
        let good = compress(&|_| {});
        assert_eq!(try_open(&good, content.len()).unwrap(), content);
        let unsaid = compress(&|c| c.include_contentsize(false).unwrap());
        let two = [&good[..], &good[..]].concat();
        let tail = [&good[..], &table_frame(b"hidden")].concat();
        let head = [&table_frame(b"hidden")[..], &good].concat();
        for (packed, bytes, words) in [
            (&good[..], content.len() - 1, "holds 300000 bytes"),
            (&good[..], content.len() + 1, "holds 300000 bytes"),
            (&good[..good.len() - 1], content.len(), "cut short"),
            (&unsaid, content.len(), "does not say"),
            (&two, content.len(), "bytes follow"),
            (&tail, content.len(), "bytes follow"),
            (&head, content.len(), "not zstd"),
            (&[], 0, "not zstd"),
        ] {
            let error = try_open(packed, bytes).unwrap_err();
            assert!(error.contains(words), "{words}: {error}");
        }
        // A window of 128 MiB for nine bytes, and a dictionary that nobody has.
        let mut wide = stored(b"nine byte");
        wide[5] = 17 << 3;
        assert!(try_open(&wide, 9).unwrap_err().contains("a window of 134217728"));
        let mut dictionary = stored(b"nine byte");
        dictionary[4] |= 1;
        assert!(try_open(&dictionary, 9).unwrap_err().contains("dictionary"));
    }
}
