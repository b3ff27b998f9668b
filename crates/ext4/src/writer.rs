//! The image under way: a stream of blocks that only grows, until the tables go in at the end.

use std::io::{Seek, SeekFrom, Write};

use crate::block::{BLOCKS_PER_GROUP, DESCRIPTOR_BLOCKS_ROOM, DESCRIPTORS_PER_BLOCK, blocks_for};
use crate::{BLOCK_BYTES, Error, FileWriter, Options, Result};

/// The image is written in chunks of this many bytes, each from a multiple of it to the next: the
/// page cache then holds whole chunks, and what is collected is still in the processor's cache when
/// it is copied. Larger chunks cost more, not less: a kernel that knows large folios looks for
/// 256 KiB of fresh memory where it would have taken pages that were freed a moment ago.
const CHUNK_BYTES: usize = 64 << 10;
const CHUNK_BLOCKS: u64 = (CHUNK_BYTES / BLOCK_BYTES) as u64;

/// An image has at most this many blocks: 16 TiB.
const IMAGE_BLOCKS_MAX: u64 = 1 << 32;

/// Writes one image into `W`, which must be empty (holes read as zeros).
///
/// Contents go in first, file by file, then [`Writer::finish`] takes the tree and writes the rest.
#[derive(Debug)]
pub struct Writer<W> {
    pub(crate) stream: Stream<W>,
    pub(crate) options: Options,
    /// Blocks kept for group descriptors, after the superblock.
    pub(crate) descriptor_room: u64,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins an image.
    ///
    /// # Errors
    /// A size that holds not even the tables, or that is more than 16 TiB.
    pub fn new(out: W, options: Options) -> Result<Self> {
        let limit = options.size_bytes.map(|bytes| bytes / BLOCK_BYTES as u64);
        let max = IMAGE_BLOCKS_MAX;
        if let Some(value) = limit.filter(|&b| b > max) {
            return Err(Error::TooLarge { what: "the size in blocks", value, max });
        }
        let descriptor_room = match limit {
            Some(blocks) => blocks.div_ceil(BLOCKS_PER_GROUP).div_ceil(DESCRIPTORS_PER_BLOCK),
            None => DESCRIPTOR_BLOCKS_ROOM,
        };
        let mut stream = Stream {
            out,
            buffer: Vec::with_capacity(CHUNK_BYTES),
            spare: Vec::with_capacity(BLOCK_BYTES),
            next: 0,
            written: 0,
            limit: limit.unwrap_or(max),
        };
        stream.skip(1 + descriptor_room)?;
        Ok(Writer { stream, options, descriptor_room })
    }

    /// Begins a file's content. One file at a time; the content stays where it is written.
    pub fn file(&mut self) -> FileWriter<'_, W> {
        FileWriter::new(&mut self.stream)
    }
}

/// Blocks written one after another; holes by seeking.
#[derive(Debug)]
pub(crate) struct Stream<W> {
    out: W,
    /// What is not written yet of the chunk that `next` is in.
    buffer: Vec<u8>,
    /// Room for a file's last block: one allocation serves all files.
    pub(crate) spare: Vec<u8>,
    next: u64,
    /// The block behind the last one that was really written: the image's length so far.
    written: u64,
    limit: u64,
}

impl<W: Write + Seek> Stream<W> {
    /// The block that the next append goes to.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Appends whole blocks.
    pub(crate) fn append(&mut self, mut blocks: &[u8]) -> Result<()> {
        debug_assert_eq!(blocks.len() % BLOCK_BYTES, 0);
        let mut at = (self.next % CHUNK_BLOCKS) as usize * BLOCK_BYTES;
        self.advance(blocks_for(blocks.len() as u64))?;
        while !blocks.is_empty() {
            let to_edge = CHUNK_BYTES - at % CHUNK_BYTES;
            let (chunk, rest) = blocks.split_at(blocks.len().min(to_edge));
            if self.buffer.is_empty() && chunk.len() == to_edge {
                self.out.write_all(chunk)?;
            } else {
                self.buffer.extend_from_slice(chunk);
                if chunk.len() == to_edge {
                    self.flush()?;
                }
            }
            at += chunk.len();
            blocks = rest;
        }
        self.written = self.next;
        Ok(())
    }

    /// Leaves `blocks` blocks as they are: zero.
    pub(crate) fn skip(&mut self, blocks: u64) -> Result<()> {
        self.advance(blocks)?;
        self.flush()?;
        self.out.seek(SeekFrom::Start(self.next * BLOCK_BYTES as u64))?;
        Ok(())
    }

    /// Ends the stream: writes `front` over the first blocks and makes the image `blocks` long.
    pub(crate) fn finish(mut self, front: &[u8], blocks: u64) -> Result<W> {
        self.flush()?;
        let end = blocks * BLOCK_BYTES as u64;
        if self.written < blocks {
            // One byte at the very end gives a file its length and leaves the rest a hole.
            self.out.seek(SeekFrom::Start(end - 1))?;
            self.out.write_all(&[0])?;
        }
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(front)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn advance(&mut self, blocks: u64) -> Result<()> {
        let next = self.next + blocks;
        if next > self.limit {
            let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
            return Err(Error::TooSmall { needed: bytes(next), given: bytes(self.limit) });
        }
        self.next = next;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}
