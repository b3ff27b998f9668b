//! `imgrun sync`

use std::io::Write;
use std::path::{Path, PathBuf};

use imgrun::feed::Flags;
use imgrun::sync::{Config, sync};
use imgrun::{Error, Result};

use super::{Shell, say};

/// Bring what this host follows up to date, and repair what is damaged
///
/// The version before stays until the new one is here and verified, and after that, too. What fails
/// leaves its name where it was; the others go on.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// What to follow, instead of ~/.config/imgrun/sync.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The list of catalogs, instead of ~/.config/imgrun/catalogs.toml
    #[arg(long, value_name = "FILE")]
    catalogs: Option<PathBuf>,
    /// Only say what would be done, and how many bytes that takes
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write Prometheus' text format there, for the node exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
}

const HELP: &str = "\
Examples:
  imgrun sync --dry-run
  imgrun sync --json --textfile /var/lib/prometheus/node-exporter/imgrun.prom

What is followed stands in ~/.config/imgrun/sync.toml, else /etc/imgrun/sync.toml:

  keep = 2                    # versions of each name that stay
  limit_rate = \"5M\"           # bytes a second

  [[follow]]
  name = \"debian\"
  channel = \"12\"              # the newest of 12, 12.9, 12-1…; without it the newest of all
  kernel = \"generic-6.1\"      # instead of the one that each image was built with

Catalogs: imgrun pull --help. For systemd: templates/imgrun-sync.service and .timer.";

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        let Args { config, catalogs, dry_run, json, textfile } = self;
        let work = shell.blocking(move |progress, cancel| {
            let config = Config::read(config.as_deref())?;
            let flags = Flags { config: catalogs, ..Flags::default() };
            sync(&store, &config, &flags, dry_run, progress, cancel)
        });
        let report = work.await?;
        if let Some(path) = textfile.filter(|_| !dry_run) {
            replace(&path, &report.to_prometheus()).map_err(|e| Error::io(path.display(), e))?;
        }
        if json {
            say(&report.to_json().to_string())?;
        } else {
            report.outcomes.iter().try_for_each(|outcome| say(&outcome.line()))?;
            for gone in &report.removed {
                say(&format!("removed {} {}", gone.title(), gone.digest))?;
            }
        }
        report.into_error().map_or(Ok(()), Err)
    }
}

/// The collector may read at any moment.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = tempfile::Builder::new().prefix(".imgrun-").tempfile_in(parent)?;
    draft.write_all(text.as_bytes())?;
    // Another user's program reads it.
    draft.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    draft.persist(path).map_err(|e| e.error)?;
    Ok(())
}
