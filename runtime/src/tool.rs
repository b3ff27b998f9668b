//! External programs: started, watched and ended in one way.
//!
//! A [`Tool`] is a command that is still being put together; [`Tool::run`] and [`Tool::stream`]
//! consume it and return when the program has ended. It runs in a process group of its own with an
//! empty standard input, and none of the group outlives the call: not after a timeout, an
//! interrupt ([`crate::interrupt`]), an error of the caller's or the program's own end. Should we
//! be killed, the kernel sends it SIGTERM (SIGTERM and not SIGKILL, so that make and mmdebstrap
//! take their own children and temporary directories with them). That signal comes with the end of
//! the thread that started the program, which is why it is the caller's thread that waits for it.

// `pre_exec` is unsafe; it is the only way to ask for that signal.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::{Class, Error, Result, interrupt};

mod output;
mod packages;
#[cfg(test)]
mod tests;

use output::{Pipe, Tail, each_line};
pub use packages::{debian_package, find, require};

/// A longer command line is cut in errors.
const COMMAND_CHARS_MAX: usize = 600;
/// What [`Tool::run`] keeps of standard output; more is an error.
const STDOUT_BYTES_MAX: usize = 256 << 20;
/// Standard input is at most this long: one page, which any pipe holds.
const INPUT_BYTES_MAX: usize = 4096;
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// What a program left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Standard output; empty where [`Tool::on_stdout_line`] took it.
    pub stdout: Vec<u8>,
}

type OnLine<'a> = Box<dyn FnMut(&str) + Send + 'a>;

/// An external program, ready to be started. See the module's text for its life.
pub struct Tool<'a> {
    command: Command,
    timeout: Option<Duration>,
    class: Class,
    stdout_line: Option<OnLine<'a>>,
    stderr_line: Option<OnLine<'a>>,
}

impl fmt::Debug for Tool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tool({})", self.command_line())
    }
}

