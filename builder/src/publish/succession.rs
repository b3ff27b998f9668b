//! A role's keys are lost: the root gives it others, and what the old ones have signed is signed anew.
//!
//! Ordinarily old and new keys sign before the root changes, so that a reader finds a valid catalog
//! at any moment. Here only the new ones can, and not before the root vouches for them. From the new
//! root to the new `timestamp.json` readers are refused; none is let in that should not be.
//!
//! A kill in between is mended by a command of its own, which shows what it is about to sign
//! ([`Publisher::mending`]). What the old keys have signed proves nothing then: somebody may have
//! found them. So the new root names, by digest, what it takes over, and nothing else is signed anew.
//! One thing is left to whoever looks at what is shown: that these were not superseded since. A host
//! that remembers the catalog knows.

use std::collections::BTreeMap;

use imgrun::catalog::{self, Catalog, Entry, metadata_key};
use imgrun::tuf::{Clock, Envelope, MetaFile, Role, Root, Signed, Snapshot, open};

use super::Publisher;
use super::head::{Head, Heads, no_root, root};
use crate::{Class, Error, Result};

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

    /// What is left to be signed anew after a lost key's rotation that was cut behind its new root.
    /// Nothing is written.
    ///
    /// # Errors
    /// [`crate::Class::Trust`] where nothing is left, the root does not say what it takes over, what
    /// it took over is not there, or this host has seen that the rotation was finished.
    pub fn mending(&self) -> Result<Mending> {
        let broken = match Catalog::open(self.depot, self.memory, Clock::Ignored) {
            Ok(_) => return Err(Error::usage("the catalog is whole: there is nothing to mend")),
            Err(e) if e.class() == Class::Trust => e,
            Err(e) => return Err(e),
        };
        // The newest root was remembered, whatever was wrong behind it.
        let state = self.memory.load()?.ok_or_else(no_root)?;
        let root = root(&state)?;
        if state.targets.is_some() {
            return Err(broken.hint(
                "no change of keys was cut: this host has seen the catalog whole under this root",
            ));
        }
        let named = |role| root.succeeds.get(&role);
        let (Some(targets), Some(snapshot), Some(timestamp)) =
            (named(Role::Targets), named(Role::Snapshot), named(Role::Timestamp))
        else {
            return Err(broken);
        };
        let heads = Heads {
            targets: self.taken_over(&root, targets)?,
            snapshot: self.taken_over(&root, snapshot)?,
            timestamp: self.taken_over(&root, timestamp)?,
            root,
        };
        let entries = heads.targets.signed.as_ref().map(catalog::entries).transpose()?;
        Ok(Mending { heads, entries: entries.unwrap_or_default() })
    }

    /// Signs it anew.
    ///
    /// # Errors
    /// As [`Publisher::refresh`].
    pub fn mend(&self, mending: Mending) -> Result<Catalog> {
        let root = mending.heads.root.clone();
        self.succeed(&root, mending.heads)?;
        self.refresh()
    }

    /// `error`, and what can be done about it where a change of keys was cut.
    pub(super) fn hinted(&self, error: Error) -> Error {
        if error.class() != Class::Trust || self.mending().is_err() {
            return error;
        }
        let title = self.depot.title();
        error.hint(format!("a change of keys was cut here: imgtool catalog mend {title}"))
    }

    /// The file that the root names, which the keys before have signed, or what its own keys have
    /// signed after that.
    fn taken_over<T: Signed>(&self, root: &Root, named: &MetaFile) -> Result<Head<T>> {
        let key = metadata_key(T::ROLE, named.version);
        let bytes = self.depot.get(&key, T::ROLE.bytes_max())?;
        let bytes = bytes.ok_or_else(|| Error::trust(format!("{key}: it is not there")))?;
        named.check(&bytes, &key)?;
        let signed = T::read(&Envelope::parse(&bytes, &key)?, &key)?;
        self.head(root, Some(signed), Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// What is to be signed anew: the word of keys that are lost, which the new root has taken over.
#[derive(Debug)]
pub struct Mending {
    heads: Heads,
    /// The bundles that would be listed.
    pub entries: Vec<Entry>,
}

impl Mending {
    /// The files that it goes out from, and the root that names them.
    pub fn files(&self) -> Vec<String> {
        let Heads { root, targets, snapshot, timestamp } = &self.heads;
        let files = [
            (Role::Root, Some(root.version)),
            (Role::Targets, targets.signed.as_ref().map(Signed::version)),
            (Role::Snapshot, snapshot.signed.as_ref().map(Signed::version)),
            (Role::Timestamp, timestamp.signed.as_ref().map(Signed::version)),
        ];
        files.into_iter().filter_map(|(role, version)| Some(role.file(version?))).collect()
    }
}

/// What a root has to say of `heads` that it takes over.
pub(super) fn named(heads: &Heads) -> BTreeMap<Role, MetaFile> {
    fn file<T: Signed>(head: &Head<T>) -> Option<(Role, MetaFile)> {
        let version = head.signed.as_ref()?.version();
        Some((T::ROLE, MetaFile::of(version, &head.bytes)))
    }
    let Heads { targets, snapshot, timestamp, .. } = heads;
    [file(targets), file(snapshot), file(timestamp)].into_iter().flatten().collect()
}
