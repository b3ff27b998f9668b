//! `imgrun run IMAGE [-- COMMAND…]`

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use imgrun::{
    Accel, AccelChoice, Class, Decision, EXIT_NOT_RUN, Error, Exec, FaultCode, Hostname, Kernel,
    KvmEvidence, MEMORY_MIB_DEFAULT, Machine, Network, NotRun, Result, Spec, Status, Stored,
    boot_max, check_arch, check_exec, choose_accel, offer,
};
use serde_json::json;

use super::session::{Outcome, Streams, attach};
use super::tty::{self, RawTerminal};
use super::{Shell, fail, say};

/// Boot an image, run a command in it, throw the machine away
///
/// IMAGE is a file (it is imported first: ./debian-12-x86_64.tar.zst), or the name of a bundle
/// that is here (debian, debian:12, or digits of its digest). What is not here is pulled from the
/// configured catalogs (imgrun pull --help). The image itself is never changed; what the machine
/// writes goes with it.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The image: a file, or the name of an imported bundle
    image: String,
    /// The command and its arguments; /bin/sh where there is none
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Pass standard input (done by itself where it is not a terminal)
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
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
    /// Virtual processors
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory, MiB
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB_DEFAULT)]
    memory: u32,
    /// Who executes the guest: the processor (kvm) or QEMU (tcg); auto goes by what works here
    #[arg(long, value_name = "HOW", default_value = "auto")]
    accel: AccelArg,
    /// Connect the machine: none, or user (outbound only; see below)
    #[arg(long, value_name = "HOW", default_value = "none")]
    network: NetworkArg,
    /// Boot this kernel instead of the image's: a vmlinux, or a kernel bundle
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The guest's name for itself; the image's name where none is given
    #[arg(long, value_name = "NAME")]
    hostname: Option<Hostname>,
    /// Give up on a guest that does not answer in this time; 30 s with KVM, else 120 s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    boot_timeout: Option<Duration>,
    /// Print one JSON object on the result; the guest's output then all goes to standard error
    #[arg(long)]
    json: bool,
    /// Throw the machine away at the end: always so in this version
    #[arg(long)]
    rm: bool,
}

const HELP: &str = "\
Examples:
  imgrun run ./debian-12-x86_64.tar.zst -- uname -a
  imgrun run -it debian -- bash
  imgrun run -e CI=1 -w /tmp -u nobody debian -- env
  pg_dump db | imgrun run --timeout 10m debian -- sh -c 'gzip -9' > db.gz

With --network user the machine reaches what this host reaches by IPv4, this host's own addresses
included, and asks its name server; but not its loopback (127.0.0.0/8) and link-local addresses
(169.254.0.0/16). Nothing reaches the machine.

Exit code: the command's own, 128+n where signal n ended it; 124 after --timeout, 125 where we
failed (the machine did not boot, say), 126 where the command could not be executed, 127 where there
is no such command; 2 where this command line of ours is wrong. The first Ctrl-C goes to the command, the second kills the machine.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AccelArg {
    Auto,
    Kvm,
    Tcg,
}

