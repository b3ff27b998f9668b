//! Keeping a host up to date: names and channels, brought to what the catalogs list today.
//!
//! ```text
//! config    what to follow            state    what was reached, and when
//! plan      what is to be done        report   what came of it: JSON, Prometheus
//! ```
//! Catalogs are asked once, each bundle that is followed is read and compared with its digests, and
//! that gives a [`Plan`], which is a value. To apply it is to pull, to repair, and to write down
//! what was reached, name by name, after it was. Only then do old versions go, and never the one
//! before. Whatever fails leaves the name where it was, and the others go on.

mod config;
mod plan;
mod report;
mod state;

use std::collections::HashSet;
use std::time::Instant;

use bundle::{Digest, Name};

use crate::feed::{Feed, Flags};
use crate::offer::Offer;
use crate::pull::{Options, Pulled};
use crate::store::lock;
use crate::tuf::time;
use crate::{Cancel, Class, Error, Progress, Result, Store, Stored};

pub use config::{Config, Follow};
pub use plan::{Action, Item, Plan, Step};
pub use report::{Outcome, Report};
use state::{Reached, State};

/// Brings all that `config` follows up to date; `flags` name the catalogs. With `dry_run` it only
/// says what it would do.
///
/// # Errors
/// Where nothing could be begun. What failed of one name is in the [`Report`].
pub fn sync(
    store: &Store,
    config: &Config,
    flags: &Flags,
    dry_run: bool,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Report> {
    let (began, began_s) = (Instant::now(), time::now());
    // Two at once would undo each other's memory.
    let _lock = lock(&store.home().join("sync.lock"), cancel)?;
    let mut state = State::load(store)?;
    let plan =
        Plan::make(store, config, Feed::all(flags, store)?, &state, dry_run, progress, cancel)?;
    let mut outcomes = Vec::new();
    for step in plan.steps {
        let follow = step.follow.clone();
        let done = match step.wanted {
            Err(e) => Err(e),
            Ok(wanted) if dry_run => Ok((wanted, Vec::new())),
            Ok(wanted) => {
                let pulled = apply(store, &wanted, config, progress, cancel);
                pulled.map(|pulled| (wanted, pulled))
            }
        };
        let previous = state.find(&follow).cloned();
        let done = done.and_then(|(wanted, pulled)| {
            if !dry_run {
                state.advance(&follow, &wanted, time::now());
                state.store(store)?;
            }
            Ok((wanted, pulled))
        });
        if let Err(e) = &done
            && e.class() == Class::Interrupted
        {
            return Err(Error::interrupted());
        }
        outcomes.push(Outcome { follow, previous, done });
    }
    let removed = match dry_run {
        true => Vec::new(),
        false => match collect(store, config, &state, &outcomes, progress) {
            Err(e) if e.class() != Class::Interrupted => {
                // What was brought here is here, whatever becomes of the old versions.
                progress.note(format!("old versions stay: {e}"));
                Vec::new()
            }
            collected => collected?,
        },
    };
    let seconds = began.elapsed().as_secs_f64();
    let reached = state.reached;
    Ok(Report { outcomes, removed, dry_run, began_s, seconds, reached })
}

fn apply(
    store: &Store,
    wanted: &plan::Wish,
    config: &Config,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Vec<Pulled>> {
    let options = Options { limit_rate: config.limit_rate };
    let mut all = Vec::new();
    for item in &wanted.items {
        let (offer, entry): (&Offer, _) = (&wanted.offer, &item.entry);
        match &item.action {
            Action::Keep => {}
            Action::Pull => all.push(offer.pull(store, entry, &options, progress, cancel)?),
            Action::Repair(_) => {
                all.push(offer.repair(store, entry.digest, &options, progress, cancel)?);
            }
        }
    }
    Ok(all)
}

/// Removes old versions of what is followed: never what is current, or was before.
fn collect(
    store: &Store,
    config: &Config,
    state: &State,
    outcomes: &[Outcome],
    progress: &Progress,
) -> Result<Vec<Stored>> {
    // What could not be brought up to date keeps all it has.
    let right = outcomes.iter().filter_map(|o| Some((&o.follow.name, o.done.as_ref().ok()?)));
    let mut names: HashSet<Name> = HashSet::new();
    for (name, (wanted, _)) in right {
        names.insert(name.clone());
        names.extend(wanted.items.iter().map(|item| item.entry.name.clone()));
    }
    for failed in outcomes.iter().filter(|o| o.done.is_err()) {
        names.remove(&failed.follow.name);
    }
    let images = state.digests().chain(items(outcomes));
    let needed = with_kernels(store, images.collect());
    let mut garbage = store.garbage(config.keep, progress)?;
    let may_go = |s: &Stored| names.contains(&s.manifest.name) && !needed.contains(&s.digest);
    garbage.bundles.retain(may_go);
    Ok(store.collect(garbage)?.bundles)
}

/// What the outcomes brought in or found.
fn items(outcomes: &[Outcome]) -> impl Iterator<Item = Digest> {
    let right = outcomes.iter().filter_map(|o| o.done.as_ref().ok());
    right.flat_map(|(wanted, _)| wanted.items.iter().map(|item| item.entry.digest))
}

/// The bundles `digests`, and the kernels without which the images among them do not boot.
fn with_kernels(store: &Store, mut digests: HashSet<Digest>) -> HashSet<Digest> {
    let kernels = digests.iter().filter_map(|digest| {
        let image = store.by_digest(*digest).ok().flatten()?;
        image.manifest.kernel.map(|kernel| kernel.digest)
    });
    let kernels: Vec<_> = kernels.collect();
    digests.extend(kernels);
    digests
}

/// As in Prometheus' text format.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use bundle::{Arch, Blob, Boot, Content, Init, Kind, Manifest, Packing, Reference};

    use super::*;

    #[test]
    fn what_stays_can_boot() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let kernel = Digest::of(b"k");
        let manifest = Manifest {
            schema: bundle::SCHEMA,
            kind: Kind::Image,
            name: "image".parse().unwrap(),
            version: "1".parse().unwrap(),
            arch: Arch::host(),
            files: vec![],
            frames: Blob::of([]),
            boot: Some(Boot { init: Init::Agent, cmdline: vec![], config: None }),
            kernel: Some(Reference {
                name: "k".parse().unwrap(),
                version: "6.1".parse().unwrap(),
                digest: kernel,
            }),
            agent: None,
            sources: vec![],
            recipe: Digest::of(b"r"),
            lock: None,
            packages: vec![],
            tool: "test".into(),
            tests: vec![],
        };
        let files = [(bundle::ROOTFS, &[0; 4096][..]), (bundle::SBOM, b"{}\n")];
        let files = files.map(|(name, file)| Content::new(name, file, file.len() as u64));
        let packing = Packing { level: 1, average_bytes: 64 << 10, threads: 1 };
        let out = Cursor::new(Vec::new());
        let (out, _) = bundle::pack(manifest, files.into(), out, &packing, |_| {}).unwrap();
        let file = home.path().join("file");
        std::fs::write(&file, out.into_inner()).unwrap();
        let image = store.import(&file, &Progress::silent(), &Cancel::new()).unwrap().bundle.digest;
        let gone = Digest::of(b"gone");
        let needed = with_kernels(&store, [image, gone].into());
        assert_eq!(needed, [image, gone, kernel].into());
    }
}
