//! `imgrun gc`

use imgrun::{Garbage, KEEP_DEFAULT, Result, Unit};
use serde_json::json;

use super::{Shell, say};

/// Remove old versions and what killed pulls have left
///
/// Of each name the versions that came last stay, with the kernels that their images were built
/// with. What a machine runs from stays, too. Layers of container images stay for a week after
/// their last use.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Versions of each name to keep
    #[arg(long, value_name = "N", default_value_t = KEEP_DEFAULT)]
    keep: usize,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        let (keep, dry_run) = (self.keep, self.dry_run);
        let work = shell.blocking(move |progress, _| {
            let garbage = store.garbage(keep, progress)?;
            if dry_run { Ok(garbage) } else { store.collect(garbage) }
        });
        let gone = work.await?;
        if self.json {
            return say(&object(&gone, dry_run).to_string());
        }
        for stored in &gone.bundles {
            say(&format!("{} {}", stored.title(), stored.digest))?;
        }
        let drafts = gone.drafts.len();
        if drafts > 0 {
            say(&format!("{drafts} beginnings of pulls"))?;
        }
        if !gone.layers.is_empty() {
            let bytes = Unit::Bytes.amount(layer_bytes(&gone));
            say(&format!("{} layers and parts of container images, {bytes}", gone.layers.len()))?;
        }
        Ok(())
    }
}

pub(super) fn object(gone: &Garbage, dry_run: bool) -> serde_json::Value {
    let bundles = gone.bundles.iter().map(|stored| {
        let manifest = &stored.manifest;
        json!({ "name": manifest.name, "version": manifest.version, "digest": stored.digest })
    });
    let bundles: Vec<_> = bundles.collect();
    json!({
        "removed": bundles, "drafts": gone.drafts.len(),
        "layers": gone.layers.len(), "layer_bytes": layer_bytes(gone), "dry_run": dry_run,
    })
}

fn layer_bytes(gone: &Garbage) -> u64 {
    gone.layers.iter().map(|item| item.bytes).sum()
}
