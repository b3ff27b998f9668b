//! `imgrun inspect NAME`

use std::os::unix::fs::MetadataExt;

use imgrun::{Result, Stored, Unit};
use serde_json::{Value, json};

use super::{Shell, say};

/// Show what a bundle in the local store says of itself
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// name, name:version, or the first twelve or more digits of the digest
    name: String,
    /// Print one JSON object, with all of the manifest
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        let stored = store.find(&self.name, None, &shell.progress)?;
        let on_disk = on_disk(&stored);
        if self.json {
            let value = json!({
                "digest": stored.digest, "manifest": stored.manifest, "dir": stored.dir(),
                "depots": stored.depots(), "bytes_on_disk": on_disk, "in_use": stored.is_held(),
            });
            return say(&value.to_string());
        }
        lines(&stored, on_disk)
            .iter()
            .try_for_each(|(name, value)| say(&format!("{name:<10} {value}")))
    }
}

fn lines(stored: &Stored, on_disk: u64) -> Vec<(&'static str, String)> {
    let m = &stored.manifest;
    let kind = serde_json::to_value(m.kind).unwrap_or_default();
    let mut lines = vec![
        ("bundle", format!("{} {} {}", stored.title(), m.arch, text(&kind))),
        ("digest", stored.digest.to_string()),
    ];
    if let Some(kernel) = &m.kernel {
        lines.push(("kernel", format!("{}:{} {}", kernel.name, kernel.version, kernel.digest)));
    }
    if let Some(boot) = &m.boot {
        lines.push(("init", boot.init.name().to_string()));
    }
    for file in &m.files {
        lines.push(("file", format!("{} {}", file.name, Unit::Bytes.amount(file.size))));
    }
    lines.push((
        "on disk",
        format!("{} in {}", Unit::Bytes.amount(on_disk), stored.dir().display()),
    ));
    if !m.packages.is_empty() {
        lines.push(("packages", m.packages.len().to_string()));
    }
    lines.extend(
        m.sources.iter().map(|source| ("source", format!("{} {}", source.name, source.digest))),
    );
    lines.extend(stored.depots().into_iter().map(|depot| ("from", depot)));
    lines.push(("made by", m.tool.clone()));
    lines
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn on_disk(stored: &Stored) -> u64 {
    let files = stored.manifest.files.iter().filter_map(|f| stored.path(&f.name).metadata().ok());
    files.map(|m| m.blocks() * 512).sum()
}
