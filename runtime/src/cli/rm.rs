//! `imgrun rm NAME…`

use imgrun::kept::Kept;
use imgrun::{Class, Result, Store};

use super::{Shell, lifecycle, say};

/// Remove machines that have a name, or bundles from the local store
///
/// What is the name of a machine is that machine. Machines that run from a bundle go on without
/// it; its files are freed when they end.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A machine's name; a bundle's name, name:version, or twelve or more digits of its digest
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// End a machine that runs, as a power cut would
    #[arg(short, long)]
    force: bool,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        for name in self.names {
            let kept = match Kept::find(&store, &name) {
                Ok(Some(kept)) => kept,
                Ok(None) => {
                    remove_bundle(&store, &name, shell)?;
                    continue;
                }
                Err(e) if e.class() == Class::Input => {
                    Kept::remove_damaged(&store, &name)?;
                    say(&name)?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            if self.force {
                lifecycle::kill(&kept).await?;
                // One that was to go at its end is gone by now, or will be.
                if Kept::find(&store, &name)?.is_none() {
                    say(&name)?;
                    continue;
                }
            }
            kept.remove().await?;
            say(&name)?;
        }
        Ok(())
    }
}

fn remove_bundle(store: &Store, name: &str, shell: &Shell) -> Result<()> {
    let (digest, title) = match store.damaged(name)? {
        Some(digest) => (digest, "(damaged)".to_string()),
        None => {
            let stored = store.find(name, None, &shell.progress)?;
            (stored.digest, stored.title())
        }
    };
    store.remove(digest)?;
    say(&format!("{title} {digest}"))
}
