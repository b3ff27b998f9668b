//! The command line: one verb, one file.

mod command;
mod cp;
mod create;
mod doctor;
mod exec;
mod export;
mod fork;
mod gc;
mod import;
mod inspect;
mod interrupt;
mod lifecycle;
mod list;
mod logs;
mod pipeline;
mod ports;
mod ps;
mod pull;
mod rm;
mod run;
mod session;
mod snapshot;
mod stats;
mod stdio;
mod supervise;
mod sync;
mod tty;
mod verify;
mod volume;

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use imgrun::terminal::{self, Style};
use imgrun::{Cancel, Class, Error, Progress, Result, Store};

/// Boots microVM bundles, runs commands in them, throws the machines away.
#[derive(Debug, Parser)]
#[command(name = "imgrun", version, about, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  imgrun run ./debian-12-x86_64.tar.zst -- uname -a     import, boot, run, throw away
  imgrun run -it debian -- bash                         a terminal in an imported image
  tar c . | imgrun run debian -- tar tv                 standard input, output and error are exact
  imgrun run -d --name web debian                       a machine that stays: exec, logs, stop, rm
  imgrun pull debian                                    from a catalog: see imgrun pull --help
  imgrun doctor                                         what this machine can and can not run

Bundles are kept in $IMGRUN_HOME, else $XDG_DATA_HOME/imgrun, else ~/.local/share/imgrun.

Exit codes: 2 wrong usage, 3 wrong input, 4 not trusted, 5 network, 6 this machine lacks something,
7 the guest failed, 70 a bug, 130 interrupted. `run` passes the guest's own code on: see its help.";

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Args),
    Create(create::Args),
    Start(lifecycle::Start),
    Stop(lifecycle::Stop),
    Restart(lifecycle::Restart),
    Kill(lifecycle::Kill),
    Exec(exec::Args),
    Shell(exec::ShellArgs),
    Pipeline(pipeline::Args),
    Cp(cp::Args),
    Logs(logs::Logs),
    Console(logs::Console),
    Snapshot(snapshot::Args),
    Fork(fork::Args),
    Ps(ps::Args),
    Stats(stats::Args),
    Ports(ports::Args),
    Volume(volume::Args),
    Supervise(supervise::Args),
    Pull(pull::Args),
    Sync(sync::Args),
    Import(import::Args),
    List(list::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Export(export::Args),
    Rm(rm::Args),
    Gc(gc::Args),
    Doctor(doctor::Args),
    /// Print the version
    Version,
}

/// Interrupted work has this long to tidy up.
const TIDY_MAX: Duration = Duration::from_secs(5);

/// What every verb gets.
struct Shell {
    progress: Progress,
    interrupts: interrupt::Interrupts,
}

impl Shell {
    /// Opens the store, which may take a while: it removes what the killed left.
    async fn store(&mut self) -> Result<Store> {
        self.blocking(|_, _| Store::open(Store::default_home()?)).await
    }

    /// Awaits `work` unless the user stops us first: then it is dropped.
    async fn unless_interrupted<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            _ = self.interrupts.next() => Err(Error::interrupted()),
            done = work => done,
        }
    }

    /// Runs blocking work on a thread of its own; an interrupt asks it to stop and waits until it
    /// has tidied up.
    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Progress, &Cancel) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (progress, cancel) = (self.progress.clone(), Cancel::new());
        let flag = cancel.clone();
        let mut thread = tokio::task::spawn_blocking(move || work(&progress, &flag));
        tokio::select! {
            biased;
            _ = self.interrupts.next() => {
                cancel.cancel();
                imgrun::interrupt::raise();
                // A second interrupt does not wait, nor do we for a server that keeps silent; what is
                // left then is swept at the next start.
                tokio::select! {
                    _ = self.interrupts.next() => {}
                    () = tokio::time::sleep(TIDY_MAX) => {}
                    _ = &mut thread => return Err(Error::interrupted()),
                }
                std::process::exit(self.interrupts.exit_code())
            }
            done = &mut thread => {
                done.unwrap_or_else(|e| Err(Error::new(Class::Bug, "a thread failed").because(e)))
            }
        }
    }
}