impl<'a> Tool<'a> {
    /// `program`, looked for on `PATH` unless it holds a slash.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0);
        Tool { command, timeout: None, class: Class::Host, stdout_line: None, stderr_line: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Passes on none of our environment but the variables called `keep`. Set others afterwards.
    #[must_use]
    pub fn only_env(mut self, keep: &[&str]) -> Self {
        self.command.env_clear();
        for key in keep {
            if let Some(value) = std::env::var_os(key) {
                self.command.env(key, value);
            }
        }
        self
    }

    /// Runs it in directory `dir`.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Gives it `text` on standard input, 4 KiB at most; nothing otherwise.
    ///
    /// # Errors
    /// [`Class::Bug`] where it is longer; [`Class::Host`] where no pipe can be made.
    pub fn input(mut self, text: &[u8]) -> Result<Self> {
        if text.len() > INPUT_BYTES_MAX {
            return Err(Error::bug(format!("{} bytes of input", text.len())));
        }
        // It fits into the pipe: nobody has to wait for the program to read.
        let (reader, mut writer) = io::pipe().map_err(|e| Error::io("a pipe", e))?;
        writer.write_all(text).map_err(|e| Error::io("a pipe", e))?;
        self.command.stdin(reader);
        Ok(self)
    }

    /// Lets it read `from`, a pipe's end for instance, which is closed when it has ended.
    #[must_use]
    pub fn stdin(mut self, from: impl Into<Stdio>) -> Self {
        self.command.stdin(from);
        self
    }

    /// Ends it after `timeout` at the latest.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The class of the error where the program itself fails; [`Class::Host`] otherwise.
    #[must_use]
    pub fn fails_as(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// Calls `see` with each line of standard output, which is then not kept. For [`Tool::run`].
    #[must_use]
    pub fn on_stdout_line(mut self, see: impl FnMut(&str) + Send + 'a) -> Self {
        self.stdout_line = Some(Box::new(see));
        self
    }

    /// Calls `see` with each line of standard error, from another thread.
    #[must_use]
    pub fn on_stderr_line(mut self, see: impl FnMut(&str) + Send + 'a) -> Self {
        self.stderr_line = Some(Box::new(see));
        self
    }

    /// The command line as a person would type it, cut where it is very long.
    pub fn command_line(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let line = words.map(quoted).collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(COMMAND_CHARS_MAX) {
            Some((cut, _)) => format!("{} …", &line[..cut]),
            None => line,
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// [`Class::Host`] where it is missing (the hint names the package) or out of time; the class
    /// of [`Tool::fails_as`], with its last lines, where it fails; [`Class::Interrupted`].
    pub fn run(mut self) -> Result<Output> {
        let line = self.stdout_line.take();
        let (tail, what) = (Mutex::new(Tail::default()), self.command_line());
        let stdout = self.start(&tail, |stdout| match line {
            Some(mut see) => {
                each_line(stdout, |text| {
                    Tail::push(&tail, text);
                    see(text);
                })?;
                Ok(Vec::new())
            }
            None => {
                let mut kept = Vec::new();
                stdout
                    .take(STDOUT_BYTES_MAX as u64 + 1)
                    .read_to_end(&mut kept)
                    .map_err(|e| Error::io(format!("output of {what}"), e))?;
                if kept.len() > STDOUT_BYTES_MAX {
                    let why = format!("{what} wrote more than {STDOUT_BYTES_MAX} bytes");
                    return Err(Error::host(why));
                }
                Tail::last_resort(&tail, &kept);
                Ok(kept)
            }
        })?;
        Ok(Output { stdout })
    }

    /// Runs it to its end while `read` reads its standard output; what `read` leaves is skipped.
    ///
    /// # Errors
    /// As [`Tool::run`]. Where `read` fails before the end of the output the program is stopped
    /// and the error is `read`'s; where it fails at the end, a failure of the program's is the
    /// cause and goes first.
    pub fn stream<T>(self, read: impl FnOnce(&mut dyn Read) -> Result<T>) -> Result<T> {
        self.start(&Mutex::new(Tail::default()), read)
    }

    /// Starts it and leaves it alone: it outlives us, in a process group of its own, and is silent.
    ///
    /// # Errors
    /// Where it can not be started.
    pub fn detach(mut self) -> Result<()> {
        let what = self.command_line();
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        self.command.spawn().map(drop).map_err(|e| self.not_started(&what, e))
    }

    /// Runs it to its end with our own terminal as its input and output: for editors. Ctrl-C on the
    /// terminal reaches both of us.
    ///
    /// # Errors
    /// As [`Tool::run`], without its last lines: they were on the terminal.
    pub fn on_terminal(mut self) -> Result<()> {
        interrupt::check()?;
        let what = self.command_line();
        let ours = rustix::process::getpgrp().as_raw_nonzero().get();
        self.command.stdin(Stdio::inherit()).process_group(ours);
        let mut child = self.command.spawn().map_err(|e| self.not_started(&what, e))?;
        let status = child.wait().map_err(|e| Error::host(what.clone()).because(e))?;
        interrupt::check()?;
        match status.success() {
            true => Ok(()),
            false => Err(Error::new(self.class, format!("{what}: {status}"))),
        }
    }

    fn start<T>(
        mut self,
        tail: &Mutex<Tail>,
        read: impl FnOnce(&mut dyn Read) -> Result<T>,
    ) -> Result<T> {
        interrupt::check()?;
        let what = self.command_line();
        let (mut child, pidfd) = self.spawn(&what)?;
        let group = Pid::from_child(&child);
        let failed = |e: io::Error| Error::host(what.clone()).because(e);
        let (over, watching) = UnixStream::pair().map_err(failed)?;
        let deadline = self.timeout.map(|t| Instant::now() + t);
        let mut stderr_line = self.stderr_line.take();

        let (result, at_end, stopped, waited) = thread::scope(|scope| {
            let pipes = (child.stdout.take(), child.stderr.take());
            let mut stdout = Pipe { inner: pipes.0, over: &over, at_end: false };
            let stderr = Pipe { inner: pipes.1, over: &over, at_end: false };
            let watcher = scope.spawn(|| {
                // `watching` closes when the program has ended, and with it all reading.
                let _watching = watching;
                watch(&pidfd, group, deadline)
            });
            scope.spawn(move || {
                each_line(stderr, |text| {
                    Tail::push(tail, text);
                    if let Some(see) = &mut stderr_line {
                        see(text);
                    }
                })
            });
            // A panic of the caller's must not leave the program running either.
            let guard = StopOnDrop { pidfd: &pidfd, group, armed: true };
            let result = read(&mut stdout);
            guard.finish(result.is_err() && !stdout.at_end);
            if result.is_ok() {
                let _ = io::copy(&mut stdout, &mut io::sink());
            }
            let stopped = watcher.join().unwrap_or(None);
            (result, stdout.at_end, stopped, child.wait())
        });
        let status = waited.map_err(failed)?;
        match (stopped, result) {
            (Some(Stopped::Interrupted), _) => Err(Error::interrupted()),
            (Some(Stopped::TimedOut), _) => Err(self.timed_out(&what, tail)),
            (None, Err(error)) if !at_end || status.success() => Err(error),
            (None, _) if !status.success() => Err(self.failed(&what, status, tail)),
            (None, result) => result,
        }
    }

    fn spawn(&mut self, what: &str) -> Result<(Child, OwnedFd)> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec only two system calls are made; nothing is allocated.
        unsafe {
            self.command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
                // We may have died before that call: then nobody will send the signal.
                match rustix::process::getppid() {
                    Some(p) if p == parent => Ok(()),
                    _ => Err(io::ErrorKind::BrokenPipe.into()),
                }
            });
        }
        let mut child = self.command.spawn().map_err(|e| self.not_started(what, e))?;
        match rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok((child, pidfd)),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(Error::host(format!("watch {what}")).because(io::Error::from(e)))
            }
        }
    }

    fn not_started(&self, what: &str, cause: io::Error) -> Error {
        let program = self.command.get_program().to_string_lossy().into_owned();
        if let Some(dir) = self.command.get_current_dir()
            && !dir.is_dir()
        {
            return Error::io(format!("run {program} in {}", dir.display()), cause);
        }
        if cause.kind() == io::ErrorKind::NotFound && !program.contains('/') {
            return Error::host(format!("program {program} is not installed"))
                .hint(format!("apt-get install {}", debian_package(&program)));
        }
        Error::host(format!("start {what}")).because(cause)
    }

    fn timed_out(&self, what: &str, tail: &Mutex<Tail>) -> Error {
        let after = self.timeout.unwrap_or_default();
        Error::host(format!("{what}: stopped after {after:?}{}", Tail::text(tail)))
    }

    fn failed(&self, what: &str, status: ExitStatus, tail: &Mutex<Tail>) -> Error {
        Error::new(self.class, format!("{what}: {status}{}", Tail::text(tail)))
    }
}

