//! The guest agent's wire protocol, shared by host and guest: bytes in, values out, no I/O.
//!
//! # The stream
//!
//! One full-duplex byte stream: on QEMU the virtio-serial port [`PORT_NAME`], on other VMMs a
//! connection of the host's to the vsock port [`VSOCK_PORT`]. It carries frames:
//!
//! ```text
//! [len u32][channel u32][type u8][flags u8] payload      little-endian, len <= 65,536, flags = 0
//! ```
//!
//! Structured payloads are TLV fields, `[tag u8][len u32][bytes]`; a tag that the reader does not
//! know is skipped, and that is how the protocol grows. Data frames carry raw bytes.
//!
//! # A session
//!
//! The stream outlives connections: after a reconnect either side may first see the rest of what
//! was sent before. So a session starts with a greeting that can be found in any rubbish: the host
//! sends [`Hello`], the agent answers [`Ack`] with the same nonce, and each side throws input away
//! until it has seen the other's. The agent goes on looking for a `Hello` *inside* frames, since a
//! host may die in the middle of one; therefore no frame from the host contains the greeting's
//! first four bytes ([`data_chunks`] splits data there, [`Message::encode`] refuses the rest). A
//! new `Hello` at any time ends the old session: its commands are killed, its channels are gone.
//! The `Ack` is also the readiness signal: a host sends `Hello` as soon as it is connected, the
//! transport holds it until the guest opens its end, and nothing polls.
//!
//! # Channels
//!
//! Channel 0 is control. Every other channel is one command: the host picks a number that is not
//! in use and sends [`Exec`]; the agent answers `Started`, or `Error` and the channel is closed.
//! Then data flows both ways, each stream ended by an empty frame, and [`Exit`] is the last frame
//! of the channel. Frames for a channel that is not open are ignored: they crossed an `Exit`.
//!
//! A sender may have [`WINDOW_BYTES`] on the way per channel and stream; each `Credit` allows that
//! many more, and may be given in advance to widen the window. Nobody ever has to buffer more than
//! what it has given credit for. The empty frame at a stream's end needs no credit.
//!
//! # Copies of a machine
//!
//! A machine that was saved goes on as any number of copies. Each is greeted anew, and its `Hello`
//! may name one channel of the old session to be kept: its command goes on, both windows begin
//! again, what was on its way is lost. Then the host sends `Restore`, and lets nobody use the copy
//! before the answer, `Restored`, says that it has its own name, clock and random numbers. An agent
//! that can do that says so in its `Ack`.
//!
//! # Files
//!
//! They are copied by commands, too: the agent's own program sends and receives [`copy`]'s stream
//! as its standard output and input. An agent that knows nothing of that says so and ends.
//!
//! What [`listening`] describes is asked for in the same way.
//!
//! # When things go wrong
//!
//! An agent that loses the frame boundaries kills the session's commands, says `Error` on control
//! and waits for the next `Hello`. An agent that was started again knows nothing of the session
//! and does the same without a word; a host that needs to know sends `Ping`. A guest that shuts
//! down sends no `Exit` for what still ran: the end of the machine is the end of its channels.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod copy;
mod error;
mod exec;
mod frame;
mod greeting;
pub mod listening;
mod message;
mod restore;
mod session;
mod tlv;
mod window;

pub use error::ProtocolError;
pub use exec::{Exec, Exit, Status, Terminal};
pub use frame::{
    CHANNEL_CONTROL, Decoder, FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, Frame, kind,
};
pub use greeting::{Ack, Hello, InitKind, NONCE_BYTES};
pub use message::{
    Fault, FaultCode, Message, Shutdown, Stream, data_chunks, encode_stdin, output_header,
};
pub use restore::{MAC_BYTES, MACHINE_ID_BYTES, Restore, Restored, SEED_BYTES};
pub use session::{AgentEvent, FromAgent, FromHost, HostEvent};
pub use window::{Received, Sending};

/// The oldest protocol this library speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// The newest protocol this library speaks.
pub const PROTOCOL_MAX: u16 = 1;
/// The name of the virtio-serial port.
pub const PORT_NAME: &str = "imgtool.agent";
/// Where there is no such port: the vsock port that the agent listens on.
pub const VSOCK_PORT: u32 = 1024;
/// Where the agent lies in the guest.
pub const GUEST_PATH: &str = "/usr/lib/imgtool/imgagent";
/// At most this many commands at a time.
pub const CHANNELS_MAX: usize = 256;
/// What may be on the way, per channel and stream, before the receiver gives credit.
pub const WINDOW_BYTES: u32 = 256 * 1024;
