//! `imgtool catalog …`.

mod init;
mod mend;

use std::path::PathBuf;

use bundle::{Arch, Name, Version};
use clap::Subcommand;
use imgrun::catalog::Entry;
use imgrun::tuf::{Clock, Role, Signed, time};
use imgrun::{Error, Progress, Result, Unit};
use imgtool::publish::{self, Keep};

use super::cache::parse_age;
use super::place::{Sign, Trust};
use super::publish::PublishOptions;

/// Signed catalogs: what a store publishes, and what nobody should use any more.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Init(init::Args),
    /// List what is published, after verifying it.
    Show(Read),
    /// Verify the catalog, and that every bundle that it lists is there.
    Verify(Verify),
    /// Publish bundles: the same as `imgtool publish BUNDLE… --to STORE`.
    Add(Add),
    /// Say of a version that nobody should use it any more, and why. Its bytes stay.
    Yank(Yank),
    /// Remove old versions, and files that nothing needs. Kernels of images that stay, stay.
    Prune(Prune),
    /// Sign the timestamp anew, so that readers know that nothing is hidden from them: for a cron.
    /// Other metadata that would run out soon are signed anew, too, where their keys are at hand.
    Refresh(Refresh),
    Mend(mend::Args),
}

#[derive(clap::Args, Debug)]
struct Read {
    /// The store: file:DIRECTORY, https://HOST/PATH, s3://BUCKET/PREFIX, oci://REGISTRY/REPOSITORY.
    store: String,
    #[command(flatten)]
    trust: Trust,
}

#[derive(clap::Args, Debug)]
struct Verify {
    #[command(flatten)]
    read: Read,
    /// Read every bundle and compare its digest, not only its size.
    #[arg(long)]
    deep: bool,
}

#[derive(clap::Args, Debug)]
struct Add {
    /// The store.
    store: String,
    /// Packed bundles.
    #[arg(required = true, value_name = "BUNDLE")]
    bundles: Vec<PathBuf>,
    #[command(flatten)]
    options: PublishOptions,
}

#[derive(clap::Args, Debug)]
#[group(id = "why", required = true, args = ["reason", "undo"])]
struct Yank {
    /// The store.
    store: String,
    /// What: NAME:VERSION.
    #[arg(value_name = "NAME:VERSION")]
    what: String,
    /// Only for this architecture.
    #[arg(long)]
    arch: Option<Arch>,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Take it back.
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    sign: Sign,
}

#[derive(clap::Args, Debug)]
struct Prune {
    /// The store.
    store: String,
    /// Keep so many versions of each name and architecture: those published last.
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Remove yanked versions, too.
    #[arg(long)]
    yanked: bool,
    /// How long a file must have been there without anything naming it. Less than a publication
    /// takes is dangerous.
    #[arg(long, value_name = "AGE", default_value = "2d", value_parser = parse_age)]
    unused_for: u64,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    sign: Sign,
}

#[derive(clap::Args, Debug)]
struct Refresh {
    /// The store.
    store: String,
    /// Also where timestamp.json is damaged or gone: go on from what this host has seen last.
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    sign: Sign,
}

impl Args {
    /// Does it.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        match self.verb {
            Verb::Init(args) => args.run(json, progress),
            Verb::Show(args) => args.show(json),
            Verb::Verify(args) => args.run(json),
            Verb::Add(args) => args.options.run(&args.store, args.bundles, json, progress),
            Verb::Yank(args) => args.run(json, progress),
            Verb::Prune(args) => args.run(json, progress),
            Verb::Refresh(args) => args.run(json, progress),
            Verb::Mend(args) => args.run(json, progress),
        }
    }
}

/// `debian:12 x86_64  image   36.20 MiB  sha256:…  yanked: reason`
pub(super) fn line(entry: &Entry) -> String {
    let kind = format!("{:?}", entry.about.kind).to_lowercase();
    let size = Unit::Bytes.amount(entry.size);
    let yanked = entry.about.yanked.as_ref().map(|why| format!("  yanked: {why}"));
    let (title, digest) = (entry.title(), entry.digest);
    format!("{title:<32}  {kind:<6}  {size:>11}  {digest}{}", yanked.unwrap_or_default())
}

pub(super) fn lines(entries: &[Entry]) -> Vec<serde_json::Value> {
    entries.iter().map(Entry::to_json).collect()
}

