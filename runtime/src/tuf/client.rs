//! From a root of trust to today's targets (TUF specification 1.0.33, 5.3 to 5.6).
//!
//! Each step takes what the one before has verified, checks signatures, versions, sizes, digests
//! and times, and remembers what it found before anybody uses it.

use super::key::Envelope;
use super::memory::{Memory, State};
use super::role::{MetaFile, Role, Root, SNAPSHOT, Signed, Snapshot, TARGETS, Targets, Timestamp};
use super::time;
use crate::{Error, Result};

/// Roots that are followed in one refresh: as many as the specification proposes.
const ROOT_UPDATES_MAX: u64 = 1024;
/// How many numbered timestamps are looked at where `timestamp.json` lags behind.
const TIMESTAMPS_AHEAD_MAX: u64 = 64;
/// No clock of ours is right before this: 2020-01-01. A machine without a battery says 1970.
const NOW_MIN: u64 = 1_577_836_800;

/// Gets one metadata file by name: at most so many bytes, `None` where it is not there.
pub type Fetch<'a> = dyn Fn(&str, u64) -> Result<Option<Vec<u8>>> + 'a;

/// Metadata that are signed, in date, and no older than what this host has seen.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// Who signs.
    pub root: Root,
    /// Which snapshot is the last.
    pub timestamp: Timestamp,
    /// Which targets are the last.
    pub snapshot: Snapshot,
    /// What is published.
    pub targets: Targets,
    /// The same as files, as they came.
    pub files: State,
}

/// What time it is for dates in metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Seconds since 1970.
    At(u64),
    /// Dates do not matter: only for who is about to sign anew.
    Ignored,
}

impl Clock {
    /// This machine's.
    pub fn now() -> Self {
        Clock::At(time::now())
    }
}

/// Brings `memory` up to date and returns what is now to be believed.
///
/// # Errors
/// [`crate::Class::Trust`] where anything is not as it must be, and what `fetch` fails with. What
/// was verified before the error stays remembered.
pub fn refresh(memory: &Memory, fetch: &Fetch<'_>, clock: Clock) -> Result<Trusted> {
    if let Clock::At(now) = clock
        && now < NOW_MIN
    {
        let now = time::to_text(now);
        return Err(Error::host(format!("this machine's clock says {now}, which is long past"))
            .hint("set the clock: signatures have dates"));
    }
    let state = memory.load()?.ok_or_else(|| {
        Error::trust("no root of trust is known for this catalog")
            .hint("name it: --root FILE, the root.json that its owner gave you")
    })?;
    let mut session = Session { memory, fetch, clock, state };
    let root = session.root()?;
    let timestamp = session.timestamp(&root)?;
    let snapshot = session.snapshot(&root, &timestamp)?;
    let targets = session.targets(&root, &snapshot)?;
    Ok(Trusted { root, timestamp, snapshot, targets, files: session.state })
}

/// One refresh.
struct Session<'a> {
    memory: &'a Memory,
    fetch: &'a Fetch<'a>,
    clock: Clock,
    state: State,
}

/// The signed part of `bytes`, signed by its role's keys in `root`.
pub fn open<T: Signed>(root: &Root, bytes: &[u8], what: &str) -> Result<T> {
    let envelope = Envelope::parse(bytes, what)?;
    root.verify(T::ROLE, &envelope, what)?;
    T::read(&envelope, what)
}

/// The root that follows `root`: signed by both, one version further.
///
/// # Errors
/// [`crate::Class::Trust`] where it does not follow.
pub fn next_root(root: &Root, bytes: &[u8], what: &str) -> Result<Root> {
    let envelope = Envelope::parse(bytes, what)?;
    root.verify(Role::Root, &envelope, what)?;
    let next = Root::read(&envelope, what)?;
    next.verify(Role::Root, &envelope, what)?;
    if next.version != root.version + 1 {
        let (found, wanted) = (next.version, root.version + 1);
        return Err(Error::trust(format!("{what}: it has version {found} instead of {wanted}")));
    }
    Ok(next)
}

