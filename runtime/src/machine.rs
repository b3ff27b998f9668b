//! A bundle that is running.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::Exec;
use tokio::net::UnixStream;

use crate::console::Console;
use crate::guest::{Finished, Guest, NotRun, Running};
use crate::lease::Lease;
use crate::log::Log;
use crate::network::Guard;
use crate::vmm::{self, Child, Ends};
use crate::{Accel, Class, Error, Network, Result, Spec, Store, Upper};

/// How long a guest under KVM may take to answer, where nothing else is said.
pub const BOOT_MAX_KVM: Duration = Duration::from_secs(30);
/// How long a guest under TCG may take to answer, where nothing else is said.
pub const BOOT_MAX_TCG: Duration = Duration::from_secs(120);
/// After a panic or the end of its stream, a machine may take this long to end by itself.
const ENDING_MAX: Duration = Duration::from_secs(2);
/// A guest that was asked to shut down may take this long before it is killed.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// A machine whose agent answered. Dropping it kills it and removes its disks.
///
/// The fields are dropped in this order: first the session, then the VMM, which no other process
/// outlives, then the directory with its disks.
#[derive(Debug)]
pub struct Machine {
    guest: Guest,
    vmm: Child,
    console: Console,
    _guard: Option<Guard>,
    _lease: Option<Lease>,
    upper: PathBuf,
    booted_in: Duration,
}

/// How long a guest may take to answer under `accel`.
pub fn boot_max(accel: Accel) -> Duration {
    match accel {
        Accel::Kvm => BOOT_MAX_KVM,
        Accel::Tcg => BOOT_MAX_TCG,
    }
}

impl Machine {
    /// Boots `spec` and waits until the agent in it answers, or `boot_max` passed. Dropping the
    /// future at any moment leaves no process and no file.
    ///
    /// Call it on a thread that outlives the machine, such as a current-thread runtime's: the
    /// kernel kills the VMM when the thread that started it ends.
    ///
    /// # Errors
    /// `Host` where the VMM can not be started or refuses, `Guest` where the kernel panics, the
    /// machine ends or nothing answers; the console's last lines are [`Error::detail_text`].
    pub async fn boot(store: &Store, spec: &Spec, boot_max: Duration) -> Result<Machine> {
        spec.check()?;
        let lease = Lease::create(&store.machines())?;
        let upper = Upper { path: lease.path().join("upper.ext4"), kept: false };
        Self::start(spec, &upper, Some(lease), None, boot_max).await
    }

    /// As [`Machine::boot`], with an upper disk that stays: the file `upper`, which is made where
    /// there is none. Nobody else may use it meanwhile. [`Machine::shutdown`] leaves it unmounted
    /// cleanly, as ext4 with `upper/` (overlayfs' upper directory) and `work/` in its root.
    ///
    /// # Errors
    /// As [`Machine::boot`].
    pub async fn boot_on(spec: &Spec, upper: &Path, boot_max: Duration) -> Result<Machine> {
        spec.check()?;
        let upper = Upper { path: upper.to_path_buf(), kept: true };
        Self::start(spec, &upper, None, None, boot_max).await
    }

    /// As [`Machine::boot_on`], with what the kernel says in `console`.
    pub(crate) async fn boot_logged(
        spec: &Spec,
        upper: &Path,
        console: Log,
        boot_max: Duration,
    ) -> Result<Machine> {
        let upper = Upper { path: upper.to_path_buf(), kept: true };
        Self::start(spec, &upper, None, Some(console), boot_max).await
    }

    async fn start(
        spec: &Spec,
        upper: &Upper,
        lease: Option<Lease>,
        log: Option<Log>,
        boot_max: Duration,
    ) -> Result<Machine> {
        check_memory(spec)?;
        let began = Instant::now();
        upper.prepare(spec.upper_bytes)?;
        let launch = vmm::launch(spec, Some(upper));
        let (agent, agent_end) = stream_pair()?;
        let (console, console_end) = stream_pair()?;
        let (guard, guard_ends) = match spec.network {
            Network::None => (None, None),
            Network::User => {
                let ((out, out_end), (back, back_end)) = (stream_pair()?, stream_pair()?);
                (
                    Some(Guard::start(out, back, !spec.forwards.is_empty())),
                    Some([out_end, back_end]),
                )
            }
        };
        let ends = Ends { agent: agent_end, console: console_end, guard: guard_ends };
        let mut vmm = Child::spawn(&launch, ends)?;
        let mut console = Console::read(console, log);
        let (error, grace) = tokio::select! {
            guest = Guest::greet(agent) => match guest {
                Ok(guest) => {
                    let booted_in = began.elapsed();
                    let upper = upper.path.clone();
                    return Ok(Machine {
                        guest,
                        vmm,
                        console,
                        _guard: guard,
                        _lease: lease,
                        upper,
                        booted_in,
                    });
                }
                Err(e) => (e, ENDING_MAX),
            },
            () = console.panicked() => (panicked(), ENDING_MAX),
            () = tokio::time::sleep(boot_max) => (silent(boot_max), Duration::ZERO),
        };
        Err(explain(error, grace, &mut vmm, &mut console).await)
    }

