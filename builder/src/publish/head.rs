//! Where the numbered metadata end, whatever `timestamp.json` says.

use imgrun::catalog::{Catalog, metadata_key, timestamp_key};
use imgrun::interrupt;
use imgrun::tuf::{Clock, Envelope, Role, Root, Signed, Snapshot, State, Targets, Timestamp, open};

use super::Publisher;
use crate::{Error, Result};

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
        let there = self.depot.size(&timestamp_key())?.is_some();
        let known = self.memory.load()?.is_some_and(|state| state.timestamp.is_some());
        if there || known {
            Catalog::open(self.depot, self.memory, Clock::Ignored)?;
        }
        let state = self.memory.load()?.ok_or_else(no_root)?;
        let root = root(&state)?;
        Ok(Heads {
            targets: self.head(&root, &state)?,
            snapshot: self.head(&root, &state)?,
            timestamp: self.head(&root, &state)?,
            root,
        })
    }

    fn head<T: Signed>(&self, root: &Root, state: &State) -> Result<Head<T>> {
        let mut head = Head { number: 0, signed: None, bytes: Vec::new() };
        if let Some(text) = state.file(T::ROLE)
            && let Ok(signed) = open::<T>(root, text.as_bytes(), T::ROLE.name())
        {
            head = Head {
                number: signed.version(),
                signed: Some(signed),
                bytes: text.as_bytes().to_vec(),
            };
        }
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