impl Session<'_> {
    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        let gone = || Error::trust(format!("{name}: it is not there"));
        (self.fetch)(name, bytes_max)?.ok_or_else(gone)
    }

    /// What is remembered of a role, if the root's keys still vouch for it. A role whose keys were
    /// replaced begins anew: so its owner recovers from a stolen key that has signed version 2^63.
    fn known<T: Signed>(&self, root: &Root) -> Option<T> {
        open(root, self.state.file(T::ROLE)?.as_bytes(), T::ROLE.name()).ok()
    }

    fn remember(&mut self, role: Role, bytes: Vec<u8>, name: &str) -> Result<()> {
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::trust(format!("{name}: it is not in UTF-8")))?;
        if let Some(slot) = self.state.slot(role) {
            *slot = Some(text);
        }
        self.memory.store(&self.state)
    }

    fn in_date(&self, signed: &impl Signed, role: Role) -> Result<()> {
        if let Clock::At(now) = self.clock
            && signed.expires() <= now
        {
            let (then, now) = (time::to_text(signed.expires()), time::to_text(now));
            let error = format!("{role} metadata expired at {then}; it is {now} now");
            return Err(Error::trust(error).hint(
                "its owner must sign anew (imgtool catalog refresh), or the clock is wrong",
            ));
        }
        Ok(())
    }

    fn root(&mut self) -> Result<Root> {
        let known = Envelope::parse(self.state.root.as_bytes(), "root.json")?;
        let mut root = Root::read(&known, "root.json")?;
        root.verify(Role::Root, &known, "root.json")?;
        let last = root.version.saturating_add(ROOT_UPDATES_MAX);
        loop {
            let name = Role::Root.file(root.version + 1);
            let Some(bytes) = (self.fetch)(&name, Role::Root.bytes_max())? else { break };
            if root.version == last {
                return Err(Error::trust(format!(
                    "{name}: too many roots since the one known here"
                ))
                .hint("try again: those before are remembered now"));
            }
            root = next_root(&root, &bytes, &name)?;
            self.state.root = String::from_utf8_lossy(&bytes).into_owned();
            self.drop_unsigned(&root);
            self.memory.store(&self.state)?;
        }
        self.in_date(&root, Role::Root)?;
        Ok(root)
    }

    /// Forgets what the new root's keys do not vouch for.
    fn drop_unsigned(&mut self, root: &Root) {
        let timestamp = self.known::<Timestamp>(root).is_some();
        let snapshot = timestamp && self.known::<Snapshot>(root).is_some();
        let targets = snapshot && self.known::<Targets>(root).is_some();
        let kept = [timestamp, snapshot, targets];
        for (role, kept) in [Role::Timestamp, Role::Snapshot, Role::Targets].into_iter().zip(kept) {
            if let (false, Some(slot)) = (kept, self.state.slot(role)) {
                *slot = None;
            }
        }
    }

    fn timestamp(&mut self, root: &Root) -> Result<Timestamp> {
        let known = self.known::<Timestamp>(root);
        let name = "timestamp.json";
        let mut bytes = self.get(name, Role::Timestamp.bytes_max())?;
        let mut new: Timestamp = open(root, &bytes, name)?;
        if let Some(known) = &known {
            if new.version < known.version {
                (new, bytes) = self.ahead(root, known)?;
            }
            let (old, seen) = (new.snapshot()?.version, known.snapshot()?.version);
            if new.version > known.version && old < seen {
                return Err(rolled_back("snapshot", old, seen));
            }
            if new.version == known.version {
                self.in_date(known, Role::Timestamp)?;
                return Ok(known.clone());
            }
        }
        new.snapshot()?;
        self.in_date(&new, Role::Timestamp)?;
        self.remember(Role::Timestamp, bytes, name)?;
        Ok(new)
    }

    /// `timestamp.json` is older than what we know. A publisher that was overtaken may have written
    /// it last; then the numbered files, which nobody overwrites, still have the newer ones. Where
    /// they have not, somebody wants us to go back.
    fn ahead(&self, root: &Root, known: &Timestamp) -> Result<(Timestamp, Vec<u8>)> {
        let mut found = None;
        let ahead = if root.numbered_timestamps { TIMESTAMPS_AHEAD_MAX } else { 0 };
        for version in known.version..known.version.saturating_add(ahead) {
            let name = Role::Timestamp.file(version);
            let Some(bytes) = (self.fetch)(&name, Role::Timestamp.bytes_max())? else { break };
            let timestamp: Timestamp = open(root, &bytes, &name)?;
            if timestamp.version != version {
                break;
            }
            found = Some((timestamp, bytes));
        }
        found.ok_or_else(|| {
            Error::trust(format!(
                "timestamp.json: it is older than what this host has seen (version {})",
                known.version
            ))
        })
    }

    fn snapshot(&mut self, root: &Root, timestamp: &Timestamp) -> Result<Snapshot> {
        let meta = timestamp.snapshot()?;
        let known = self.known::<Snapshot>(root);
        let text = self.state.snapshot.as_deref().unwrap_or_default();
        let same = |k: &&Snapshot| {
            k.version == meta.version && meta.check(text.as_bytes(), SNAPSHOT).is_ok()
        };
        if let Some(known) = known.as_ref().filter(same) {
            self.in_date(known, Role::Snapshot)?;
            return Ok(known.clone());
        }
        let (name, bytes) = self.meta(root, Role::Snapshot, meta)?;
        let new: Snapshot = self.numbered(root, meta, &bytes, &name)?;
        for (file, known) in known.iter().flat_map(|known| &known.meta) {
            match new.meta.get(file) {
                Some(meta) if meta.version >= known.version => {}
                Some(meta) => return Err(rolled_back(file, meta.version, known.version)),
                None => return Err(Error::trust(format!("{name}: it lacks {file}"))),
            }
        }
        new.targets()?;
        self.in_date(&new, Role::Snapshot)?;
        self.remember(Role::Snapshot, bytes, &name)?;
        Ok(new)
    }

    fn targets(&mut self, root: &Root, snapshot: &Snapshot) -> Result<Targets> {
        let meta = snapshot.targets()?;
        let known = self.known::<Targets>(root);
        let text = self.state.targets.as_deref().unwrap_or_default();
        let same = |k: &&Targets| {
            k.version == meta.version && meta.check(text.as_bytes(), TARGETS).is_ok()
        };
        if let Some(known) = known.as_ref().filter(same) {
            self.in_date(known, Role::Targets)?;
            return Ok(known.clone());
        }
        let (name, bytes) = self.meta(root, Role::Targets, meta)?;
        let new: Targets = self.numbered(root, meta, &bytes, &name)?;
        self.in_date(&new, Role::Targets)?;
        self.remember(Role::Targets, bytes, &name)?;
        Ok(new)
    }

    /// A file that other metadata name, with the size and digest that they give.
    fn meta(&self, root: &Root, role: Role, meta: &MetaFile) -> Result<(String, Vec<u8>)> {
        let plain = || format!("{role}.json");
        let name = if root.consistent_snapshot { role.file(meta.version) } else { plain() };
        let bytes = self.get(&name, meta.length.unwrap_or(u64::MAX).min(role.bytes_max()))?;
        meta.check(&bytes, &name)?;
        Ok((name, bytes))
    }

    fn numbered<T: Signed>(
        &self,
        root: &Root,
        meta: &MetaFile,
        bytes: &[u8],
        name: &str,
    ) -> Result<T> {
        let signed: T = open(root, bytes, name)?;
        if signed.version() != meta.version {
            let (found, wanted) = (signed.version(), meta.version);
            return Err(Error::trust(format!("{name}: it has version {found}, not {wanted}")));
        }
        Ok(signed)
    }
}

fn rolled_back(what: &str, found: u64, seen: u64) -> Error {
    Error::trust(format!("{what}: version {found} is older than {seen}, which this host has seen"))
}
