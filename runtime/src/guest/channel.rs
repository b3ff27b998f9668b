//! What we know of one command: its streams, what it may still send, how it ended.

use agent::{Exit, Fault, Message, ProtocolError, Received, Sending, Stream, WINDOW_BYTES};

use super::protocol;
use crate::{Error, Result};

/// What may be on the way of a stream that flows, bytes: so that the guest seldom waits for credit.
const WIDE_WINDOW_BYTES: u32 = 8 * WINDOW_BYTES;

/// One command's channel.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// The process id in the guest, once it runs.
    pub(super) started: Option<u32>,
    pub(super) stdin: Sending,
    pub(super) stdout: Inbox,
    pub(super) stderr: Inbox,
    pub(super) end: Option<End>,
    /// Nobody waits for it any more: what arrives is thrown away.
    pub(super) abandoned: bool,
}

/// How a channel ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    Exit(Exit),
    Fault(Fault),
}

/// Bytes that arrived and were not taken yet: at most a window of them.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) bytes: Vec<u8>,
    pub(super) ended: bool,
    window: Received,
}

impl Inbox {
    fn arrived(&mut self, bytes: Vec<u8>) -> Result<()> {
        if self.ended {
            return Err(broken("data after the end of its stream"));
        }
        self.window.arrived(bytes.len()).map_err(protocol)?;
        self.ended = bytes.is_empty();
        match self.bytes.is_empty() {
            true => self.bytes = bytes,
            false => self.bytes.extend_from_slice(&bytes),
        }
        Ok(())
    }

    /// Whether its window is wide.
    pub(super) fn is_wide(&self) -> bool {
        self.window.size() > WINDOW_BYTES
    }

    /// Makes the window wide.
    pub(super) fn widen(&mut self) {
        self.window.widen(WIDE_WINDOW_BYTES);
    }

    /// Takes what is there, with the credit to send for it, if any.
    pub(super) fn take(&mut self) -> (Vec<u8>, Option<u32>) {
        let bytes = std::mem::take(&mut self.bytes);
        let credit = self.window.passed_on(bytes.len());
        (bytes, credit.filter(|_| !self.ended))
    }
}

impl Channel {
    pub(super) fn inbox(&mut self, stream: Stream) -> &mut Inbox {
        match stream {
            Stream::Stderr => &mut self.stderr,
            Stream::Stdin | Stream::Stdout => &mut self.stdout,
        }
    }

    /// Throws away what nobody will take, with the credit to send for it: without that the guest
    /// could not come to the command's end, and neither side could close the channel.
    pub(super) fn throw_away(&mut self) -> Vec<Message> {
        let mut credits = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let (_, credit) = self.inbox(stream).take();
            credits.extend(credit.map(|bytes| Message::Credit { stream, bytes }));
        }
        credits
    }

    /// Takes a message of this channel.
    ///
    /// # Errors
    /// Where the guest sends what it must not, or must not yet, or may no more.
    pub(super) fn receive(&mut self, message: Message) -> Result<()> {
        if self.end.is_some() {
            return Err(broken("a frame behind the end of its channel"));
        }
        match (message, self.started) {
            (Message::Started { pid }, None) => self.started = Some(pid),
            (Message::Error(fault), None) => self.end = Some(End::Fault(fault)),
            (Message::Data(stream @ (Stream::Stdout | Stream::Stderr), bytes), Some(_)) => {
                self.inbox(stream).arrived(bytes)?;
            }
            (Message::Credit { stream: Stream::Stdin, bytes }, Some(_)) => self.stdin.credit(bytes),
            (Message::Exit(exit), Some(_)) => {
                self.stdout.ended = true;
                self.stderr.ended = true;
                self.end = Some(End::Exit(exit));
            }
            (message, _) => return Err(broken(&format!("an unexpected {}", name(&message)))),
        }
        Ok(())
    }
}

pub(super) fn broken(what: &str) -> Error {
    Error::guest(format!("the guest broke the agent protocol: {what}"))
}

fn name(message: &Message) -> &'static str {
    match message {
        Message::Ping { .. } => "PING",
        Message::Pong { .. } => "PONG",
        Message::Shutdown(_) => "SHUTDOWN",
        Message::Restore(_) => "RESTORE",
        Message::Restored(_) => "RESTORED",
        Message::Error(_) => "ERROR",
        Message::Exec(_) => "EXEC",
        Message::Started { .. } => "STARTED",
        Message::Data(..) => "data frame",
        Message::Credit { .. } => "CREDIT",
        Message::Signal { .. } => "SIGNAL",
        Message::Resize(_) => "RESIZE",
        Message::Exit(_) => "EXIT",
    }
}

/// An error of the protocol's own.
impl From<ProtocolError> for Error {
    fn from(e: ProtocolError) -> Self {
        protocol(e)
    }
}
