//! Where the numbered metadata end, whatever `timestamp.json` says.

use imgrun::catalog::{METADATA, metadata_key, timestamp_key};
use imgrun::interrupt;
use imgrun::tuf::{
    Clock, Envelope, Role, Root, Signed, Snapshot, State, Targets, Timestamp, Trusted, open,
    refresh,
};

use super::Publisher;
use crate::{Class, Error, Result};

/// Numbers that are looked at beyond those that the timestamp names.
const AHEAD_MAX: u64 = 100_000;

/// The newest of a role's files.
#[derive(Clone, Debug)]
pub(super) struct Head<T> {
    /// The last number that is taken: the next one is free. It may be another's than `signed`'s,
    /// where somebody without a key has left rubbish.
    pub(super) number: u64,
    /// What is in it; `None` before the first.
    pub(super) signed: Option<T>,
    /// The file's bytes.
    pub(super) bytes: Vec<u8>,
}

/// The newest of everything.
#[derive(Clone, Debug)]
pub(super) struct Heads {
    pub(super) root: Root,
    pub(super) targets: Head<Targets>,
    pub(super) snapshot: Head<Snapshot>,
    pub(super) timestamp: Head<Timestamp>,
}

impl Publisher<'_> {
    /// Reads the catalog as a client would, expired or not, and then whatever is beyond.
    pub(super) fn heads(&self) -> Result<Heads> {
        interrupt::check()?;
        let state = self.memory.load()?.ok_or_else(no_root)?;
        if state.timestamp.is_none() && self.depot.size(&timestamp_key())?.is_none() {
            // It is being made.
            let root = root(&state)?;
            return Ok(Heads {
                targets: self.head(&root, None, None)?,
                snapshot: self.head(&root, None, None)?,
                timestamp: self.head(&root, None, None)?,
                root,
            });
        }
        let fetch = |name: &str, max: u64| self.depot.get(&format!("{METADATA}/{name}"), max);
        let now = match refresh(self.memory, &fetch, Clock::Ignored) {
            // What this host has seen last was verified; the numbers go on from there.
            Err(e) if self.repairing.get() && e.class() == Class::Trust => {
                let state = self.memory.load()?.ok_or_else(no_root)?;
                remembered(state).ok_or(e)
            }
            now => now,
        };
        let Trusted { root, timestamp, snapshot, targets, files } =
            now.map_err(|e| e.within(self.depot.title()))?;
        Ok(Heads {
            targets: self.head(&root, Some(targets), files.targets)?,
            snapshot: self.head(&root, Some(snapshot), files.snapshot)?,
            timestamp: self.head(&root, Some(timestamp), files.timestamp)?,
            root,
        })
    }

    /// From what is known on.
    pub(super) fn head<T: Signed>(
        &self,
        root: &Root,
        known: Option<T>,
        file: Option<String>,
    ) -> Result<Head<T>> {
        let number = known.as_ref().map_or(0, Signed::version);
        let bytes = file.unwrap_or_default().into_bytes();
        let mut head = Head { number, signed: known, bytes };
        let last = head.number.saturating_add(AHEAD_MAX);
        while head.number < last {
            let number = head.number + 1;
            let key = metadata_key(T::ROLE, number);
            let Some(bytes) = self.depot.get(&key, T::ROLE.bytes_max())? else { return Ok(head) };
            head.number = number;
            // What has not its role's signatures is nobody's word; only its number is gone.
            match open::<T>(root, &bytes, &key) {
                Ok(signed) if signed.version() == number => {
                    (head.signed, head.bytes) = (Some(signed), bytes);
                }
                _ => self.progress.note(format!("{key}: not signed as it must be, passed over")),
            }
        }
        Err(Error::input(format!("{}: too many {} files", self.depot.title(), T::ROLE)))
    }
}

/// The root that is remembered; it was verified before it was.
pub(super) fn root(state: &State) -> Result<Root> {
    let envelope = Envelope::parse(state.root.as_bytes(), "root.json")?;
    let root = Root::read(&envelope, "root.json")?;
    root.verify(Role::Root, &envelope, "root.json")?;
    Ok(root)
}

pub(super) fn no_root() -> Error {
    Error::trust("no root of trust is known for this catalog")
        .hint("name it: --root FILE, or make a catalog: imgtool catalog init")
}

/// A whole catalog as it was seen last.
fn remembered(state: State) -> Option<Trusted> {
    let root = root(&state).ok()?;
    let timestamp = open(&root, state.timestamp.as_ref()?.as_bytes(), "timestamp.json").ok()?;
    let snapshot = open(&root, state.snapshot.as_ref()?.as_bytes(), "snapshot.json").ok()?;
    let targets = open(&root, state.targets.as_ref()?.as_bytes(), "targets.json").ok()?;
    Some(Trusted { root, timestamp, snapshot, targets, files: state })
}
