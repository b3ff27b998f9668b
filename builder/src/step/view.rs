//! The image so far and the edits on top of it: what file steps look at and change.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use bundle::Digest;
use ext4::read::{Inode, Kind as BaseKind, Reader};
use ext4::{Meta, Time};

use crate::{Error, Result};

/// Symbolic links on the way to one file, as on Linux.
const SYMLINKS_MAX: usize = 40;
/// A file that is looked into is at most this long: lists of users, units.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// The image so far with edits on top.
#[derive(Debug)]
pub(super) struct View {
    base: Reader<File>,
    /// By path without a leading slash; none of them leads through a symlink.
    changes: BTreeMap<Vec<u8>, Change>,
    /// The time of what is made.
    now: Time,
}

/// What becomes of a path.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    /// What the image so far has there is hidden, with all that is below it.
    pub(super) hides: bool,
    /// What is there from now on.
    pub(super) node: Option<Node>,
}

/// Something in the image.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) meta: Meta,
    pub(super) body: Body,
}

/// What it is.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Directory,
    File(Bytes),
    Symlink(Vec<u8>),
    /// A device or fifo, which only can be removed or given other metadata.
    Special(BaseKind),
}

/// Where a file's content is.
#[derive(Clone, Debug)]
pub(super) enum Bytes {
    Given(Vec<u8>),
    /// On the host, with the digest that it had when the step's key was made.
    Host {
        file: PathBuf,
        size: u64,
        digest: Digest,
    },
    /// In the image so far.
    Base(Box<Inode>),
}

impl Bytes {
    pub(super) fn size(&self) -> u64 {
        match self {
            Bytes::Given(bytes) => bytes.len() as u64,
            Bytes::Host { size, .. } => *size,
            Bytes::Base(inode) => inode.size,
        }
    }
}

/// A place in the image: a path through no symlink, and what is there.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: Vec<u8>,
    pub(super) node: Option<Node>,
}

impl View {
    /// A view of the image so far. What is made is dated `epoch`.
    pub(super) fn new(base: Reader<File>, epoch: Option<u64>) -> Self {
        let seconds = i64::try_from(epoch.unwrap_or(0)).unwrap_or(i64::MAX);
        let now = Time { seconds, nanoseconds: 0 };
        View { base, changes: BTreeMap::new(), now }
    }

    /// Metadata of something new.
    pub(super) fn meta(&self, mode: u16) -> Meta {
        Meta { mtime: self.now, ..Meta::with_mode(mode) }
    }

    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// The changes, parents first, and the image below them.
    pub(super) fn into_parts(self) -> (BTreeMap<Vec<u8>, Change>, Reader<File>) {
        (self.changes, self.base)
    }

    /// Where `path` leads; through a symlink at its end only where `follow` says so. What is not
    /// there yet has a place, too.
    pub(super) fn place(&mut self, path: &str, follow: bool) -> Result<Place> {
        self.place_of(path.as_bytes(), follow)
    }

