//! `imgrun list`

use std::time::SystemTime;

use imgrun::{Result, Stored};

use super::{Shell, say};

/// List the bundles in the local store
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let all = shell.store().await?.list(&shell.progress)?;
        if self.json {
            let all: Vec<_> = all.iter().map(object).collect();
            return say(&serde_json::Value::from(all).to_string());
        }
        if all.is_empty() {
            return say("nothing was imported; imgrun import FILE does that");
        }
        say(&row("NAME", "VERSION", "KIND", "ARCH", "SIZE", "DIGEST"))?;
        for s in &all {
            let m = &s.manifest;
            let size = indicatif::HumanBytes(raw_bytes(s)).to_string();
            let (name, version) = (m.name.as_str(), m.version.as_str());
            say(&row(name, version, kind(s), m.arch.name(), &size, &s.digest.short()))?;
        }
        Ok(())
    }
}

fn row(name: &str, version: &str, kind: &str, arch: &str, size: &str, digest: &str) -> String {
    format!("{name:<20} {version:<20} {kind:<7} {arch:<8} {size:>12} {digest}")
}

fn kind(stored: &Stored) -> &'static str {
    match stored.manifest.kind {
        bundle::Kind::Image => "image",
        bundle::Kind::Kernel => "kernel",
    }
}

fn raw_bytes(stored: &Stored) -> u64 {
    stored.manifest.files.iter().map(|f| f.size).sum()
}

fn object(stored: &Stored) -> serde_json::Value {
    let m = &stored.manifest;
    let imported = stored.imported.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serde_json::json!({
        "name": m.name, "version": m.version, "kind": m.kind, "arch": m.arch,
        "digest": stored.digest, "bytes": raw_bytes(stored), "kernel": m.kernel,
        "imported_unix_s": imported.as_secs(),
    })
}
