//! A file's content as a stream, holes included.

use std::io::{self, Read, Seek};

use super::blocks::Blocks;
use super::error::{Error, Result};
use super::extents::{Extent, Extents};
use super::indirect::Indirect;

/// A file's content, read from front to back. Holes read as zeros; [`Content::skip_hole`] saves
/// looking at them.
#[derive(Debug)]
pub struct Content<'r, R> {
    blocks: &'r mut Blocks<R>,
    size: u64,
    at: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// All of it, in the inode and its attributes.
    Inline(Vec<u8>),
    /// In blocks; the extent that ends behind the position, once it is known.
    Blocks { map: Map, current: Option<Extent>, is_at_end: bool },
}

/// What says where a file's blocks are.
#[derive(Debug)]
pub(super) enum Map {
    Extents(Extents),
    Indirect(Indirect),
}

impl Map {
    fn next<R: Read + Seek>(&mut self, blocks: &mut Blocks<R>) -> Result<Option<Extent>> {
        match self {
            Map::Extents(extents) => extents.next(blocks),
            Map::Indirect(indirect) => indirect.next(blocks),
        }
    }
}

impl<'r, R: Read + Seek> Content<'r, R> {
    pub(super) fn inline(blocks: &'r mut Blocks<R>, bytes: Vec<u8>) -> Self {
        let size = bytes.len() as u64;
        Content { blocks, size, at: 0, place: Place::Inline(bytes) }
    }

    pub(super) fn mapped(blocks: &'r mut Blocks<R>, size: u64, map: Map) -> Self {
        let place = Place::Blocks { map, current: None, is_at_end: false };
        Content { blocks, size, at: 0, place }
    }

    /// The content's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes read and skipped so far.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// How many zeros follow that the image has no blocks for; 0 at the end.
    ///
    /// # Errors
    /// Where the file's map is damaged or reading fails.
    pub fn hole(&mut self) -> Result<u64> {
        Ok(match self.stretch()? {
            (length, None) => length,
            (_, Some(_)) => 0,
        })
    }

    /// Skips zeros that the image has no blocks for, at most `limit` of them; how many there were.
    ///
    /// # Errors
    /// As [`Content::hole`].
    pub fn skip_hole(&mut self, limit: u64) -> Result<u64> {
        let skipped = self.hole()?.min(limit);
        self.at += skipped;
        Ok(skipped)
    }

    /// Reads into `buf` until it is full or the content ends.
    ///
    /// # Errors
    /// As [`Content::hole`].
    pub fn fill(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.some(&mut buf[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    /// Reads some bytes, none only at the end or into nothing.
    fn some(&mut self, buf: &mut [u8]) -> Result<usize> {
        if let Place::Inline(bytes) = &self.place {
            let rest = bytes.get(self.at as usize..).unwrap_or_default();
            let count = rest.len().min(buf.len());
            buf[..count].copy_from_slice(&rest[..count]);
            self.at += count as u64;
            return Ok(count);
        }
        let (length, image_block) = self.stretch()?;
        let count = length.min(buf.len() as u64) as usize;
        let buf = &mut buf[..count];
        match image_block {
            None => buf.fill(0),
            Some(_) if count == 0 => {}
            Some((block, offset)) => self.blocks.read(block, offset, buf)?,
        }
        self.at += count as u64;
        Ok(count)
    }

    /// How many bytes from here on are alike, and where they are: a block and an offset, or `None`
    /// for zeros.
    fn stretch(&mut self) -> Result<(u64, Option<(u64, u64)>)> {
        let left = self.size - self.at.min(self.size);
        let block_bytes = self.blocks.block_bytes as u64;
        let Place::Blocks { map, current, is_at_end } = &mut self.place else {
            return Ok((left, Some((0, 0))));
        };
        let end = |extent: &Extent| (extent.file_block + extent.blocks) * block_bytes;
        while left > 0 && !*is_at_end && current.is_none_or(|extent| end(&extent) <= self.at) {
            let next = map.next(self.blocks)?;
            *is_at_end = next.is_none();
            // What was reserved and never written to reads as zeros: as a hole.
            *current = next.filter(|extent| extent.is_written);
        }
        Ok(match current {
            Some(extent) if end(extent) > self.at => {
                let start = extent.file_block * block_bytes;
                match self.at.checked_sub(start) {
                    None => (left.min(start - self.at), None),
                    Some(offset) => {
                        (left.min(end(extent) - self.at), Some((extent.image_block, offset)))
                    }
                }
            }
            _ => (left, None),
        })
    }
}

impl<R: Read + Seek> Read for Content<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.some(buf).map_err(|error| match error {
            Error::Io(error) => error,
            error => io::Error::new(io::ErrorKind::InvalidData, error),
        })
    }
}
