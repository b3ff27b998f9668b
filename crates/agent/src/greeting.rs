//! Greetings: the two frames that can be found in the middle of rubbish.
//!
//! The payload is `[magic 8][body len u16][CRC-32 of body u32][body: TLV]`. It carries its own
//! length and checksum behind the magic, so that a reader which has lost the frame boundaries
//! needs nothing that came before, and a greeting that was cut off and glued to the next one is
//! recognised as broken. The checksum is the ordinary CRC-32 (ISO 3309, reflected 0xEDB88320).

use crate::frame::{CHANNEL_CONTROL, kind, put_header};
use crate::{PROTOCOL_MAX, PROTOCOL_MIN, ProtocolError, tlv};

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 16;
/// A greeting's body is at most this long.
pub(crate) const BODY_BYTES_MAX: usize = 1024;
const PREAMBLE_BYTES: usize = 6;
const VERSION_BYTES_MAX: usize = 128;

pub(crate) const MAGIC_BYTES: usize = 8;
/// No zero byte, and the first byte only once: see [`Finder`] and [`crate::data_chunks`].
pub(crate) const HELLO_MAGIC: [u8; MAGIC_BYTES] = *b"\xF5imgHEL\xFA";
/// Another magic than the host's, so that a looped-back stream greets nobody.
pub(crate) const ACK_MAGIC: [u8; MAGIC_BYTES] = *b"\xF5imgACK\xFA";

/// What the host opens a session with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest protocol that the host speaks.
    pub protocol_min: u16,
    /// The newest.
    pub protocol_max: u16,
    /// Fresh random bytes: the answer carries them, and nothing older can.
    pub nonce: [u8; NONCE_BYTES],
    /// The host's wall clock, nanoseconds since 1970.
    pub wall_clock_unix_ns: u64,
    /// A channel of the session before whose command goes on; all others are killed.
    pub keep: Option<u32>,
}

/// Who is PID 1 in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitKind {
    /// The agent itself.
    Agent,
    /// The image's systemd (or another init); the agent is one of its units.
    Systemd,
}

/// The agent's answer: the guest is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The nonce of the [`Hello`].
    pub nonce: [u8; NONCE_BYTES],
    /// The protocol of this session; 0 where there is none in common, and the session is over.
    pub protocol: u16,
    /// The oldest protocol that the agent speaks.
    pub protocol_min: u16,
    /// The newest.
    pub protocol_max: u16,
    /// The agent's own version, to show to people.
    pub version: String,
    /// Who is PID 1.
    pub init: InitKind,
    /// It knows [`crate::Restore`] and [`Hello::keep`].
    pub restores: bool,
}

const TAG_NONCE: u8 = 1;
const TAG_PROTOCOL_MIN: u8 = 2;
const TAG_PROTOCOL_MAX: u8 = 3;
const TAG_WALL_CLOCK: u8 = 4;
const TAG_PROTOCOL: u8 = 5;
const TAG_VERSION: u8 = 6;
const TAG_INIT: u8 = 7;
const TAG_KEEP: u8 = 8;
const TAG_RESTORES: u8 = 9;

impl Hello {
    /// A greeting for every protocol of this library.
    pub fn new(nonce: [u8; NONCE_BYTES], wall_clock_unix_ns: u64) -> Self {
        let (protocol_min, protocol_max) = (PROTOCOL_MIN, PROTOCOL_MAX);
        Hello { protocol_min, protocol_max, nonce, wall_clock_unix_ns, keep: None }
    }

    /// The newest protocol that both sides speak.
    pub fn choose_protocol(&self) -> Option<u16> {
        let newest = self.protocol_max.min(PROTOCOL_MAX);
        (newest >= self.protocol_min.max(PROTOCOL_MIN)).then_some(newest)
    }

    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        tlv::put(&mut body, TAG_NONCE, &self.nonce);
        tlv::put(&mut body, TAG_PROTOCOL_MIN, &self.protocol_min.to_le_bytes());
        tlv::put(&mut body, TAG_PROTOCOL_MAX, &self.protocol_max.to_le_bytes());
        tlv::put(&mut body, TAG_WALL_CLOCK, &self.wall_clock_unix_ns.to_le_bytes());
        if let Some(channel) = self.keep {
            tlv::put(&mut body, TAG_KEEP, &channel.to_le_bytes());
        }
        frame(kind::HELLO, HELLO_MAGIC, &body)
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, ProtocolError> {
        let (mut nonce, mut min, mut max, mut clock) = (None, None, None, None);
        let mut keep = None;
        for field in tlv::fields(body) {
            match field? {
                (TAG_NONCE, v) => nonce = Some(tlv::array(v, "nonce")?),
                (TAG_PROTOCOL_MIN, v) => min = Some(tlv::u16(v, "protocol min")?),
                (TAG_PROTOCOL_MAX, v) => max = Some(tlv::u16(v, "protocol max")?),
                (TAG_WALL_CLOCK, v) => clock = Some(tlv::u64(v, "wall clock")?),
                (TAG_KEEP, v) => keep = Some(tlv::u32(v, "channel")?),
                _ => {}
            }
        }
        Ok(Hello {
            protocol_min: min.ok_or(ProtocolError::Missing { field: "protocol min" })?,
            protocol_max: max.ok_or(ProtocolError::Missing { field: "protocol max" })?,
            nonce: nonce.ok_or(ProtocolError::Missing { field: "nonce" })?,
            wall_clock_unix_ns: clock.ok_or(ProtocolError::Missing { field: "wall clock" })?,
            keep,
        })
    }
}