impl From<AccelArg> for AccelChoice {
    fn from(arg: AccelArg) -> Self {
        match arg {
            AccelArg::Auto => AccelChoice::Auto,
            AccelArg::Kvm => AccelChoice::Kvm,
            AccelArg::Tcg => AccelChoice::Tcg,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NetworkArg {
    None,
    User,
}

impl From<NetworkArg> for Network {
    fn from(arg: NetworkArg) -> Self {
        match arg {
            NetworkArg::None => Network::None,
            NetworkArg::User => Network::User,
        }
    }
}

/// What a run came to.
struct Report {
    image: Stored,
    kernel: Kernel,
    accel: Accel,
    boot: Duration,
    exec: Duration,
    outcome: Outcome,
}

/// An error and the exit code that tells it from the guest's own.
struct Failure {
    error: Error,
    code: u8,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { error, code: EXIT_NOT_RUN }
    }
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> ExitCode {
        let json = self.json;
        let done = self.perform(shell).await;
        let (object, code) = match &done {
            Ok(report) => (report.object(), report.outcome.code()),
            Err(failure) => {
                let interrupted = failure.error.class() == Class::Interrupted;
                let signalled = shell.interrupts.exit_code() as u8;
                let code = if interrupted { signalled } else { failure.code };
                (error_object(&failure.error, code), code)
            }
        };
        let said = if json { say(&object.to_string()) } else { Ok(()) };
        match (done, said) {
            (Err(failure), _) => fail(&failure.error, Some(code)),
            (Ok(_), Err(e)) => fail(&e, Some(EXIT_NOT_RUN)),
            (Ok(_), Ok(())) => ExitCode::from(code),
        }
    }

    async fn perform(mut self, shell: &mut Shell) -> Result<Report, Failure> {
        if self.tty {
            tty::require()?;
        }
        let exec = self.exec();
        // Before the machine is booted for nothing.
        check_exec(&exec)?;
        let (image, kernel) = self.resolve(shell).await?;
        let _hold = image.hold()?;
        let accel = self.accel.into();
        let Decision { accel, note } = choose_accel(accel, || KvmEvidence::gather(false))?;
        let spec = self.spec(&image, &kernel, accel);
        spec.check()?;
        if let Some(note) = note {
            shell.progress.note(note);
        }
        let store = shell.store().await?;
        let limit = self.boot_timeout.unwrap_or(boot_max(accel));
        let machine = Machine::boot(&store, &spec, limit);
        let mut machine = shell.unless_interrupted(machine).await?;
        let began = Instant::now();
        let (boot, streams) = (machine.booted_in(), self.streams());
        let outcome = match session(&machine, exec, streams, shell).await {
            Ok(outcome) => outcome,
            Err(NotRun { code: Some(fault), error }) => {
                return Err(Failure { error, code: fault_code(fault) });
            }
            Err(NotRun { code: None, error }) if error.class() == Class::Guest => {
                return Err(machine.explain(error).await.into());
            }
            Err(NotRun { code: None, error }) => return Err(error.into()),
        };
        let exec = began.elapsed();
        machine.kill();
        Ok(Report { image, kernel, accel, boot, exec, outcome })
    }

    /// The image and its kernel, imported where they are files.
    async fn resolve(&self, shell: &mut Shell) -> Result<(Stored, Kernel)> {
        let store = shell.store().await?;
        let (reference, kernel) = (self.image.clone(), self.kernel.clone());
        let resolved = shell.blocking(move |progress, cancel| {
            let file = Some(PathBuf::from(&reference)).filter(|_| is_file(&reference));
            let image = match &file {
                Some(file) => store.import(file, progress, cancel)?.bundle,
                None => offer::image(&store, &reference, progress, cancel)?,
            };
            if image.manifest.kind != bundle::Kind::Image {
                return Err(Error::input(format!("{} is a kernel, not an image", image.title())));
            }
            check_arch(image.manifest.arch).map_err(|e| e.within(image.title()))?;
            if file.is_none() && kernel.is_none() {
                offer::kernel(&store, &image, progress, cancel)?;
            }
            let beside = file.as_deref().map(|f| f.parent().unwrap_or(Path::new("")));
            let kernel = store.kernel(&image, kernel.as_deref(), beside, progress, cancel)?;
            Ok((image, kernel))
        });
        resolved.await
    }

    fn spec(&self, image: &Stored, kernel: &Kernel, accel: Accel) -> Spec {
        let mut spec = Spec::new(image, kernel, accel);
        spec.cpus = self.cpus;
        spec.memory_mib = self.memory;
        spec.network = self.network.into();
        if let Some(hostname) = &self.hostname {
            spec.hostname = hostname.clone();
        }
        spec
    }

    /// The request to the agent; takes the arguments, which nothing else needs.
    fn exec(&mut self) -> Exec {
        let bytes = |text: OsString| text.into_vec();
        let mut argv: Vec<_> = std::mem::take(&mut self.command).into_iter().map(bytes).collect();
        if argv.is_empty() {
            argv.push(b"/bin/sh".to_vec());
        }
        let mut env: Vec<Vec<u8>> =
            std::mem::take(&mut self.env).into_iter().filter_map(variable).collect();
        if self.tty
            && !env.iter().any(|e| e.starts_with(b"TERM="))
            && let Some(term) = variable("TERM".into())
        {
            env.push(term);
        }
        Exec {
            argv,
            env,
            clear_env: false,
            cwd: self.workdir.take().map(bytes),
            user: self.user.take().map(bytes),
            terminal: self.tty.then(tty::size),
            stdin: self.interactive || self.tty || !std::io::stdin().is_terminal(),
            timeout_ms: self.timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    fn streams(&self) -> Streams {
        Streams { output_to_stderr: self.json, terminal: self.tty, timeout: self.timeout }
    }
}

async fn session(
    machine: &Machine,
    exec: Exec,
    streams: Streams,
    shell: &mut Shell,
) -> Result<Outcome, NotRun> {
    let running = tokio::select! {
        biased;
        _ = shell.interrupts.next() => return Err(Error::interrupted().into()),
        running = machine.exec(exec) => running?,
        e = machine.panicked() => return Err(e.into()),
    };
    let _raw = if streams.terminal { Some(RawTerminal::enter()?) } else { None };
    tokio::select! {
        outcome = attach(running, streams, &mut shell.interrupts) => Ok(outcome?),
        e = machine.panicked() => Err(e.into()),
    }
}

/// A path has a slash, or looks like a packed bundle; anything else is a name.
fn is_file(reference: &str) -> bool {
    reference.contains('/') || reference.ends_with(".tar.zst")
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

impl Report {
    fn object(&self) -> serde_json::Value {
        let (status, timed_out) = match &self.outcome {
            Outcome::Exit(exit) => (Some(exit.status), exit.timed_out),
            Outcome::Killed { .. } => (None, false),
        };
        let signal = match status {
            Some(Status::Signal(signal)) => Some(signal),
            Some(Status::Code(_)) | None => None,
        };
        json!({
            "code": self.outcome.code(), "signal": signal, "timed_out": timed_out,
            "killed": status.is_none(), "image": self.image.title(),
            "digest": self.image.digest, "kernel": self.kernel.title,
            "accel": self.accel.name(), "boot_ms": millis(self.boot), "exec_ms": millis(self.exec),
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn error_object(error: &Error, code: u8) -> serde_json::Value {
    json!({
        "code": code,
        "error": {
            "class": error.class().name(), "message": error.to_string(),
            "hint": error.hint_text(), "detail": error.detail_text(),
        },
    })
}

/// `90`, `90s`, `500ms`, `5m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "s", "-1", "1.5s", "1d", "0", "99999999999999999999"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_is_told_from_a_name() {
        assert!(is_file("./debian"));
        assert!(is_file("debian-12-x86_64.tar.zst"));
        assert!(!is_file("debian:12"));
    }
}
