//! What this host has seen of a catalog: the one thing that tells an old catalog from a new one.
//!
//! ```text
//! <dir>/state.json   the metadata that were verified last, as they came
//! <dir>/lock         locked (flock) while state.json is replaced
//! ```
//! One file, replaced by one rename after its bytes are on disk, so that a kill leaves the old or
//! the new one; nothing in it ever gets older, however many processes refresh at once. Without it
//! nobody can tell a catalog of last year from today's: there is no refresh without a memory.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::key::Envelope;
use super::role::{Role, Root, Signed};
use crate::{Error, Result};

/// The version of the file's format.
const SCHEMA: u32 = 1;
/// The file is at most this long.
const STATE_BYTES_MAX: u64 = 64 << 20;
const STATE: &str = "state.json";

/// Where a host remembers one catalog.
#[derive(Clone, Debug)]
pub struct Memory {
    dir: PathBuf,
}

/// What it remembers: files as they came, all of them verified under `root`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    schema: u32,
    /// Where the catalog is; for people.
    pub place: String,
    /// `root.json`.
    pub root: String,
    /// `timestamp.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// `snapshot.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// `targets.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
}

impl State {
    /// With a root and nothing else.
    pub(super) fn new(place: &str, root: &[u8]) -> Self {
        State {
            schema: SCHEMA,
            place: place.to_string(),
            root: String::from_utf8_lossy(root).into_owned(),
            timestamp: None,
            snapshot: None,
            targets: None,
        }
    }

    /// The file of `role`.
    pub fn file(&self, role: Role) -> Option<&str> {
        match role {
            Role::Root => Some(&self.root),
            Role::Timestamp => self.timestamp.as_deref(),
            Role::Snapshot => self.snapshot.as_deref(),
            Role::Targets => self.targets.as_deref(),
        }
    }

    pub(super) fn slot(&mut self, role: Role) -> Option<&mut Option<String>> {
        match role {
            Role::Root => None,
            Role::Timestamp => Some(&mut self.timestamp),
            Role::Snapshot => Some(&mut self.snapshot),
            Role::Targets => Some(&mut self.targets),
        }
    }

    /// The version that a file says it has; 0 where there is none.
    fn version(&self, role: Role) -> u64 {
        #[derive(Deserialize)]
        struct File {
            signed: Version,
        }
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let file = self.file(role).and_then(|text| serde_json::from_str::<File>(text).ok());
        file.map_or(0, |file| file.signed.version)
    }

    /// The newer of both, file by file.
    fn newer(mut self, mut stored: State) -> State {
        if stored.root != self.root && stored.version(Role::Root) != self.version(Role::Root) {
            let ours = self.version(Role::Root) > stored.version(Role::Root);
            return if ours { self } else { stored };
        }
        for role in [Role::Timestamp, Role::Snapshot, Role::Targets] {
            // Most are equal, and targets are long.
            if stored.file(role) != self.file(role)
                && stored.version(role) > self.version(role)
                && let (Some(slot), Some(newer)) = (self.slot(role), stored.slot(role))
            {
                *slot = newer.take();
            }
        }
        self
    }
}

impl Memory {
    /// In `dir`, which is made where it is missing, for this user alone.
    ///
    /// # Errors
    /// Where it can not be made.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|e| Error::io(dir.display(), e))?;
        Ok(Memory { dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is remembered; `None` where this catalog was never seen.
    ///
    /// # Errors
    /// Where it can not be read. It is never taken for empty then: that would forget.
    pub fn load(&self) -> Result<Option<State>> {
        let path = self.dir.join(STATE);
        let file = match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| Error::io(path.display(), e))?,
        };
        let mut json = Vec::new();
        let read = file.take(STATE_BYTES_MAX).read_to_end(&mut json);
        read.map_err(|e| Error::io(path.display(), e))?;
        let damaged = |why: String| {
            Error::host(format!("{}: {why}", path.display()))
                .hint("remove it, and name the catalog's root of trust again")
        };
        let state: State =
            serde_json::from_slice(&json).map_err(|e| damaged(format!("it is damaged: {e}")))?;
        if state.schema != SCHEMA {
            return Err(damaged(format!("it has schema {}", state.schema)));
        }
        Ok(Some(state))
    }

