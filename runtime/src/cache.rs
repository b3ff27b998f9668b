//! The blob cache: what was fetched or made once, by digest, shared by all builds of a user.
//!
//! ```text
//! <cache>/blobs/sha256/<hex>      whole blobs, never changed
//! <cache>/blobs/sha256/.draft-*   being written; locked (flock) by its living writer
//! <cache>/parts/<hex>             the beginning of a blob whose download was cut; locked likewise
//! <cache>/keys/<hex>              notes: the digest of a result under the key of its inputs
//! <cache>/images/<hex>.ext4       images between two steps, by the digest of what they are made of
//! ```
//!
//! A blob gets its name only when its size and digest are right and it is on disk, so two processes
//! may fetch the same one at once: the later rename replaces a file by an equal one. Whoever opens
//! the cache sweeps the drafts that nobody holds a lock on: their writers were killed.
//!
//! What a process uses it holds a shared lock on, for as long as its [`Cache`] lives, and the time
//! of last change is the time of last use: [`Inventory`] removes what is neither used now nor was
//! lately.

mod inventory;

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use crate::interrupt;
use bundle::{Digest, Hasher};

use crate::{Error, Result};

pub use inventory::{Inventory, Item, Kind, Pruned};

/// Names a directory to use instead of `$XDG_CACHE_HOME/imgtool`.
pub const CACHE_VARIABLE: &str = "IMGTOOL_CACHE";
/// A note is at most this many bytes long.
const NOTE_BYTES_MAX: u64 = 1 << 20;
/// Names of new drafts are drawn this often before we give up.
const DRAFT_NAME_TRIES_MAX: u32 = 100;

/// A shorter beginning of a blob is not worth keeping when its download fails.
const PART_BYTES_MIN: u64 = 1 << 20;
/// What a killed process left is hashed in pieces of this many bytes.
const PIECE_BYTES: usize = 1 << 20;

const DRAFT_PREFIX: &str = ".draft-";

/// The blobs that this user has.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
    held: Held,
}

/// What is used until the last clone of a cache is gone: open files with a shared lock on each.
#[derive(Clone, Debug, Default)]
struct Held(Arc<Mutex<BTreeMap<PathBuf, File>>>);

impl Held {
    /// Whether `path` is there and now held, its time of last use set.
    fn take(&self, path: &Path) -> io::Result<()> {
        for _ in 0..DRAFT_NAME_TRIES_MAX {
            let file = File::open(path)?;
            // Waits for nobody but one who is about to remove it.
            file.lock_shared()?;
            if is_still(path, &file)? {
                self.keep(path, file);
                return Ok(());
            }
        }
        Err(io::Error::other("it comes and goes"))
    }

    fn keep(&self, path: &Path, file: File) {
        let now = SystemTime::now();
        // Another user's, perhaps: then its time says nothing.
        let _ = file.set_times(FileTimes::new().set_accessed(now).set_modified(now));
        let mut held = self.0.lock().unwrap_or_else(|p| p.into_inner());
        held.insert(path.to_path_buf(), file);
    }
}

/// Whether `path` still names the open `file`.
fn is_still(path: &Path, file: &File) -> io::Result<bool> {
    let (named, open) = (fs::symlink_metadata(path)?, file.metadata()?);
    Ok(named.dev() == open.dev() && named.ino() == open.ino())
}

