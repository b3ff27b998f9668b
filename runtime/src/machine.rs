//! A bundle that is running.

mod restore;
mod save;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent::Exec;
use rustix::fs::MemfdFlags;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::console::Console;
use crate::guest::{Finished, Guest, NotRun, Running};
use crate::lease::Lease;
use crate::log::Log;
use crate::network::Guard;
use crate::vmm::{self, Child, Ends, Launch, Monitor};
use crate::volume::Attachment;
use crate::{Accel, Class, Error, Hold, Network, Result, Spec, Store, Upper};

pub(crate) use restore::Origin;
pub(crate) use save::{MEMORY, STATE, UPPER, blocking};

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
    _hold: Option<Hold>,
    /// The right to its volumes.
    volumes: Vec<File>,
    monitor: Mutex<Monitor>,
    /// Its processors stand still, or are about to.
    stopped: AtomicBool,
    /// Its memory; nothing but a hole where that is the VMM's own, as it is in a copy.
    memory: File,
    upper: PathBuf,
    booted_in: Duration,
}

/// A VMM whose guest has not answered yet.
#[derive(Debug)]
struct Vmm {
    child: Child,
    volumes: Vec<File>,
    console: Console,
    guard: Option<Guard>,
    monitor: Monitor,
    agent: Option<UnixStream>,
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
        let memory = memory(spec.memory_mib)?;
        let mut vmm = Vmm::start(&launch, spec, Some(&memory), log)?;
        let guest = Guest::greet(vmm.take_agent()?);
        let guest = vmm.wait_for(guest, boot_max).await?;
        let upper = upper.path.clone();
        Ok(Machine::new(vmm, guest, memory, lease, upper, began))
    }

    fn new(
        vmm: Vmm,
        guest: Guest,
        memory: File,
        lease: Option<Lease>,
        upper: PathBuf,
        began: Instant,
    ) -> Self {
        let Vmm { child, volumes, console, guard, monitor, agent: _ } = vmm;
        let booted_in = began.elapsed();
        Machine {
            guest,
            vmm: child,
            console,
            _guard: guard,
            _lease: lease,
            _hold: None,
            volumes,
            monitor: monitor.into(),
            stopped: AtomicBool::new(false),
            memory,
            upper,
            booted_in,
        }
    }

    /// Keeps the right to its image for as long as it lives.
    pub(crate) fn holding(mut self, hold: Hold) -> Self {
        self._hold = Some(hold);
        self
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

    /// Stops the machine's processors until [`Machine::resume`]: time stands still in it, and its
    /// memory is what it was.
    ///
    /// # Errors
    /// `Host` where the VMM refuses.
    pub async fn pause(&self) -> Result<()> {
        self.stopped.store(true, Ordering::Relaxed);
        match self.vmm.vmm() {
            vmm::Vmm::Qemu => self.monitor.lock().await.stop().await,
            vmm::Vmm::Firecracker | vmm::Vmm::CloudHypervisor => self.vmm.pause().await,
        }
    }

    /// Lets a paused machine go on.
    ///
    /// # Errors
    /// As [`Machine::pause`].
    pub async fn resume(&self) -> Result<()> {
        match self.vmm.vmm() {
            vmm::Vmm::Qemu => self.monitor.lock().await.go_on().await?,
            vmm::Vmm::Firecracker | vmm::Vmm::CloudHypervisor => self.vmm.resume().await?,
        }
        self.stopped.store(false, Ordering::Relaxed);
        Ok(())
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
        if self.stopped.load(Ordering::Relaxed) {
            // It is paused, or somebody was saving it: a guest that stands still hears nothing. Where
            // it can not go on, or never stood still, the time limit tells.
            let _ = self.resume().await;
        }
        self.guest.ask_shutdown()?;
        match tokio::time::timeout(SHUTDOWN_MAX, self.vmm.exited()).await {
            Ok(ended) => ended.map(|_| ()),
            Err(_) => Err(Error::guest("the guest did not shut down and was killed")),
        }
    }

    /// Ends the machine now, whatever it is doing.
    pub fn kill(self) {}
}

impl Vmm {
    /// Starts `launch`; `memory` is the machine's, where it is ours.
    fn start(
        launch: &Launch,
        spec: &Spec,
        memory: Option<&File>,
        log: Option<Log>,
    ) -> Result<Self> {
        let volumes = spec.volumes.iter().map(Attachment::take).collect::<Result<_>>()?;
        let (agent, agent_end) = stream_pair()?;
        let (console, console_end) = stream_pair()?;
        let (monitor, monitor_end) = stream_pair()?;
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
        let memory = memory.map(File::try_clone).transpose();
        let memory = memory.map_err(|e| Error::host("the machine's memory").because(e))?;
        let ends = Ends {
            agent: agent_end,
            console: console_end,
            guard: guard_ends,
            monitor: monitor_end,
            memory: memory.map(OwnedFd::from),
        };
        let child = Child::spawn(launch, ends)?;
        let (console, monitor) = (Console::read(console, log), Monitor::new(monitor));
        Ok(Vmm { child, volumes, console, guard, monitor, agent: Some(agent) })
    }

    /// The connection to the agent, once.
    fn take_agent(&mut self) -> Result<UnixStream> {
        let bug = || Error::new(Class::Bug, "a machine's agent was greeted twice");
        self.agent.take().ok_or_else(bug)
    }

    /// Waits for the guest to answer, to panic, to end, or for `limit` to pass.
    async fn wait_for<T>(
        &mut self,
        answer: impl Future<Output = Result<T>>,
        limit: Duration,
    ) -> Result<T> {
        let (error, grace) = tokio::select! {
            answer = answer => match answer {
                Ok(answer) => return Ok(answer),
                Err(e) => (e, ENDING_MAX),
            },
            () = self.console.panicked() => (panicked(), ENDING_MAX),
            () = tokio::time::sleep(limit) => (silent(limit), Duration::ZERO),
        };
        Err(explain(error, grace, &mut self.child, &mut self.console).await)
    }
}

/// Memory of a machine's own: it takes what the guest uses.
fn memory(mib: u32) -> Result<File> {
    let make = || -> std::io::Result<File> {
        let file = File::from(rustix::fs::memfd_create("imgrun-memory", MemfdFlags::CLOEXEC)?);
        file.set_len(u64::from(mib) << 20)?;
        Ok(file)
    };
    make().map_err(|e| Error::host("the machine's memory").because(e))
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
