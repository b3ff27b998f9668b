//! A directory that overlayfs wrote to, as the disk that a machine would have left.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use ext4::{Kind, Meta, Node, NodeId, Options, Time, Tree, Writer, Xattr};

use crate::{Error, Result};

/// The longest list of an attribute's names, and value (xattr(7)).
const XATTR_BYTES_MAX: usize = 64 << 10;
/// overlayfs' own attributes in a user name space, and what machines call them.
const USER_PREFIX: &[u8] = b"user.overlay.";
const TRUSTED_PREFIX: &[u8] = b"trusted.overlay.";
/// The name of the directory on the disk.
const UPPER: &[u8] = b"upper";

/// Writes `directory` to `disk` as its `/upper`.
pub(super) fn write(directory: &Path, disk: File) -> Result<File> {
    let failed = |e: ext4::Error| Error::host("the disk of a step").because(e);
    let mut writer = Writer::new(disk, Options::default()).map_err(failed)?;
    let mut tree = Tree::new(Meta::with_mode(0o755));
    let mut names = HashMap::new();
    let upper = add(directory, &mut writer, &mut tree, &mut names)?;
    if let Some(upper) = upper {
        tree.link(Tree::ROOT, UPPER, upper).map_err(failed)?;
    }
    let (disk, summary) = writer.finish(&tree).map_err(failed)?;
    disk.set_len(summary.bytes).map_err(|e| Error::io("the disk of a step", e))?;
    Ok(disk)
}

/// Adds `path` and all below it; nothing for a socket.
fn add(
    path: &Path,
    writer: &mut Writer<File>,
    tree: &mut Tree,
    names: &mut HashMap<u64, NodeId>,
) -> Result<Option<NodeId>> {
    imgrun::interrupt::check()?;
    let about = |e: std::io::Error| Error::io(path.display(), e);
    let failed = |e: ext4::Error| Error::host(path.display().to_string()).because(e);
    let found = fs::symlink_metadata(path).map_err(about)?;
    let kind = found.file_type();
    if let Some(node) = names.get(&found.ino()).filter(|_| !kind.is_dir()) {
        return Ok(Some(*node));
    }
    let device = || {
        let number = found.rdev();
        (rustix::fs::major(number), rustix::fs::minor(number))
    };
    let body = if kind.is_dir() {
        Kind::directory()
    } else if kind.is_symlink() {
        let target = fs::read_link(path).map_err(about)?;
        Kind::Symlink(target.as_os_str().as_bytes().into())
    } else if kind.is_file() {
        let mut file = writer.file();
        let mut content = File::open(path).map_err(about)?;
        std::io::copy(&mut content, &mut file).map_err(about)?;
        Kind::File(file.finish().map_err(failed)?)
    } else if kind.is_char_device() {
        let (major, minor) = device();
        Kind::CharDevice { major, minor }
    } else if kind.is_block_device() {
        let (major, minor) = device();
        Kind::BlockDevice { major, minor }
    } else if kind.is_fifo() {
        Kind::Fifo
    } else {
        return Ok(None);
    };
    let meta = Meta {
        mode: (found.mode() & 0o7777) as u16,
        uid: found.uid(),
        gid: found.gid(),
        mtime: Time { seconds: found.mtime(), nanoseconds: found.mtime_nsec() as u32 },
        xattrs: xattrs(path).map_err(about)?,
    };
    let node = tree.add(Node { meta, kind: body });
    names.insert(found.ino(), node);
    if kind.is_dir() {
        let entries = fs::read_dir(path).map_err(about)?;
        let mut all: Vec<_> =
            entries.map(|e| e.map(|e| e.file_name())).collect::<Result<_, _>>().map_err(about)?;
        all.sort();
        for name in all {
            if let Some(child) = add(&path.join(&name), writer, tree, names)? {
                tree.link(node, name.as_bytes(), child).map_err(failed)?;
            }
        }
    }
    Ok(Some(node))
}

fn xattrs(path: &Path) -> std::io::Result<Vec<Xattr>> {
    let mut buffer = vec![0; XATTR_BYTES_MAX];
    let length = rustix::fs::llistxattr(path, &mut buffer)?;
    let names = buffer[..length].split(|&c| c == 0).filter(|name| !name.is_empty());
    let mut all = Vec::new();
    for name in names {
        let mut value = vec![0; XATTR_BYTES_MAX];
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        value.truncate(length);
        let name = match name.strip_prefix(USER_PREFIX) {
            Some(rest) => [TRUSTED_PREFIX, rest].concat(),
            None => name.to_vec(),
        };
        all.push(Xattr { name: name.into(), value: value.into() });
    }
    Ok(all)
}