impl Cache {
    /// The user's cache: `$IMGTOOL_CACHE`, `$XDG_CACHE_HOME/imgtool` or `~/.cache/imgtool`.
    ///
    /// # Errors
    /// Where no home is known, or as [`Cache::open`].
    pub fn of_user() -> Result<Cache> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let dir = set(CACHE_VARIABLE)
            .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("imgtool")))
            .or_else(|| set("HOME").map(|dir| dir.join(".cache/imgtool")));
        match dir {
            Some(dir) => Cache::open(&dir),
            None => Err(Error::host("no place for the cache: HOME is not set")
                .hint(format!("set {CACHE_VARIABLE} to a directory"))),
        }
    }

    /// The cache in `dir`, made where it is missing; drafts of killed processes are removed.
    ///
    /// # Errors
    /// Where the directory can not be made or read.
    pub fn open(dir: &Path) -> Result<Cache> {
        let dir = std::path::absolute(dir).map_err(|e| Error::io(dir.display(), e))?;
        let cache = Cache { dir, held: Held::default() };
        for dir in [cache.blobs(), cache.parts(), cache.keys()] {
            fs::create_dir_all(&dir).map_err(|e| Error::io(dir.display(), e))?;
            sweep(&dir).map_err(|e| Error::io(dir.display(), e))?;
        }
        Ok(cache)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps the file or directory `path` of this cache from being pruned, until the last clone of
    /// this value is gone.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn hold(&self, path: &Path) -> Result<()> {
        self.held.take(path).map_err(|e| Error::io(path.display(), e))
    }

    /// Where images between two steps are.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    fn parts(&self) -> PathBuf {
        self.dir.join("parts")
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// The blob `digest` if it is here and has `bytes` bytes. Its content is not read: who reads it
    /// checks the digest on the way. It is held as by [`Cache::hold`].
    pub fn find(&self, digest: &Digest, bytes: u64) -> Option<PathBuf> {
        let path = self.blobs().join(digest.hex());
        let found = fs::symlink_metadata(&path).ok()?;
        let right = found.is_file() && found.len() == bytes;
        (right && self.held.take(&path).is_ok()).then_some(path)
    }

    /// The whole blob `digest` if it is here, has at most `bytes_max` bytes and is right.
    pub fn read(&self, digest: &Digest, bytes_max: u64) -> Option<Vec<u8>> {
        let path = self.blobs().join(digest.hex());
        let found = fs::symlink_metadata(&path).ok()?;
        if !found.is_file() || found.len() > bytes_max {
            return None;
        }
        self.held.take(&path).ok()?;
        fs::read(path).ok().filter(|bytes| Digest::of(bytes) == *digest)
    }

    /// Removes a blob that turned out to be damaged.
    pub fn forget(&self, digest: &Digest) {
        let _ = fs::remove_file(self.blobs().join(digest.hex()));
    }

    /// Begins a new blob.
    ///
    /// # Errors
    /// Where no file can be made.
    pub fn draft(&self) -> Result<Draft> {
        Draft::create(&self.blobs(), &self.held)
    }

    /// Begins the blob `digest`, or goes on with what was left of it when its download was cut: see
    /// [`Draft::bytes`]. Where another process is at it, begins a second one.
    ///
    /// # Errors
    /// Where no file can be made or read.
    pub fn resume(&self, digest: &Digest) -> Result<Draft> {
        let path = self.parts().join(digest.hex());
        let about = |e| Error::io(path.display(), e);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let file = options.open(&path).map_err(about)?;
        let ours = match file.try_lock() {
            // Finished or removed in between, it has another name or none.
            Ok(()) => is_still(&path, &file).unwrap_or(false),
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(e)) => return Err(about(e)),
        };
        if !ours {
            return self.draft();
        }
        let held = self.held.clone();
        let mut draft = Draft {
            dir: self.blobs(),
            path,
            file,
            hasher: Hasher::new(),
            bytes: 0,
            committed: false,
            part: true,
            held,
        };
        draft.read_again()?;
        Ok(draft)
    }

    /// Stores `bytes`.
    ///
    /// # Errors
    /// Where they can not be written.
    pub fn put(&self, bytes: &[u8]) -> Result<(Digest, PathBuf)> {
        let mut draft = self.draft()?;
        draft.append(bytes)?;
        let digest = draft.digest();
        let path = draft.commit(&digest, bytes.len() as u64)?;
        Ok((digest, path))
    }

    /// The note under `key`.
    pub fn note(&self, key: &Digest) -> Option<Vec<u8>> {
        let path = self.keys().join(key.hex());
        let size = fs::metadata(&path).ok()?.len();
        if size > NOTE_BYTES_MAX { None } else { fs::read(path).ok() }
    }

    /// Writes the note under `key`, in place of an older one.
    ///
    /// # Errors
    /// Where it can not be written.
    pub fn set_note(&self, key: &Digest, note: &[u8]) -> Result<()> {
        let mut draft = Draft::create(&self.keys(), &Held::default())?;
        draft.append(note)?;
        draft.rename(&self.keys().join(key.hex()))
    }
}

