//! `imgrun exec MACHINE COMMAND…` and `imgrun shell MACHINE`

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use imgrun::kept::Kept;
use imgrun::{Error, check_exec};
use serde_json::json;

use super::Shell;
use super::command::{CommandArgs, Done, conclude, millis, session};
use super::session::Outcome;
use super::tty;

/// Run a command in a machine that runs
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The machine's name
    machine: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
    #[command(flatten)]
    how: CommandArgs,
    /// Print one JSON object on the result; the guest's output then all goes to standard error
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  imgrun exec web -- systemctl status
  imgrun exec -it web -- bash
  tar c . | imgrun exec -w /srv web -- tar x

Exit code: as `imgrun run` has it.";

/// Open a shell in a machine that runs
#[derive(Debug, clap::Args)]
pub(super) struct ShellArgs {
    /// The machine's name
    machine: String,
    /// As this user: name, uid, name:group or uid:gid
    #[arg(short, long)]
    user: Option<OsString>,
}

/// The better shell of those that are there.
const SHELL: &str = "command -v bash >/dev/null && exec bash -l || exec sh -l";

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> ExitCode {
        let json = self.json;
        let done = self.perform(shell).await;
        conclude(done, json, shell)
    }

    async fn perform(mut self, shell: &mut Shell) -> Done {
        if self.how.tty {
            tty::require()?;
        }
        let streams = self.how.streams(self.json);
        let exec = self.how.exec(self.command);
        check_exec(&exec)?;
        let store = shell.store().await?;
        let kept = Kept::get(&store, &self.machine)?;
        let guest = shell.unless_interrupted(kept.guest()).await?;
        let began = Instant::now();
        let broken = async {
            guest.lost().await;
            Error::guest(format!("{} ended", kept.name))
        };
        let outcome = session(guest.exec(exec), broken, streams, shell).await?;
        let (signal, timed_out) = outcome.details();
        let object = json!({
            "code": outcome.code(), "signal": signal, "timed_out": timed_out,
            "killed": matches!(outcome, Outcome::Killed { .. }), "machine": kept.name.to_string(),
            "exec_ms": millis(began.elapsed()),
        });
        Ok((object, outcome.code()))
    }
}

impl ShellArgs {
    pub(super) async fn run(self, shell: &mut Shell) -> ExitCode {
        let how = CommandArgs::terminal(self.user);
        let command = ["sh", "-c", SHELL].map(OsString::from).to_vec();
        Args { machine: self.machine, command, how, json: false }.run(shell).await
    }
}
