//! The commit: numbered metadata, each created once, then `timestamp.json`.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bundle::Digest;
use imgrun::catalog::{self, Catalog, INDEX, metadata_key, target_key, timestamp_key};
use imgrun::tuf::{
    Clock, Envelope, MetaFile, Role, Root, SNAPSHOT, Signed, Snapshot, TARGETS, Targets, Time,
    Timestamp, time,
};

use super::Publisher;
use super::head::Heads;
use super::owner::lifetime_default;
use crate::depot::{Body, Put};
use crate::sign::{SigningKey, sign};
use crate::{Error, Result};

/// Tries of one commit. Each loss is somebody else's success.
const TRIES_MAX: u32 = 2_000;
/// A loser waits a random time of at most this long at first; it doubles up to [`WAIT_DOUBLINGS`]
/// times.
const WAIT_FIRST: Duration = Duration::from_millis(4);
const WAIT_DOUBLINGS: u32 = 6;

/// What somebody wants of the targets: `None` where they are already so.
pub(super) type Change<'c> = dyn Fn(&Targets) -> Result<Option<Targets>> + 'c;

impl Publisher<'_> {
    /// Makes `change`, on top of whatever others have published, and returns the catalog as a
    /// reader sees it then.
    ///
    /// # Errors
    /// Those of `change`, too few keys, a depot that fails.
    pub(super) fn commit(&self, change: &Change<'_>) -> Result<Catalog> {
        for tries in 0..TRIES_MAX {
            let heads = self.heads()?;
            let base = heads.targets.signed.clone().unwrap_or_else(|| Targets {
                version: 0,
                expires: Time(0),
                targets: BTreeMap::new(),
                delegations: None,
            });
            if base.delegations.is_some() {
                return Err(Error::input("the catalog delegates, which imgtool can not write"));
            }
            if let Some(next) = change(&base)?
                && !self.create_targets(&heads, next)?
            {
                wait(tries)?;
                continue;
            }
            self.advance()?;
            let catalog = Catalog::open(self.depot, self.memory, Clock::now())?;
            if change(&catalog.trusted.targets)?.is_none() {
                return Ok(catalog);
            }
        }
        Err(Error::network(format!("{}: others are always faster", self.depot.title())))
    }

    /// Whether `next` became the newest targets.
    pub(super) fn create_targets(&self, heads: &Heads, mut next: Targets) -> Result<bool> {
        next.version = heads.targets.number + 1;
        next.expires = self.expires(&heads.root, Role::Targets);
        let index = index_of(&next)?;
        let target = catalog::target_of(index.len() as u64, &Digest::of(&index));
        next.targets.insert(INDEX.to_string(), target);
        let signers = self.signers(&heads.root, Role::Targets)?;
        self.create(&next, &signers)
    }

    /// When what `role` signs now stops being believed.
    pub(super) fn expires(&self, root: &Root, role: Role) -> Time {
        let lifetime = root.lifetimes.get(&role).copied().unwrap_or(lifetime_default(role));
        Time(time::now() + lifetime)
    }

    /// Creates the numbered file of `signed`; whether it is ours.
    pub(super) fn create<T: Signed>(&self, signed: &T, signers: &[Rc<SigningKey>]) -> Result<bool> {
        let keys: Vec<&SigningKey> = signers.iter().map(|key| key.as_ref()).collect();
        let bytes = sign(signed, &keys)?.to_bytes();
        let key = metadata_key(T::ROLE, signed.version());
        if bytes.len() as u64 > T::ROLE.bytes_max() {
            return Err(Error::input(format!(
                "{key}: {} bytes are too many for readers",
                bytes.len()
            ))
            .hint("imgtool catalog prune takes old versions out"));
        }
        match self.depot.put_new(&key, Body::Bytes(&bytes))? {
            Put::Created => Ok(true),
            // Where an answer was lost, the file that is in our way may be our own.
            Put::Exists => Ok(self.depot.get(&key, T::ROLE.bytes_max())? == Some(bytes)),
        }
    }

    /// Lets snapshot, timestamp and `timestamp.json` follow the newest targets.
    ///
    /// # Errors
    /// As [`Publisher::commit`].
    pub(super) fn advance(&self) -> Result<()> {
        for tries in 0..TRIES_MAX {
            let heads = self.heads()?;
            let gone = || Error::trust("the catalog has no signed targets");
            let targets = heads.targets.signed.as_ref().ok_or_else(gone)?;
            if let Some(next) = self.next_snapshot(&heads, targets)? {
                self.ensure_index(targets)?;
                let won = self.create(&next, &self.signers(&heads.root, Role::Snapshot)?)?;
                wait(if won { 0 } else { tries })?;
                continue;
            }
            if let Some(next) = self.next_timestamp(&heads, false)? {
                let won = self.create(&next, &self.signers(&heads.root, Role::Timestamp)?)?;
                wait(if won { 0 } else { tries })?;
                continue;
            }
            if self.point(&heads)? {
                return Ok(());
            }
        }
        Err(Error::network(format!("{}: others are always faster", self.depot.title())))
    }

    pub(super) fn next_snapshot(
        &self,
        heads: &Heads,
        targets: &Targets,
    ) -> Result<Option<Snapshot>> {
        let mut meta = BTreeMap::new();
        if let Some(now) = &heads.snapshot.signed {
            // A snapshot that is newer than what we have read of the targets is right as it is.
            if now.targets()?.version >= targets.version {
                return Ok(None);
            }
            meta = now.meta.clone();
        }
        let file = MetaFile::of(targets.version, &heads.targets.bytes);
        meta.insert(TARGETS.to_string(), file);
        let expires = self.expires(&heads.root, Role::Snapshot);
        Ok(Some(Snapshot { version: heads.snapshot.number + 1, expires, meta }))
    }

    /// The timestamp that has to follow; `anew` also where the last one names the snapshot already.
    pub(super) fn next_timestamp(&self, heads: &Heads, anew: bool) -> Result<Option<Timestamp>> {
        let Some(snapshot) = &heads.snapshot.signed else { return Ok(None) };
        if let Some(now) = &heads.timestamp.signed
            && (now.snapshot()?.version > snapshot.version
                || now.snapshot()?.version == snapshot.version && !anew)
        {
            return Ok(None);
        }
        let file = MetaFile::of(snapshot.version, &heads.snapshot.bytes);
        let meta = BTreeMap::from([(SNAPSHOT.to_string(), file)]);
        let expires = self.expires(&heads.root, Role::Timestamp);
        Ok(Some(Timestamp { version: heads.timestamp.number + 1, expires, meta }))
    }

    /// Whether `timestamp.json` is the newest timestamp. Where it is not, it is written, which has
    /// to be looked at again.
    pub(super) fn point(&self, heads: &Heads) -> Result<bool> {
        let key = timestamp_key();
        let there = self.depot.get(&key, Role::Timestamp.bytes_max())?;
        if there.as_ref() == Some(&heads.timestamp.bytes) {
            return Ok(true);
        }
        let version = there.and_then(|bytes| {
            let envelope = Envelope::parse(&bytes, &key).ok()?;
            heads.root.verify(Role::Timestamp, &envelope, &key).ok()?;
            envelope.signed.get("version")?.as_u64()
        });
        let ours = heads.timestamp.signed.as_ref().map_or(0, |t| t.version);
        // Newer than what we have read: then there is more to read.
        if version.is_none_or(|version| version <= ours) {
            self.depot.replace(&key, &heads.timestamp.bytes)?;
        }
        Ok(false)
    }

    /// The index that `targets` names has to be there before anybody is sent to them.
    pub(super) fn ensure_index(&self, targets: &Targets) -> Result<()> {
        let index = index_of(targets)?;
        let digest = Digest::of(&index);
        let named = targets.targets.get(INDEX).and_then(|t| t.digest());
        // Another program's targets may name no index, or another one, which is then its business.
        if named == Some(digest) {
            self.depot.put_new(&target_key(INDEX, &digest), Body::Bytes(&index))?;
        }
        Ok(())
    }

    /// Signs the newest timestamp anew, and what else would be past half its life at its end, as far
    /// as keys are at hand.
    ///
    /// # Errors
    /// As [`Publisher::commit`].
    pub fn refresh(&self) -> Result<Catalog> {
        self.advance()?;
        let heads = self.heads()?;
        let due = |role: Role, expires: Option<u64>| {
            let lifetime = heads.root.lifetimes.get(&role).copied();
            let half = lifetime.unwrap_or(lifetime_default(role)) / 2;
            expires.is_none_or(|expires| expires < time::now() + half)
        };
        let targets_due = due(Role::Targets, heads.targets.signed.as_ref().map(Signed::expires));
        let snapshot_due = due(Role::Snapshot, heads.snapshot.signed.as_ref().map(Signed::expires));
        if targets_due {
            self.renew(Role::Targets)?;
        }
        if snapshot_due && !targets_due {
            self.renew(Role::Snapshot)?;
        }
        self.renew(Role::Timestamp)?;
        if due(Role::Root, Some(heads.root.expires.0)) {
            self.renew_root(&heads.root)?;
        }
        Catalog::open(self.depot, self.memory, Clock::now())
    }

    /// The same where `timestamp.json` is damaged or gone: goes on from what this host has seen last.
    ///
    /// # Errors
    /// As [`Publisher::refresh`], and where this host has not seen the catalog whole.
    pub fn repair(&self) -> Result<Catalog> {
        self.repairing.set(true);
        let advanced = self.advance();
        self.repairing.set(false);
        advanced.map_err(|e| self.hinted(e))?;
        self.refresh()
    }

    /// Signs `role`'s newest file anew, unless somebody else does at the same time. Where keys are
    /// missing for it, that is said; only the timestamp has to be.
    pub(super) fn renew(&self, role: Role) -> Result<()> {
        let heads = self.heads()?;
        let signers = match self.signers(&heads.root, role) {
            Err(error) if role != Role::Timestamp && self.bridge.borrow().is_none() => {
                self.progress.note(format!("{role} metadata need to be signed anew soon: {error}"));
                return Ok(());
            }
            signers => signers?,
        };
        match role {
            Role::Targets => {
                if let Some(next) = heads.targets.signed.clone() {
                    self.create_targets(&heads, next)?;
                }
            }
            Role::Snapshot => {
                if let Some(mut next) = heads.snapshot.signed.clone() {
                    next.version = heads.snapshot.number + 1;
                    next.expires = self.expires(&heads.root, role);
                    self.create(&next, &signers)?;
                }
            }
            _ => {
                if let Some(next) = self.next_timestamp(&heads, true)? {
                    self.create(&next, &signers)?;
                }
            }
        }
        self.advance()
    }
}

/// The index that goes with `targets`.
pub(super) fn index_of(targets: &Targets) -> Result<Vec<u8>> {
    Ok(catalog::index(&catalog::entries(targets)?))
}

/// Lets others go first, for a random time that grows with the number of tries.
fn wait(tries: u32) -> Result<()> {
    if tries == 0 {
        return Ok(());
    }
    let mut random = [0; 2];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::host("no random numbers"))?;
    let most = WAIT_FIRST * (1 << tries.min(WAIT_DOUBLINGS));
    std::thread::sleep(most * u32::from(u16::from_le_bytes(random)) / u32::from(u16::MAX));
    Ok(())
}
