//! What a machine wrote, as a layer: the upper directory of overlayfs, read from the machine's disk
//! without mounting it.
//!
//! overlayfs marks what it hides by character devices 0:0 and what it replaces by the attribute
//! `trusted.overlay.opaque` (the kernel's `Documentation/filesystems/overlayfs.rst`). Redirects and
//! metadata-only copies are switched off for these machines. The disk is a guest's: it is read by
//! a reader that believes nothing.
//!
//! What the machine itself leaves does not belong into the layer: mount points, the files that the
//! agent writes at boot, identities of the machine, and directories of which nothing changed but
//! the time.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;

use ext4::read::{Found, Inode, Kind as BaseKind, Reader, Walk};
use ext4::{Time, Xattr};
use imgrun::interrupt;

use crate::inject::MOUNT_POINTS;
use crate::source::into_error;
use crate::tar::{Entry, Kind};
use crate::{Error, Result};

use super::layer::{self, Tar};
use super::view::{View, shown};

/// Where the agent puts the upper directory on the disk.
const UPPER_DIR: &[u8] = b"/upper";
/// overlayfs' own attributes.
const OVERLAY_PREFIX: &[u8] = b"trusted.overlay.";
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// What we can not turn into a layer, and have switched off.
const REFUSED: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];
/// Identities of one machine: empty, systemd makes a new one at the first boot.
const EMPTIED: [&[u8]; 1] = [b"etc/machine-id"];
const LEFT_OUT: [&[u8]; 1] = [b"var/lib/dbus/machine-id"];
const ETC: &[u8] = b"etc";
/// Files that are looked into are at most this long.
const PLACED_BYTES_MAX: u64 = 64 << 10;

/// A file that the agent writes at boot: it is left out where it has still this content.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// Its path, without a leading slash.
    pub(super) path: &'static str,
    /// What it holds.
    pub(super) content: Vec<u8>,
}

/// Writes what is on the disk `upper` of a machine that ran the image `base` as a layer.
pub(super) fn write(
    upper: File,
    base: File,
    placed: &[Placed],
    epoch: u64,
    tar: &mut Tar,
) -> Result<()> {
    // The agent writes through an `/etc` that is a link.
    let mut view = View::new(Reader::open(base).map_err(damaged)?, None);
    let etc = view.place("/etc", true).map_or(ETC.to_vec(), |place| place.path);
    let (_, base) = view.into_parts();
    let mut upper = Upper {
        disk: Reader::open(upper).map_err(damaged)?,
        base,
        placed: placed.iter().map(|p| (within(&etc, p.path.as_bytes()), &p.content[..])).collect(),
        emptied: EMPTIED.iter().map(|path| within(&etc, path)).collect(),
        epoch: i64::try_from(epoch).unwrap_or(i64::MAX),
        first_names: HashMap::new(),
    };
    let found = upper.collect()?;
    let kept = upper.kept(&found)?;
    for Found { path, inode } in &found {
        interrupt::check()?;
        if kept.contains(&path[..]) {
            upper.write(path, inode, tar)?;
        }
    }
    Ok(())
}

/// A path below `/etc` with the place where that is.
fn within(etc: &[u8], path: &[u8]) -> Vec<u8> {
    match path.strip_prefix(ETC) {
        Some(rest) => [etc, rest].concat(),
        None => path.to_vec(),
    }
}

struct Upper<'p> {
    disk: Reader<File>,
    base: Reader<File>,
    /// Paths and contents.
    placed: Vec<(Vec<u8>, &'p [u8])>,
    emptied: Vec<Vec<u8>>,
    epoch: i64,
    /// The first name of each file that has several.
    first_names: HashMap<u32, Vec<u8>>,
}

