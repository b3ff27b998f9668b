//! Blocks of an image, the last few of them kept.

use std::io::{Read, Seek, SeekFrom};

use super::error::{Error, Result};

/// Bytes of blocks that are kept: inode tables and directories are read block by block.
const CACHE_BYTES: usize = 512 << 10;

/// An image of whole blocks.
#[derive(Debug)]
pub(super) struct Blocks<R> {
    source: R,
    pub(super) block_bytes: usize,
    /// How many blocks the file system has; the image is at least as long.
    pub(super) count: u64,
    /// A block's place is its number modulo the length.
    cache: Vec<Option<(u64, Box<[u8]>)>>,
}

impl<R: Read + Seek> Blocks<R> {
    pub(super) fn new(source: R, block_bytes: usize, count: u64) -> Self {
        let mut cache = Vec::new();
        cache.resize_with(CACHE_BYTES / block_bytes, || None);
        Blocks { source, block_bytes, count, cache }
    }

    /// A block's bytes.
    pub(super) fn block(&mut self, number: u64) -> Result<&[u8]> {
        let place = (number % self.cache.len() as u64) as usize;
        let kept = self.cache[place].take();
        let bytes = match kept {
            Some((kept, bytes)) if kept == number => bytes,
            other => {
                let mut bytes =
                    other.map_or_else(|| vec![0; self.block_bytes].into(), |(_, bytes)| bytes);
                self.read(number, 0, &mut bytes)?;
                bytes
            }
        };
        Ok(&self.cache[place].insert((number, bytes)).1)
    }

    /// Fills `buf` with what begins `offset` bytes behind the start of the block `number`.
    pub(super) fn read(&mut self, number: u64, offset: u64, buf: &mut [u8]) -> Result<()> {
        let block_bytes = self.block_bytes as u64;
        let end = number
            .checked_mul(block_bytes)
            .and_then(|start| start.checked_add(offset)?.checked_add(buf.len() as u64));
        match end {
            Some(end) if end <= self.count.saturating_mul(block_bytes) => {
                self.source.seek(SeekFrom::Start(end - buf.len() as u64))?;
                self.source.read_exact(buf)?;
                Ok(())
            }
            _ => Err(Error::block(number, "it is not in the image")),
        }
    }
}
