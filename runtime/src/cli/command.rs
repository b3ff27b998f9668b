//! The flags of the verbs that run a command in a machine, and what its end means for our own.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::time::Duration;

use imgrun::{Class, EXIT_NOT_RUN, Error, Exec, FaultCode, NotRun, Running};
use serde_json::{Value, json};

use super::session::{Outcome, Streams, attach};
use super::tty::{self, RawTerminal};
use super::{Shell, fail, say};

/// An upper disk: a file system needs some room for itself, and ext4 ends at 16 TiB.
const UPPER_BYTES: std::ops::RangeInclusive<u64> = 16 << 20..=16 << 40;

#[derive(Debug, clap::Args)]
pub(super) struct CommandArgs {
    /// Pass standard input (done by itself where it is not a terminal)
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Where and as whom a command runs.
#[derive(Debug, Default, clap::Args)]
pub(super) struct PlaceArgs {
    /// Set a variable of the command's environment; KEY alone passes ours
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<OsString>,
    /// Start the command in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<OsString>,
    /// Run the command as this user: name, uid, name:group or uid:gid
    #[arg(short, long)]
    user: Option<OsString>,
    /// Kill the command after this time: 90, 90s, 500ms, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

impl CommandArgs {
    /// A terminal for `user`, and nothing else.
    pub(super) fn terminal(user: Option<OsString>) -> Self {
        let place = PlaceArgs { user, ..PlaceArgs::default() };
        CommandArgs { interactive: true, tty: true, place }
    }

    /// The request to the agent, for /bin/sh where `command` is empty; takes what nothing else
    /// needs.
    pub(super) fn exec(&mut self, command: Vec<OsString>) -> Exec {
        let mut exec = self.place.exec(command);
        if self.tty
            && !exec.env.iter().any(|e| e.starts_with(b"TERM="))
            && let Some(term) = variable("TERM".into())
        {
            exec.env.push(term);
        }
        exec.terminal = self.tty.then(tty::size);
        exec.stdin = self.interactive || self.tty || !std::io::stdin().is_terminal();
        exec
    }

    pub(super) fn streams(&self, json: bool) -> Streams {
        Streams { terminal: self.tty, ..self.place.streams(json) }
    }
}

impl PlaceArgs {
    /// As [`CommandArgs::exec`], without a terminal and without input.
    pub(super) fn exec(&mut self, command: Vec<OsString>) -> Exec {
        let bytes = |text: OsString| text.into_vec();
        let mut argv: Vec<_> = command.into_iter().map(bytes).collect();
        if argv.is_empty() {
            argv.push(b"/bin/sh".to_vec());
        }
        let timeout = self.timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        Exec {
            argv,
            env: std::mem::take(&mut self.env).into_iter().filter_map(variable).collect(),
            cwd: self.workdir.take().map(bytes),
            user: self.user.take().map(bytes),
            timeout_ms: timeout,
            ..Exec::default()
        }
    }

    pub(super) fn streams(&self, json: bool) -> Streams {
        Streams { output_to_stderr: json, terminal: false, timeout: self.timeout }
    }
}

/// An error and the exit code that tells it from the guest's own.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) code: u8,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { error, code: EXIT_NOT_RUN }
    }
}

impl From<NotRun> for Failure {
    fn from(not_run: NotRun) -> Self {
        let code = not_run.code.map_or(EXIT_NOT_RUN, fault_code);
        Failure { error: not_run.error, code }
    }
}

/// What a command came to, for `--json`, and its exit code.
pub(super) type Done = Result<(Value, u8), Failure>;

/// Says what a command came to, and returns our exit code.
pub(super) fn conclude(done: Done, json: bool, shell: &Shell) -> ExitCode {
    let (object, code, error) = match done {
        Ok((object, code)) => (object, code, None),
        Err(failure) => {
            let interrupted = failure.error.class() == Class::Interrupted;
            let code = if interrupted { shell.interrupts.exit_code() as u8 } else { failure.code };
            let object = json!({ "code": code, "error": error_object(&failure.error) });
            (object, code, Some(failure.error))
        }
    };
    let said = if json { say(&object.to_string()) } else { Ok(()) };
    match (error, said) {
        (Some(error), _) => fail(&error, Some(code)),
        (None, Err(e)) => fail(&e, Some(EXIT_NOT_RUN)),
        (None, Ok(())) => ExitCode::from(code),
    }
}

/// Starts a command and connects it to our own streams, until it ends or its machine is `broken`.
pub(super) async fn session(
    running: impl Future<Output = Result<Running, NotRun>>,
    broken: impl Future<Output = Error>,
    streams: Streams,
    shell: &mut Shell,
) -> Result<Outcome, NotRun> {
    tokio::pin!(broken);
    let running = tokio::select! {
        biased;
        _ = shell.interrupts.next() => return Err(Error::interrupted().into()),
        running = running => running?,
        e = &mut broken => return Err(e.into()),
    };
    let _raw = if streams.terminal { Some(RawTerminal::enter()?) } else { None };
    tokio::select! {
        outcome = attach(running, streams, &mut shell.interrupts) => Ok(outcome?),
        e = broken => Err(e.into()),
    }
}

/// `KEY=VALUE` as it is; `KEY` with our own value, or nothing where we have none.
fn variable(text: OsString) -> Option<Vec<u8>> {
    let bytes = text.clone().into_vec();
    if bytes.contains(&b'=') {
        return Some(bytes);
    }
    let value = std::env::var_os(text)?.into_vec();
    Some([bytes, b"=".to_vec(), value].concat())
}

/// As shells say it.
fn fault_code(fault: FaultCode) -> u8 {
    match fault {
        FaultCode::NotFound => 127,
        FaultCode::NotExecutable => 126,
        FaultCode::NoSuchUser
        | FaultCode::NoSuchCwd
        | FaultCode::TooMany
        | FaultCode::BadRequest
        | FaultCode::Unsupported
        | FaultCode::Failed
        | FaultCode::Other(_) => EXIT_NOT_RUN,
    }
}

/// An error, for `--json`.
pub(super) fn error_object(error: &Error) -> Value {
    json!({
        "class": error.class().name(), "message": error.to_string(),
        "hint": error.hint_text(), "detail": error.detail_text(),
    })
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `90`, `90s`, `500ms`, `5m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| "a whole number and s, ms, m or h".to_string())?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{unit:?} is no unit of time; s, ms, m and h are")),
    };
    let time = number.checked_mul(millis).map(Duration::from_millis);
    time.filter(|t| !t.is_zero()).ok_or_else(|| "out of range".to_string())
}

/// `500M`, `20G`, `1T`: bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| "a whole number and M, G or T".to_string())?;
    let bytes: u64 = match unit {
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return Err(format!("{unit:?} is no unit of size; M, G and T are")),
    };
    let size = number.checked_mul(bytes);
    size.filter(|size| UPPER_BYTES.contains(size)).ok_or_else(|| "16M to 16T are allowed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("500M"), Ok(500 << 20));
        assert_eq!(size("16T"), Ok(16 << 40));
        for bad in ["", "5", "G", "1.5G", "8M", "17T", "99999999999T", "-1G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "s", "-1", "1.5s", "1d", "0", "99999999999999999999"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
