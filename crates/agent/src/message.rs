//! Everything but the greetings.

use crate::exec::Terminal;
use crate::frame::{
    CHANNEL_CONTROL, FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, Frame, kind, put_header,
};
use crate::greeting::HELLO_MAGIC;
use crate::{Exec, Exit, ProtocolError, Restore, Restored, tlv};

/// A command's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Host to guest.
    Stdin,
    /// Guest to host; with a terminal, all of its output.
    Stdout,
    /// Guest to host.
    Stderr,
}

/// How the guest ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Power off.
    PowerOff,
    /// Start again.
    Reboot,
}

/// Why the agent did not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCode {
    /// No such program (a shell says 127).
    NotFound,
    /// The program cannot be executed (a shell says 126).
    NotExecutable,
    /// No such user or group.
    NoSuchUser,
    /// The working directory cannot be entered.
    NoSuchCwd,
    /// [`crate::CHANNELS_MAX`] commands run already, or the guest has no processes left.
    TooMany,
    /// The request breaks the protocol.
    BadRequest,
    /// The agent does not know this request: it is older than the host.
    Unsupported,
    /// Something else failed in the guest; the text says what.
    Failed,
    /// A code of a newer agent.
    Other(u16),
}

/// The agent's answer to what it did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What a program can act on.
    pub code: FaultCode,
    /// One line for people.
    pub text: String,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Control, host to agent: answer with the same token.
    Ping {
        /// Anything.
        token: u64,
    },
    /// Control, agent to host.
    Pong {
        /// The token of the ping.
        token: u64,
    },
    /// Control, host to agent: end commands, write everything to disk, end the machine.
    Shutdown(Shutdown),
    /// Control, host to agent: become another machine than the one you are a copy of.
    Restore(Restore),
    /// Control, agent to host: the answer.
    Restored(Restored),
    /// Agent to host. On a channel it answers [`Message::Exec`], and the channel is closed; on
    /// control it is for the log.
    Error(Fault),
    /// Host to agent: run a command on this new channel.
    Exec(Exec),
    /// Agent to host: it runs.
    Started {
        /// Its process id in the guest, and its group's.
        pid: u32,
    },
    /// Bytes of a stream; none at all means its end.
    Data(Stream, Vec<u8>),
    /// Receiver to sender: this many bytes more may be sent.
    Credit {
        /// The stream.
        stream: Stream,
        /// Bytes.
        bytes: u32,
    },
    /// Host to agent: a signal for the whole process group.
    Signal {
        /// The number, as Linux has it.
        signo: u8,
    },
    /// Host to agent: the terminal's new size.
    Resize(Terminal),
    /// Agent to host: the command is over, and so is the channel.
    Exit(Exit),
}

/// A fault's text is cut here.
const FAULT_TEXT_BYTES_MAX: usize = 1024;
/// Signals are 1 to this.
const SIGNO_MAX: u8 = 64;

const TAG_CODE: u8 = 1;
const TAG_TEXT: u8 = 2;
const TAG_VALUE: u8 = 1;
const TAG_STREAM: u8 = 1;
const TAG_BYTES: u8 = 2;

impl Stream {
    /// The type of its data frames, which is its number in [`Message::Credit`] too.
    fn kind(self) -> u8 {
        match self {
            Stream::Stdin => kind::STDIN,
            Stream::Stdout => kind::STDOUT,
            Stream::Stderr => kind::STDERR,
        }
    }

    fn from_kind(value: u8) -> Option<Self> {
        [Stream::Stdin, Stream::Stdout, Stream::Stderr].into_iter().find(|s| s.kind() == value)
    }
}

impl FaultCode {
    fn number(self) -> u16 {
        match self {
            FaultCode::NotFound => 1,
            FaultCode::NotExecutable => 2,
            FaultCode::NoSuchUser => 3,
            FaultCode::NoSuchCwd => 4,
            FaultCode::TooMany => 5,
            FaultCode::BadRequest => 6,
            FaultCode::Unsupported => 7,
            FaultCode::Failed => 8,
            FaultCode::Other(number) => number,
        }
    }

    fn from_number(number: u16) -> Self {
        use FaultCode::*;
        [NotFound, NotExecutable, NoSuchUser, NoSuchCwd, TooMany, BadRequest, Unsupported, Failed]
            .into_iter()
            .find(|code| code.number() == number)
            .unwrap_or(Other(number))
    }
}

