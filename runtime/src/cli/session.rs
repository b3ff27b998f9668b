//! A command in a machine, connected to our own standard streams.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use imgrun::{Control, EXIT_NOT_RUN, Error, Exit, Output, Result, Running, Status, Stdin};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::interrupt::Interrupts;
use super::stdio::{self, Outlet};
use super::tty;

/// Past `--timeout` the agent kills the command; one that does not is waited for this long.
const TIMEOUT_GRACE: Duration = Duration::from_secs(5);

/// How often it is looked whether a command is overdue.
const LOOK: Duration = Duration::from_millis(50);
/// What may arrive past `--timeout`, bytes: an honest guest has its pipes' and our windows'
/// contents left, a fraction of this.
const LATE_BYTES_MAX: u64 = 16 << 20;

/// What ends a shell's program whose reader went away: 128 + SIGPIPE.
const EXIT_PIPE: u8 = 141;

/// How the streams are connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    /// The guest's standard output goes to our standard error.
    pub(super) output_to_stderr: bool,
    /// A terminal: sizes are forwarded, and signals are keys.
    pub(super) terminal: bool,
    /// The command's own limit.
    pub(super) timeout: Option<Duration>,
}

/// How a session ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The command ended.
    Exit(Exit),
    /// A second signal came: the machine is to be killed.
    Killed { code: u8 },
}

impl Outcome {
    /// The signal that ended the command, if one did, and whether that was for `--timeout`.
    pub(super) fn details(&self) -> (Option<u8>, bool) {
        match self {
            Outcome::Exit(Exit { status: Status::Signal(signal), timed_out }) => {
                (Some(*signal), *timed_out)
            }
            Outcome::Exit(Exit { status: Status::Code(_), timed_out }) => (None, *timed_out),
            Outcome::Killed { .. } => (None, false),
        }
    }

    /// Our exit code.
    pub(super) fn code(&self) -> u8 {
        match self {
            Outcome::Exit(exit) if exit.timed_out => imgrun::EXIT_TIMED_OUT,
            Outcome::Exit(exit) => match exit.status {
                Status::Code(code) => code,
                Status::Signal(signal) => 128u8.saturating_add(signal),
            },
            Outcome::Killed { code } => *code,
        }
    }
}

/// Pumps until the command ended and all its output is written.
pub(super) async fn attach(
    mut running: Running,
    streams: Streams,
    interrupts: &mut Interrupts,
) -> Result<Outcome> {
    let own = |e: io::Error| Error::host("our standard streams").because(e);
    let stdin = match running.stdin.take() {
        Some(stdin) => Some((stdin, stdio::input().map_err(own)?)),
        None => None,
    };
    let stdout = if streams.output_to_stderr { Outlet::stderr() } else { Outlet::stdout() };
    let (stdout, stderr) = (stdout.map_err(own)?, Outlet::stderr().map_err(own)?);
    let (control, flow) = (running.control(), Flow::default());
    let output = async {
        let out = copy(&mut running.stdout, stdout, &flow);
        match tokio::try_join!(out, copy(&mut running.stderr, stderr, &flow)) {
            Ok(_) => Ok(Outcome::Exit(running.wait().await?)),
            Err(CopyEnd::NobodyReads) => Ok(Outcome::Killed { code: EXIT_PIPE }),
            Err(CopyEnd::Failed(e)) => Err(e),
        }
    };
    tokio::select! {
        outcome = output => outcome,
        never = feed(stdin) => never,
        outcome = forward(&control, streams, interrupts) => outcome,
        () = overdue(streams.timeout, control.wait(), &flow) => {
            let status = Status::Code(EXIT_NOT_RUN);
            Ok(Outcome::Exit(Exit { status, timed_out: true }))
        }
    }
}

/// What the two outputs do.
#[derive(Debug, Default)]
struct Flow {
    /// Taken from the guest so far.
    bytes: Cell<u64>,
    /// How many of them wait for whoever reads us.
    held_up: Cell<u32>,
}

/// Why copying ended before its source did.
enum CopyEnd {
    /// Nobody reads us any more: what `yes | head` does to `yes`.
    NobodyReads,
    Failed(Error),
}