    /// From the start of the VMM to the agent's answer.
    pub fn booted_in(&self) -> Duration {
        self.booted_in
    }

    /// The session with the agent.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// The disk that takes what the machine writes: ext4, with overlayfs' upper directory in it as
    /// `upper`. It is whole after [`Machine::shutdown`]; open it before, as one that
    /// [`Machine::boot`] made is removed there.
    pub fn upper_disk(&self) -> &Path {
        &self.upper
    }

    /// The VMM's process id.
    pub fn vmm_pid(&self) -> u32 {
        self.vmm.pid()
    }

    /// Starts a command; see [`Guest::exec`].
    pub async fn exec(&self, exec: Exec) -> Result<Running, NotRun> {
        self.guest.exec(exec).await
    }

    /// Runs commands until one fails; see [`Guest::pipeline`].
    pub async fn pipeline(
        &self,
        commands: impl IntoIterator<Item = Exec>,
        bytes_max: usize,
    ) -> Result<Vec<Finished>, NotRun> {
        self.guest.pipeline(commands, bytes_max).await
    }

    /// Waits for the guest's kernel to panic, and then for the machine to end of it, which it may
    /// not. A command that ends meanwhile has ended: the console is the guest's to write on.
    pub async fn panicked(&self) -> Error {
        self.console.panicked().await;
        tokio::time::sleep(ENDING_MAX).await;
        panicked()
    }

    /// Adds to an error of class `Guest` what the console and the VMM said last.
    pub async fn explain(&mut self, e: Error) -> Error {
        explain(e, ENDING_MAX, &mut self.vmm, &mut self.console).await
    }

    /// Lets the guest end its commands and write everything to its disk, and waits until the
    /// machine is gone; kills it where that takes more than 10 s.
    ///
    /// # Errors
    /// `Guest` where it had to be killed: what it wrote last may be lost.
    pub async fn shutdown(mut self) -> Result<()> {
        self.guest.ask_shutdown()?;
        match tokio::time::timeout(SHUTDOWN_MAX, self.vmm.exited()).await {
            Ok(ended) => ended.map(|_| ()),
            Err(_) => Err(Error::guest("the guest did not shut down and was killed")),
        }
    }

    /// Ends the machine now, whatever it is doing.
    pub fn kill(self) {}
}

/// More memory than there is would not fail: it would be promised, and the host run out of it.
fn check_memory(spec: &Spec) -> Result<()> {
    let info = rustix::system::sysinfo();
    let host_mib = info.totalram.saturating_mul(info.mem_unit.into()) >> 20;
    if u64::from(spec.memory_mib) <= host_mib {
        return Ok(());
    }
    Err(Error::host(format!(
        "{} MiB of memory: this machine has {host_mib} MiB in all",
        spec.memory_mib
    )))
}

/// A connected pair: our end for tokio, the other for a child.
fn stream_pair() -> Result<(UnixStream, OwnedFd)> {
    let pair = || {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, OwnedFd::from(theirs)))
    };
    pair().map_err(|e: std::io::Error| Error::host("a socket pair").because(e))
}

fn panicked() -> Error {
    Error::guest("the guest's kernel panicked")
}

fn silent(boot_max: Duration) -> Error {
    Error::guest(format!("the guest did not answer in {} s", boot_max.as_secs_f64()))
        .hint("--boot-timeout gives it more time")
}

/// Finds out what is behind an error: a panic, a VMM that refused, a machine that went away. Waits
/// for `grace` for the machine to end.
async fn explain(e: Error, grace: Duration, vmm: &mut Child, console: &mut Console) -> Error {
    let ended = tokio::time::timeout(grace, vmm.exited()).await;
    if ended.is_ok() {
        console.drained().await;
    }
    let (lines, stderr) = (console.last_lines(), vmm.stderr());
    let e = match ended {
        Ok(Ok(status)) if !status.success() => {
            let why = stderr.lines().last().map(|why| format!(": {why}")).unwrap_or_default();
            Error::host(format!("{} ended ({status}){why}", vmm.program()))
        }
        _ if console.has_panicked() => panicked(),
        _ => e,
    };
    // One line of the VMM's is in the message already.
    let more = Some(stderr).filter(|text| text.lines().count() > 1);
    let evidence: Vec<String> = [lines].into_iter().chain(more).filter(|t| !t.is_empty()).collect();
    match e.class() {
        Class::Guest if evidence.is_empty() => e.detail("(the console is empty)"),
        _ => e.detail(evidence.join("\n")),
    }
}
