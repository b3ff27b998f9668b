//! A walk over a whole tree.

use std::collections::HashSet;
use std::io::{Read, Seek};

use super::{ENTRIES_MAX, Entry, Error, Inode, Kind, Reader, Result};

/// No path in the tree may be longer; Linux opens none over 4 KiB.
const PATH_BYTES_MAX: usize = 64 << 10;

/// A walk from a directory down: parents before children, names in order. Every directory is
/// entered once, so it ends.
#[derive(Debug, Default)]
pub struct Walk {
    /// The names still ahead in each directory that the walk is in, in reverse.
    levels: Vec<Level>,
    /// Directories that were met.
    seen: HashSet<u32>,
    start: Option<Inode>,
    path: Vec<u8>,
}

#[derive(Debug)]
struct Level {
    ahead: Vec<Entry>,
    /// The length of the directory's path.
    path_bytes: usize,
}

/// What a walk meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The path from the walk's start, without a leading slash; empty for the start itself.
    pub path: Vec<u8>,
    /// The inode there.
    pub inode: Inode,
}

impl Walk {
    /// A walk that begins with `start`, which it meets first.
    pub fn new(start: Inode) -> Self {
        Walk { start: Some(start), ..Walk::default() }
    }

    /// The next inode.
    ///
    /// # Errors
    /// Where something is damaged, a directory has two names, or the tree is too deep to be told.
    pub fn next<R: Read + Seek>(&mut self, reader: &mut Reader<R>) -> Result<Option<Found>> {
        let inode = match self.start.take() {
            Some(start) => start,
            None => match self.step(reader)? {
                Some(inode) => inode,
                None => return Ok(None),
            },
        };
        if inode.kind == Kind::Directory {
            self.enter(reader, &inode)?;
        }
        Ok(Some(Found { path: self.path.clone(), inode }))
    }

    /// Moves on to the next name.
    fn step<R: Read + Seek>(&mut self, reader: &mut Reader<R>) -> Result<Option<Inode>> {
        while let Some(level) = self.levels.last_mut() {
            let Some(entry) = level.ahead.pop() else {
                self.levels.pop();
                continue;
            };
            self.path.truncate(level.path_bytes);
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&entry.name);
            if self.path.len() > PATH_BYTES_MAX {
                return Err(Error::unsupported(entry.inode, "a path of more than 64 KiB"));
            }
            return reader.inode(entry.inode).map(Some);
        }
        Ok(None)
    }

    fn enter<R: Read + Seek>(&mut self, reader: &mut Reader<R>, directory: &Inode) -> Result<()> {
        if !self.seen.insert(directory.number) {
            return Err(Error::inode(directory.number, "a directory has two names"));
        }
        let mut ahead = reader.entries(directory)?;
        ahead.reverse();
        let held: usize = self.levels.iter().map(|level| level.ahead.len()).sum();
        if held + ahead.len() > ENTRIES_MAX {
            return Err(Error::unsupported(directory.number, "more than 4,194,304 names"));
        }
        self.levels.push(Level { ahead, path_bytes: self.path.len() });
        Ok(())
    }
}
