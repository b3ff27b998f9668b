//! A command that runs in a guest.

use std::sync::Arc;

use agent::{Exit, Message, Stream, Terminal};

use super::link::Handle;
use crate::{Error, Result};

/// A command that runs in a guest. Its streams are apart, exact, and can be taken and used by
/// themselves; the command is killed once this and all of them are dropped.
#[derive(Debug)]
pub struct Running {
    /// The process id in the guest.
    pub pid: u32,
    /// Where the request asked for it: what the command reads. Take it and drop it to end it.
    pub stdin: Option<Stdin>,
    /// What the command writes; everything, where it has a terminal.
    pub stdout: Output,
    /// What the command writes to standard error.
    pub stderr: Output,
    handle: Arc<Handle>,
}

impl Running {
    pub(super) fn new(handle: Arc<Handle>, pid: u32, stdin: bool) -> Self {
        Running {
            pid,
            stdin: stdin.then(|| Stdin { handle: handle.clone(), open: true }),
            stdout: Output { handle: handle.clone(), stream: Stream::Stdout },
            stderr: Output { handle: handle.clone(), stream: Stream::Stderr },
            handle,
        }
    }

    /// Waits until the command ended. What it wrote must be read at the same time: it stops when
    /// 256 KiB of a stream (2 MiB of one that flowed) are not taken. Safe to give up and to call again.
    ///
    /// # Errors
    /// `Guest` where the machine ended first or broke the protocol.
    pub async fn wait(&self) -> Result<Exit> {
        self.handle.ended().await
    }

    /// Lets it run to its end, and throws away what it says.
    pub(crate) async fn ignored(mut self) {
        let drain = async |output: &mut Output| while let Ok(Some(_)) = output.read().await {};
        tokio::join!(drain(&mut self.stdout), drain(&mut self.stderr));
        let _ = self.wait().await;
    }

    /// Which of the session's commands it is.
    pub(crate) fn kept(&self) -> super::Kept {
        super::Kept { channel: self.handle.channel(), pid: self.pid }
    }

    /// Sends signals and sizes, from anywhere.
    pub fn control(&self) -> Control {
        Control { handle: self.handle.clone() }
    }
}

/// Signals a running command, and hears of its end.
#[derive(Clone, Debug)]
pub struct Control {
    handle: Arc<Handle>,
}

impl Control {
    /// As [`Running::wait`].
    pub async fn wait(&self) -> Result<Exit> {
        self.handle.ended().await
    }

    /// Sends a signal, as Linux numbers them, to the command's process group. Nothing happens
    /// where it ended already.
    pub fn signal(&self, signo: u8) -> Result<()> {
        self.handle.send(&Message::Signal { signo })
    }

    /// Tells the command's terminal its new size.
    pub fn resize(&self, size: Terminal) -> Result<()> {
        self.handle.send(&Message::Resize(size))
    }
}

/// A command's standard input. Dropping it ends the input.
#[derive(Debug)]
pub struct Stdin {
    handle: Arc<Handle>,
    open: bool,
}

impl Stdin {
    /// Sends all of `bytes`, waiting for room as long as it takes; false once the command ended
    /// and reads no more.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<bool> {
        while !bytes.is_empty() {
            match self.handle.write(bytes).await? {
                0 => return Ok(false),
                n => bytes = &bytes[n..],
            }
        }
        Ok(true)
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            // It fails only where the whole session did.
            let _ = self.handle.send(&Message::Data(Stream::Stdin, Vec::new()));
        }
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.close();
    }
}

/// One of a command's output streams.
#[derive(Debug)]
pub struct Output {
    handle: Arc<Handle>,
    stream: Stream,
}

impl Output {
    /// The next bytes, as soon as there are some; `None` at the end. Reading is what lets the
    /// command write more. Safe to give up.
    pub async fn read(&mut self) -> Result<Option<Vec<u8>>> {
        self.handle.read(self.stream).await
    }

    /// Everything up to the end.
    ///
    /// # Errors
    /// `Guest` where that is more than `bytes_max`.
    pub async fn read_to_end(&mut self, bytes_max: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = self.read().await? {
            if all.len() + bytes.len() > bytes_max {
                return Err(Error::guest(format!("more than {bytes_max} bytes of output")));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
}
