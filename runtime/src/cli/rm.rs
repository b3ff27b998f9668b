//! `imgrun rm NAME…`

use std::time::Duration;

use imgrun::kept::Kept;
use imgrun::{Class, Result, Store};

use super::{Shell, lifecycle};

/// Whoever removes a machine at the same time is done in this time, on a busy host too.
const REMOVED_MAX: Duration = Duration::from_secs(60);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(20);

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
    /// Print a JSON array of what became of each
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let force = self.force;
        lifecycle::each(self.names, self.json, shell, async |shell, store, name| {
            remove(shell, store, name, force).await
        })
        .await
    }
}

/// Removes what has that name, and says what it was.
async fn remove(shell: &mut Shell, store: &Store, name: &str, force: bool) -> Result<String> {
    match Kept::find(store, name) {
        Ok(Some(kept)) if force => {
            lifecycle::kill(&kept).await?;
            shell.unless_interrupted(remove_ended(store, kept)).await?;
        }
        Ok(Some(kept)) => kept.remove().await?,
        Ok(None) => return remove_bundle(store, name, shell),
        Err(e) if e.class() == Class::Input => Kept::remove_damaged(store, name)?,
        Err(e) => return Err(e),
    }
    Ok(name.to_string())
}

/// Removes a machine that has ended. One that was to go at its end is being removed by whoever
/// noticed first, and then is gone, which is what was wanted.
async fn remove_ended(store: &Store, kept: Kept) -> Result<()> {
    let began = std::time::Instant::now();
    loop {
        let e = match kept.clone().remove().await {
            Ok(()) => return Ok(()),
            Err(e) => e,
        };
        if Kept::find(store, &kept.name.to_string())?.is_none() {
            return Ok(());
        }
        if e.class() != Class::Usage || began.elapsed() > REMOVED_MAX {
            return Err(e);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn remove_bundle(store: &Store, name: &str, shell: &Shell) -> Result<String> {
    let (digest, title) = match store.damaged(name)? {
        Some(digest) => (digest, "(damaged)".to_string()),
        None => {
            let stored = store.find(name, None, &shell.progress)?;
            (stored.digest, stored.title())
        }
    };
    store.remove(digest)?;
    Ok(format!("{title} {digest}"))
}
