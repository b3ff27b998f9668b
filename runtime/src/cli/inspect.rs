//! `imgrun inspect NAME`

use std::os::unix::fs::MetadataExt;

use imgrun::kept::Kept;
use imgrun::{Result, Stored, Unit};
use serde_json::{Value, json};

use super::{Shell, ps, say};

/// Show what a machine is, or what a bundle in the local store says of itself
///
/// What is the name of a machine is that machine; NAME:VERSION is always a bundle.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A machine's name; a bundle's name, name:version, or twelve or more digits of its digest
    name: String,
    /// Print one JSON object; of a bundle, with all of the manifest
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        if let Some(kept) = Kept::find(&store, &self.name)? {
            return machine(&kept, self.json).await;
        }
        let stored = store.find(&self.name, None, &shell.progress)?;
        let on_disk = on_disk(&stored);
        if self.json {
            let value = json!({
                "kind": "bundle", "digest": stored.digest, "manifest": stored.manifest, "dir": stored.dir(),
                "depots": stored.depots(), "bytes_on_disk": on_disk, "in_use": stored.is_held(),
            });
            return say(&value.to_string());
        }
        lines(&stored, on_disk)
            .iter()
            .try_for_each(|(name, value)| say(&format!("{name:<10} {value}")))
    }
}

async fn machine(kept: &Kept, json: bool) -> Result<()> {
    let running = kept.is_running()?;
    // It may end this moment.
    let usage = if running { kept.usage().await.ok() } else { None };
    let agent =
        if running { kept.guest().await.ok().map(|g| g.ack().version.clone()) } else { None };
    if json {
        let mut object = ps::object(kept, running);
        object["kind"] = "machine".into();
        object["agent"] = json!(agent.map(|version| imgrun::printable(version.as_bytes())));
        object["command"] = json!(command(kept));
        object["usage"] = json!(usage.map(|usage| json!({
            "cpu_s": usage.cpu.as_secs_f64(), "memory_bytes": usage.memory_bytes,
            "supervisor_bytes": usage.supervisor_bytes,
        })));
        return say(&object.to_string());
    }
    let intent = &kept.intent;
    let bytes = |n: u64| Unit::Bytes.amount(n);
    let mut lines = vec![
        ("machine", format!("{} {}", kept.name, ps::status(kept, running))),
        ("image", format!("{} {}", intent.image_title, intent.image)),
        ("kernel", intent.kernel_title.clone()),
        ("by", intent.accel.clone()),
        ("cpus", intent.cpus.to_string()),
        ("memory", bytes(u64::from(intent.memory_mib) << 20)),
        ("network", intent.network.clone()),
        ("written", format!("{} of {}", bytes(kept.written_bytes()), bytes(intent.upper_bytes))),
    ];
    lines.extend(intent.forwards.iter().map(|forward| ("port", forward.clone())));
    lines.extend(command(kept).map(|words| ("command", words.join(" "))));
    if let Some(usage) = usage {
        lines.push(("cpu used", format!("{:.1} s", usage.cpu.as_secs_f64())));
        lines.push(("resident", bytes(usage.memory_bytes + usage.supervisor_bytes)));
    }
    let error = kept.end().filter(|_| !running).and_then(|end| end.error);
    lines.extend(error.map(|error| ("error", error)));
    lines.iter().try_for_each(|(name, value)| {
        say(&format!("{name:<10} {}", imgrun::printable(value.as_bytes())))
    })
}

/// The words of a machine's command, as far as they are text.
fn command(kept: &Kept) -> Option<Vec<String>> {
    let words = &kept.intent.command.as_ref()?.argv;
    Some(words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect())
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