/// Copies until the stream ends and all of it is written.
async fn copy(from: &mut Output, to: Outlet, flow: &Flow) -> Result<(), CopyEnd> {
    while let Some(bytes) = from.read().await.map_err(CopyEnd::Failed)? {
        flow.bytes.set(flow.bytes.get() + bytes.len() as u64);
        flow.held_up.set(flow.held_up.get() + 1);
        let sent = to.send(bytes).await;
        flow.held_up.set(flow.held_up.get() - 1);
        if !sent {
            break;
        }
    }
    to.finish().await.map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => CopyEnd::NobodyReads,
        _ => CopyEnd::Failed(Error::io("writing the guest's output", e)),
    })
}

/// Feeds standard input; never returns but with an error.
async fn feed(stdin: Option<(Stdin, mpsc::Receiver<io::Result<Vec<u8>>>)>) -> Result<Outcome> {
    if let Some((mut stdin, mut pieces)) = stdin {
        while let Some(piece) = pieces.recv().await {
            let piece = piece.map_err(|e| Error::io("reading standard input", e))?;
            if !stdin.write(&piece).await? {
                break;
            }
        }
    }
    std::future::pending().await
}

/// Forwards the first signal and the terminal's sizes; ends with the second signal. With a
/// terminal in raw mode no signal is a key, so the first one is meant for us.
async fn forward(
    control: &Control,
    streams: Streams,
    interrupts: &mut Interrupts,
) -> Result<Outcome> {
    let sizes = signal(SignalKind::window_change());
    let mut sizes = sizes.map_err(|e| Error::host("signal handlers").because(e))?;
    if streams.terminal {
        // It may have changed while the machine booted.
        control.resize(tty::size())?;
    }
    let mut forwarded = streams.terminal;
    loop {
        tokio::select! {
            signo = interrupts.next() => {
                if forwarded {
                    return Ok(Outcome::Killed { code: interrupts.exit_code() as u8 });
                }
                forwarded = true;
                control.signal(signo)?;
            }
            _ = sizes.recv(), if streams.terminal => control.resize(tty::size())?,
        }
    }
}

/// Returns once a command is overdue: `timeout` passed, and the agent has not ended it although
/// nothing on our side kept it from telling us. Once `exit` is there it never is: what it wrote is
/// all here then, and waits only for whoever reads us.
async fn overdue<T>(timeout: Option<Duration>, exit: impl Future<Output = T>, flow: &Flow) {
    let Some(timeout) = timeout else { return std::future::pending().await };
    let late = async {
        tokio::time::sleep(timeout).await;
        let before = flow.bytes.get();
        let mut grace = TIMEOUT_GRACE;
        while !grace.is_zero() && flow.bytes.get() - before <= LATE_BYTES_MAX {
            tokio::time::sleep(LOOK).await;
            if flow.held_up.get() == 0 {
                grace = grace.saturating_sub(LOOK);
            }
        }
    };
    tokio::select! {
        () = late => {}
        _ = exit => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const TIMEOUT: Option<Duration> = Some(Duration::from_secs(10));

    /// Whether `overdue` returns within `seconds`.
    async fn is_overdue(exit: impl Future<Output = ()>, flow: &Flow, seconds: u64) -> bool {
        let overdue = overdue(TIMEOUT, exit, flow);
        tokio::time::timeout(Duration::from_secs(seconds), overdue).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_silent_guest_is_overdue() {
        let flow = Flow::default();
        assert!(!is_overdue(pending(), &flow, 14).await);
        assert!(is_overdue(pending(), &flow, 16).await);
        assert!(!is_overdue(ready(()), &flow, 1000).await);
        // Our reader is slow: the guest can not say that the command ended.
        flow.held_up.set(1);
        assert!(!is_overdue(pending(), &flow, 1000).await);
        // But it has no more to say than it can have kept.
        let floods = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            flow.bytes.set(LATE_BYTES_MAX + 1);
            pending().await
        };
        assert!(is_overdue(floods, &flow, 30).await);
    }
}
