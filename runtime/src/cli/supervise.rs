//! Starting a supervisor, from both sides: the verb that is one, and who waits until it is ready.

use std::process::ExitCode;
use std::time::Duration;

use imgrun::kept::{Kept, Turn};
use imgrun::{Accel, Class, Error, Result, Supervisor, boot_max};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::command::millis;
use super::{Shell, fail, say};

/// A supervisor that has said why it failed is gone in an instant.
const END_MAX: Duration = Duration::from_secs(5);

/// What a supervisor says first, as one line of JSON; then it says nothing more.
#[derive(Debug, Serialize, Deserialize)]
enum Ready {
    Booted { ms: u64 },
    Failed { class: String, message: String, hint: Option<String>, detail: Option<String> },
}

/// The supervisor of one machine: imgrun starts it, with the machine's lock as standard input
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(super) struct Args {
    name: String,
    #[arg(long)]
    boot_timeout_ms: Option<u64>,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> ExitCode {
        // A terminal's end is not ours. It fails only where we lead a group already.
        let _ = rustix::process::setsid();
        let supervisor = match self.start(shell).await {
            Ok(supervisor) => supervisor,
            Err(e) => {
                let text = |text: Option<&str>| text.map(str::to_string);
                let _ = answer(&Ready::Failed {
                    class: e.class().name().to_string(),
                    message: e.to_string(),
                    hint: text(e.hint_text()),
                    detail: text(e.detail_text()),
                });
                return fail(&e, None);
            }
        };
        let _ = answer(&Ready::Booted { ms: millis(supervisor.booted_in()) });
        detach();
        let stop = async {
            shell.interrupts.next().await;
        };
        match supervisor.serve(stop).await {
            Ok(_) => ExitCode::SUCCESS,
            Err(e) => fail(&e, None),
        }
    }

    async fn start(&self, shell: &mut Shell) -> Result<Supervisor> {
        let store = shell.store().await?;
        let kept = Kept::get(&store, &self.name)?;
        let turn = kept.inherited_turn()?;
        let accel = Accel::from_name(&kept.intent.accel).unwrap_or(Accel::Tcg);
        let limit = self.boot_timeout_ms.map_or(boot_max(accel), Duration::from_millis);
        shell.unless_interrupted(Supervisor::start(&store, kept, turn, limit)).await
    }
}

fn answer(ready: &Ready) -> Result<()> {
    say(&serde_json::to_string(ready).unwrap_or_default())
}

/// Lets go of whoever started us: they may wait for the end of our output.
fn detach() {
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Starts `kept` and waits until it has booted; from the VMM's start to the agent's answer.
pub(super) async fn start(
    shell: &mut Shell,
    kept: &Kept,
    turn: Turn,
    boot_max: Option<Duration>,
) -> Result<Duration> {
    spawn(kept, turn, boot_max)?.ready(shell).await
}

/// A supervisor that has not said yet that its machine has booted.
pub(super) struct Starting {
    child: tokio::process::Child,
    name: String,
}

/// Starts the supervisor of `kept`.
pub(super) fn spawn(kept: &Kept, turn: Turn, boot_max: Option<Duration>) -> Result<Starting> {
    let name = kept.name.to_string();
    let failed = |e| Error::host(format!("the supervisor of {name}")).because(e);
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = tokio::process::Command::new(program);
    command.arg("supervise").arg(&name);
    if let Some(limit) = boot_max {
        command.arg(format!("--boot-timeout-ms={}", millis(limit)));
    }
    command.stdin(turn.into_stdio()).stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::null());
    // What is left of the command has the lock open; it goes with this function.
    let child = command.spawn().map_err(failed)?;
    Ok(Starting { child, name })
}

impl Starting {
    /// Ends it, and with it its machine.
    pub(super) async fn give_up(mut self) -> Result<()> {
        let _ = self.child.kill().await;
        Err(Error::interrupted())
    }

    /// Waits until the machine has booted; from the VMM's start to the agent's answer.
    pub(super) async fn ready(mut self, shell: &mut Shell) -> Result<Duration> {
        let failed = |e| Error::host(format!("the supervisor of {}", self.name)).because(e);
        let mut line = String::new();
        if let Some(stdout) = self.child.stdout.take() {
            let mut stdout = BufReader::new(stdout);
            tokio::select! {
                biased;
                _ = shell.interrupts.next() => {
                    let _ = self.child.kill().await;
                    return Err(Error::interrupted());
                }
                read = stdout.read_line(&mut line) => drop(read.map_err(failed)?),
            }
        }
        let ready = serde_json::from_str(&line);
        if !matches!(ready, Ok(Ready::Booted { .. })) {
            // It ends, and with it its right to the machine, which the caller may remove.
            let _ = tokio::time::timeout(END_MAX, self.child.wait()).await;
        }
        match ready {
            Ok(Ready::Booted { ms }) => Ok(Duration::from_millis(ms)),
            Ok(Ready::Failed { class, message, hint, detail }) => {
                let mut e = Error::new(Class::from_name(&class).unwrap_or(Class::Bug), message);
                if let Some(hint) = hint {
                    e = e.hint(hint);
                }
                Err(match detail {
                    Some(detail) => e.detail(detail),
                    None => e,
                })
            }
            Err(_) => Err(Error::host(format!("the supervisor of {} ended", self.name))),
        }
    }
}
