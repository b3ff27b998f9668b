//! Who pulls what: so that any number of processes fetch each byte once.
//!
//! ```text
//! <home>/staging/pull-<hex digest>/          locked (flock) by the process that pulls the bundle
//! <home>/staging/pull-<hex digest>/bundle/   what has come so far; stays after a kill
//! <home>/staging/pull-<hex digest>/fetching  there while its frames are fetched
//! <home>/pull.lock                           locked while somebody looks who fetches what
//! ```
//! Who wants a bundle that is being pulled waits, and then finds it in the store. Who wants another
//! one, but frames of it that are being fetched for that one, waits too, and then takes them from
//! the store. Whoever fetches waits for nobody, so there is no circle. The kernel frees the locks of
//! the dead.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bundle::{Digest, Frame};

use super::Store;
use super::pieces::outline;
use crate::lease::is_still;
use crate::{Cancel, Error, Progress, Result};

const PREFIX: &str = "pull-";
const FETCHING: &str = "fetching";
/// A lock that another process holds is looked at again after this time.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The right to pull one bundle. Dropped without [`Claim::remove`], its draft stays.
#[derive(Debug)]
pub(crate) struct Claim {
    dir: PathBuf,
    lock: File,
}

impl Store {
    /// Waits for the right to pull `digest`; `title` is for people.
    pub(crate) fn claim(
        &self,
        digest: Digest,
        title: &str,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Claim> {
        let dir = self.staging().join(format!("{PREFIX}{}", digest.hex()));
        let mut said = false;
        loop {
            cancel.check()?;
            match DirBuilder::new().mode(0o700).create(&dir) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                    return Err(Error::io(dir.display(), e));
                }
                _ => {}
            }
            // It may be gone again: whoever had it has finished.
            let Ok(lock) = File::open(&dir) else { continue };
            match lock.try_lock() {
                Ok(()) if is_still(&dir, &lock) => {
                    let claim = Claim { dir, lock };
                    claim.set_fetching(false)?;
                    return Ok(claim);
                }
                Ok(()) => continue,
                Err(TryLockError::Error(e)) => return Err(Error::io(dir.display(), e)),
                Err(TryLockError::WouldBlock) => {}
            }
            if !said {
                progress.note(format!("{title} is being pulled by another process: waiting"));
                said = true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Drafts that nobody works on, with the time of their last change.
    pub(crate) fn drafts(&self) -> Result<Vec<(PathBuf, std::time::SystemTime)>> {
        let mut drafts = Vec::new();
        for dir in self.pulls()? {
            let Ok(metadata) = dir.metadata() else { continue };
            let changed = metadata.modified().unwrap_or(std::time::UNIX_EPOCH);
            drafts.push((dir, changed));
        }
        Ok(drafts)
    }

    /// Removes a draft, unless somebody works on it. Returns whether it did.
    pub(crate) fn remove_draft(&self, dir: &Path) -> Result<bool> {
        let Ok(lock) = File::open(dir) else { return Ok(false) };
        if lock.try_lock().is_err() || !is_still(dir, &lock) {
            return Ok(false);
        }
        Claim { dir: dir.to_path_buf(), lock }.remove()?;
        Ok(true)
    }

    fn pulls(&self) -> Result<Vec<PathBuf>> {
        let staging = self.staging();
        let entries = fs::read_dir(&staging).map_err(|e| Error::io(staging.display(), e))?;
        let is_pull = |name: &str| {
            let hex = name.strip_prefix(PREFIX);
            hex.is_some_and(|hex| format!("sha256:{hex}").parse::<Digest>().is_ok())
        };
        let named = entries.flatten().filter(|e| e.file_name().to_str().is_some_and(is_pull));
        Ok(named.map(|entry| entry.path()).collect())
    }

    /// A directory whose process fetches one of `missing` just now.
    fn busy_with(&self, missing: &HashSet<Digest>, ours: &Path) -> Result<Option<PathBuf>> {
        for dir in self.pulls()? {
            if dir == ours || !dir.join(FETCHING).exists() || !is_held(&dir) {
                continue;
            }
            let Some(outline) = outline(&dir.join("bundle")) else { continue };
            let shared = outline.pieces().iter().any(|piece| match &piece.frame {
                Frame::Data { raw, .. } => missing.contains(raw),
                Frame::Zero { .. } => false,
            });
            if shared {
                return Ok(Some(dir));
            }
        }
        Ok(None)
    }
}

impl Claim {
    /// Where the bundle is made.
    pub(crate) fn draft(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// Throws away what was there of the bundle.
    pub(crate) fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(self.draft()) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(self.dir.display(), e)),
            _ => Ok(()),
        }
    }

    /// Waits until nobody else fetches what `missing` says that we lack; returns what we lack then.
    /// From then on others wait for us.
    pub(crate) fn begin<T>(
        &self,
        store: &Store,
        progress: &Progress,
        cancel: &Cancel,
        mut plan: impl FnMut() -> Result<(T, HashSet<Digest>)>,
    ) -> Result<T> {
        loop {
            let path = store.home().join("pull.lock");
            let lock = lock(&path, cancel)?;
            let (planned, missing) = plan()?;
            let Some(other) = store.busy_with(&missing, &self.dir)? else {
                self.set_fetching(true)?;
                return Ok(planned);
            };
            drop(lock);
            progress.note("parts of it are being pulled by another process: waiting");
            while is_held(&other) && other.join(FETCHING).exists() {
                cancel.check()?;
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }

    fn set_fetching(&self, on: bool) -> Result<()> {
        let path = self.dir.join(FETCHING);
        let done = if on { fs::write(&path, b"") } else { fs::remove_file(&path) };
        match done {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(path.display(), e)),
            _ => Ok(()),
        }
    }

    /// Ends it: the bundle is in the store, or shall not be gone on with.
    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.dir).map_err(|e| Error::io(self.dir.display(), e))?;
        // Who waited for the lock finds the directory gone.
        drop(self.lock);
        Ok(())
    }
}

/// Waits for the lock on a file that is there for nothing else.
pub(crate) fn lock(path: &Path, cancel: &Cancel) -> Result<File> {
    let about = |e| Error::io(path.display(), e);
    let mut options = fs::OpenOptions::new();
    let file = options.create(true).write(true).truncate(false).open(path).map_err(about)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(e)) => return Err(about(e)),
            Err(TryLockError::WouldBlock) => {}
        }
        cancel.check()?;
        std::thread::sleep(LOOK_EVERY / 10);
    }
}

fn is_held(dir: &Path) -> bool {
    File::open(dir).is_ok_and(|f| matches!(f.try_lock_shared(), Err(TryLockError::WouldBlock)))
}