impl Ack {
    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        let init = match self.init {
            InitKind::Agent => 1,
            InitKind::Systemd => 2,
        };
        let version = &self.version.as_bytes()[..self.version.len().min(VERSION_BYTES_MAX)];
        let mut body = Vec::new();
        tlv::put(&mut body, TAG_NONCE, &self.nonce);
        tlv::put(&mut body, TAG_PROTOCOL, &self.protocol.to_le_bytes());
        tlv::put(&mut body, TAG_PROTOCOL_MIN, &self.protocol_min.to_le_bytes());
        tlv::put(&mut body, TAG_PROTOCOL_MAX, &self.protocol_max.to_le_bytes());
        tlv::put(&mut body, TAG_VERSION, version);
        tlv::put(&mut body, TAG_INIT, &[init]);
        if self.restores {
            tlv::put(&mut body, TAG_RESTORES, &[1]);
        }
        frame(kind::ACK, ACK_MAGIC, &body)
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, ProtocolError> {
        let (mut nonce, mut protocol, mut min, mut max) = (None, None, None, None);
        let (mut version, mut init, mut restores) = (String::new(), None, false);
        for field in tlv::fields(body) {
            match field? {
                (TAG_NONCE, v) => nonce = Some(tlv::array(v, "nonce")?),
                (TAG_PROTOCOL, v) => protocol = Some(tlv::u16(v, "protocol")?),
                (TAG_PROTOCOL_MIN, v) => min = Some(tlv::u16(v, "protocol min")?),
                (TAG_PROTOCOL_MAX, v) => max = Some(tlv::u16(v, "protocol max")?),
                (TAG_VERSION, v) => version = tlv::text(v, VERSION_BYTES_MAX),
                (TAG_RESTORES, v) => restores = tlv::bool(v, "restores")?,
                (TAG_INIT, v) => {
                    init = Some(match tlv::u8(v, "init")? {
                        1 => InitKind::Agent,
                        2 => InitKind::Systemd,
                        _ => return Err(ProtocolError::Invalid { field: "init", rule: "1 or 2" }),
                    });
                }
                _ => {}
            }
        }
        Ok(Ack {
            nonce: nonce.ok_or(ProtocolError::Missing { field: "nonce" })?,
            protocol: protocol.ok_or(ProtocolError::Missing { field: "protocol" })?,
            protocol_min: min.ok_or(ProtocolError::Missing { field: "protocol min" })?,
            protocol_max: max.ok_or(ProtocolError::Missing { field: "protocol max" })?,
            version,
            init: init.ok_or(ProtocolError::Missing { field: "init" })?,
            restores,
        })
    }
}

fn frame(kind: u8, magic: [u8; MAGIC_BYTES], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_header(&mut out, MAGIC_BYTES + PREAMBLE_BYTES + body.len(), CHANNEL_CONTROL, kind);
    out.extend_from_slice(&magic);
    out.extend_from_slice(&(body.len() as u16).to_le_bytes());
    out.extend_from_slice(&crc32(body).to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// A few bytes a session: a table would be larger than what it saves.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |c, _| {
                if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 }
            },
        )
    })
}

/// Looks for greetings in a stream of anything.
#[derive(Debug)]
pub(crate) struct Finder {
    magic: [u8; MAGIC_BYTES],
    /// Bytes of the magic that the input so far ends with.
    matched: usize,
    /// What came after a magic, until the body is whole.
    found: Option<Vec<u8>>,
}

/// How far [`Finder::feed`] came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing ended in this input.
    Nothing,
    /// A magic ended; what came before is of the past.
    Magic,
    /// A body with a right checksum.
    Body(Vec<u8>),
}

impl Finder {
    pub(crate) fn new(magic: [u8; MAGIC_BYTES]) -> Self {
        Finder { magic, matched: 0, found: None }
    }

    /// Looks at the bytes of `input` and removes those it has looked at. A magic inside a body
    /// starts again: the first greeting was cut off.
    pub(crate) fn feed(&mut self, input: &mut &[u8]) -> Found {
        let all = *input;
        let mut at = 0;
        while at < all.len() {
            if self.matched == 0 && self.found.is_none() {
                match all[at..].iter().position(|&b| b == self.magic[0]) {
                    Some(skip) => at += skip,
                    None => break,
                }
            }
            let byte = all[at];
            at += 1;
            // The first byte occurs only once in the magic, so a mismatch can only begin anew.
            self.matched = match byte {
                b if b == self.magic[self.matched] => self.matched + 1,
                b if b == self.magic[0] => 1,
                _ => 0,
            };
            if self.matched == MAGIC_BYTES {
                self.matched = 0;
                self.found = Some(Vec::new());
                *input = &all[at..];
                return Found::Magic;
            }
            if let Some(found) = &mut self.found {
                found.push(byte);
                if let Some(whole) = body(found) {
                    self.found = None;
                    if let Some(body) = whole {
                        *input = &all[at..];
                        return Found::Body(body);
                    }
                }
            }
        }
        *input = &[];
        Found::Nothing
    }
}

/// `None`: more bytes are needed. `Some(None)`: not a greeting.
fn body(found: &[u8]) -> Option<Option<Vec<u8>>> {
    let (preamble, body) = found.split_at_checked(PREAMBLE_BYTES)?;
    let len = usize::from(u16::from_le_bytes([preamble[0], preamble[1]]));
    let crc = u32::from_le_bytes([preamble[2], preamble[3], preamble[4], preamble[5]]);
    if len > BODY_BYTES_MAX {
        return Some(None);
    }
    if body.len() < len {
        return None;
    }
    Some((crc32(body) == crc).then(|| body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_ordinary_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_magic_begins_only_where_it_begins() {
        for magic in [HELLO_MAGIC, ACK_MAGIC] {
            assert!(!magic[1..].contains(&magic[0]));
            assert!(!magic.contains(&0));
        }
    }
}