/// Runs the program: reads the arguments, performs the verb, prints the error if there is one.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => return fail(&Error::host("the event loop").because(e), None),
    };
    if let Err(e) = imgrun::interrupt::listen() {
        return fail(&e, None);
    }
    runtime.block_on(perform(cli))
}

async fn perform(cli: Cli) -> ExitCode {
    let interrupts = match interrupt::Interrupts::listen() {
        Ok(interrupts) => interrupts,
        Err(e) => return fail(&e, None),
    };
    let style = if cli.quiet { Style::Quiet } else { Style::Auto };
    let mut shell = Shell { progress: terminal::progress(style), interrupts };
    let done = match cli.verb {
        // Its exit code is the guest's, or says that the command never ran.
        Verb::Run(args) => return args.run(&mut shell).await,
        Verb::Create(args) => return args.run(&mut shell).await,
        Verb::Exec(args) => return args.run(&mut shell).await,
        Verb::Shell(args) => return args.run(&mut shell).await,
        Verb::Pipeline(args) => return args.run(&mut shell).await,
        Verb::Supervise(args) => return args.run(&mut shell).await,
        Verb::Start(args) => args.run(&mut shell).await,
        Verb::Stop(args) => args.run(&mut shell).await,
        Verb::Restart(args) => args.run(&mut shell).await,
        Verb::Kill(args) => args.run(&mut shell).await,
        Verb::Cp(args) => args.run(&mut shell).await,
        Verb::Logs(args) => args.run(&mut shell).await,
        Verb::Console(args) => args.run(&mut shell).await,
        Verb::Snapshot(args) => args.run(&mut shell).await,
        Verb::Fork(args) => args.run(&mut shell).await,
        Verb::Stats(args) => args.run(&mut shell).await,
        Verb::Volume(args) => args.run(&mut shell).await,
        Verb::Ports(args) => args.run(&mut shell).await,
        Verb::Ps(args) => args.run(&mut shell).await,
        Verb::Pull(args) => args.run(&mut shell).await,
        Verb::Sync(args) => args.run(&mut shell).await,
        Verb::Import(args) => args.run(&mut shell).await,
        Verb::List(args) => args.run(&mut shell).await,
        Verb::Inspect(args) => args.run(&mut shell).await,
        Verb::Verify(args) => args.run(&mut shell).await,
        Verb::Export(args) => args.run(&mut shell).await,
        Verb::Rm(args) => args.run(&mut shell).await,
        Verb::Gc(args) => args.run(&mut shell).await,
        Verb::Doctor(args) => args.run(&mut shell).await,
        Verb::Version => say(&format!("imgrun {}", env!("CARGO_PKG_VERSION"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.class() == Class::Interrupted => {
            fail(&e, Some(shell.interrupts.exit_code() as u8))
        }
        Err(e) => fail(&e, None),
    }
}

/// Prints evidence, the error and its hint; returns `code`, or that of the error's class.
fn fail(e: &Error, code: Option<u8>) -> ExitCode {
    let mut text = String::new();
    for line in e.detail_text().unwrap_or_default().lines() {
        text.push_str(&format!("  | {line}\n"));
    }
    text.push_str(&format!("imgrun: {e}\n"));
    if let Some(hint) = e.hint_text() {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // Guests, servers and file names are quoted in it: a terminal is to act on none of them.
    let text = imgrun::printable(text.as_bytes()) + "\n";
    // A closed standard error is no reason for another error.
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(code.unwrap_or(e.class().exit_code()))
}

/// Prints a line on standard output. Nobody listening is no error.
fn say(line: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("stdout", e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_verbs_flags_make_sense() {
        super::Cli::command().debug_assert();
    }
}
