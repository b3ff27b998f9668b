//! `imgrun stats [MACHINE…]`

use imgrun::Result;
use imgrun::kept::{Kept, Usage};
use serde_json::{Value, json};

use super::{Shell, say};

/// Say what machines that run take of this host
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names of machines; all that run where none is given
    #[arg(value_name = "MACHINE")]
    names: Vec<String>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        let kept = match self.names.is_empty() {
            true => Kept::readable(&store, &shell.progress)?,
            false => self.names.iter().map(|n| Kept::get(&store, n)).collect::<Result<_>>()?,
        };
        let mut rows = Vec::new();
        for kept in kept {
            if !self.names.is_empty() || kept.is_running()? {
                rows.push((kept.usage().await?, kept));
            }
        }
        if self.json {
            let all: Vec<_> = rows.iter().map(|(usage, kept)| object(usage, kept)).collect();
            return say(&Value::from(all).to_string());
        }
        say(&row("NAME", "CPU", "MEMORY", "SUPERVISOR", "WRITTEN"))?;
        for (usage, kept) in &rows {
            let bytes = |n: u64| indicatif::HumanBytes(n).to_string();
            let cpu = format!("{:.1} s", usage.cpu.as_secs_f64());
            let (memory, own) = (bytes(usage.memory_bytes), bytes(usage.supervisor_bytes));
            say(&row(&kept.name.to_string(), &cpu, &memory, &own, &bytes(kept.written_bytes())))?;
        }
        Ok(())
    }
}

fn row(name: &str, cpu: &str, memory: &str, supervisor: &str, written: &str) -> String {
    format!("{name:<20} {cpu:>12} {memory:>14} {supervisor:>14} {written:>14}")
}

fn object(usage: &Usage, kept: &Kept) -> Value {
    json!({
        "name": kept.name.to_string(), "cpu_s": usage.cpu.as_secs_f64(),
        "memory_bytes": usage.memory_bytes, "supervisor_bytes": usage.supervisor_bytes,
        "written_bytes": kept.written_bytes(),
    })
}
