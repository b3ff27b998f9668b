//! A machine that goes on from where another was saved.
//!
//! ```text
//! start the VMM with the saved memory | copy the disk -> state -> go on -> greet -> identity
//! ```
//! Nobody gets a session before the last of these: what two copies share until then is seen by
//! nobody. The disk has its name only from then on, too.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::save::{MEMORY, STATE, UPPER, blocking};
use super::{Machine, Vmm, check_memory, memory};
use crate::disk;
use crate::guest::{Identity, Kept};
use crate::lease::Lease;
use crate::log::Log;
use crate::replica::Replica;
use crate::{Error, Guest, Network, Result, Running, Spec, Upper, vmm};

/// What a machine was saved as.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The directory with its memory, state and disk.
    pub(crate) dir: PathBuf,
    /// The version of the VMM that saved it.
    pub(crate) vmm: String,
    /// The command that goes on.
    pub(crate) command: Option<Kept>,
}

impl Machine {
    /// Starts `spec` from `origin`; `upper` is the place of its own disk. Returns the command that
    /// goes on, too, if there was one.
    ///
    /// # Errors
    /// `Input` where another version of the VMM saved it; `Host` where the VMM can not be started
    /// or refuses; `Guest` where its agent does not answer or does not become another machine.
    pub(crate) async fn restore(
        spec: &Spec,
        origin: &Origin,
        upper: &Upper,
        lease: Option<Lease>,
        log: Option<Log>,
        limit: Duration,
    ) -> Result<(Machine, Option<Running>)> {
        check_memory(spec)?;
        let began = Instant::now();
        let draft = Upper { path: disk::draft(&upper.path), kept: upper.kept };
        let disk = begin_disk(&origin.dir.join(UPPER), &draft.path)?;
        let state = origin.dir.join(STATE);
        let state = File::open(&state).map_err(|e| Error::io(state.display(), e))?;
        let launch = vmm::relaunch(spec, &draft, &origin.dir.join(MEMORY));
        let mut vmm = Vmm::start(&launch, spec, None, log)?;
        // While the VMM starts: it only looks at how long the disk is.
        let disk = blocking(move || disk.update().map(|()| disk)).await?;
        let durable = durable(disk, upper.kept);
        let loaded = load(&mut vmm, &state, &origin.vmm).await;
        if let Err(e) = loaded {
            return Err(vmm.explain(e).await);
        }
        let identity = Identity::fresh(&spec.hostname, spec.network != Network::None)?;
        let agent = vmm.take_agent()?;
        let greet = async {
            let (guest, command) = Guest::greet_copy(agent, origin.command).await?;
            guest.assume(identity, command.is_some()).await?;
            Ok((guest, command))
        };
        let (guest, command) = vmm.wait_for(greet, limit).await?;
        durable.await?;
        let failed = |e| Error::io(upper.path.display(), e);
        fs::rename(&draft.path, &upper.path).map_err(failed)?;
        let machine =
            Machine::new(vmm, guest, memory(spec.memory_mib)?, lease, upper.path.clone(), began);
        Ok((machine, command))
    }
}

impl Vmm {
    async fn explain(mut self, e: Error) -> Error {
        super::explain(e, super::ENDING_MAX, &mut self.child, &mut self.console).await
    }
}

/// Loads the state and lets the machine go on.
async fn load(vmm: &mut Vmm, state: &File, saved_by: &str) -> Result<()> {
    let version = vmm.monitor.version().await?;
    if version != saved_by {
        let program = vmm.child.program();
        let why = format!("it was saved by {program} {saved_by}, and this is {version}");
        return Err(Error::input(why).hint("boot the machine again, and save that"));
    }
    vmm.monitor.take_file(state.as_fd()).await?;
    vmm.monitor.load().await?;
    vmm.monitor.go_on().await
}

/// Brings a disk that stays to the host's own, while the machine starts: under its name it is whole.
fn durable(disk: Replica, kept: bool) -> impl Future<Output = Result<()>> {
    let sync = blocking(move || if kept { disk.sync() } else { Ok(()) });
    // A task begins at once.
    let task = tokio::task::spawn(sync);
    async { task.await.unwrap_or_else(|e| Err(Error::host("a task").because(e))) }
}

/// A disk of its own for the copy, still empty. What a start that was killed left is no disk yet.
fn begin_disk(from: &Path, to: &Path) -> Result<Replica> {
    match fs::remove_file(to) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(to.display(), e));
        }
        _ => {}
    }
    let from = File::open(from).map_err(|e| Error::io(from.display(), e))?;
    Replica::begin(from, to)
}
