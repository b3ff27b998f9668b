//! The frame table: of every piece of a bundle's files how long it is and what it must be.

use crate::{Digest, Error, Result};

/// The table's first bytes.
const MAGIC: [u8; 8] = *b"imgframe";
/// The table's version.
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 72;

/// A frame of data holds at most so many raw bytes.
pub const FRAME_BYTES_MAX: u32 = 4 << 20;
/// A run of zeros in one frame is at most so long.
pub const ZERO_BYTES_MAX: u32 = 256 << 20;
/// A bundle has at most so many frames.
pub const FRAMES_MAX: usize = 1 << 20;

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes to fetch.
    Data {
        /// Its length once decompressed, at most [`FRAME_BYTES_MAX`].
        raw_bytes: u32,
        /// Its length in the packed file.
        packed_bytes: u32,
        /// Of the decompressed bytes: the same in every bundle that holds them.
        raw: Digest,
        /// Of the bytes in the packed file.
        packed: Digest,
    },
    /// A hole. Its packed bytes follow from its length.
    Zero {
        /// Its length, at most [`ZERO_BYTES_MAX`].
        raw_bytes: u32,
    },
}

impl Frame {
    /// Its length once decompressed.
    pub fn raw_bytes(&self) -> u64 {
        match *self {
            Frame::Data { raw_bytes, .. } | Frame::Zero { raw_bytes } => u64::from(raw_bytes),
        }
    }

    /// Its length in the packed file.
    pub fn packed_bytes(&self) -> u64 {
        match *self {
            Frame::Data { packed_bytes, .. } => u64::from(packed_bytes),
            Frame::Zero { raw_bytes } => crate::zstd_frame::zeros_bytes(u64::from(raw_bytes)),
        }
    }

    /// Whether it is a hole.
    pub fn is_zero(&self) -> bool {
        matches!(self, Frame::Zero { .. })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let (raw_bytes, packed_bytes, raw, packed) = match *self {
            Frame::Data { raw_bytes, packed_bytes, raw, packed } => {
                (raw_bytes, packed_bytes, *raw.as_bytes(), *packed.as_bytes())
            }
            Frame::Zero { raw_bytes } => (raw_bytes, 0, [0; 32], [0; 32]),
        };
        out.extend(raw_bytes.to_le_bytes());
        out.extend(packed_bytes.to_le_bytes());
        out.extend(raw);
        out.extend(packed);
    }

    fn parse(entry: &[u8; ENTRY_BYTES]) -> Result<Self> {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| entry[at + i]));
        let digest = |at: usize| Digest::from_bytes(std::array::from_fn(|i| entry[at + i]));
        let (raw_bytes, packed_bytes) = (word(0), word(4));
        let is_zero = packed_bytes == 0;
        let max = if is_zero { ZERO_BYTES_MAX } else { FRAME_BYTES_MAX };
        if raw_bytes == 0 || raw_bytes > max {
            return Err(Error::format(format!(
                "its frame table has a frame of {raw_bytes} bytes, 1 to {max} are allowed"
            )));
        }
        if is_zero {
            return match entry[8..].iter().all(|&b| b == 0) {
                true => Ok(Frame::Zero { raw_bytes }),
                false => Err(Error::format("its frame table gives a hole a digest")),
            };
        }
        // No compressor makes more of it; without this a few bytes could ask for 4 GiB.
        let most = raw_bytes + raw_bytes / 256 + 1024;
        if packed_bytes > most {
            return Err(Error::format(format!(
                "its frame table packs {raw_bytes} bytes into {packed_bytes}"
            )));
        }
        Ok(Frame::Data { raw_bytes, packed_bytes, raw: digest(8), packed: digest(40) })
    }
}

/// The table's length for `frames` frames.
pub(crate) fn table_bytes(frames: usize) -> u64 {
    (HEADER_BYTES + frames * ENTRY_BYTES) as u64
}

/// How many frames a table of `bytes` has, if there is such a table.
pub(crate) fn frames_in(bytes: u64) -> Option<usize> {
    let entries = bytes.checked_sub(HEADER_BYTES as u64)?;
    let count = usize::try_from(entries / ENTRY_BYTES as u64).ok()?;
    (entries.is_multiple_of(ENTRY_BYTES as u64) && count <= FRAMES_MAX).then_some(count)
}

/// The table as bytes.
pub(crate) fn encode<'f>(frames: impl ExactSizeIterator<Item = &'f Frame>) -> Vec<u8> {
    let mut out = Vec::with_capacity(table_bytes(frames.len()) as usize);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((frames.len() as u32).to_le_bytes());
    for frame in frames {
        frame.encode(&mut out);
    }
    out
}

/// Reads a table; only what [`encode`] would write is one.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Frame>> {
    let wrong = || Error::format("its frame table is not one");
    let count = frames_in(bytes.len() as u64).ok_or_else(wrong)?;
    let (header, entries) = bytes.split_at(HEADER_BYTES);
    if header[..8] != MAGIC || header[8..12] != VERSION.to_le_bytes() {
        return Err(wrong());
    }
    if header[12..] != (count as u32).to_le_bytes() {
        return Err(Error::format("its frame table has another length than it says"));
    }
    let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
    entries.iter().map(Frame::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let data = |n: u32| Frame::Data {
            raw_bytes: n,
            packed_bytes: n / 2 + 1,
            raw: Digest::of(n.to_le_bytes()),
            packed: Digest::of(n.to_be_bytes()),
        };
        vec![data(4096), Frame::Zero { raw_bytes: ZERO_BYTES_MAX }, data(FRAME_BYTES_MAX), data(1)]
    }

    #[test]
    fn round_trips() {
        for n in 0..4 {
            let bytes = encode(frames()[..n].iter());
            assert_eq!(bytes.len() as u64, table_bytes(n));
            assert_eq!(parse(&bytes).unwrap(), &frames()[..n]);
        }
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let good = encode(frames().iter());
        for cut in 0..good.len() {
            assert!(parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        assert!(parse(&[&good[..], &[0; 72]].concat()).is_err());
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            parse(&bad).map(|_| ()).unwrap_err().to_string()
        };
        assert!(with(0, b"I").contains("not one"));
        assert!(with(8, &[2]).contains("not one"));
        assert!(with(12, &[3]).contains("another length"));
        // Raw lengths, a packed length that is a bomb the other way round, a hole with a digest.
        assert!(with(16, &0u32.to_le_bytes()).contains("a frame of 0 bytes"));
        assert!(with(16, &(FRAME_BYTES_MAX + 1).to_le_bytes()).contains("a frame of 4194305"));
        assert!(with(20, &u32::MAX.to_le_bytes()).contains("into 4294967295"));
        assert!(with(88, &(ZERO_BYTES_MAX + 1).to_le_bytes()).contains("a frame of 268435457"));
        assert!(with(100, &[1]).contains("a hole a digest"));
    }
}
