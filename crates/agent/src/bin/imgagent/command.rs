//! A running command: its streams, its credit, its time, its end.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agent::{
    Exec, Exit, FRAME_HEADER_BYTES, Fault, Message, ProtocolError, Received, Sending, Status,
    Stream, Terminal,
};
use rustix::io::Errno;

use crate::host::Host;
use crate::{spawn, sys};

/// After SIGTERM for a timeout, this long until SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// After the command has ended, its outputs may stay open in processes that it left behind; they
/// are waited for this long, and then only what is in the pipes already is passed on.
const OUTPUT_GRACE: Duration = Duration::from_millis(250);
/// Control-D: the end of input, for a terminal.
const TERMINAL_EOF: u8 = 4;

pub(crate) struct Command {
    channel: u32,
    /// The leader of its process group, too.
    pid: i32,
    terminal: bool,
    input: Option<Input>,
    input_window: Received,
    outputs: [Option<Output>; 2],
    status: Option<Status>,
    timed_out: bool,
    /// What happens next if nothing else does.
    timer: Option<(Instant, Timer)>,
}

#[derive(Clone, Copy)]
enum Timer {
    Terminate,
    Kill,
    StopWaiting,
}

struct Input {
    fd: OwnedFd,
    queue: VecDeque<u8>,
    ended: bool,
}

pub(crate) struct Output {
    stream: Stream,
    fd: OwnedFd,
    window: Sending,
    /// Set once the end is not waited for any more: so many bytes are still passed on.
    last: Option<usize>,
}

