//! What nobody needs any more.

use std::collections::{BTreeMap, BTreeSet};

use imgrun::catalog::{Entry, INDEX, METADATA, TARGETS, entries, target_key};
use imgrun::tuf::{Role, Targets, time};

use super::Publisher;
use super::notice::Notice;
use crate::Result;
use crate::depot::Listed;

/// What stays.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// So many versions of each name and architecture, those published last; `None`: all.
    pub newest: Option<usize>,
    /// Whether yanked versions stay.
    pub yanked: bool,
    /// Files that nothing names stay for so many seconds: they may be a publication under way, or a
    /// reader may be between two files of an older catalog.
    pub unused_seconds: u64,
}

/// What was, or would be, taken away.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Bundles that are no longer listed.
    pub entries: Vec<Entry>,
    /// Files that were removed.
    pub files: Vec<Listed>,
}

impl Publisher<'_> {
    /// Takes out of the catalog what `keep` does not keep, and out of the depot what no bundle, no
    /// index and no present metadata is. The kernel of an image that stays, stays.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub fn prune(&self, keep: Keep, dry_run: bool) -> Result<Pruned> {
        let heads = self.heads()?;
        let before = heads.targets.signed.as_ref().map(entries).transpose()?.unwrap_or_default();
        let stays = kept(&before, keep);
        let entries = before.into_iter().filter(|e| !stays.contains(&e.path())).collect();
        if dry_run {
            return Ok(Pruned { entries, files: self.unused(keep, time::now(), &mut || Ok(()))? });
        }
        self.commit(&|targets| without(targets, keep))?;
        let unused = self.unused(keep, u64::MAX, &mut || Ok(()))?;
        let keys = unused.into_iter().map(|file| file.key).collect();
        let mut notice = Notice::give(self.depot, keys)?;
        let removed = self.remove(keep, &mut notice);
        notice.withdraw()?;
        let files = removed?;
        self.depot.sweep(keep.unused_seconds)?;
        Ok(Pruned { entries, files })
    }

    /// Removes what is unused now, and was when `notice` was given of it.
    fn remove(&self, keep: Keep, notice: &mut Notice<'_>) -> Result<Vec<Listed>> {
        let given = notice.given;
        let mut files = self.unused(keep, given, &mut || notice.renew())?;
        files.retain(|file| notice.lists(&file.key));
        // An index before its frames: what it is the index of is then simply not there.
        files.sort_by_key(|file| !file.key.ends_with(".chunks"));
        for file in &files {
            imgrun::interrupt::check()?;
            notice.renew()?;
            self.depot.delete(&file.key)?;
        }
        Ok(files)
    }

    /// The files that are neither needed nor young at the time `now`, in seconds since 1970. `step`
    /// is called before each file that is read for that: there may be many.
    fn unused(
        &self,
        keep: Keep,
        now: u64,
        step: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Listed>> {
        let heads = self.heads()?;
        let Some(targets) = &heads.targets.signed else { return Ok(Vec::new()) };
        let stays = kept(&entries(targets)?, keep);
        let named: BTreeSet<String> = targets
            .targets
            .iter()
            .filter(|(path, target)| {
                let ours = target.custom.is_some() && *path != INDEX;
                !ours || stays.contains(*path)
            })
            .filter_map(|(path, target)| Some(target_key(path, &target.digest()?)))
            .collect();
        let old = |file: &Listed| file.modified.saturating_add(keep.unused_seconds) <= now;
        let mut files = self.depot.list(&format!("{TARGETS}/"))?;
        let named = self.with_chunks(named, &files, &old, step)?;
        files.retain(|file| old(file) && !named.contains(&file.key));
        let versions = BTreeMap::from([
            (Role::Targets, heads.targets.signed.as_ref().map_or(0, |t| t.version)),
            (Role::Snapshot, heads.snapshot.signed.as_ref().map_or(0, |s| s.version)),
            (Role::Timestamp, heads.timestamp.signed.as_ref().map_or(0, |t| t.version)),
        ]);
        let superseded = |file: &Listed| {
            let name = file.key.strip_prefix(&format!("{METADATA}/"));
            let mut parts = name.unwrap_or_default().split('.');
            let number = parts.next().and_then(|n| n.parse::<u64>().ok());
            let role = parts.next().and_then(|role| role.parse::<Role>().ok());
            let last = role.and_then(|role| versions.get(&role));
            number.zip(last).is_some_and(|(number, last)| number < *last)
        };
        let metadata = self.depot.list(&format!("{METADATA}/"))?;
        files.extend(metadata.into_iter().filter(|file| old(file) && superseded(file)));
        Ok(files)
    }
}

impl Publisher<'_> {
    /// `named` and what those of them need that are in pieces; also those in pieces that are too
    /// young to be judged.
    fn with_chunks(
        &self,
        named: BTreeSet<String>,
        files: &[Listed],
        old: &dyn Fn(&Listed) -> bool,
        step: &mut dyn FnMut() -> Result<()>,
    ) -> Result<BTreeSet<String>> {
        let mut all = named.clone();
        for file in files {
            let Some(key) = file.key.strip_suffix(".chunks") else { continue };
            if named.contains(key) || !old(file) {
                imgrun::interrupt::check()?;
                step()?;
                all.extend(self.chunk_keys(key)?);
            }
        }
        Ok(all)
    }
}

/// `targets` without what does not stay.
fn without(targets: &Targets, keep: Keep) -> Result<Option<Targets>> {
    let before = entries(targets)?;
    let stays = kept(&before, keep);
    let mut next = targets.clone();
    for entry in before.iter().filter(|e| !stays.contains(&e.path())) {
        next.targets.remove(&entry.path());
    }
    Ok((next != *targets).then_some(next))
}

/// The paths of those that stay.
fn kept(all: &[Entry], keep: Keep) -> BTreeSet<String> {
    let mut groups: BTreeMap<_, Vec<&Entry>> = BTreeMap::new();
    for entry in all.iter().filter(|e| keep.yanked || e.about.yanked.is_none()) {
        groups.entry((&entry.name, entry.arch)).or_default().push(entry);
    }
    let mut stays: Vec<&Entry> = Vec::new();
    for group in groups.values_mut() {
        group.sort_by(|a, b| {
            let key = |e: &Entry| (e.about.published.clone(), e.version.clone());
            key(b).cmp(&key(a))
        });
        stays.extend(group.iter().take(keep.newest.unwrap_or(usize::MAX)));
    }
    let kernels: BTreeSet<_> =
        stays.iter().filter_map(|e| Some(e.about.kernel.as_ref()?.digest)).collect();
    let needed = all.iter().filter(|e| kernels.contains(&e.digest));
    stays.iter().copied().chain(needed).map(Entry::path).collect()
}
