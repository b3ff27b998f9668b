//! Frames: the one unit on the wire.

use crate::ProtocolError;

/// `[len u32][channel u32][type u8][flags u8]`, little-endian.
pub const FRAME_HEADER_BYTES: usize = 10;
/// A payload is at most this long.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 65_536;
/// The channel of greetings, pings and shutdown.
pub const CHANNEL_CONTROL: u32 = 0;

/// The frame types. Numbers are never used again for something else.
pub mod kind {
    /// [`crate::Hello`], host to agent.
    pub const HELLO: u8 = 1;
    /// [`crate::Ack`], agent to host.
    pub const ACK: u8 = 2;
    /// [`crate::Message::Ping`].
    pub const PING: u8 = 3;
    /// [`crate::Message::Pong`].
    pub const PONG: u8 = 4;
    /// [`crate::Message::Shutdown`].
    pub const SHUTDOWN: u8 = 5;
    /// [`crate::Message::Error`].
    pub const ERROR: u8 = 6;
    /// [`crate::Message::Restore`].
    pub const RESTORE: u8 = 7;
    /// [`crate::Message::Restored`].
    pub const RESTORED: u8 = 8;
    /// [`crate::Message::Exec`].
    pub const EXEC: u8 = 16;
    /// [`crate::Message::Started`].
    pub const STARTED: u8 = 17;
    /// Data for standard input.
    pub const STDIN: u8 = 18;
    /// Data from standard output, or from the terminal.
    pub const STDOUT: u8 = 19;
    /// Data from standard error.
    pub const STDERR: u8 = 20;
    /// [`crate::Message::Credit`].
    pub const CREDIT: u8 = 21;
    /// [`crate::Message::Signal`].
    pub const SIGNAL: u8 = 22;
    /// [`crate::Message::Resize`].
    pub const RESIZE: u8 = 23;
    /// [`crate::Message::Exit`].
    pub const EXIT: u8 = 24;
}

/// One frame, its payload not yet looked at. Flags are always 0 in this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The channel: [`CHANNEL_CONTROL`] or a command.
    pub channel: u32,
    /// One of [`kind`], or something newer.
    pub kind: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Appends the frame to `out`, on another channel: for who passes frames on.
    pub fn encode(&self, channel: u32, out: &mut Vec<u8>) {
        put_header(out, self.payload.len(), channel, self.kind);
        out.extend_from_slice(&self.payload);
    }
}

/// Appends a header. The caller has checked `len`.
pub(crate) fn put_header(out: &mut Vec<u8>, len: usize, channel: u32, kind: u8) {
    debug_assert!(len <= FRAME_PAYLOAD_BYTES_MAX);
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&channel.to_le_bytes());
    out.extend_from_slice(&[kind, 0]);
}

/// Finds frames in a stream that arrives in pieces of any size. Holds one frame at most.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; FRAME_HEADER_BYTES],
    header_len: usize,
    payload: Vec<u8>,
}

impl Decoder {
    /// A decoder that stands at the beginning of a frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the front of `input` until a frame is whole or `input` is empty.
    ///
    /// # Errors
    /// [`ProtocolError::Oversize`] and [`ProtocolError::UnknownFlags`]; then the stream has lost
    /// its frame boundaries and only a new greeting helps.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, ProtocolError> {
        if self.header_len < FRAME_HEADER_BYTES {
            let taken = take(input, FRAME_HEADER_BYTES - self.header_len);
            self.header[self.header_len..][..taken.len()].copy_from_slice(taken);
            self.header_len += taken.len();
            if self.header_len < FRAME_HEADER_BYTES {
                return Ok(None);
            }
        }
        let [l0, l1, l2, l3, c0, c1, c2, c3, kind, flags] = self.header;
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        if len as usize > FRAME_PAYLOAD_BYTES_MAX {
            return Err(ProtocolError::Oversize { len });
        }
        if flags != 0 {
            return Err(ProtocolError::UnknownFlags { flags });
        }
        let missing = len as usize - self.payload.len();
        if self.payload.capacity() == 0 {
            self.payload.reserve_exact(len as usize);
        }
        self.payload.extend_from_slice(take(input, missing));
        if self.payload.len() < len as usize {
            return Ok(None);
        }
        self.header_len = 0;
        let channel = u32::from_le_bytes([c0, c1, c2, c3]);
        Ok(Some(Frame { channel, kind, payload: std::mem::take(&mut self.payload) }))
    }
}

/// Splits at most `n` bytes off the front of `input`.
fn take<'a>(input: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(n.min(input.len()));
    *input = rest;
    taken
}
