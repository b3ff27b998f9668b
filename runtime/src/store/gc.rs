//! What the store need not keep.

use std::collections::{HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bundle::{Arch, Digest, Kind, Name};

use super::{Store, Stored};
use crate::cache::{Cache, Inventory, Item};
use crate::date;
use crate::kept::Kept;
use crate::lease::is_still;
use crate::{Error, Progress, Result, Snapshot};

/// Versions of a name that are kept where nothing else is said: the present one and the one before.
pub const KEEP_DEFAULT: usize = 2;
/// What a killed pull has left is kept so long: somebody may go on with it.
const DRAFT_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is to go.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Bundles that no rule keeps.
    pub bundles: Vec<Stored>,
    /// Beginnings of pulls that nobody has gone on with for a week.
    pub drafts: Vec<PathBuf>,
    /// Layers of container images, and what belongs to them, that nobody has used for a week.
    pub layers: Vec<Item>,
}

/// A bundle in use: until this is dropped, [`Store::garbage`] passes it over.
#[derive(Clone, Debug)]
pub struct Hold(#[allow(dead_code)] std::sync::Arc<File>);

impl Stored {
    /// Says that the bundle is in use by this process: take it before a machine boots from it.
    ///
    /// # Errors
    /// [`crate::Class::Input`] where it was removed meanwhile.
    pub fn hold(&self) -> Result<Hold> {
        let gone = || Error::input(format!("{} was removed meanwhile", self.title()));
        let dir = File::open(&self.dir).map_err(|_| gone())?;
        // Shared: machines do not disturb each other. Who removes bundles holds it for an instant.
        dir.lock_shared().map_err(|e| Error::io(self.dir.display(), e))?;
        if !is_still(&self.dir, &dir) {
            return Err(gone());
        }
        Ok(Hold(std::sync::Arc::new(dir)))
    }

    /// Whether a process holds it.
    pub fn is_held(&self) -> bool {
        let dir = File::open(&self.dir);
        dir.is_ok_and(|dir| matches!(dir.try_lock(), Err(TryLockError::WouldBlock)))
    }
}

impl Store {
    /// What can go, if of each name, kind and architecture the `keep` bundles that came last stay,
    /// with the kernels that the images among them name, what is in use, and what machines with a
    /// name and snapshots need to start.
    ///
    /// # Errors
    /// Where the store can not be read.
    pub fn garbage(&self, keep: usize, progress: &Progress) -> Result<Garbage> {
        let mut all = self.list(progress)?;
        all.sort_by_key(|s| std::cmp::Reverse((s.imported, s.digest)));
        let (machines, snapshots) = (Kept::all(self)?, Snapshot::all(self)?);
        let mut counts: HashMap<(Name, Arch), usize> = HashMap::new();
        let mut kept: HashSet<Digest> = HashSet::new();
        for stored in &all {
            let manifest = &stored.manifest;
            let count = counts.entry((manifest.name.clone(), manifest.arch)).or_default();
            *count += 1;
            let is_image = manifest.kind == Kind::Image;
            let named = machines.iter().any(|machine| machine.names(stored))
                || snapshots.iter().any(|snapshot| snapshot.names(stored));
            if *count > keep && !stored.is_held() && !named {
                continue;
            }
            kept.insert(stored.digest);
            if is_image {
                kept.extend(manifest.kernel.as_ref().map(|kernel| kernel.digest));
            }
        }
        let bundles = all.into_iter().filter(|s| !kept.contains(&s.digest)).collect();
        let now = SystemTime::now();
        let old =
            |changed: SystemTime| now.duration_since(changed).is_ok_and(|age| age > DRAFT_AGE_MAX);
        let drafts = self.drafts()?.into_iter().filter(|(_, changed)| old(*changed));
        let drafts = drafts.map(|(dir, _)| dir).collect();
        Ok(Garbage { bundles, drafts, layers: self.prune_layers(true)? })
    }

    /// Removes the layers that nobody has used for a week, or only names them.
    fn prune_layers(&self, dry_run: bool) -> Result<Vec<Item>> {
        if !self.layers().exists() {
            return Ok(Vec::new());
        }
        let cache = Cache::open(&self.layers())?;
        let before = date::now().saturating_sub(DRAFT_AGE_MAX.as_secs());
        Ok(Inventory::read(&cache)?.prune(before, dry_run)?.removed)
    }

    /// Removes it, but what somebody has begun to use meanwhile. Returns what is gone.
    ///
    /// # Errors
    /// Where something can not be removed; what was removed before is gone.
    pub fn collect(&self, garbage: Garbage) -> Result<Garbage> {
        let mut gone = Garbage::default();
        for stored in garbage.bundles {
            let Ok(dir) = File::open(&stored.dir) else { continue };
            // Kept until it is gone: who wants to hold it waits, and then finds that out.
            if dir.try_lock().is_err() {
                continue;
            }
            // Who makes a machine holds its bundles until it is there, so this is all of them.
            if Kept::all(self)?.iter().any(|machine| machine.names(&stored))
                || Snapshot::all(self)?.iter().any(|snapshot| snapshot.names(&stored))
            {
                continue;
            }
            self.remove(stored.digest)?;
            gone.bundles.push(stored);
        }
        for draft in garbage.drafts {
            if self.remove_draft(&draft)? {
                gone.drafts.push(draft);
            }
        }
        if !garbage.layers.is_empty() {
            gone.layers = self.prune_layers(false)?;
        }
        Ok(gone)
    }
}
