//! A role's keys are lost: the root gives it others, and what the old ones have signed is signed anew.
//!
//! Ordinarily old and new keys sign before the root changes, so that a reader finds a valid catalog
//! at any moment. Here only the new ones can, and not before the root vouches for them. From the new
//! root to the new `timestamp.json` readers are refused; none is let in that should not be. A kill in
//! between is mended by the same command, or by `catalog refresh --repair`: what was published last
//! is then known by the word of the root before.

use imgrun::catalog::{metadata_key, timestamp_key};
use imgrun::tuf::{Envelope, Role, Root, Signed, Snapshot, Targets, Timestamp, next_root, open};

use super::Publisher;
use super::head::{Head, Heads, no_root, root};
use crate::{Error, Result};

/// Tries to create one file. Each loss is somebody else's success.
const TRIES_MAX: u32 = 100;

/// What `head` holds, if `root` vouches for it.
fn vouched<T: Signed>(root: &Root, head: &Head<T>) -> bool {
    open::<T>(root, &head.bytes, T::ROLE.name()).is_ok()
}

impl Publisher<'_> {
    /// Whether all that will have to sign under `new` can, though some keys of `old` can not.
    ///
    /// # Errors
    /// Where new keys are missing, too.
    pub(super) fn is_succession(&self, old: &Root, new: &Root) -> Result<bool> {
        let online = [Role::Targets, Role::Snapshot, Role::Timestamp];
        let changed = |role: &Role| old.roles.get(role) != new.roles.get(role);
        let lost = online.iter().filter(|role| changed(role));
        let lost: Vec<&Role> = lost.filter(|role| self.signers_of(old, **role).is_err()).collect();
        for role in online.iter().filter(|role| !lost.is_empty() && **role >= *lost[0]) {
            self.signers_of(new, *role)?;
        }
        if let Some(role) = lost.first() {
            self.progress.note(format!(
                "the old keys of {role} are not at hand: readers are refused until this is done"
            ));
        }
        Ok(!lost.is_empty())
    }

    /// Lets everything in `heads` that `root` does not vouch for be signed anew, and readers find it.
    pub(super) fn succeed(&self, root: &Root, mut heads: Heads) -> Result<()> {
        heads.root = root.clone();
        for _ in 0..TRIES_MAX {
            let gone = || Error::trust("the catalog has no signed targets");
            let targets = heads.targets.signed.clone().ok_or_else(gone)?;
            if !vouched(root, &heads.targets) {
                self.create_targets(&heads, targets)?;
                heads.targets = self.beyond(root, heads.targets)?;
                continue;
            }
            let next = self.next_snapshot(&heads, &targets)?;
            if next.is_some() || !vouched(root, &heads.snapshot) {
                let again = heads.snapshot.signed.clone().map(|now| Snapshot {
                    version: heads.snapshot.number + 1,
                    expires: self.expires(root, Role::Snapshot),
                    ..now
                });
                if let Some(next) = next.or(again) {
                    self.ensure_index(&targets)?;
                    self.create(&next, &self.signers_of(root, Role::Snapshot)?)?;
                }
                heads.snapshot = self.beyond(root, heads.snapshot)?;
                continue;
            }
            let stale = !vouched(root, &heads.timestamp);
            if let Some(next) = self.next_timestamp(&heads, stale)? {
                self.create(&next, &self.signers_of(root, Role::Timestamp)?)?;
                heads.timestamp = self.beyond(root, heads.timestamp)?;
                continue;
            }
            if self.point(&heads)? {
                return Ok(());
            }
        }
        Err(Error::network(format!("{}: others are always faster", self.depot.title())))
    }

    /// The newest that `root` vouches for beyond `head`, or `head`.
    fn beyond<T: Signed>(&self, root: &Root, head: Head<T>) -> Result<Head<T>> {
        let Head { number, signed, bytes } = head;
        let file = String::from_utf8_lossy(&bytes).into_owned();
        let found = self.head(root, signed, Some(file))?;
        Ok(Head { number: number.max(found.number), ..found })
    }

    /// Finishes the rotation of a lost key that was cut behind its new root.
    ///
    /// # Errors
    /// Where what is there is signed by neither the root's keys nor by those of the root before.
    pub fn mend(&self) -> Result<()> {
        let state = self.memory.load()?.ok_or_else(no_root)?;
        let new = root(&state)?;
        let key = metadata_key(Role::Root, new.version.saturating_sub(1));
        let bytes = self.depot.get(&key, Role::Root.bytes_max())?;
        let bytes = bytes.ok_or_else(|| Error::trust(format!("{key}: it is not there")))?;
        let envelope = Envelope::parse(&bytes, &key)?;
        let old = Root::read(&envelope, &key)?;
        old.verify(Role::Root, &envelope, &key)?;
        next_root(&old, state.root.as_bytes(), "root.json")?;
        let (timestamp, bytes) = self.of_either::<Timestamp>(&old, &new, &timestamp_key())?;
        let key = metadata_key(Role::Snapshot, timestamp.snapshot()?.version);
        let timestamp = (timestamp, bytes);
        let (snapshot, bytes) = self.of_either::<Snapshot>(&old, &new, &key)?;
        let key = metadata_key(Role::Targets, snapshot.targets()?.version);
        let snapshot = (snapshot, bytes);
        let targets = self.of_either::<Targets>(&old, &new, &key)?;
        let heads = Heads {
            targets: self.head(&new, Some(targets.0), Some(targets.1))?,
            snapshot: self.head(&new, Some(snapshot.0), Some(snapshot.1))?,
            timestamp: self.head(&new, Some(timestamp.0), Some(timestamp.1))?,
            root: new.clone(),
        };
        self.succeed(&new, heads)
    }

    /// The file `key`, signed as one of two roots wants it.
    fn of_either<T: Signed>(&self, old: &Root, new: &Root, key: &str) -> Result<(T, String)> {
        let bytes = self.depot.get(key, T::ROLE.bytes_max())?;
        let bytes = bytes.ok_or_else(|| Error::trust(format!("{key}: it is not there")))?;
        let signed = open(new, &bytes, key).or_else(|_| open(old, &bytes, key))?;
        Ok((signed, String::from_utf8_lossy(&bytes).into_owned()))
    }
}
