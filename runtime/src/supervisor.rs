//! The one process of a kept machine: owns the VMM, the agent's stream and the upper disk.
//!
//! ```text
//! take the turn -> listen -> boot -> start the command, if there is one
//!                                       |                            | clients come and go
//!         its end, a signal, a client's wish, the machine's own end
//!                              v
//!                   shut down -> note the end -> remove, if that is wanted -> give the turn back
//! ```
//! It serves clients by passing the agent's protocol on. If it is killed, the kernel kills the VMM
//! and frees the lock, and what is left is a machine that does not run.

use std::cell::RefCell;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::task::JoinSet;

use crate::kept::{End, Kept, Turn, control, now_unix_s};
use crate::log::Log;
use crate::{
    EXIT_NOT_RUN, Error, Exec, Hold, Machine, Result, Running, Snapshot, Spec, Status, Store,
    Upper, Wish, vmm,
};

/// Clients at a time; more wait to be let in.
const CLIENTS_MAX: usize = 64;
/// After the host could not let one in.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a shell says of a program that was told to end.
const CODE_STOPPED: u8 = 128 + 15;

/// A kept machine that has booted.
#[derive(Debug)]
pub struct Supervisor {
    kept: Kept,
    turn: Turn,
    machine: Machine,
    listeners: [UnixListener; 2],
    /// The model of processor that the guest sees.
    cpu: &'static str,
    command: Option<Running>,
    _hold: Hold,
}

impl Supervisor {
    /// Boots `kept` and starts its command. Dropping the future leaves no process.
    ///
    /// # Errors
    /// As [`Machine::boot`]; `Guest` or `Usage` where the command can not be started; `Input` where
    /// the image was removed.
    pub async fn start(
        store: &Store,
        kept: Kept,
        turn: Turn,
        boot_max: Duration,
    ) -> Result<Supervisor> {
        let (spec, hold) = kept.spec(store)?;
        spec.check()?;
        kept.set_end(None)?;
        // Before it boots: who wants to end it finds us by the socket. Clients wait in its queue.
        let listeners = kept.listen()?;
        let console = Log::create(&kept.console())?;
        let (machine, goes_on) = begin(&kept, &spec, console, boot_max).await?;
        let command = match &kept.intent.command {
            Some(_) if goes_on.is_some() => goes_on,
            Some(command) => {
                let exec = Exec {
                    argv: command.argv.clone(),
                    env: command.env.clone(),
                    cwd: command.cwd.clone(),
                    user: command.user.clone(),
                    ..Exec::default()
                };
                Some(machine.exec(exec).await.map_err(|not_run| not_run.error)?)
            }
            None => None,
        };
        let cpu = vmm::cpu(spec.arch, spec.accel);
        Ok(Supervisor { kept, turn, machine, listeners, cpu, command, _hold: hold })
    }

    /// From the start of the VMM to the agent's answer.
    pub fn booted_in(&self) -> Duration {
        self.machine.booted_in()
    }

    /// Serves clients until the machine ends, a client wants it to, or `stop` is there.
    ///
    /// # Errors
    /// `Host` where its end can not be noted, or it can not be removed.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<End> {
        let Supervisor { kept, turn, machine, listeners, cpu, command, _hold } = self;
        let goes_on = command.as_ref().map(Running::kept);
        let has_command = command.is_some();
        let log = RefCell::new(Log::create(&kept.output())?);
        let ended = {
            tokio::select! {
                code = finish(command, &log) => code.map(Some),
                () = clients(&machine, &listeners[0]) => Ok(None),
                () = control::serve(&machine, &listeners[1], cpu, goes_on) => Ok(None),
                () = stop => Ok(None),
                e = machine.panicked() => Err(e),
                () = machine.guest().lost() => Err(Error::guest("the machine ended")),
            }
        };
        let (code, error) = match ended {
            Ok(code) => match machine.shutdown().await {
                Ok(()) => (code.unwrap_or(if has_command { CODE_STOPPED } else { 0 }), None),
                Err(e) => (code.unwrap_or(EXIT_NOT_RUN), Some(e)),
            },
            Err(e) => {
                let mut machine = machine;
                (EXIT_NOT_RUN, Some(machine.explain(e).await))
            }
        };
        let end = End { code, error: error.map(|e| e.to_string()), unix_s: now_unix_s() };
        drop(listeners);
        match kept.intent.remove {
            true => kept.remove_own(turn)?,
            false => kept.set_end(Some(&end))?,
        }
        Ok(end)
    }
}

/// Boots the machine, or begins where another was saved; then with the command that goes on and is
/// the machine's own.
async fn begin(
    kept: &Kept,
    spec: &Spec,
    console: Log,
    limit: Duration,
) -> Result<(Machine, Option<Running>)> {
    let begin = match &kept.intent.begin {
        Some(begin) if !kept.upper().exists() => begin,
        _ => {
            let machine = Machine::boot_logged(spec, &kept.upper(), console, limit).await?;
            return Ok((machine, None));
        }
    };
    let origin = Snapshot::at(begin)?.origin(spec)?;
    let upper = Upper { path: kept.upper(), kept: true };
    let restored = Machine::restore(spec, &origin, &upper, None, Some(console), limit).await?;
    let (machine, mut command) = restored;
    if begin.own_command
        && let Some(command) = command.take()
    {
        tokio::spawn(command.ignored());
    }
    Ok((machine, command))
}

/// Lets clients in; returns once one wants the machine to end.
async fn clients(machine: &Machine, listener: &UnixListener) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            Some(gone) = clients.join_next() => {
                if matches!(gone, Ok(Wish::Shutdown)) {
                    return;
                }
            }
            client = listener.accept(), if clients.len() < CLIENTS_MAX => match client {
                Ok((stream, _)) => drop(clients.spawn(machine.guest().relay(stream))),
                // The host is out of files or memory, which is no reason to end the machine.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// Writes down what the command says; its code once it ended. Without a command it never ends.
async fn finish(command: Option<Running>, log: &RefCell<Log>) -> Result<u8> {
    let Some(mut command) = command else { return std::future::pending().await };
    let (stdout, stderr) = (&mut command.stdout, &mut command.stderr);
    let copy = async |output: &mut crate::Output| -> Result<()> {
        while let Some(bytes) = output.read().await? {
            log.borrow_mut().add(&bytes);
        }
        Ok(())
    };
    tokio::try_join!(copy(stdout), copy(stderr))?;
    Ok(match command.wait().await?.status {
        Status::Code(code) => code,
        Status::Signal(signal) => 128u8.saturating_add(signal),
    })
}