impl Read {
    fn show(self, json: bool) -> Result<()> {
        let (_, catalog) = self.trust.open(&self.store, Clock::now())?;
        let trusted = &catalog.trusted;
        let roles = [
            (Role::Root, trusted.root.version, trusted.root.expires()),
            (Role::Targets, trusted.targets.version, trusted.targets.expires()),
            (Role::Snapshot, trusted.snapshot.version, trusted.snapshot.expires()),
            (Role::Timestamp, trusted.timestamp.version, trusted.timestamp.expires()),
        ];
        if json {
            let roles: serde_json::Map<_, _> = roles
                .into_iter()
                .map(|(role, version, expires)| {
                    let expires = time::to_text(expires);
                    let about = serde_json::json!({ "version": version, "expires": expires });
                    (role.name().to_string(), about)
                })
                .collect();
            super::print(serde_json::json!({
                "store": self.store, "roles": roles, "bundles": lines(&catalog.entries),
            }));
            return Ok(());
        }
        for entry in &catalog.entries {
            super::print(line(entry));
        }
        for (role, version, expires) in roles {
            super::print(format!("{role} {version}, valid until {}", time::to_text(expires)));
        }
        Ok(())
    }
}

impl Verify {
    fn run(self, json: bool) -> Result<()> {
        let store = &self.read.store;
        let (depot, catalog) = self.read.trust.open(store, Clock::now())?;
        let wrong = publish::examine(depot.as_ref(), &catalog, self.deep)?;
        if let Some(first) = wrong.first() {
            let more = if wrong.len() > 1 {
                format!(" (and {} more)", wrong.len() - 1)
            } else {
                String::new()
            };
            return Err(Error::trust(format!("{store}: {first}{more}")).detail(wrong.join("\n")));
        }
        let (bundles, version) = (catalog.entries.len(), catalog.trusted.targets.version);
        if json {
            super::print(serde_json::json!({
                "store": store, "targets": version, "bundles": bundles, "deep": self.deep,
            }));
        } else {
            super::print(format!("{store}: valid, version {version}, {bundles} bundles"));
        }
        Ok(())
    }
}

impl Yank {
    fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let wrong = || Error::usage(format!("{:?}: NAME:VERSION is wanted", self.what));
        let (name, version) = self.what.split_once(':').ok_or_else(wrong)?;
        let name: Name = name.parse().map_err(|_| wrong())?;
        let version: Version = version.parse().map_err(|_| wrong())?;
        let matches = |e: &Entry| {
            e.name == name && e.version == version && self.arch.is_none_or(|arch| arch == e.arch)
        };
        let reason = self.reason.as_deref();
        let yanked = self
            .sign
            .publisher(&self.store, progress, |publisher| publisher.yank(&matches, reason))?;
        if json {
            super::print(serde_json::json!({ "bundles": lines(&yanked) }));
            return Ok(());
        }
        for entry in &yanked {
            super::print(line(entry));
        }
        Ok(())
    }
}

impl Prune {
    fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let keep =
            Keep { newest: self.keep, yanked: !self.yanked, unused_seconds: self.unused_for };
        let pruned = match self.dry_run {
            true => self.sign.planner(&self.store, progress, |p| p.prune(keep, true))?,
            false => self.sign.publisher(&self.store, progress, |p| p.prune(keep, false))?,
        };
        let bytes: u64 = pruned.files.iter().map(|file| file.size).sum();
        if json {
            let files: Vec<_> = pruned.files.iter().map(|file| &file.key).collect();
            super::print(serde_json::json!({
                "dry_run": self.dry_run, "bundles": lines(&pruned.entries), "files": files,
                "freed_bytes": bytes,
            }));
            return Ok(());
        }
        for entry in &pruned.entries {
            super::print(line(entry));
        }
        let (verb, n) = (if self.dry_run { "would free" } else { "freed" }, pruned.files.len());
        super::print(format!("{verb} {} in {n} files", Unit::Bytes.amount(bytes)));
        Ok(())
    }
}

impl Refresh {
    fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let catalog = self.sign.publisher(&self.store, progress, |publisher| {
            if self.repair { publisher.repair() } else { publisher.refresh() }
        })?;
        let timestamp = &catalog.trusted.timestamp;
        let (version, until) = (timestamp.version, time::to_text(timestamp.expires()));
        if json {
            super::print(serde_json::json!({ "timestamp": version, "expires": until }));
        } else {
            super::print(format!("timestamp {version}, valid until {until}"));
        }
        Ok(())
    }
}