/// A blob that is being written. Dropped, it is gone, but for the beginning of a download that may
/// go on; committed, it has a name.
#[derive(Debug)]
pub struct Draft {
    /// Where it gets its name.
    dir: PathBuf,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    bytes: u64,
    committed: bool,
    /// Whether another process may go on with it.
    part: bool,
    held: Held,
}

impl Draft {
    fn create(dir: &Path, held: &Held) -> Result<Draft> {
        let (path, file) = create_locked(dir).map_err(|e| Error::io(dir.display(), e))?;
        let (dir, held, hasher) = (dir.to_path_buf(), held.clone(), Hasher::new());
        Ok(Draft { dir, path, file, hasher, bytes: 0, committed: false, part: false, held })
    }

    /// Takes in what is in the file already.
    fn read_again(&mut self) -> Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            interrupt::check()?;
            match self.file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    self.hasher.update(&piece[..n]);
                    self.bytes += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(self.path.display(), e)),
            }
        }
    }

    /// The file, for who reads it while it has no name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes have been written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of what has been written so far.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Adds `bytes`.
    ///
    /// # Errors
    /// Where the disk is full, for one.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(|e| Error::io(self.path.display(), e))
    }

    /// Throws away what has been written and begins anew.
    ///
    /// # Errors
    /// Where the file can not be cut.
    pub fn restart(&mut self) -> Result<()> {
        let cut = self.file.set_len(0).and_then(|()| self.file.rewind());
        cut.map_err(|e| Error::io(self.path.display(), e))?;
        self.hasher = Hasher::new();
        self.bytes = 0;
        Ok(())
    }

    /// Throws all of it away, even the beginning of a download.
    pub fn discard(mut self) {
        self.part = false;
    }

    /// Gives the blob its name and returns where it is.
    ///
    /// # Errors
    /// [`crate::Class::Trust`] where it does not have this size and digest; nothing is kept then.
    pub fn commit(mut self, digest: &Digest, bytes: u64) -> Result<PathBuf> {
        self.part = false;
        if self.bytes != bytes {
            let found = self.bytes;
            return Err(Error::trust(format!("{digest} has {found} bytes instead of {bytes}")));
        }
        let found = self.digest();
        if found != *digest {
            return Err(Error::trust(format!("expected {digest}, found {found}")));
        }
        let path = self.dir.join(digest.hex());
        let held = self.held.clone();
        let file = self.file.try_clone().map_err(|e| Error::io(path.display(), e))?;
        self.rename(&path)?;
        // The same lock, from now on shared with other readers.
        file.lock_shared().map_err(|e| Error::io(path.display(), e))?;
        held.keep(&path, file);
        Ok(path)
    }

    fn rename(mut self, name: &Path) -> Result<()> {
        let renamed = self
            .file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, name))
            .inspect(|()| self.committed = true)
            .and_then(|()| File::open(&self.dir)?.sync_all());
        renamed.map_err(|e| Error::io(name.display(), e))
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let goes_on = self.part && self.bytes >= PART_BYTES_MIN;
        if !self.committed && !goes_on {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a new file and holds its lock. Between the two a sweeper may have taken it for dead and
/// removed it; then there is another try.
fn create_locked(dir: &Path) -> io::Result<(PathBuf, File)> {
    for _ in 0..DRAFT_NAME_TRIES_MAX {
        let path = dir.join(format!("{DRAFT_PREFIX}{:016x}", random()));
        let new =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&path);
        let file = match new {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
        };
        file.lock()?;
        if file.metadata()?.nlink() > 0 {
            return Ok((path, file));
        }
    }
    Err(io::Error::other("no free name for a new file"))
}

