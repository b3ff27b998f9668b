//! A directory that lives as long as its process: staging areas and machines' state.
//!
//! The holder keeps the directory's own `flock`. Dropping the lease removes the directory. After a
//! `kill -9` the kernel releases the lock, which is how [`Lease::sweep`] tells the dead from the
//! living: no process ids, which could be somebody else's by then.
//!
//! A directory can be seen before it is locked, and swept then. So who made it looks again once
//! it has the lock, and makes another where it is gone. Nobody ever waits for a lock.

use std::fs::{self, DirEntry, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use crate::{Error, Result};

/// A lease's name is this and [`RANDOM_CHARS`] letters and digits. Whatever is named otherwise is
/// somebody else's, and not ours to remove.
const PREFIX: &str = "imgrun-";
const RANDOM_CHARS: usize = 12;
/// A new directory is swept before it is locked, at most so many times in a row.
const TRIES_MAX: usize = 100;

/// A private (0700) directory.
#[derive(Debug)]
pub(crate) struct Lease {
    dir: TempDir,
    // Dropped after `dir`, so that nobody sweeps a directory that is being removed.
    _lock: File,
}

impl Lease {
    /// Makes a directory with a random name in `parent`.
    pub(crate) fn create(parent: &Path) -> Result<Self> {
        for _ in 0..TRIES_MAX {
            if let Some(lease) = Self::try_create(parent)? {
                return Ok(lease);
            }
        }
        Err(Error::host(format!("{}: what is made there vanishes at once", parent.display())))
    }

    /// `None` where somebody swept the directory before it was locked.
    fn try_create(parent: &Path) -> Result<Option<Self>> {
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .rand_bytes(RANDOM_CHARS)
            .tempdir_in(parent)
            .map_err(|e| Error::io(parent.display(), e))?;
        let Ok(lock) = File::open(dir.path()) else { return Ok(None) };
        if lock.try_lock().is_err() || !is_still(dir.path(), &lock) {
            return Ok(None);
        }
        Ok(Some(Lease { dir, _lock: lock }))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Removes what dead processes left in `parent`; returns how many directories that were. What
    /// is no lease of this user's is left alone.
    ///
    /// # Errors
    /// Where `parent` can not be read. A directory that can not be removed is left for next time.
    pub(crate) fn sweep(parent: &Path) -> Result<usize> {
        let entries = fs::read_dir(parent).map_err(|e| Error::io(parent.display(), e))?;
        let mut swept = 0;
        for entry in entries.flatten().filter(is_name) {
            let path = entry.path();
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(dir) = rustix::fs::open(&path, flags, Mode::empty()) else { continue };
            let dir = File::from(dir);
            let us = rustix::process::geteuid().as_raw();
            let ours = dir.metadata().is_ok_and(|m| m.uid() == us);
            if ours && dir.try_lock().is_ok() && is_still(&path, &dir) {
                swept += usize::from(fs::remove_dir_all(&path).is_ok());
            }
        }
        Ok(swept)
    }
}

fn is_name(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
    random.is_some_and(|r| r.len() == RANDOM_CHARS && r.bytes().all(|c| c.is_ascii_alphanumeric()))
}

/// Whether `path` still is the directory that was opened as `dir`.
pub(crate) fn is_still(path: &Path, dir: &File) -> bool {
    match (path.symlink_metadata(), dir.metadata()) {
        (Ok(there), Ok(here)) => (there.dev(), there.ino()) == (here.dev(), here.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: &str = "imgrun-Dead00000000";

    #[test]
    fn the_sweep_takes_the_dead_and_spares_the_living() {
        let parent = tempfile::tempdir().unwrap();
        let alive = Lease::create(parent.path()).unwrap();
        let dead = parent.path().join(DEAD);
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("upper.ext4"), b"x").unwrap();
        assert_eq!(Lease::sweep(parent.path()).unwrap(), 1);
        assert!(!dead.exists());
        assert!(alive.path().exists());
        let path = alive.path().to_path_buf();
        drop(alive);
        assert!(!path.exists());
    }

    #[test]
    fn the_sweep_leaves_what_is_no_lease() {
        let parent = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        for name in ["photos", "imgrun-", "imgrun-short", "imgrun-Dead00000000.old"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        let link = parent.path().join(DEAD);
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        fs::write(parent.path().join("imgrun-File00000000"), b"x").unwrap();
        assert_eq!(Lease::sweep(parent.path()).unwrap(), 0);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 6);
        assert!(elsewhere.path().exists());
    }

    #[test]
    fn leases_made_while_others_sweep_are_whole() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for _ in 0..3 {
                threads.spawn(|| {
                    for _ in 0..300 {
                        let lease = Lease::create(parent.path()).unwrap();
                        fs::write(lease.path().join("file"), b"x").unwrap();
                        Lease::sweep(parent.path()).unwrap();
                        assert!(lease.path().join("file").exists());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