impl Fault {
    fn encode(&self) -> Vec<u8> {
        let text = &self.text.as_bytes()[..self.text.len().min(FAULT_TEXT_BYTES_MAX)];
        let mut out = Vec::new();
        tlv::put(&mut out, TAG_CODE, &self.code.number().to_le_bytes());
        tlv::put(&mut out, TAG_TEXT, text);
        out
    }

    fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let (mut code, mut text) = (None, String::new());
        for field in tlv::fields(payload) {
            match field? {
                (TAG_CODE, v) => code = Some(FaultCode::from_number(tlv::u16(v, "error code")?)),
                (TAG_TEXT, v) => text = tlv::text(v, FAULT_TEXT_BYTES_MAX),
                _ => {}
            }
        }
        let code = code.ok_or(ProtocolError::Missing { field: "error code" })?;
        Ok(Fault { code, text })
    }
}

impl Message {
    /// Appends this message on `channel` to `out`, as one frame. For data of any length there is
    /// [`encode_stdin`].
    ///
    /// # Errors
    /// [`ProtocolError::Invalid`] where it does not fit one frame, where an [`Exec`] is not
    /// valid, or where a message to the agent would look like a greeting.
    pub fn encode(&self, channel: u32, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let (kind, payload) = match self {
            Message::Ping { token } => (kind::PING, one(&token.to_le_bytes())),
            Message::Pong { token } => (kind::PONG, one(&token.to_le_bytes())),
            Message::Shutdown(Shutdown::PowerOff) => (kind::SHUTDOWN, one(&[1])),
            Message::Shutdown(Shutdown::Reboot) => (kind::SHUTDOWN, one(&[2])),
            Message::Restore(restore) => (kind::RESTORE, restore.encode()?),
            Message::Restored(restored) => (kind::RESTORED, restored.encode()),
            Message::Error(fault) => (kind::ERROR, fault.encode()),
            Message::Exec(exec) => (kind::EXEC, exec.encode()?),
            Message::Started { pid } => (kind::STARTED, one(&pid.to_le_bytes())),
            Message::Data(stream, bytes) => (stream.kind(), bytes.clone()),
            Message::Credit { stream, bytes } => {
                let mut payload = Vec::new();
                tlv::put(&mut payload, TAG_STREAM, &[stream.kind()]);
                tlv::put(&mut payload, TAG_BYTES, &bytes.to_le_bytes());
                (kind::CREDIT, payload)
            }
            Message::Signal { signo } => (kind::SIGNAL, one(&[*signo])),
            Message::Resize(size) => (kind::RESIZE, one(&size.to_bytes())),
            Message::Exit(exit) => (kind::EXIT, exit.encode()),
        };
        if payload.len() > FRAME_PAYLOAD_BYTES_MAX {
            return Err(ProtocolError::Invalid { field: "message", rule: "64 KiB at most" });
        }
        let to_host = matches!(
            self,
            Message::Pong { .. }
                | Message::Restored(_)
                | Message::Error(_)
                | Message::Data(Stream::Stdout | Stream::Stderr, _)
        );
        if !to_host && find_greeting(&payload).is_some() {
            return Err(ProtocolError::Invalid { field: "message", rule: "contains a greeting" });
        }
        put_header(out, payload.len(), channel, kind);
        out.extend_from_slice(&payload);
        Ok(())
    }