    pub(super) fn place_of(&mut self, path: &[u8], follow: bool) -> Result<Place> {
        let about = |why: &str| Error::input(format!("{}: {why}", shown(path)));
        let mut ahead: Vec<Vec<u8>> = names(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut node = self.node(b"")?;
        let mut followed = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                at.pop();
                node = self.node(&at.join(&b'/'))?;
                continue;
            }
            if node.as_ref().is_some_and(|node| !matches!(node.body, Body::Directory)) {
                return Err(about("it leads through something that is no directory"));
            }
            at.push(name);
            node = match node {
                Some(_) => self.node(&at.join(&b'/'))?,
                None => None,
            };
            if let Some(Node { body: Body::Symlink(target), .. }) = &node
                && (follow || !ahead.is_empty())
            {
                followed += 1;
                if followed > SYMLINKS_MAX {
                    return Err(about("it leads through too many symbolic links"));
                }
                at.pop();
                if target.starts_with(b"/") {
                    at.clear();
                }
                ahead.extend(names(target).rev().map(<[u8]>::to_vec));
                node = self.node(&at.join(&b'/'))?;
            }
        }
        Ok(Place { path: at.join(&b'/'), node })
    }

    /// What is at a path that leads through no symlink.
    fn node(&mut self, path: &[u8]) -> Result<Option<Node>> {
        match self.changes.get(path) {
            Some(Change { node: Some(node), .. }) => return Ok(Some(node.clone())),
            Some(Change { hides: true, .. }) => return Ok(None),
            _ if self.is_hidden(path) => return Ok(None),
            _ => {}
        }
        self.below(path)
    }

    /// What the image so far has there.
    fn below(&mut self, path: &[u8]) -> Result<Option<Node>> {
        let inode = match self.base.find(path, false) {
            Ok(inode) => inode,
            Err(ext4::read::Error::Path { .. }) => return Ok(None),
            Err(e) => return Err(damaged(path, e)),
        };
        let failed = |e| damaged(path, e);
        let meta = Meta {
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            xattrs: self.base.xattrs(&inode).map_err(failed)?,
        };
        let body = match inode.kind {
            BaseKind::Directory => Body::Directory,
            BaseKind::Symlink => Body::Symlink(self.base.target(&inode).map_err(failed)?),
            BaseKind::File => Body::File(Bytes::Base(Box::new(inode))),
            kind => Body::Special(kind),
        };
        Ok(Some(Node { meta, body }))
    }

    /// Whether a change above `path` hides what the image so far has there.
    fn is_hidden(&self, path: &[u8]) -> bool {
        parents(path).any(|parent| {
            self.changes.get(parent).is_some_and(|change| {
                let in_the_way =
                    change.node.as_ref().is_some_and(|n| !matches!(n.body, Body::Directory));
                change.hides || in_the_way
            })
        })
    }

    /// Puts `node` at a place, with the directories that are missing above it.
    pub(super) fn put(&mut self, path: &[u8], node: Node) -> Result<()> {
        let missing: Vec<Vec<u8>> = parents(path).map(<[u8]>::to_vec).collect();
        for parent in missing {
            if self.node(&parent)?.is_none() {
                let directory = Node { meta: self.meta(0o755), body: Body::Directory };
                self.changes.entry(parent).or_default().node = Some(directory);
            }
        }
        self.changes.entry(path.to_vec()).or_default().node = Some(node);
        Ok(())
    }

    /// Removes what is at a place, with all that is below it.
    pub(super) fn remove(&mut self, path: &[u8]) -> Result<()> {
        let inside = [path, b"/"].concat();
        self.changes.retain(|changed, _| !changed.starts_with(&inside));
        let hides = !self.is_hidden(path) && self.below(path)?.is_some();
        match hides {
            true => self.changes.insert(path.to_vec(), Change { hides, node: None }),
            false => self.changes.remove(path),
        };
        Ok(())
    }

    /// The names in a directory, sorted.
    pub(super) fn children(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        let hidden = self.changes.get(path).is_some_and(|c| c.hides) || self.is_hidden(path);
        if !hidden && let Ok(inode) = self.base.find(path, false) {
            let entries = self.base.entries(&inode).map_err(|e| damaged(path, e))?;
            all.extend(entries.into_iter().map(|entry| entry.name.into_vec()));
        }
        let prefix = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        for (changed, change) in &self.changes {
            let Some(name) = changed.strip_prefix(&prefix[..]) else { continue };
            if name.is_empty() || name.contains(&b'/') {
                continue;
            }
            all.retain(|there| there != name);
            if change.node.is_some() {
                all.push(name.to_vec());
            }
        }
        all.sort();
        Ok(all)
    }

    /// A file's content; `None` where there is no file.
    pub(super) fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>> {
        let place = self.place(path, true)?;
        match place.node {
            Some(Node { body: Body::File(bytes), .. }) => self.content(path, &bytes).map(Some),
            _ => Ok(None),
        }
    }

    /// The content of a small file.
    pub(super) fn content(&mut self, path: &str, bytes: &Bytes) -> Result<Vec<u8>> {
        let size = bytes.size();
        if size > TEXT_BYTES_MAX {
            return Err(Error::input(format!(
                "{path}: {size} bytes, more than the {TEXT_BYTES_MAX} that a step looks into"
            )));
        }
        let mut text = Vec::new();
        let read = open(bytes, &mut self.base).and_then(|mut r| r.read_to_end(&mut text));
        read.map_err(|e| Error::io(path, e))?;
        Ok(text)
    }
}

/// A file's content as a stream.
pub(super) fn open<'b>(
    bytes: &'b Bytes,
    base: &'b mut Reader<File>,
) -> io::Result<Box<dyn Read + 'b>> {
    Ok(match bytes {
        Bytes::Given(bytes) => Box::new(&bytes[..]),
        Bytes::Host { file, .. } => Box::new(File::open(file)?),
        Bytes::Base(inode) => Box::new(base.content(inode).map_err(io::Error::other)?),
    })
}

/// The directories above `path`, the topmost first, without the root.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(at, _)| &path[..at])
}

fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&c| c == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

/// A path for people, with its slash.
pub(super) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    format!("/{}", text.trim_start_matches('/')).replace(|c: char| c.is_control(), "?")
}

fn damaged(path: &[u8], e: ext4::read::Error) -> Error {
    Error::bug(format!("{}: the image so far can not be read back: {e}", shown(path)))
}
