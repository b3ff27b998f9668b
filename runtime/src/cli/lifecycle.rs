//! `imgrun start`, `stop`, `restart` and `kill`: any number of machines at a time.

use std::time::Duration;

use imgrun::kept::Kept;
use imgrun::{Class, Error, Result, Store};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::command::{duration, error_object};
use super::{Shell, say, supervise};

/// A supervisor gives its guest 10 s to shut down, and then kills it; one that takes longer than
/// this is killed itself.
const STOP_MAX: Duration = Duration::from_secs(20);
/// A killed process is gone in an instant, on a busy host too.
const KILL_MAX: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub(super) struct Names {
    /// Names of machines
    #[arg(required = true, value_name = "MACHINE")]
    names: Vec<String>,
    /// Print a JSON array of what became of each
    #[arg(long)]
    json: bool,
}

/// Boot machines that were created or have ended; what they had written is there
#[derive(Debug, clap::Args)]
pub(super) struct Start {
    #[command(flatten)]
    machines: Names,
    /// Give up on a guest that does not answer in this time; 30 s with KVM, else 120 s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    boot_timeout: Option<Duration>,
}

/// Shut machines down: their commands end, what they have written is safe
#[derive(Debug, clap::Args)]
pub(super) struct Stop {
    #[command(flatten)]
    machines: Names,
}

/// Shut machines down and boot them again
#[derive(Debug, clap::Args)]
pub(super) struct Restart {
    #[command(flatten)]
    machines: Names,
    /// Give up on a guest that does not answer in this time; 30 s with KVM, else 120 s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    boot_timeout: Option<Duration>,
}

/// End machines at once, as a power cut would
#[derive(Debug, clap::Args)]
pub(super) struct Kill {
    #[command(flatten)]
    machines: Names,
}

impl Names {
    async fn each(
        self,
        shell: &mut Shell,
        mut work: impl AsyncFnMut(&mut Shell, &Store, Kept) -> Result<()>,
    ) -> Result<()> {
        each(self.names, self.json, shell, async |shell, store, name| {
            work(shell, store, Kept::get(store, name)?).await?;
            Ok(name.to_string())
        })
        .await
    }
}

/// Does `work` to each name, in order and once, and says what it returns, or all of that as JSON at
/// the end. What can not be done to one does not keep the others from it; the first error is the
/// verb's.
pub(super) async fn each(
    mut names: Vec<String>,
    json: bool,
    shell: &mut Shell,
    mut work: impl AsyncFnMut(&mut Shell, &Store, &str) -> Result<String>,
) -> Result<()> {
    let store = shell.store().await?;
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let (mut first, mut objects): (Option<Error>, Vec<Value>) = (None, Vec::new());
    for name in names {
        let done = work(shell, &store, &name).await;
        objects.push(match &done {
            Ok(_) => json!({ "name": name, "error": null }),
            Err(e) => json!({ "name": name, "error": error_object(e) }),
        });
        match done {
            Ok(_) if json => {}
            Ok(line) => say(&line)?,
            Err(e) if e.class() == Class::Interrupted => return Err(e),
            Err(e) if first.is_some() => shell.progress.note(format!("{name}: {e}")),
            Err(e) => first = Some(e),
        }
    }
    if json {
        say(&Value::from(objects).to_string())?;
    }
    first.map_or(Ok(()), Err)
}

impl Start {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let limit = self.boot_timeout;
        let start =
            async |shell: &mut Shell, _: &Store, kept: Kept| start(shell, &kept, limit).await;
        self.machines.each(shell, start).await
    }
}

impl Stop {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let stop = async |shell: &mut Shell, _: &Store, kept: Kept| stop(shell, &kept).await;
        self.machines.each(shell, stop).await
    }
}

impl Restart {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let limit = self.boot_timeout;
        let restart = async |shell: &mut Shell, _: &Store, kept: Kept| {
            stop(shell, &kept).await?;
            start(shell, &kept, limit).await
        };
        self.machines.each(shell, restart).await
    }
}

impl Kill {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let kill = async |_: &mut Shell, _: &Store, kept: Kept| kill(&kept).await;
        self.machines.each(shell, kill).await
    }
}

async fn start(shell: &mut Shell, kept: &Kept, limit: Option<Duration>) -> Result<()> {
    let turn = kept.turn().await?;
    supervise::start(shell, kept, turn, limit).await.map(drop)
}

/// Ends a machine in order; nothing happens where it does not run.
pub(super) async fn stop(shell: &mut Shell, kept: &Kept) -> Result<()> {
    if !kept.is_running()? {
        return Ok(());
    }
    // It may be ending by itself this moment.
    if let Err(e) = kept.signal(Signal::TERM).await
        && kept.is_running()?
    {
        return Err(e);
    }
    let stopped = tokio::time::timeout(STOP_MAX, kept.stopped());
    match shell.unless_interrupted(async { Ok(stopped.await) }).await? {
        Ok(stopped) => stopped,
        Err(_) => {
            shell.progress.note(format!("{} does not shut down: killed", kept.name));
            kill(kept).await
        }
    }
}

/// Ends a machine at once; nothing happens where it does not run.
pub(super) async fn kill(kept: &Kept) -> Result<()> {
    if !kept.is_running()? {
        return Ok(());
    }
    if let Err(e) = kept.signal(Signal::KILL).await
        && kept.is_running()?
    {
        return Err(e);
    }
    let late = |_| Error::host(format!("{} was killed and does not end", kept.name));
    tokio::time::timeout(KILL_MAX, kept.stopped()).await.map_err(late)?
}