/// A word as a shell would want it.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=/.,:@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

enum Stopped {
    Interrupted,
    TimedOut,
}

/// Waits for the program's end, the deadline or an interrupt; then ends the whole group. The
/// leader stays a zombie until the caller has waited for it, so its number is still its own.
fn watch(pidfd: &OwnedFd, group: Pid, deadline: Option<Instant>) -> Option<Stopped> {
    let stopped = loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
        let signalled = interrupt::fd();
        if let Some(fd) = &signalled {
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        let timespec = left.map(timespec);
        match poll(&mut fds, timespec.as_ref()) {
            Ok(_) if !fds[0].revents().is_empty() => break None,
            Ok(_) if fds.len() > 1 && !fds[1].revents().is_empty() => {
                break Some(Stopped::Interrupted);
            }
            Ok(_) if left.is_some_and(|l| l.is_zero()) => break Some(Stopped::TimedOut),
            Ok(_) | Err(_) => {}
        }
    };
    if stopped.is_some() {
        stop(pidfd, group);
    }
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    // Until it is a zombie: what it had written is then in the pipes.
    let _ = rustix::process::waitid(
        WaitId::PidFd(pidfd.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    );
    stopped
}

/// Asks the group to end, and makes it end after [`GRACE`].
fn stop(pidfd: &OwnedFd, group: Pid) {
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timespec(GRACE)));
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

struct StopOnDrop<'a> {
    pidfd: &'a OwnedFd,
    group: Pid,
    armed: bool,
}

impl StopOnDrop<'_> {
    fn finish(mut self, stop: bool) {
        self.armed = stop;
    }
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            stop(self.pidfd, self.group);
        }
    }
}