impl Command {
    pub(crate) fn start(channel: u32, exec: &Exec) -> Result<Self, Fault> {
        let ends = spawn::start(exec)?;
        let output = |stream, fd| Output { stream, fd, window: Sending::default(), last: None };
        let deadline = exec.timeout_ms.and_then(|ms| {
            // A time that is further away than clocks go is none.
            Instant::now().checked_add(Duration::from_millis(ms))
        });
        Ok(Command {
            channel,
            pid: ends.pid as i32,
            terminal: exec.terminal.is_some(),
            input: ends.stdin.map(|fd| Input { fd, queue: VecDeque::new(), ended: false }),
            input_window: Received::default(),
            outputs: [
                Some(output(Stream::Stdout, ends.stdout)),
                ends.stderr.map(|fd| output(Stream::Stderr, fd)),
            ],
            status: None,
            timed_out: false,
            timer: deadline.map(|at| (at, Timer::Terminate)),
        })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it runs still, and with this process id: that of an ended one may be anybody's.
    pub(crate) fn runs_as(&self, pid: i32) -> bool {
        self.status.is_none() && self.pid == pid
    }

    /// The descriptor to wait for until input can be written, if any input waits.
    pub(crate) fn input_fd(&self) -> Option<&OwnedFd> {
        self.input.as_ref().filter(|input| !input.queue.is_empty()).map(|input| &input.fd)
    }

    /// The descriptors to read outputs from, where there is credit for them.
    pub(crate) fn output_fds(&self) -> impl Iterator<Item = (usize, &OwnedFd)> {
        self.outputs.iter().enumerate().filter_map(|(at, output)| {
            output.as_ref().filter(|o| o.window.left() > 0).map(|o| (at, &o.fd))
        })
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timer.map(|(at, _)| at)
    }

    /// Input arrived; none at all is its end.
    pub(crate) fn push_input(
        &mut self,
        bytes: &[u8],
        host: &mut Host,
    ) -> Result<(), ProtocolError> {
        self.input_window.arrived(bytes.len())?;
        let Some(input) = &mut self.input else {
            // Nobody reads it (any more), which is no reason to keep the host waiting.
            self.pass_on(bytes.len(), host);
            return Ok(());
        };
        if bytes.is_empty() {
            input.ended = true;
            if self.terminal {
                input.queue.push_back(TERMINAL_EOF);
            }
        } else if !input.ended {
            input.queue.extend(bytes);
        }
        self.write_input(host);
        Ok(())
    }

    /// Writes what the command takes of its input.
    pub(crate) fn write_input(&mut self, host: &mut Host) {
        let mut written = 0;
        while let Some(input) = &mut self.input {
            let (waiting, _) = input.queue.as_slices();
            if waiting.is_empty() {
                if input.ended && !self.terminal {
                    self.input = None;
                }
                break;
            }
            match rustix::io::write(&input.fd, waiting) {
                Ok(n) => {
                    input.queue.drain(..n);
                    written += n;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => {
                    written += input.queue.len();
                    self.input = None;
                }
            }
        }
        self.pass_on(written, host);
    }

    fn pass_on(&mut self, bytes: usize, host: &mut Host) {
        if let Some(bytes) = self.input_window.passed_on(bytes) {
            host.send(self.channel, &Message::Credit { stream: Stream::Stdin, bytes });
        }
    }

    /// Reads one output once, as far as credit and the host's buffer allow. `buffer` has room for
    /// a header in front.
    pub(crate) fn read_output(&mut self, at: usize, host: &mut Host, buffer: &mut [u8]) {
        let Some(output) = &mut self.outputs[at] else { return };
        let most = output.window.left().min(host.room()).min(buffer.len() - FRAME_HEADER_BYTES);
        let most = output.last.map_or(most, |last| most.min(last));
        if most == 0 {
            return;
        }
        match rustix::io::read(&output.fd, &mut buffer[FRAME_HEADER_BYTES..][..most]) {
            Ok(n) if n > 0 => {
                let frame = &mut buffer[..FRAME_HEADER_BYTES + n];
                host.send_output(self.channel, output.stream, frame);
                // `most` was within the window.
                let _ = output.window.sent(n);
                let Some(last) = &mut output.last else { return };
                *last -= n;
                if *last == 0 {
                    self.end_output(at, host);
                }
            }
            Err(Errno::AGAIN) if output.last.is_none() => {}
            Err(Errno::INTR) => {}
            // A terminal's end is EIO.
            Ok(_) | Err(_) => self.end_output(at, host),
        }
    }

    fn end_output(&mut self, at: usize, host: &mut Host) {
        if let Some(output) = self.outputs[at].take() {
            host.send(self.channel, &Message::Data(output.stream, Vec::new()));
        }
    }

    /// The host allows more output.
    pub(crate) fn credit(&mut self, stream: Stream, bytes: u32) {
        for output in self.outputs.iter_mut().flatten() {
            if output.stream == stream {
                output.window.credit(bytes);
            }
        }
    }

    /// Signals the whole process group.
    pub(crate) fn signal(&self, signo: i32) {
        // Once the leader has been reaped, its number may be anybody's.
        if self.status.is_none() {
            sys::kill_group(self.pid, signo);
        }
    }

    pub(crate) fn resize(&self, size: Terminal) {
        if let (true, Some(output)) = (self.terminal, &self.outputs[0]) {
            // The terminal is gone: then so is who would look.
            let _ = spawn::resize(&output.fd, size);
        }
    }

    /// The leader has ended and been reaped.
    pub(crate) fn ended(&mut self, status: Status) {
        if self.timed_out {
            // Whoever ignored SIGTERM does not survive the leader.
            sys::kill_group(self.pid, sys::SIGKILL);
        }
        self.status = Some(status);
        self.timer = Some((Instant::now() + OUTPUT_GRACE, Timer::StopWaiting));
    }

    /// Does what is due.
    pub(crate) fn on_time(&mut self, now: Instant, host: &mut Host) {
        let Some((_, timer)) = self.timer.filter(|(at, _)| *at <= now) else { return };
        self.timer = None;
        match timer {
            Timer::Terminate => {
                self.timed_out = true;
                self.signal(sys::SIGTERM);
                // Whoever is stopped would not notice.
                self.signal(sys::SIGCONT);
                self.timer = Some((now + TERM_GRACE, Timer::Kill));
            }
            Timer::Kill => self.signal(sys::SIGKILL),
            Timer::StopWaiting => {
                for at in 0..self.outputs.len() {
                    let Some(output) = &mut self.outputs[at] else { continue };
                    let left = rustix::io::ioctl_fionread(&output.fd).unwrap_or(0) as usize;
                    output.last = Some(left);
                    if left == 0 {
                        self.end_output(at, host);
                    }
                }
            }
        }
    }

    /// How it ended, once everything has been said.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let status = self.status.filter(|_| self.outputs.iter().all(Option::is_none))?;
        Some(Exit { status, timed_out: self.timed_out })
    }

    /// Goes on in a new session: what was on its way in the old one is lost.
    pub(crate) fn begin_anew(&mut self) {
        self.input_window = Received::default();
        for output in self.outputs.iter_mut().flatten() {
            output.window = Sending::default();
        }
    }

    /// Ends it at once; nobody wants to know how it ends. A terminal's hangup follows from its
    /// descriptor being closed.
    pub(crate) fn kill(self) {
        self.signal(sys::SIGHUP);
        self.signal(sys::SIGKILL);
    }
}
