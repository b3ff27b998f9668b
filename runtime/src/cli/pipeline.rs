//! `imgrun pipeline MACHINE LINE…`

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use imgrun::kept::Kept;
use imgrun::{Error, check_exec};
use serde_json::{Value, json};

use super::Shell;
use super::command::{Done, Failure, PlaceArgs, conclude, millis, session};
use super::session::Outcome;

/// Run several commands in a machine that runs, one after the other, until one fails
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The machine's name
    machine: String,
    /// Lines for the machine's /bin/sh, each in a shell of its own
    #[arg(required = true, value_name = "LINE")]
    lines: Vec<OsString>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Run the others, too, where one has failed; the first failure is the exit code
    #[arg(short, long)]
    keep_going: bool,
    /// Print one JSON object on each result; the guest's output then all goes to standard error
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  imgrun pipeline -w /src ci './configure' 'make -j2' 'make check'
  imgrun pipeline --json --timeout 5m ci 'cargo build' 'cargo test' 2>log

Each line begins where --workdir says, with the environment that --env says: what one line sets is
not there for the next. --timeout is for each.

Exit code: that of the first line that failed, as `imgrun run` has it, or 0.";

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> ExitCode {
        let json = self.json;
        let done = self.perform(shell).await;
        conclude(done, json, shell)
    }

    async fn perform(mut self, shell: &mut Shell) -> Done {
        let streams = self.place.streams(self.json);
        let exec = self.place.exec(Vec::new());
        let steps: Vec<_> = self.lines.iter().map(|line| step(&exec, line)).collect();
        // Before any is run.
        steps.iter().try_for_each(check_exec)?;
        let store = shell.store().await?;
        let kept = Kept::get(&store, &self.machine)?;
        let guest = shell.unless_interrupted(kept.guest()).await?;
        let (mut results, mut code) = (Vec::new(), 0);
        for (line, exec) in self.lines.iter().zip(steps) {
            let began = Instant::now();
            let broken = async {
                guest.lost().await;
                Error::guest(format!("{} ended", kept.name))
            };
            let outcome = session(guest.exec(exec), broken, streams, shell).await;
            let outcome = outcome.map_err(Failure::from)?;
            results.push(result(line, &outcome, began));
            if code == 0 {
                code = outcome.code();
            }
            let stopped = matches!(outcome, Outcome::Killed { .. }) || shell.interrupts.came();
            if stopped || (outcome.code() != 0 && !self.keep_going) {
                break;
            }
        }
        let object = json!({
            "code": code, "machine": kept.name.to_string(), "steps": results,
            "not_run": self.lines.len() - results.len(),
        });
        Ok((object, code))
    }
}

/// `line` in a shell of its own.
fn step(exec: &imgrun::Exec, line: &OsString) -> imgrun::Exec {
    use std::os::unix::ffi::OsStrExt;
    let argv = [b"/bin/sh", &b"-c"[..], line.as_bytes()].map(<[u8]>::to_vec).to_vec();
    imgrun::Exec { argv, ..exec.clone() }
}

fn result(line: &OsString, outcome: &Outcome, began: Instant) -> Value {
    let (signal, timed_out) = outcome.details();
    json!({
        "line": line.to_string_lossy(), "code": outcome.code(), "signal": signal,
        "timed_out": timed_out, "exec_ms": millis(began.elapsed()),
    })
}