impl Upper<'_> {
    /// All that is there and belongs to the image.
    fn collect(&mut self) -> Result<Vec<Found>> {
        let start = self.disk.find(UPPER_DIR, false).map_err(damaged)?;
        let mut walk = Walk::new(start);
        let mut all = Vec::new();
        while let Some(found) = walk.next(&mut self.disk).map_err(damaged)? {
            if !found.path.is_empty() && !self.is_noise(&found)? {
                all.push(found);
            }
        }
        Ok(all)
    }

    fn is_noise(&mut self, found: &Found) -> Result<bool> {
        let path = &found.path[..];
        let top = path.split(|&c| c == b'/').next().unwrap_or_default();
        if MOUNT_POINTS.iter().any(|(name, _)| name.as_bytes() == top)
            || LEFT_OUT.contains(&path)
            || found.inode.kind == BaseKind::Socket
        {
            return Ok(true);
        }
        let placed = self.placed.iter().find(|(placed, _)| placed == path);
        let Some((_, placed)) = placed else { return Ok(false) };
        if found.inode.kind != BaseKind::File || found.inode.size > PLACED_BYTES_MAX {
            return Ok(false);
        }
        let mut content = vec![0; found.inode.size as usize];
        let mut reader = self.disk.content(&found.inode).map_err(damaged)?;
        reader.fill(&mut content).map_err(damaged)?;
        Ok(content == *placed)
    }

    /// The paths that make a difference. A directory does where something in it does, or it is new
    /// or other than before, its time apart.
    fn kept<'f>(&mut self, found: &'f [Found]) -> Result<HashSet<&'f [u8]>> {
        let mut kept: HashSet<&[u8]> = HashSet::new();
        for Found { path, inode } in found.iter().rev() {
            let differs = inode.kind != BaseKind::Directory
                || kept.contains(&path[..])
                || self.differs(path, inode)?;
            if !differs {
                continue;
            }
            kept.insert(path);
            let mut rest = &path[..];
            while let Some(at) = rest.iter().rposition(|&c| c == b'/') {
                rest = &rest[..at];
                kept.insert(rest);
            }
        }
        Ok(kept)
    }

    fn differs(&mut self, path: &[u8], directory: &Inode) -> Result<bool> {
        let before = match self.base.find(path, false) {
            Ok(inode) if inode.kind == BaseKind::Directory => inode,
            Ok(_) | Err(ext4::read::Error::Path { .. }) => return Ok(true),
            Err(e) => return Err(damaged(e)),
        };
        let (xattrs, is_opaque) = self.xattrs(path, directory)?;
        let same = (before.mode, before.uid, before.gid)
            == (directory.mode, directory.uid, directory.gid)
            && self.base.xattrs(&before).map_err(damaged)? == xattrs;
        Ok(!same || is_opaque)
    }

    /// The attributes of the image, and whether what was there before is hidden.
    fn xattrs(&mut self, path: &[u8], inode: &Inode) -> Result<(Vec<Xattr>, bool)> {
        let mut xattrs = self.disk.xattrs(inode).map_err(damaged)?;
        if let Some(bad) = xattrs.iter().find(|x| REFUSED.contains(&&x.name[..])) {
            let name = String::from_utf8_lossy(&bad.name);
            return Err(Error::guest(format!("{}: the machine set {name}", shown(path))));
        }
        let opaque = xattrs.iter().any(|x| &x.name[..] == OPAQUE && &x.value[..] == b"y");
        xattrs.retain(|xattr| !xattr.name.starts_with(OVERLAY_PREFIX));
        Ok((xattrs, opaque))
    }

    fn write(&mut self, path: &[u8], inode: &Inode, tar: &mut Tar) -> Result<()> {
        let about = |e: io::Error| into_error(&shown(path), e);
        if inode.kind == (BaseKind::CharDevice { major: 0, minor: 0 }) {
            return tar.entry(&layer::whiteout(path)).map_err(about);
        }
        layer::check_name(path)?;
        let (xattrs, is_opaque) = self.xattrs(path, inode)?;
        let mtime = match inode.mtime.seconds >= self.epoch {
            true => Time { seconds: self.epoch, nanoseconds: 0 },
            false => inode.mtime,
        };
        let entry = |kind| Entry {
            path: path.to_vec(),
            kind,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            mtime,
            xattrs,
        };
        if inode.links > 1 && inode.kind != BaseKind::Directory {
            if let Some(first) = self.first_names.get(&inode.number) {
                let first = first.clone();
                return tar.entry(&entry(Kind::HardLink(first))).map_err(about);
            }
            self.first_names.insert(inode.number, path.to_vec());
        }
        match inode.kind {
            BaseKind::File if self.emptied.iter().any(|p| p == path) => {
                tar.entry(&entry(Kind::File { size: 0 })).map_err(about)
            }
            BaseKind::File => {
                let content = self.disk.content(inode).map_err(damaged)?;
                tar.file(&entry(Kind::File { size: inode.size }), content).map_err(about)
            }
            BaseKind::Symlink => {
                let target = self.disk.target(inode).map_err(damaged)?;
                tar.entry(&entry(Kind::Symlink(target))).map_err(about)
            }
            BaseKind::Directory => {
                tar.entry(&entry(Kind::Directory)).map_err(about)?;
                if is_opaque { tar.entry(&layer::opaque(path)).map_err(about) } else { Ok(()) }
            }
            kind => match layer::special(kind) {
                Some(kind) => tar.entry(&entry(kind)).map_err(about),
                None => Ok(()),
            },
        }
    }
}

fn damaged(e: ext4::read::Error) -> Error {
    Error::guest("the machine's disk can not be read").because(e)
}
