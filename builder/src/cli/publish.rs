//! `imgtool publish`.

use std::path::PathBuf;

use imgrun::{Error, Progress, Result, Unit};
use imgtool::publish::{Action, Draft, Item, Options};

use super::place::Sign;

/// Publish bundles: upload them, read them back, and list them in the store's signed catalog.
///
/// Any number of publishers may work at once, on one version for several architectures, too. A
/// version that is published never changes. If this is cut at any point, the old catalog stays
/// valid, and the same command finishes the work.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Packed bundles; an image's kernel is one, too.
    #[arg(required = true, value_name = "BUNDLE")]
    bundles: Vec<PathBuf>,
    /// The store: file:DIRECTORY, s3://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY.
    #[arg(long, value_name = "STORE")]
    to: String,
    #[command(flatten)]
    options: PublishOptions,
}

const EXAMPLES: &str = "\
Examples:
  imgtool key new me                                      a key, once
  imgtool catalog init file:/srv/images --key me          a catalog, once
  imgtool publish out/*.tar.zst --to file:/srv/images     what was built
  imgtool publish out/*.tar.zst --to s3://images --dry-run";

/// What `publish` and `catalog add` have in common.
#[derive(clap::Args, Debug)]
pub(crate) struct PublishOptions {
    /// Publish bundles that were not tested.
    #[arg(long)]
    untested: bool,
    /// Upload only what the store has not got of earlier versions. Such a bundle is in pieces there,
    /// which imgrun reads as if it were whole; other TUF clients see it listed and do not find it.
    #[arg(long)]
    chunked: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    sign: Sign,
}

impl Args {
    /// Does it.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        self.options.run(&self.to, self.bundles, json, progress)
    }
}

impl PublishOptions {
    /// Publishes `bundles` to `store`.
    pub(crate) fn run(
        self,
        store: &str,
        bundles: Vec<PathBuf>,
        json: bool,
        progress: &Progress,
    ) -> Result<()> {
        if self.chunked && store.starts_with("oci:") {
            return Err(Error::usage("--chunked: a registry keeps whole bundles only")
                .hint("file: and s3: keep them in pieces"));
        }
        let mut drafts = Vec::new();
        for file in &bundles {
            let size = std::fs::metadata(file).map_or(0, |m| m.len());
            let stage =
                progress.stage(format!("check {}", file.display()), Unit::Bytes, Some(size));
            let draft = Draft::read(file)?;
            stage.finish(draft.entry.digest.short());
            drafts.push(draft);
        }
        let options = Options { untested: self.untested, chunked: self.chunked };
        let (items, version) = if self.dry_run {
            (self.sign.planner(store, progress, |planner| planner.plan(drafts, options))?, None)
        } else {
            let report = self.sign.publisher(store, progress, |publisher| {
                publisher.publish(publisher.plan(drafts, options)?)
            })?;
            (report.items, Some(report.version))
        };
        if json {
            let bundles: Vec<_> = items.iter().map(line).collect();
            super::print(serde_json::json!({
                "store": store, "dry_run": self.dry_run, "targets": version, "bundles": bundles,
            }));
            return Ok(());
        }
        for item in &items {
            let entry = &item.draft.entry;
            let action = match (item.action, self.dry_run) {
                (Action::Upload, true) => "would upload",
                (Action::Upload, false) => "uploaded",
                (Action::List, true) => "would list",
                (Action::List, false) => "listed",
                (Action::Nothing, _) => "is published",
            };
            let size = Unit::Bytes.amount(entry.size);
            super::print(format!("{action:<12}  {size:>11}  {}  {}", entry.digest, entry.title()));
        }
        Ok(())
    }
}

fn line(item: &Item) -> serde_json::Value {
    let mut line = item.draft.entry.to_json();
    line["action"] = serde_json::json!(item.action);
    line["file"] = serde_json::json!(item.draft.file);
    line
}
