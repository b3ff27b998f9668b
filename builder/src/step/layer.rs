//! Layers of steps: tars in the cache, compressed, made by whoever has entries to put in.

use std::fs::File;
use std::io;
use std::path::Path;

use bundle::{Digest, HashingReader};
use ext4::read::{Kind as BaseKind, Reader};
use imgrun::interrupt;

use crate::cache::{Cache, Draft};
use crate::source::into_error;
use crate::tar::{Entry, Kind, Writer};
use crate::{Error, Result};

use super::view::{Body, Bytes, Change, Node, View, open, shown};

/// zstd's level: layers are read again at every build that changes something.
const COMPRESSION_LEVEL: i32 = 3;

/// A tar that is being written to the cache.
pub(super) type Tar = Writer<zstd::Encoder<'static, Draft>>;

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
}

/// Makes a layer of what `fill` writes.
pub(super) fn store(cache: &Cache, fill: impl FnOnce(&mut Tar) -> Result<()>) -> Result<Stored> {
    let about = |e| into_error("write a layer", e);
    let mut encoder = zstd::Encoder::new(cache.draft()?, COMPRESSION_LEVEL).map_err(about)?;
    encoder.include_checksum(true).map_err(about)?;
    let mut tar = Writer::new(encoder);
    fill(&mut tar)?;
    let draft = tar.finish().and_then(zstd::Encoder::finish).map_err(about)?;
    let (digest, bytes) = (draft.digest(), draft.bytes());
    draft.commit(&digest, bytes)?;
    Ok(Stored { digest, bytes })
}

/// Writes what a view changed.
pub(super) fn write_view(view: View, tar: &mut Tar) -> Result<()> {
    let (changes, mut base) = view.into_parts();
    for (path, Change { hides, node }) in &changes {
        interrupt::check()?;
        if *hides {
            let whiteout = whiteout(path);
            tar.entry(&whiteout).map_err(|e| into_error(&shown(path), e))?;
        }
        if let Some(node) = node {
            write_node(path, node, &mut base, tar)?;
        }
    }
    Ok(())
}

fn write_node(path: &[u8], node: &Node, base: &mut Reader<File>, tar: &mut Tar) -> Result<()> {
    check_name(path)?;
    let about = |e: io::Error| into_error(&shown(path), e);
    let kind = match &node.body {
        Body::Directory => Kind::Directory,
        Body::File(bytes) => Kind::File { size: bytes.size() },
        Body::Symlink(target) => Kind::Symlink(target.clone()),
        Body::Special(kind) => match special(*kind) {
            Some(kind) => kind,
            None => {
                let why = "a layer can not hold a socket";
                return Err(Error::input(format!("{}: {why}", shown(path))));
            }
        },
    };
    let ext4::Meta { mode, uid, gid, mtime, xattrs } = node.meta.clone();
    let entry = Entry { path: path.to_vec(), kind, mode, uid, gid, mtime, xattrs };
    let Body::File(bytes) = &node.body else { return tar.entry(&entry).map_err(about) };
    let mut content = HashingReader::new(open(bytes, base).map_err(about)?);
    tar.file(&entry, &mut content).map_err(about)?;
    let found = content.finish().0;
    match bytes {
        Bytes::Host { file, digest, .. } if found != *digest => {
            Err(Error::input(format!("{}: it changed while it was copied", file.display())))
        }
        _ => Ok(()),
    }
}

/// A device or fifo as an entry; a socket is none.
pub(super) fn special(kind: BaseKind) -> Option<Kind> {
    match kind {
        BaseKind::CharDevice { major, minor } => Some(Kind::CharDevice(major, minor)),
        BaseKind::BlockDevice { major, minor } => Some(Kind::BlockDevice(major, minor)),
        BaseKind::Fifo => Some(Kind::Fifo),
        _ => None,
    }
}

/// The entry that hides `path` (OCI image specification, "Whiteouts").
pub(super) fn whiteout(path: &[u8]) -> Entry {
    let at = path.iter().rposition(|&c| c == b'/').map_or(0, |at| at + 1);
    marker([&path[..at], b".wh.", &path[at..]].concat())
}

/// The entry that hides all that lower layers have in `directory`.
pub(super) fn opaque(directory: &[u8]) -> Entry {
    marker([directory, b"/.wh..wh..opq"].concat())
}

fn marker(path: Vec<u8>) -> Entry {
    Entry {
        path,
        kind: Kind::File { size: 0 },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: ext4::Time::default(),
        xattrs: Vec::new(),
    }
}

/// A name that would mean something else in a layer.
pub(super) fn check_name(path: &[u8]) -> Result<()> {
    match path.rsplit(|&c| c == b'/').next() {
        Some(name) if name.starts_with(b".wh.") => {
            Err(Error::input(format!("{}: layers can not hold such names", shown(path))))
        }
        _ => Ok(()),
    }
}

/// Makes a layer of what `fill` writes, as a file.
pub(super) fn keep(path: &Path, fill: impl FnOnce(&mut Tar) -> Result<()>) -> Result<()> {
    let directory = tempfile::tempdir().map_err(|e| Error::io("a temporary directory", e))?;
    let cache = Cache::open(directory.path())?;
    let stored = store(&cache, fill)?;
    let file = cache.find(&stored.digest, stored.bytes);
    let file = file.ok_or_else(|| Error::bug("a layer that was just made"))?;
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut draft = tempfile::Builder::new()
        .prefix(".imgtool-")
        .tempfile_in(parent)
        .map_err(|e| Error::io(parent.display(), e))?;
    let mut from = File::open(&file).map_err(|e| Error::io(file.display(), e))?;
    io::copy(&mut from, &mut draft).map_err(|e| Error::io(path.display(), e))?;
    crate::image::publish(draft, path)
}
