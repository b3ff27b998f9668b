//! `imgrun doctor`

use imgrun::{Check, Error, Health, Result, Store, examine};
use serde_json::json;

use super::{Shell, say};

/// Say what this machine can and can not run, and what to do about it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let checks = shell.blocking(|_, _| Ok(examine(Store::default_home()))).await?;
        if self.json {
            let all: Vec<_> = checks.iter().map(object).collect();
            say(&serde_json::Value::from(all).to_string())?;
        } else {
            for check in &checks {
                say(&format!("{:<16} {:<5} {}", check.name, check.health.name(), check.found))?;
                if let Some(remedy) = &check.remedy {
                    say(&format!("{:<22} -> {remedy}", ""))?;
                }
            }
        }
        match checks.iter().find(|c| c.health == Health::Bad) {
            Some(bad) => {
                Err(Error::host(format!("no machine can run: {}: {}", bad.name, bad.found)))
            }
            None => Ok(()),
        }
    }
}

fn object(check: &Check) -> serde_json::Value {
    json!({
        "name": check.name, "health": check.health.name(), "found": check.found,
        "remedy": check.remedy,
    })
}
