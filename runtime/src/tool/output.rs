//! What a program writes while it runs: lines as they come, the last of them for an error.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags, poll};

use crate::{Error, Result};

/// Lines of output that a failure shows.
pub(super) const TAIL_LINES: usize = 20;
/// A longer line is cut: into pieces for callbacks.
pub(super) const LINE_BYTES_MAX: usize = 4096;

/// The reading end of a pipe that ends when the writers close it or the program is over, whichever
/// comes first: a stray child that holds the pipe open can not hold us.
pub(super) struct Pipe<'a, R> {
    pub(super) inner: Option<R>,
    pub(super) over: &'a UnixStream,
    pub(super) at_end: bool,
}

impl<R: Read + AsFd> Read for Pipe<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(inner) = &mut self.inner else { return Ok(0) };
        let (data, over) = loop {
            let mut fds =
                [PollFd::new(&*inner, PollFlags::IN), PollFd::new(self.over, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) => break (!fds[0].revents().is_empty(), !fds[1].revents().is_empty()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        };
        debug_assert!(data || over);
        let n = if data { inner.read(buf)? } else { 0 };
        self.at_end |= n == 0 && !buf.is_empty();
        Ok(n)
    }
}

/// The last lines of output, for an error.
#[derive(Default)]
pub(super) struct Tail(VecDeque<String>);

impl Tail {
    pub(super) fn push(tail: &Mutex<Tail>, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        let lines = &mut tail.lock().unwrap_or_else(|p| p.into_inner()).0;
        if lines.len() == TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(line.trim_end().to_string());
    }

    /// Lines of standard output, where standard error said nothing.
    pub(super) fn last_resort(tail: &Mutex<Tail>, stdout: &[u8]) {
        const TAIL_BYTES: usize = 4096;
        if tail.lock().unwrap_or_else(|p| p.into_inner()).0.is_empty() {
            let end = &stdout[stdout.len().saturating_sub(TAIL_BYTES)..];
            String::from_utf8_lossy(end).lines().for_each(|line| Self::push(tail, line));
        }
    }

    pub(super) fn text(tail: &Mutex<Tail>) -> String {
        let lines = &tail.lock().unwrap_or_else(|p| p.into_inner()).0;
        lines.iter().fold(String::new(), |text, line| text + "\n  | " + line)
    }
}

/// Calls `see` for each line, ended by a newline or (as progress bars do) a carriage return.
pub(super) fn each_line(mut from: impl Read, mut see: impl FnMut(&str)) -> Result<()> {
    let mut line = Vec::with_capacity(LINE_BYTES_MAX);
    let mut buf = [0; 8192];
    loop {
        let n = match from.read(&mut buf) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::host("read a program's output").because(e)),
        };
        for &byte in &buf[..n] {
            let end = matches!(byte, b'\n' | b'\r');
            if !end {
                line.push(byte);
            }
            if (end && !line.is_empty()) || line.len() == LINE_BYTES_MAX {
                see(&String::from_utf8_lossy(&line));
                line.clear();
            }
        }
        if n == 0 {
            if !line.is_empty() {
                see(&String::from_utf8_lossy(&line));
            }
            return Ok(());
        }
    }
}
