//! The tree of an image as files of this machine, every one with its owner, mode, time and attributes.
//! For root only.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ext4::Xattr;
use ext4::read::{Inode, Kind, Reader, Walk};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat,
    lsetxattr, makedev, mknodat, utimensat,
};

use crate::{Error, Result};

/// Unpacks `image` to the empty `directory`.
pub(super) fn tree(image: &Path, directory: &Path) -> Result<()> {
    let damaged = crate::inspect::failed(image);
    let file = File::open(image).map_err(|e| Error::io(image.display(), e))?;
    let mut reader = Reader::open(file).map_err(&damaged)?;
    let mut walk = Walk::new(reader.root().map_err(&damaged)?);
    let mut first: HashMap<u32, PathBuf> = HashMap::new();
    let mut directories = Vec::new();
    while let Some(found) = walk.next(&mut reader).map_err(&damaged)? {
        imgrun::interrupt::check()?;
        // No path of an image is absolute or goes up, and none leads through a link of its own.
        let path = directory.join(OsStr::from_bytes(&found.path));
        let about = |e: io::Error| Error::io(path.display(), e);
        let inode = &found.inode;
        if inode.links > 1 && inode.kind != Kind::Directory {
            if let Some(first) = first.get(&inode.number) {
                fs::hard_link(first, &path).map_err(about)?;
                continue;
            }
            first.insert(inode.number, path.clone());
        }
        if !found.path.is_empty() {
            make(&path, inode, &mut reader).map_err(about)?;
        }
        let xattrs = reader.xattrs(inode).map_err(&damaged)?;
        dress(&path, inode, &xattrs).map_err(|e| about(e.into()))?;
        match inode.kind {
            Kind::Directory => directories.push((path, times(inode))),
            _ => utimensat(CWD, &path, &times(inode), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| about(e.into()))?,
        }
    }
    // What is put into a directory changes its time.
    for (path, times) in directories.iter().rev() {
        utimensat(CWD, path, times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| Error::io(path.display(), e.into()))?;
    }
    Ok(())
}

fn make(path: &Path, inode: &Inode, reader: &mut Reader<File>) -> io::Result<()> {
    let node =
        |kind, major, minor| Ok(mknodat(CWD, path, kind, Mode::empty(), makedev(major, minor))?);
    match inode.kind {
        Kind::Directory => fs::create_dir(path),
        Kind::File => {
            let mut content = reader.content(inode).map_err(io::Error::other)?;
            io::copy(&mut content, &mut File::create_new(path)?).map(drop)
        }
        Kind::Symlink => {
            let target = reader.target(inode).map_err(io::Error::other)?;
            symlink(OsStr::from_bytes(&target), path)
        }
        Kind::CharDevice { major, minor } => node(FileType::CharacterDevice, major, minor),
        Kind::BlockDevice { major, minor } => node(FileType::BlockDevice, major, minor),
        Kind::Fifo => node(FileType::Fifo, 0, 0),
        Kind::Socket => node(FileType::Socket, 0, 0),
    }
}

/// Owner, mode, attributes, in this order: a change of the owner takes bits of the mode and
/// capabilities away.
fn dress(path: &Path, inode: &Inode, xattrs: &[Xattr]) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
    chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if inode.kind != Kind::Symlink {
        chmod(path, Mode::from_raw_mode(inode.mode.into()))?;
    }
    for xattr in xattrs {
        lsetxattr(path, &*xattr.name, &xattr.value, XattrFlags::empty())?;
    }
    Ok(())
}

fn times(inode: &Inode) -> Timestamps {
    let time = Timespec { tv_sec: inode.mtime.seconds, tv_nsec: inode.mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
