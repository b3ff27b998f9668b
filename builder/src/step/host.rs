//! What a `copy` takes from the host, as a list: the same on every machine that has the same files.
//!
//! Owners, times and all bits of the mode but "executable" are the host's own business (a checkout
//! has them as the umask and the clock were), so they do not come along.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bundle::{Digest, Hasher};
use imgrun::interrupt;

use crate::pack::digest_of;
use crate::{Error, Result};

/// A copied directory has at most this many entries.
const ENTRIES_MAX: usize = 1_000_000;

/// A file or directory of the host.
#[derive(Clone, Debug)]
pub(super) struct HostTree {
    /// What there is, parents first; the first is the thing itself, under an empty name.
    pub(super) entries: Vec<HostEntry>,
}

/// Something in it.
#[derive(Clone, Debug)]
pub(super) struct HostEntry {
    /// Its path from the top, without a leading slash.
    pub(super) path: Vec<u8>,
    pub(super) kind: HostKind,
}

#[derive(Clone, Debug)]
pub(super) enum HostKind {
    Directory,
    File { file: PathBuf, size: u64, digest: Digest, executable: bool },
    Symlink(Vec<u8>),
}

impl HostTree {
    /// Reads `from`, every byte of it.
    ///
    /// # Errors
    /// Where it is missing or holds what can not be copied: a device, a socket.
    pub(super) fn read(from: &Path) -> Result<Self> {
        let mut tree = HostTree { entries: Vec::new() };
        tree.add(from, Vec::new(), true)?;
        Ok(tree)
    }

    fn add(&mut self, at: &Path, path: Vec<u8>, follow: bool) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        interrupt::check()?;
        let about = |e: io::Error| Error::io(at.display(), e);
        if self.entries.len() >= ENTRIES_MAX {
            let why = format!("{}: more than {ENTRIES_MAX} entries to copy", at.display());
            return Err(Error::input(why));
        }
        // The thing itself may be named by a link; what is in it is taken as it is.
        let found = if follow { fs::metadata(at) } else { fs::symlink_metadata(at) };
        let found = found.map_err(about)?;
        let kind = if found.is_dir() {
            HostKind::Directory
        } else if found.is_symlink() {
            HostKind::Symlink(fs::read_link(at).map_err(about)?.as_os_str().as_bytes().to_vec())
        } else if found.is_file() {
            let file = File::open(at).map_err(about)?;
            let digest = digest_of(&file).map_err(about)?;
            let executable = found.permissions().mode() & 0o111 != 0;
            HostKind::File { file: at.to_path_buf(), size: found.len(), digest, executable }
        } else {
            let why = format!("{}: it is no file, directory or link", at.display());
            return Err(Error::input(why));
        };
        let is_directory = matches!(kind, HostKind::Directory);
        self.entries.push(HostEntry { path: path.clone(), kind });
        if is_directory {
            let entries = fs::read_dir(at).map_err(about)?;
            let mut names: Vec<_> = entries
                .map(|e| e.map(|e| e.file_name()))
                .collect::<Result<_, _>>()
                .map_err(about)?;
            names.sort();
            for name in names {
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                let inside = [&path, slash, name.as_bytes()].concat();
                self.add(&at.join(&name), inside, false)?;
            }
        }
        Ok(())
    }

    /// The digest of all that is copied.
    pub(super) fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        for entry in &self.entries {
            hasher.field(&entry.path);
            match &entry.kind {
                HostKind::Directory => hasher.field("d"),
                HostKind::Symlink(target) => {
                    hasher.field("l");
                    hasher.field(target);
                }
                HostKind::File { digest, executable, .. } => {
                    hasher.field(if *executable { "x" } else { "f" });
                    hasher.field(digest.as_bytes());
                }
            }
        }
        hasher.finish()
    }
}
