//! `imgrun ports MACHINE…`

use imgrun::kept::Kept;
use imgrun::{Listener, Result};
use serde_json::{Value, json};

use super::{Shell, say};

/// Say what listens in machines that run, as their agents see it
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// Names of machines
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  imgrun ports web
  imgrun ports --json web db

From outside it can be reached where --port leads to it (imgrun run --help).";

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        let mut rows = Vec::new();
        for name in &self.names {
            let kept = Kept::get(&store, name)?;
            let ask = async { kept.guest().await?.listeners().await };
            let found = shell.unless_interrupted(ask).await?;
            rows.extend(found.into_iter().map(|listener| (name.as_str(), listener)));
        }
        if self.json {
            let all: Vec<_> = rows.iter().map(|(name, listener)| object(name, listener)).collect();
            return say(&Value::from(all).to_string());
        }
        say(&row("MACHINE", "PROTOCOL", "ADDRESS", "PROCESS"))?;
        rows.iter().try_for_each(|(name, Listener { protocol, address, process })| {
            let process = process.as_ref().map(|(pid, name)| format!("{name} ({pid})"));
            let address = address.to_string();
            say(&row(name, protocol.name(), &address, process.as_deref().unwrap_or("-")))
        })
    }
}

fn row(machine: &str, protocol: &str, address: &str, process: &str) -> String {
    format!("{machine:<20} {protocol:<8} {address:<28} {process}")
}

fn object(machine: &str, listener: &Listener) -> Value {
    let Listener { protocol, address, process } = listener;
    json!({
        "machine": machine, "protocol": protocol.name(), "address": address.ip().to_string(),
        "port": address.port(), "pid": process.as_ref().map(|(pid, _)| pid),
        "process": process.as_ref().map(|(_, name)| name),
    })
}