/// A number that differs from call to call and from process to process.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Removes the drafts in `dir` whose writers are dead.
fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(DRAFT_PREFIX) {
            continue;
        }
        // Gone already, or another user's: not ours to sweep.
        let Ok(file) = File::open(entry.path()) else { continue };
        match file.try_lock() {
            Ok(()) => match fs::remove_file(entry.path()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            },
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir.join("blobs/sha256")).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_blob_has_its_name_only_when_it_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let right = Digest::of(b"hello");
        for (text, bytes) in [("hellO", 5), ("hell", 5), ("hello", 4)] {
            let mut draft = cache.draft().unwrap();
            draft.append(text.as_bytes()).unwrap();
            let error = draft.commit(&right, bytes).unwrap_err();
            assert_eq!(error.class(), crate::Class::Trust);
            assert_eq!(names(dir.path()), [""; 0]);
        }
        let mut draft = cache.draft().unwrap();
        draft.append(b"something else").unwrap();
        draft.restart().unwrap();
        draft.append(b"hello").unwrap();
        let path = draft.commit(&right, 5).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        assert_eq!(cache.find(&right, 5), Some(path));
        assert_eq!(cache.find(&right, 6), None);
        assert_eq!(names(dir.path()), [right.hex()]);
    }

    #[test]
    fn a_damaged_small_blob_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let (digest, path) = cache.put(b"hello").unwrap();
        assert_eq!(cache.read(&digest, 5).unwrap(), b"hello");
        assert_eq!(cache.read(&digest, 4), None);
        fs::write(&path, b"hellO").unwrap();
        assert_eq!(cache.read(&digest, 5), None);
        cache.forget(&digest);
        assert_eq!(cache.find(&digest, 5), None);
    }

    #[test]
    fn drafts_of_the_dead_are_swept_and_those_of_the_living_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let mut live = cache.draft().unwrap();
        live.append(b"hello").unwrap();
        fs::write(dir.path().join("blobs/sha256/.draft-dead"), b"half").unwrap();
        Cache::open(dir.path()).unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        live.commit(&Digest::of(b"hello"), 5).unwrap();
        assert_eq!(names(dir.path()), [Digest::of(b"hello").hex()]);
    }

    #[test]
    fn a_cut_download_is_found_again_by_who_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let whole = vec![7; 3 << 20];
        let (digest, bytes) = (Digest::of(&whole), whole.len() as u64);
        let cut = |at: usize| {
            let cache = Cache::open(dir.path()).unwrap();
            let mut draft = cache.resume(&digest).unwrap();
            draft.append(&whole[draft.bytes() as usize..at]).unwrap();
        };
        cut(1000); // Too little to be worth it.
        assert_eq!(Cache::open(dir.path()).unwrap().resume(&digest).unwrap().bytes(), 0);
        cut(2 << 20);
        let cache = Cache::open(dir.path()).unwrap();
        let mut first = cache.resume(&digest).unwrap();
        assert_eq!(first.bytes(), 2 << 20);
        let second = cache.resume(&digest).unwrap();
        assert_eq!(second.bytes(), 0);
        first.append(&whole[2 << 20..]).unwrap();
        let path = first.commit(&digest, bytes).unwrap();
        assert_eq!(cache.find(&digest, bytes), Some(path));
        assert_eq!(fs::read_dir(cache.parts()).unwrap().count(), 0);
        // A wrong one is not gone on with.
        let mut wrong = cache.resume(&digest).unwrap();
        wrong.append(&vec![8; 3 << 20]).unwrap();
        assert!(wrong.commit(&digest, bytes).is_err());
        assert_eq!(cache.resume(&digest).unwrap().bytes(), 0);
    }

    #[test]
    fn many_writers_and_sweepers_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for i in 0..20u32 {
                        let cache = Cache::open(dir.path()).unwrap();
                        let (digest, _) = cache.put(&i.to_le_bytes()).unwrap();
                        assert!(cache.find(&digest, 4).is_some());
                        cache.set_note(&digest, &i.to_le_bytes()).unwrap();
                        assert_eq!(cache.note(&digest).unwrap(), i.to_le_bytes());
                    }
                });
            }
        });
        assert_eq!(names(dir.path()).len(), 20);
    }
}
