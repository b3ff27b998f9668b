//! The plan of a publication, and its performance.

use std::collections::BTreeSet;
use std::io::Write;

use imgrun::catalog::{About, Catalog, Entry};
use imgrun::depot::{Depot, chunks_key};
use imgrun::interrupt;
use imgrun::tuf::Targets;
use imgrun::{Class, Stage, Unit};
use serde::Serialize;

use super::{Draft, Publisher};
use crate::depot::{Body, Put};
use crate::{Error, Result};

/// What has to happen to a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It goes up and is listed.
    Upload,
    /// It is there, not listed yet: a publication was cut, or lists it for another name.
    List,
    /// It is published already.
    Nothing,
}

/// A line of the plan.
#[derive(Clone, Debug)]
pub struct Item {
    /// The bundle.
    pub draft: Draft,
    /// What has to happen.
    pub action: Action,
    /// Whether it goes up in pieces.
    pub chunked: bool,
}

/// What a publication is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Publish bundles without tests that passed.
    pub untested: bool,
    /// Upload only the frames that the depot has not got: see [`imgrun::depot::Chunked`].
    pub chunked: bool,
}

/// What a publication did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The bundles and what had to happen.
    pub items: Vec<Item>,
    /// The version of the targets that list them.
    pub version: u64,
}

impl Publisher<'_> {
    /// What publishing `drafts` would do. Nothing is written.
    ///
    /// # Errors
    /// Where they can not be published: see [`Publisher::publish`].
    pub fn plan(&self, drafts: Vec<Draft>, options: Options) -> Result<Vec<Item>> {
        let heads = self.heads()?;
        let base = heads.targets.signed.as_ref().map(imgrun::catalog::entries).transpose()?;
        let base = base.unwrap_or_default();
        let drafts = self.tested(drafts, &heads.root, &base, options)?;
        let entries: Vec<Entry> = drafts.iter().map(|d| d.entry.clone()).collect();
        merge(&base, &entries)?;
        let item = |draft: Draft| {
            let key = draft.entry.key();
            let reader = self.reader();
            let there = if reader.is_whole(&key)? { reader.size(&key)? } else { None };
            let listed = base.iter().any(|e| covers(e, &draft.entry));
            let action = match (there, listed) {
                (None, _) => Action::Upload,
                (Some(size), _) if size != draft.entry.size => return Err(self.damaged(&draft)),
                (Some(_), false) => Action::List,
                (Some(_), true) => Action::Nothing,
            };
            Ok(Item { draft, action, chunked: options.chunked })
        };
        drafts.into_iter().map(item).collect()
    }

    /// Performs a plan: any number of times, at the same time as any others.
    ///
    /// # Errors
    /// [`crate::Class::Input`] where another bundle has that name, version and architecture already,
    /// or the kernel of an image is not published; [`crate::Class::Trust`] where what was read back
    /// is not what went up, or keys are missing.
    pub fn publish(&self, items: Vec<Item>) -> Result<Report> {
        for item in items.iter().filter(|item| item.action != Action::Nothing) {
            self.upload(item)?;
            match self.read_back(&item.draft) {
                // Nothing names it yet: what was there, or a piece of it, was pruned just now.
                Err(e) if e.class() == Class::Trust => {
                    if self.reader().is_whole(&item.draft.entry.key())? {
                        return Err(e);
                    }
                    self.complete(&item.draft)?;
                }
                done => done?,
            }
        }
        let entries: Vec<Entry> = items.iter().map(|i| i.draft.entry.clone()).collect();
        let stage = self.progress.stage("publish the catalog", Unit::Items, None);
        let catalog = self.commit(&|targets| change(targets, &entries))?;
        self.secure(&items)?;
        self.depot.announce(&catalog.entries, &entries)?;
        let version = catalog.trusted.targets.version;
        stage.finish(format!("version {version}"));
        Ok(Report { items, version })
    }

    fn damaged(&self, draft: &Draft) -> Error {
        let (title, key) = (self.depot.title(), draft.entry.key());
        Error::trust(format!("{title}: {key}: what is there is not what it is named after"))
            .hint("nothing is ever overwritten: remove that file, then publish again")
    }

    fn upload(&self, item: &Item) -> Result<()> {
        match item.action {
            Action::List | Action::Nothing => return Ok(()),
            Action::Upload if !item.chunked => return self.upload_whole(&item.draft),
            Action::Upload => {}
        }
        let heads = self.heads()?;
        let published = heads.targets.signed.as_ref().map(imgrun::catalog::entries).transpose()?;
        self.upload_chunks(&item.draft, &published.unwrap_or_default())
    }

    fn upload_whole(&self, draft: &Draft) -> Result<()> {
        let Draft { file, entry, .. } = draft;
        let stage =
            self.progress.stage(format!("upload {}", entry.path()), Unit::Bytes, Some(entry.size));
        let body = Body::File { path: file, size: entry.size, stage: &stage };
        let put = self.depot.put_new(&entry.key(), body)?;
        stage.finish(if put == Put::Created { "uploaded" } else { "was there" });
        Ok(())
    }

    /// Sees to it that what is listed now is there, whatever a prune has removed before it was.
    fn secure(&self, items: &[Item]) -> Result<()> {
        let mut keys = BTreeSet::new();
        for Item { draft, .. } in items {
            let key = draft.entry.key();
            if self.depot.size(&key)?.is_none() {
                keys.extend(self.chunk_keys(&key)?);
            }
            keys.extend([chunks_key(&key), key]);
        }
        self.outlast_prunes(&keys)?;
        items.iter().try_for_each(|item| self.complete(&item.draft))
    }

    /// Uploads what is not, or no longer, there as a whole.
    fn complete(&self, draft: &Draft) -> Result<()> {
        if self.reader().is_whole(&draft.entry.key())? {
            return Ok(());
        }
        self.upload_whole(draft)?;
        self.read_back(draft)
    }

    /// Compares what a reader gets with what was meant.
    fn read_back(&self, draft: &Draft) -> Result<()> {
        interrupt::check()?;
        let entry = &draft.entry;
        let title = format!("read back {}", entry.path());
        let stage = self.progress.stage(title, Unit::Bytes, Some(entry.size));
        entry.fetch(&self.reader(), &mut Counted(&stage)).map_err(|e| match e.class() {
            Class::Trust => self.damaged(draft),
            _ => e,
        })?;
        stage.finish("read");
        Ok(())
    }

    /// Says of every bundle that `matches` that nobody should use it any more, and why; or, without
    /// a reason, takes that back. The bytes stay. Returns those that it found.
    ///
    /// # Errors
    /// Where none matches, and as [`Publisher::publish`].
    pub fn yank(
        &self,
        matches: &dyn Fn(&Entry) -> bool,
        reason: Option<&str>,
    ) -> Result<Vec<Entry>> {
        let catalog = self.commit(&|targets| {
            let mut next = targets.clone();
            let mut found = false;
            for mut entry in imgrun::catalog::entries(targets)? {
                if matches(&entry) {
                    found = true;
                    entry.about.yanked = reason.map(str::to_string);
                    next.targets.insert(entry.path(), entry.to_target());
                }
            }
            if !found {
                return Err(Error::usage("the catalog lists no such bundle"));
            }
            Ok((next != *targets).then_some(next))
        })?;
        let yanked: Vec<_> = catalog.entries.iter().filter(|e| matches(e)).cloned().collect();
        self.depot.announce(&catalog.entries, &yanked)?;
        Ok(yanked)
    }
}

