//! What can be wrong with the other side's bytes.

use std::fmt;

/// Why bytes are not the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A frame claims a payload of more than [`crate::FRAME_PAYLOAD_BYTES_MAX`].
    Oversize {
        /// What it claims, bytes.
        len: u32,
    },
    /// A frame has flags that no version so far defines.
    UnknownFlags {
        /// The flags.
        flags: u8,
    },
    /// A frame of a type that this version does not know, or not in this direction.
    UnknownKind {
        /// The type.
        kind: u8,
    },
    /// A control frame on a command's channel, or the other way round.
    WrongChannel {
        /// The frame's type.
        kind: u8,
    },
    /// A TLV field runs past the end of its payload.
    Truncated,
    /// A field that must be there is not.
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field's value is not allowed.
    Invalid {
        /// The field.
        field: &'static str,
        /// What is allowed.
        rule: &'static str,
    },
    /// More data than the window allows.
    Overrun,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oversize { len } => {
                write!(f, "frame of {len} bytes, {} at most", crate::FRAME_PAYLOAD_BYTES_MAX)
            }
            Self::UnknownFlags { flags } => write!(f, "frame with unknown flags {flags:#04x}"),
            Self::UnknownKind { kind } => write!(f, "frame of unknown type {kind}"),
            Self::WrongChannel { kind } => write!(f, "frame of type {kind} on a wrong channel"),
            Self::Truncated => f.write_str("a field is cut off"),
            Self::Missing { field } => write!(f, "{field} is missing"),
            Self::Invalid { field, rule } => write!(f, "{field}: {rule}"),
            Self::Overrun => f.write_str("more data than the window allows"),
        }
    }
}

impl std::error::Error for ProtocolError {}
