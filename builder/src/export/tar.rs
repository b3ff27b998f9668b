//! The tree of an image as a tar.

use std::fs::File;
use std::io::Write;

use ext4::read::Kind as Ext4Kind;

use super::tree;
use crate::Result;
use crate::source::into_error;
use crate::tar::{Entry, Kind, Writer};

/// Writes all of it, with `root` the root as `.` first. Sockets are left out.
pub(super) fn write(image: File, root: bool, tar: &mut Writer<impl Write>) -> Result<()> {
    let about = |e| into_error("the layer", e);
    tree::walk(image, |item, reader| {
        let inode = &item.inode;
        if item.path.is_empty() && !root {
            return Ok(());
        }
        let kind = match (&item.link_to, inode.kind) {
            (Some(first), _) => Kind::HardLink(first.clone()),
            (None, Ext4Kind::File) => Kind::File { size: inode.size },
            (None, Ext4Kind::Directory) => Kind::Directory,
            (None, Ext4Kind::Symlink) => {
                Kind::Symlink(reader.target(inode).map_err(tree::damaged)?)
            }
            (None, Ext4Kind::CharDevice { major, minor }) => Kind::CharDevice(major, minor),
            (None, Ext4Kind::BlockDevice { major, minor }) => Kind::BlockDevice(major, minor),
            (None, Ext4Kind::Fifo) => Kind::Fifo,
            // A layer can not hold one, and it means nothing without its server.
            (None, Ext4Kind::Socket) => return Ok(()),
        };
        let entry = Entry {
            path: if item.path.is_empty() { b".".to_vec() } else { item.path.clone() },
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            xattrs: reader.xattrs(inode).map_err(tree::damaged)?,
            kind,
        };
        match entry.kind {
            Kind::File { .. } => {
                let content = reader.content(inode).map_err(tree::damaged)?;
                tar.file(&entry, content).map_err(about)
            }
            _ => tar.entry(&entry).map_err(about),
        }
    })
}
