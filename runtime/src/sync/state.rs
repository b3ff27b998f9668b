//! What syncs have reached: advanced only after the bundle is there.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};

use bundle::{Arch, Digest, Name, Version};
use serde::{Deserialize, Serialize};

use super::config::Follow;
use super::plan::Wish;
use crate::{Error, Result, Store};

const FILE: &str = "sync.json";
const SCHEMA: u32 = 1;
/// The file is at most this long.
const BYTES_MAX: u64 = 4 << 20;

/// `<home>/sync.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    schema: u32,
    pub(super) reached: Vec<Reached>,
}

/// Where a name that is followed is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// The name.
    pub name: Name,
    /// Its channel.
    #[serde(default)]
    pub channel: Option<Version>,
    /// For which machine.
    pub arch: Arch,
    /// The version that is here.
    pub version: Version,
    /// Its digest.
    pub digest: Digest,
    /// The one before, which stays.
    #[serde(default)]
    pub before: Option<Digest>,
    /// When a sync last found or made all right; seconds since 1970.
    pub right_at_s: u64,
}

impl State {
    /// What cannot be read is no reason not to sync: it only tells what was.
    pub(super) fn load(store: &Store) -> Result<Self> {
        let path = store.home().join(FILE);
        let none = State { schema: SCHEMA, reached: Vec::new() };
        match fs::metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(none),
            Err(e) => return Err(Error::io(path.display(), e)),
            Ok(metadata) if metadata.len() > BYTES_MAX => return Ok(none),
            Ok(_) => {}
        }
        let json = fs::read(&path).map_err(|e| Error::io(path.display(), e))?;
        let state = serde_json::from_slice::<State>(&json).ok();
        Ok(state.filter(|state| state.schema == SCHEMA).unwrap_or(none))
    }

    pub(super) fn find(&self, follow: &Follow) -> Option<&Reached> {
        let key = (&follow.name, &follow.channel, follow.arch);
        self.reached.iter().find(|r| (&r.name, &r.channel, r.arch) == key)
    }

    /// `wanted` is here now.
    pub(super) fn advance(&mut self, follow: &Follow, wanted: &Wish, now_s: u64) {
        let old = self.find(follow).cloned();
        let digest = wanted.entry.digest;
        let before = match &old {
            Some(old) if old.digest != digest => Some(old.digest),
            old => old.as_ref().and_then(|old| old.before),
        };
        let reached = Reached {
            name: follow.name.clone(),
            channel: follow.channel.clone(),
            arch: follow.arch,
            version: wanted.entry.version.clone(),
            digest,
            before,
            right_at_s: now_s,
        };
        self.reached.retain(|r| Some(r) != old.as_ref());
        self.reached.push(reached);
    }

    /// What is current and what was before.
    pub(super) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.reached.iter().flat_map(|r| [Some(r.digest), r.before]).flatten()
    }

    pub(super) fn store(&self, store: &Store) -> Result<()> {
        let path = store.home().join(FILE);
        let replace = || {
            let mut draft = tempfile::Builder::new().prefix(".draft-").tempfile_in(store.home())?;
            draft.write_all(&serde_json::to_vec(self).unwrap_or_default())?;
            draft.as_file().sync_all()?;
            draft.persist(&path).map_err(|e| e.error)?;
            File::open(store.home())?.sync_all()
        };
        replace().map_err(|e| Error::io(path.display(), e))
    }
}
