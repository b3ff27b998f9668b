//! A running command: its streams, its credit, its time, its end.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use agent::{
    Exec, Exit, FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, Fault, Message, ProtocolError,
    Received, Sending, Status, Stream, Terminal, output_header,
};
use rustix::io::Errno;

use crate::host::Host;
use crate::{spawn, sys};

/// After SIGTERM for a timeout, this long until SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// After the command has ended, its outputs may stay open in processes that it left behind; they
/// are waited for this long, and then only what is in the pipes already is passed on.
const OUTPUT_GRACE: Duration = Duration::from_millis(250);
/// Output is read so many frames at a time: under emulation what counts is how often the kernel is
/// asked.
const BATCH_FRAMES: usize = 4;
const FRAME_BYTES: usize = FRAME_HEADER_BYTES + FRAME_PAYLOAD_BYTES_MAX;
/// The room that [`Command::read_output`] wants.
pub(crate) const BATCH_BYTES: usize = BATCH_FRAMES * FRAME_BYTES;
/// What the pipe of a command that writes much is made to hold, bytes: the writer and we take turns
/// less often. It is what Linux allows everybody (/proc/sys/fs/pipe-max-size).
const PIPE_BYTES: usize = 1 << 20;
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
    /// It has been filled once, and made to hold more.
    grown: bool,
    /// Set once the end is not waited for any more: so many bytes are still passed on.
    last: Option<usize>,
}

impl Output {
    /// Reads once, at most `most` bytes, each frame's to its place in `buffer`.
    fn read(&self, buffer: &mut [u8], most: usize) -> rustix::io::Result<usize> {
        let mut left = most;
        let mut places = [const { None }; BATCH_FRAMES];
        for (place, frame) in places.iter_mut().zip(buffer.chunks_mut(FRAME_BYTES)) {
            let n = left.min(FRAME_PAYLOAD_BYTES_MAX);
            left -= n;
            *place = Some(IoSliceMut::new(&mut frame[FRAME_HEADER_BYTES..][..n]));
        }
        let mut places = places.map(|place| place.unwrap_or_else(|| IoSliceMut::new(&mut [])));
        rustix::io::readv(&self.fd, &mut places)
    }

    /// Makes the pipe hold more once it was found full, which a pipe of 64 KiB is at first.
    fn grow(&mut self, read: usize) {
        if read >= FRAME_PAYLOAD_BYTES_MAX && !self.grown {
            self.grown = true;
            // A terminal can not; and what a pipe may hold is an administrator's business.
            let _ = rustix::pipe::fcntl_setpipe_size(&self.fd, PIPE_BYTES);
        }
    }
}

/// Puts the headers before the `n` bytes that [`Output::read`] has read.
fn frames(buffer: &mut [u8], channel: u32, stream: Stream, n: usize) -> &[u8] {
    let mut left = n;
    let mut end = 0;
    while left > 0 {
        let len = left.min(FRAME_PAYLOAD_BYTES_MAX);
        buffer[end..][..FRAME_HEADER_BYTES].copy_from_slice(&output_header(channel, stream, len));
        end += FRAME_HEADER_BYTES + len;
        left -= len;
    }
    &buffer[..end]
}

impl Command {
    pub(crate) fn start(channel: u32, exec: &Exec) -> Result<Self, Fault> {
        let ends = spawn::start(exec)?;
        let output = |stream, fd| Output {
            stream,
            fd,
            window: Sending::default(),
            grown: false,
            last: None,
        };
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

    /// Reads one output once, as far as credit and the host's buffer allow. `buffer` has
    /// [`BATCH_BYTES`].
    pub(crate) fn read_output(&mut self, at: usize, host: &mut Host, buffer: &mut [u8]) {
        let Some(output) = &mut self.outputs[at] else { return };
        let most = output.window.left().min(host.room());
        let most = output.last.map_or(most, |last| most.min(last));
        if most == 0 {
            return;
        }
        match output.read(buffer, most) {
            Ok(n) if n > 0 => {
                host.send_output(frames(buffer, self.channel, output.stream, n));
                // `most` was within the window.
                let _ = output.window.sent(n);
                output.grow(n);
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