    /// Reads the message in `frame`.
    ///
    /// # Errors
    /// Any [`ProtocolError`]; the stream still has its frame boundaries, and may go on.
    pub fn decode(frame: Frame) -> Result<Self, ProtocolError> {
        let Frame { channel, kind, payload } = frame;
        let control = matches!(
            kind,
            kind::PING | kind::PONG | kind::SHUTDOWN | kind::RESTORE | kind::RESTORED
        );
        if kind != kind::ERROR && control != (channel == CHANNEL_CONTROL) {
            return Err(match kind {
                kind::HELLO..=kind::RESTORED | kind::EXEC..=kind::EXIT => {
                    ProtocolError::WrongChannel { kind }
                }
                _ => ProtocolError::UnknownKind { kind },
            });
        }
        if let Some(stream) = Stream::from_kind(kind) {
            return Ok(Message::Data(stream, payload));
        }
        Ok(match kind {
            kind::PING => Message::Ping { token: tlv::u64(value(&payload)?, "token")? },
            kind::PONG => Message::Pong { token: tlv::u64(value(&payload)?, "token")? },
            kind::SHUTDOWN => Message::Shutdown(match tlv::u8(value(&payload)?, "shutdown")? {
                1 => Shutdown::PowerOff,
                2 => Shutdown::Reboot,
                _ => return Err(ProtocolError::Invalid { field: "shutdown", rule: "1 or 2" }),
            }),
            kind::RESTORE => Message::Restore(Restore::decode(&payload)?),
            kind::RESTORED => Message::Restored(Restored::decode(&payload)?),
            kind::ERROR => Message::Error(Fault::decode(&payload)?),
            kind::EXEC => Message::Exec(Exec::decode(&payload)?),
            kind::STARTED => Message::Started { pid: tlv::u32(value(&payload)?, "pid")? },
            kind::CREDIT => decode_credit(&payload)?,
            kind::SIGNAL => {
                let signo = tlv::u8(value(&payload)?, "signal")?;
                if !(1..=SIGNO_MAX).contains(&signo) {
                    return Err(ProtocolError::Invalid { field: "signal", rule: "1 to 64" });
                }
                Message::Signal { signo }
            }
            kind::RESIZE => Message::Resize(Terminal::from_bytes(value(&payload)?)?),
            kind::EXIT => Message::Exit(Exit::decode(&payload)?),
            _ => return Err(ProtocolError::UnknownKind { kind }),
        })
    }
}

fn decode_credit(payload: &[u8]) -> Result<Message, ProtocolError> {
    let (mut stream, mut bytes) = (None, None);
    for field in tlv::fields(payload) {
        match field? {
            (TAG_STREAM, v) => {
                let invalid = ProtocolError::Invalid { field: "stream", rule: "18 to 20" };
                stream = Some(Stream::from_kind(tlv::u8(v, "stream")?).ok_or(invalid)?);
            }
            (TAG_BYTES, v) => bytes = Some(tlv::u32(v, "credit")?),
            _ => {}
        }
    }
    let stream = stream.ok_or(ProtocolError::Missing { field: "stream" })?;
    let bytes = bytes.ok_or(ProtocolError::Missing { field: "credit" })?;
    Ok(Message::Credit { stream, bytes })
}

fn one(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    tlv::put(&mut out, TAG_VALUE, value);
    out
}

/// The one field of a message that has only one.
fn value(payload: &[u8]) -> Result<&[u8], ProtocolError> {
    let mut found = None;
    for field in tlv::fields(payload) {
        if let (TAG_VALUE, value) = field? {
            found = Some(value);
        }
    }
    found.ok_or(ProtocolError::Missing { field: "value" })
}

/// The part of the magic that no frame from the host contains. Four bytes, not all eight: with
/// three at a payload's end, what follows includes a zero byte of the next length, and a magic has
/// none; so no greeting can begin in one frame and end in the next.
const GREETING_BYTES: usize = 4;

fn find_greeting(bytes: &[u8]) -> Option<usize> {
    bytes.windows(GREETING_BYTES).position(|w| w == &HELLO_MAGIC[..GREETING_BYTES])
}

/// Cuts data for the agent into payloads: none too long, none that looks like a greeting.
pub fn data_chunks(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let limit = rest.len().min(FRAME_PAYLOAD_BYTES_MAX);
        let len = find_greeting(&rest[..limit]).map_or(limit, |at| at + GREETING_BYTES / 2);
        let (chunk, after) = rest.split_at(len);
        rest = after;
        Some(chunk)
    })
}

/// Appends `bytes` for the agent's [`Stream::Stdin`] to `out`, as many frames as it takes: none
/// for no bytes. The end of a stream is `Message::Data(stream, vec![])`.
pub fn encode_stdin(channel: u32, bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in data_chunks(bytes) {
        put_header(out, chunk.len(), channel, kind::STDIN);
        out.extend_from_slice(chunk);
    }
}

/// The header of a data frame from the agent, to be put in front of a payload without copying
/// it. `len` is at most [`FRAME_PAYLOAD_BYTES_MAX`]. Hosts look for no greeting in a session, so
/// what an agent sends need not be cut.
pub fn output_header(channel: u32, stream: Stream, len: usize) -> [u8; FRAME_HEADER_BYTES] {
    debug_assert!(len <= FRAME_PAYLOAD_BYTES_MAX);
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&(len as u32).to_le_bytes());
    header[4..8].copy_from_slice(&channel.to_le_bytes());
    header[8] = stream.kind();
    header
}
