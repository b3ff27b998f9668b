//! A file's content on its way into the image.

use std::io::{self, Seek, Write};

use crate::block::blocks_for;
use crate::writer::Stream;
use crate::{BLOCK_BYTES, Error, Result};

/// Where a file's content is. Blocks in no run are holes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    pub(crate) size: u64,
    pub(crate) runs: Box<[Run]>,
}

impl Data {
    /// The content's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The runs of blocks, in the file's order.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }
}

/// Blocks of a file that lie side by side in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first block's place in the file.
    pub file_block: u32,
    /// The first block's place in the image.
    pub image_block: u64,
    /// How many there are.
    pub blocks: u32,
}

/// A file may have this many blocks: 16 TiB.
const FILE_BLOCKS_MAX: u64 = u32::MAX as u64;

/// Takes a file's bytes in order. Blocks of zeros become holes by themselves.
#[derive(Debug)]
pub struct FileWriter<'w, W> {
    stream: &'w mut Stream<W>,
    size: u64,
    runs: Vec<Run>,
    /// The bytes of the last block, while it is not full.
    partial: Vec<u8>,
}

impl<'w, W: Write + Seek> FileWriter<'w, W> {
    pub(crate) fn new(stream: &'w mut Stream<W>) -> Self {
        let partial = std::mem::take(&mut stream.spare);
        FileWriter { stream, size: 0, runs: Vec::new(), partial }
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// Where the image's size is exhausted or writing fails.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        if !self.partial.is_empty() {
            let n = bytes.len().min(BLOCK_BYTES - self.partial.len());
            self.partial.extend_from_slice(&bytes[..n]);
            self.size += n as u64;
            bytes = &bytes[n..];
            if self.partial.len() == BLOCK_BYTES {
                let block = std::mem::take(&mut self.partial);
                self.blocks(self.size / BLOCK_BYTES as u64 - 1, &block)?;
                self.partial = block;
                self.partial.clear();
            }
        }
        let whole = bytes.len() / BLOCK_BYTES * BLOCK_BYTES;
        let (whole, rest) = bytes.split_at(whole);
        if !whole.is_empty() {
            let at = self.size / BLOCK_BYTES as u64;
            self.size += whole.len() as u64;
            self.blocks(at, whole)?;
        }
        self.partial.extend_from_slice(rest);
        self.size += rest.len() as u64;
        Ok(())
    }

    /// Appends `bytes` zeros without looking at any: the holes of a sparse file.
    ///
    /// # Errors
    /// As [`FileWriter::append`].
    pub fn hole(&mut self, mut bytes: u64) -> Result<()> {
        const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
        if !self.partial.is_empty() {
            let n = bytes.min((BLOCK_BYTES - self.partial.len()) as u64);
            self.append(&ZEROS[..n as usize])?;
            bytes -= n;
        }
        let whole = bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        self.size += whole;
        self.append(&ZEROS[..(bytes - whole) as usize])
    }

    /// Ends the file; its last block is filled up with zeros.
    ///
    /// # Errors
    /// As [`FileWriter::append`]; a file of more than 16 TiB.
    pub fn finish(mut self) -> Result<Data> {
        if !self.partial.is_empty() {
            let mut block = std::mem::take(&mut self.partial);
            block.resize(BLOCK_BYTES, 0);
            self.blocks(self.size / BLOCK_BYTES as u64, &block)?;
            block.clear();
            self.partial = block;
        }
        self.stream.spare = self.partial;
        let blocks = blocks_for(self.size);
        if blocks > FILE_BLOCKS_MAX {
            let what = "a file's size in blocks";
            return Err(Error::TooLarge { what, value: blocks, max: FILE_BLOCKS_MAX });
        }
        Ok(Data { size: self.size, runs: self.runs.into_boxed_slice() })
    }

    /// Stores whole blocks that begin at the file's block `at`, leaving out those of zeros.
    fn blocks(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
        let mut i = 0;
        while i < blocks.len() {
            let zeros = blocks[i..].iter().take_while(|b| is_zero(&b[..])).count();
            i += zeros;
            let data = blocks[i..].iter().take_while(|b| !is_zero(&b[..])).count();
            if data > 0 {
                self.store(at + i as u64, blocks[i..i + data].as_flattened())?;
            }
            i += data;
        }
        Ok(())
    }

    fn store(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        if at + blocks_for(bytes.len() as u64) > FILE_BLOCKS_MAX {
            let what = "a file's size in blocks";
            return Err(Error::TooLarge { what, value: at, max: FILE_BLOCKS_MAX });
        }
        let image_block = self.stream.next();
        self.stream.append(bytes)?;
        let blocks = (bytes.len() / BLOCK_BYTES) as u32;
        match self.runs.last_mut() {
            Some(last)
                if u64::from(last.file_block) + u64::from(last.blocks) == at
                    && last.image_block + u64::from(last.blocks) == image_block =>
            {
                last.blocks += blocks;
            }
            _ => self.runs.push(Run { file_block: at as u32, image_block, blocks }),
        }
        Ok(())
    }
}

impl<W: Write + Seek> Write for FileWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.append(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(Error::Io(e)) => Err(e),
            Err(e) => Err(io::Error::new(io::ErrorKind::StorageFull, e)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Most blocks differ from zero in their first bytes, so look there before the rest.
fn is_zero(block: &[u8]) -> bool {
    block[..16].iter().all(|&b| b == 0) && block.iter().all(|&b| b == 0)
}
