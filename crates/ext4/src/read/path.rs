//! Paths, as the system in the image would follow them.

use std::io::{Read, Seek};

use super::{Error, Inode, Kind, ROOT_INODE, Reader, Result};

/// Symbolic links on the way to one file, as on Linux.
const SYMLINKS_MAX: usize = 40;
/// A path with what the links on its way add to it.
const PATH_BYTES_MAX: usize = 64 << 10;

impl<R: Read + Seek> Reader<R> {
    /// The inode at `path`, which counts from the root with or without a leading slash. Symbolic
    /// links on the way are followed, never out of the image; one at the end only where `follow`
    /// says so.
    ///
    /// # Errors
    /// Where the path leads nowhere or what is on its way is damaged.
    pub fn find(&mut self, path: &[u8], follow: bool) -> Result<Inode> {
        // The directories that lead to where we are, and what is still to go, in reverse.
        let mut way = vec![ROOT_INODE];
        let mut ahead = Vec::new();
        push(&mut ahead, path);
        let mut followed = 0;
        let mut at = self.root()?;
        while let Some(name) = ahead.pop() {
            if at.kind != Kind::Directory {
                return Err(Error::path(path, "leads through something that is no directory"));
            }
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    if way.len() > 1 {
                        way.pop();
                    }
                    at = self.inode(way.last().copied().unwrap_or(ROOT_INODE))?;
                    continue;
                }
                _ => {}
            }
            let number = self.lookup(&at, &name)?;
            let number = number.ok_or_else(|| Error::path(path, "is not there"))?;
            let next = self.inode(number)?;
            if next.kind == Kind::Symlink && (follow || !ahead.is_empty()) {
                let target = self.target(&next)?;
                followed += 1;
                let left: usize = ahead.iter().map(|name| name.len() + 1).sum();
                if followed > SYMLINKS_MAX || left + target.len() > PATH_BYTES_MAX {
                    return Err(Error::path(path, "leads through too many symbolic links"));
                }
                if target.starts_with(b"/") {
                    way.truncate(1);
                    at = self.root()?;
                }
                push(&mut ahead, &target);
                continue;
            }
            if next.kind == Kind::Directory {
                way.push(number);
            }
            at = next;
        }
        Ok(at)
    }
}

fn push(ahead: &mut Vec<Vec<u8>>, path: &[u8]) {
    ahead.extend(path.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
}