/// Looks for every bundle that `catalog` lists, whole or with all of its pieces; `deep` reads them and
/// compares digests, else only sizes are compared. Returns what is wrong.
///
/// # Errors
/// Where the depot can not be read.
pub fn examine(depot: &dyn Depot, catalog: &Catalog, deep: bool) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for entry in &catalog.entries {
        interrupt::check()?;
        let path = entry.path();
        if deep {
            match entry.fetch(depot, &mut std::io::sink()) {
                Err(error) if error.class() == Class::Trust => wrong.push(error.to_string()),
                result => result?,
            }
            continue;
        }
        match depot.size(&entry.key())? {
            None => wrong.push(format!("{path}: it is not there")),
            Some(size) if size != entry.size => {
                wrong.push(format!("{path}: it has {size} bytes instead of {}", entry.size));
            }
            Some(_) if !depot.is_whole(&entry.key())? => {
                wrong.push(format!("{path}: a piece of it is cut short or not there"));
            }
            Some(_) => {}
        }
    }
    Ok(wrong)
}

/// Lets a stage hear how many bytes were written, and forgets them.
struct Counted<'a>(&'a Stage);

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.add(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether the entry `there` says all that `new` would: the same bytes, and tested if those are.
fn covers(there: &Entry, new: &Entry) -> bool {
    let same = there.path() == new.path() && there.digest == new.digest;
    same && there.about.tested >= new.about.tested
}

/// `entries` on top of `base`: those that have to be added.
///
/// # Errors
/// Where one would replace another, or an image's kernel is nowhere.
fn merge(base: &[Entry], entries: &[Entry]) -> Result<Vec<Entry>> {
    let mut new: Vec<Entry> = Vec::new();
    for entry in entries {
        let there = base.iter().chain(&new).find(|e| e.path() == entry.path());
        match there {
            Some(there) if covers(there, entry) => {}
            // What was published untested was tested since.
            Some(there) if there.digest == entry.digest => {
                let about = About { tested: true, ..there.about.clone() };
                new.push(Entry { about, ..there.clone() });
            }
            Some(there) => {
                let (title, digest) = (entry.title(), there.digest);
                return Err(Error::input(format!(
                    "{title} is published already, with other bytes ({digest})"
                ))
                .hint("a version never changes: publish a new one"));
            }
            None => new.push(entry.clone()),
        }
    }
    for entry in entries {
        let Some(kernel) = &entry.about.kernel else { continue };
        let known = |e: &&Entry| e.digest == kernel.digest && e.arch == entry.arch;
        if base.iter().chain(&new).find(known).is_none() {
            let (title, digest) = (entry.title(), kernel.digest.short());
            return Err(Error::input(format!(
                "{title} needs the kernel {}:{} ({digest}), which is not published",
                kernel.name, kernel.version
            ))
            .hint("name the kernel's bundle, too: imgtool publish KERNEL IMAGE --to STORE"));
        }
    }
    Ok(new)
}

fn change(targets: &Targets, entries: &[Entry]) -> Result<Option<Targets>> {
    let base = imgrun::catalog::entries(targets)?;
    let new = merge(&base, entries)?;
    if new.is_empty() {
        return Ok(None);
    }
    let mut next = targets.clone();
    next.targets.extend(new.iter().map(|entry| (entry.path(), entry.to_target())));
    Ok(Some(next))
}