    /// Remembers `state`, but for what another process has seen in a newer version.
    ///
    /// # Errors
    /// Where it can not be written: what can not be remembered must not be believed.
    pub(super) fn store(&self, state: &State) -> Result<()> {
        let lock_path = self.dir.join("lock");
        let about = |e| Error::io(lock_path.display(), e);
        let mut options = fs::OpenOptions::new();
        let lock = options.create(true).write(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(about)?;
        lock.lock().map_err(about)?;
        let stored = self.load()?;
        let state = match stored.clone() {
            Some(stored) => state.clone().newer(stored),
            None => state.clone(),
        };
        if stored.as_ref() == Some(&state) {
            return Ok(());
        }
        let path = self.dir.join(STATE);
        replace(&path, &serde_json::to_vec(&state).unwrap_or_default())
            .map_err(|e| Error::io(path.display(), e))
    }

    /// Forgets the catalog: for its owner, who makes another one in the same place.
    ///
    /// # Errors
    /// Where the file can not be removed.
    pub fn forget(&self) -> Result<()> {
        match fs::remove_file(self.dir.join(STATE)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(self.dir.display(), e)),
            _ => Ok(()),
        }
    }

    /// Begins with a root that the user vouches for. What is remembered already stays, where it
    /// goes back to the same owner.
    ///
    /// # Errors
    /// [`crate::Class::Trust`] where `root` is no root, or another owner's than the remembered one.
    pub fn begin(&self, place: &str, root: &[u8], what: &str) -> Result<()> {
        let given = Envelope::parse(root, what)?;
        let given_root = Root::read(&given, what)?;
        given_root.verify(Role::Root, &given, what)?;
        let Some(state) = self.load()? else { return self.store(&State::new(place, root)) };
        let known = Envelope::parse(state.root.as_bytes(), what)?;
        let known_root = Root::read(&known, what)?;
        let same = match given_root.version.cmp(&known_root.version) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => given.signed == known.signed,
            std::cmp::Ordering::Greater => known_root.verify(Role::Root, &given, what).is_ok(),
        };
        if !same {
            let dir = self.dir.display();
            return Err(Error::trust(format!("{what}: this host knows another owner of {place}"))
                .hint(format!("if it really has a new owner, remove {dir}")));
        }
        Ok(())
    }
}

/// Puts `bytes` in the place of the file at `path`: before a kill or a power cut the old ones,
/// after it the new ones.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut draft = tempfile::Builder::new().prefix(".draft-").tempfile_in(dir)?;
    draft.write_all(bytes)?;
    draft.as_file().sync_all()?;
    draft.persist(path).map_err(|e| e.error)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(root: u64, timestamp: u64) -> State {
        let file =
            |version: u64| format!(r#"{{"signatures":[],"signed":{{"version":{version}}}}}"#);
        let mut state = State::new("here", file(root).as_bytes());
        state.timestamp = Some(file(timestamp));
        state
    }

    #[test]
    fn nothing_gets_older() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path().join("deep/er")).unwrap();
        assert_eq!(memory.load().unwrap(), None);
        for (written, kept) in [((1, 5), (1, 5)), ((1, 4), (1, 5)), ((1, 6), (1, 6))] {
            memory.store(&state(written.0, written.1)).unwrap();
            assert_eq!(memory.load().unwrap(), Some(state(kept.0, kept.1)));
        }
        // A new root may have new keys, which begin anew (recovery from a version of 2^63).
        memory.store(&state(2, 1)).unwrap();
        memory.store(&state(1, 9)).unwrap();
        assert_eq!(memory.load().unwrap(), Some(state(2, 1)));
    }

    #[test]
    fn damage_is_not_forgetting() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path()).unwrap();
        fs::write(dir.path().join(STATE), b"{\"schema\":1").unwrap();
        assert!(memory.load().is_err());
        assert!(memory.store(&state(1, 1)).is_err());
    }

    #[test]
    fn many_writers_keep_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for n in 0..8 {
                let memory = Memory::open(dir.path()).unwrap();
                threads.spawn(move || {
                    for version in (n..40).step_by(8) {
                        memory.store(&state(1, version + 1)).unwrap();
                    }
                });
            }
        });
        let memory = Memory::open(dir.path()).unwrap();
        assert_eq!(memory.load().unwrap(), Some(state(1, 40)));
    }
}
