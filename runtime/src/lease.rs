//! A directory that lives as long as its process: staging areas and machines' state.
//!
//! The holder keeps the directory's own `flock`. Dropping the lease removes the directory. After a
//! `kill -9` the kernel releases the lock, which is how [`Lease::sweep`] tells the dead from the
//! living: no process ids, which could be somebody else's by then.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use tempfile::TempDir;

use crate::{Error, Result};

/// A private (0700) directory under a parent that holds nothing but leases.
#[derive(Debug)]
pub(crate) struct Lease {
    dir: TempDir,
    // Dropped after `dir`, so that nobody sweeps a directory that is being removed.
    _lock: File,
}

impl Lease {
    /// Makes a directory with a random name in `parent`.
    pub(crate) fn create(parent: &Path) -> Result<Self> {
        // A sweeper must not see the directory before it is locked.
        let _creating = lock_parent(parent, |f| f.lock_shared())?;
        let dir = tempfile::Builder::new()
            .prefix("")
            .rand_bytes(8)
            .tempdir_in(parent)
            .map_err(|e| Error::io(parent.display(), e))?;
        let lock = File::open(dir.path()).map_err(|e| Error::io(dir.path().display(), e))?;
        lock.lock().map_err(|e| Error::io(dir.path().display(), e))?;
        Ok(Lease { dir, _lock: lock })
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Removes what dead processes left in `parent`; returns how many directories that were.
    ///
    /// # Errors
    /// Where `parent` can not be read. A directory that can not be removed is left for next time.
    pub(crate) fn sweep(parent: &Path) -> Result<usize> {
        let _sweeping = lock_parent(parent, |f| f.lock())?;
        let entries = fs::read_dir(parent).map_err(|e| Error::io(parent.display(), e))?;
        let mut swept = 0;
        for entry in entries.flatten() {
            let Ok(dir) = File::open(entry.path()) else { continue };
            match dir.try_lock() {
                Ok(()) => swept += usize::from(fs::remove_dir_all(entry.path()).is_ok()),
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
            }
        }
        Ok(swept)
    }
}

fn lock_parent(parent: &Path, lock: impl Fn(&File) -> io::Result<()>) -> Result<File> {
    let file = File::open(parent).map_err(|e| Error::io(parent.display(), e))?;
    lock(&file).map_err(|e| Error::io(format!("{}: lock", parent.display()), e))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_takes_the_dead_and_spares_the_living() {
        let parent = tempfile::tempdir().unwrap();
        let alive = Lease::create(parent.path()).unwrap();
        let dead = parent.path().join("dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("upper.ext4"), b"x").unwrap();
        assert_eq!(Lease::sweep(parent.path()).unwrap(), 1);
        assert!(!dead.exists());
        assert!(alive.path().exists());
        let path = alive.path().to_path_buf();
        drop(alive);
        assert!(!path.exists());
    }
}
