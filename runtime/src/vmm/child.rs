//! The VMM's process: started so that it can not outlive us, waited for through a pidfd.
// `pre_exec`, to ask for a signal at the parent's death; and tokio wants a promise for the pidfd.
#![allow(unsafe_code)]

use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use agent::VSOCK_PORT;
use rustix::process::{PidfdFlags, Signal, getpid, getppid, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::confine::Confinement;
use super::{
    GUARD_IN_FD, GUARD_OUT_FD, Launch, MEMORY_FD, MONITOR_FD, Place, Request, Vmm, hybrid,
};
use crate::tool::debian_package;
use crate::{Error, Result};

/// What a VMM says on standard error is kept up to here, bytes.
const STDERR_BYTES_MAX: usize = 8 * 1024;

/// A running VMM. Dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub(crate) struct Child {
    child: std::process::Child,
    pidfd: AsyncFd<OwnedFd>,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_reader: Option<thread::JoinHandle<()>>,
    program: String,
    vmm: Vmm,
    place: Option<Occupied>,
}

/// A VMM's sockets, which are removed when it is gone.
#[derive(Debug)]
struct Occupied {
    place: Place,
    /// What passes the agent's bytes on.
    bridge: JoinHandle<io::Result<()>>,
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.bridge.abort();
        self.place.clear();
    }
}

/// The VMM's ends of socket pairs.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Its standard input.
    pub(crate) agent: OwnedFd,
    /// Its standard output.
    pub(crate) console: OwnedFd,
    /// [`GUARD_OUT_FD`] and [`GUARD_IN_FD`], where the machine has a network.
    pub(crate) guard: Option<[OwnedFd; 2]>,
    /// [`MONITOR_FD`].
    pub(crate) monitor: OwnedFd,
    /// [`MEMORY_FD`], where the machine's memory is ours.
    pub(crate) memory: Option<OwnedFd>,
}

impl Child {
    /// Starts `launch` in a process group of its own with its ends of socket pairs. The kernel
    /// kills it when the calling *thread* ends, so call this on a thread that lives as long as the
    /// machine (a current-thread runtime does).
    pub(crate) fn spawn(launch: &Launch, ends: Ends) -> Result<Self> {
        let mut command = Command::new(&launch.program);
        command.args(&launch.args).process_group(0);
        command.stdout(Stdio::from(ends.console)).stderr(Stdio::piped());
        let mut numbered: Vec<(OwnedFd, RawFd)> = Vec::new();
        let place = match launch.place.clone() {
            None => {
                command.stdin(Stdio::from(ends.agent));
                let guard = ends.guard.into_iter().flatten().zip([GUARD_OUT_FD, GUARD_IN_FD]);
                let memory = ends.memory.map(|fd| (fd, MEMORY_FD));
                numbered.extend(guard.chain([(ends.monitor, MONITOR_FD)]).chain(memory));
                None
            }
            Some(place) => {
                let directory = place.directory.display().to_string();
                place.prepare().map_err(|e| Error::io(directory, e))?;
                command.stdin(Stdio::null()).current_dir(&place.directory);
                let bridge = hybrid::bridge(ends.agent.into(), place.clone(), VSOCK_PORT);
                Some(Occupied { place, bridge: tokio::spawn(bridge) })
            }
        };
        let parent = getpid();
        let mut confinement = Confinement::new(launch)?;
        let prepare = move || {
            for (end, number) in &numbered {
                // SAFETY: `dup2` takes the number whether it is open or not, and nothing closes it.
                let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(*number) });
                rustix::io::dup2(end, &mut place)?;
            }
            confinement.enter()?;
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // We may have died before the request was in place.
            if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
        };
        // SAFETY: between fork and exec it makes a few system calls and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        let mut child = command.spawn().map_err(|e| not_started(launch, e))?;
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let stderr_reader = child.stderr.take().and_then(|pipe| keep_tail(pipe, stderr.clone()));
        let pid = rustix::process::Pid::from_child(&child);
        let watch = || -> io::Result<_> {
            let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
            // SAFETY: the `AsyncFd` owns the descriptor, and nothing takes it out or closes it.
            Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
        };
        let program = launch.program.clone();
        match watch() {
            Ok(pidfd) => {
                Ok(Child { child, pidfd, stderr, stderr_reader, program, vmm: launch.vmm, place })
            }
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(Error::host(format!("{program}: pidfd")).because(e))
            }
        }
    }

    /// Waits until the process ends; may be given up and called again.
    pub(crate) async fn exited(&mut self) -> Result<ExitStatus> {
        let failed = |e| Error::host("waiting for the VMM").because(e);
        loop {
            // Asked first: once the process was waited for, its pidfd says nothing more.
            if let Some(status) = self.child.try_wait().map_err(failed)? {
                return Ok(status);
            }
            let mut ready = self.pidfd.readable().await.map_err(failed)?;
            ready.clear_ready();
        }
    }

    /// Kills the process and waits until it is gone, a few milliseconds.
    pub(crate) fn kill(&mut self) {
        // Both fail only where the process was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops the processors, and with them all that happens in the machine.
    ///
    /// # Errors
    /// `Host` where this VMM can not, or refuses.
    pub(crate) async fn pause(&self) -> Result<()> {
        self.ask(self.vmm.pause()).await
    }

    /// Lets the processors go on.
    ///
    /// # Errors
    /// As [`Child::pause`].
    pub(crate) async fn resume(&self) -> Result<()> {
        self.ask(self.vmm.resume()).await
    }

    async fn ask(&self, request: Option<Request>) -> Result<()> {
        match (request, &self.place) {
            (Some(request), Some(occupied)) => request.send(&occupied.place).await,
            _ => Err(Error::host(format!("{} has no such API", self.program))),
        }
    }

    /// The end of what it said on standard error; all of that once it ended.
    pub(crate) fn stderr(&mut self) -> String {
        if let Ok(Some(_)) = self.child.try_wait()
            && let Some(reader) = self.stderr_reader.take()
        {
            // The pipe has ended with its only writer. The thread does not panic.
            let _ = reader.join();
        }
        let bytes = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        crate::console::printable(&bytes)
    }

    /// Which VMM it is.
    pub(crate) fn vmm(&self) -> Vmm {
        self.vmm
    }

    /// The program's name.
    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A thread, because it must go on while the runtime is busy elsewhere; it ends with the pipe.
fn keep_tail(
    mut pipe: impl Read + Send + 'static,
    tail: Arc<Mutex<Vec<u8>>>,
) -> Option<thread::JoinHandle<()>> {
    let read = move || {
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend_from_slice(&buffer[..n]);
            let excess = tail.len().saturating_sub(STDERR_BYTES_MAX);
            tail.drain(..excess);
        }
    };
    // Without the thread the messages are lost, and a VMM that says more than a pipe holds stops.
    thread::Builder::new().name("vmm-stderr".into()).spawn(read).ok()
}

fn not_started(launch: &Launch, e: io::Error) -> Error {
    let missing = e.kind() == io::ErrorKind::NotFound;
    let error = Error::host(format!("{}: can not be started", launch.program)).because(e);
    if !missing {
        return error;
    }
    match launch.vmm {
        Vmm::Qemu => {
            let package = debian_package(&launch.program);
            error.hint(format!("install it: apt install {package}"))
        }
        // Debian has no package of these.
        other => error.hint(format!("put {}'s released program on PATH", other.name())),
    }
}
