//! `imgrun ps`

use std::time::{Duration, SystemTime};

use imgrun::Result;
use imgrun::kept::Kept;
use serde_json::{Value, json};

use super::{Shell, say};

/// List machines that have a name
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        let mut rows = Vec::new();
        for kept in Kept::readable(&store, &shell.progress)? {
            let running = kept.is_running()?;
            if running || self.all {
                rows.push((kept, running));
            }
        }
        if self.json {
            let all: Vec<_> = rows.iter().map(|(kept, running)| object(kept, *running)).collect();
            return say(&Value::from(all).to_string());
        }
        say(&row("NAME", "IMAGE", "STATUS", "CPUS", "MEMORY", "WRITTEN", "CREATED"))?;
        for (kept, running) in &rows {
            let intent = &kept.intent;
            let memory = indicatif::HumanBytes(u64::from(intent.memory_mib) << 20).to_string();
            let written = indicatif::HumanBytes(kept.written_bytes()).to_string();
            let status = status(kept, *running);
            let (name, cpus) = (kept.name.to_string(), intent.cpus.to_string());
            let age = format!("{} ago", indicatif::HumanDuration(age(intent.created_unix_s)));
            say(&row(&name, &intent.image_title, &status, &cpus, &memory, &written, &age))?;
        }
        Ok(())
    }
}

fn row(
    name: &str,
    image: &str,
    status: &str,
    cpus: &str,
    memory: &str,
    written: &str,
    age: &str,
) -> String {
    format!("{name:<20} {image:<24} {status:<12} {cpus:>4} {memory:>12} {written:>12} {age}")
}

pub(super) fn status(kept: &Kept, running: bool) -> String {
    match kept.end() {
        _ if running => "running".to_string(),
        Some(end) => format!("ended ({})", end.code),
        None => "stopped".to_string(),
    }
}

fn age(created_unix_s: u64) -> Duration {
    let created = SystemTime::UNIX_EPOCH + Duration::from_secs(created_unix_s);
    SystemTime::now().duration_since(created).unwrap_or_default()
}

/// All there is to know of a machine without asking it.
pub(super) fn object(kept: &Kept, running: bool) -> Value {
    let intent = &kept.intent;
    json!({
        "name": kept.name.to_string(), "running": running, "image": intent.image_title,
        "digest": intent.image, "kernel": intent.kernel_title, "accel": intent.accel,
        "cpus": intent.cpus, "memory_mib": intent.memory_mib, "network": intent.network,
        "ports": intent.forwards, "hostname": intent.hostname, "removed_at_end": intent.remove,
        "created_unix_s": intent.created_unix_s, "written_bytes": kept.written_bytes(),
        "end": kept.end().filter(|_| !running),
    })
}
