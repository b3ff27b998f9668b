//! The two ends of a session: bytes of the other side in, messages out.

use crate::greeting::{ACK_MAGIC, Finder, Found, HELLO_MAGIC};
use crate::{Ack, Decoder, Frame, Hello, NONCE_BYTES, ProtocolError};

/// What the agent hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// A new session begins; everything of the old one is void.
    Hello(Hello),
    /// A frame of the session.
    Frame(Frame),
}

/// The agent's end: reads what the host sends. Deaf to frames until the first [`Hello`].
#[derive(Debug)]
pub struct FromHost {
    finder: Finder,
    decoder: Option<Decoder>,
}

impl Default for FromHost {
    fn default() -> Self {
        FromHost { finder: Finder::new(HELLO_MAGIC), decoder: None }
    }
}

impl FromHost {
    /// Before the first session.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the front of `input` until something is whole or `input` is empty.
    ///
    /// # Errors
    /// Where the frame boundaries are lost; frames are ignored from then until the next [`Hello`].
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<HostEvent>, ProtocolError> {
        while !input.is_empty() {
            if let Some(decoder) = &mut self.decoder {
                // A frame at a time, so that a greeting is found in the bytes of the frame
                // that it broke, and not in those of frames that come later.
                let before = *input;
                let frame = decoder.feed(input);
                let taken = &before[..before.len() - input.len()];
                let mut unseen = taken;
                if self.finder.feed(&mut unseen) == Found::Magic {
                    self.decoder = None;
                    *input = &before[taken.len() - unseen.len()..];
                    continue;
                }
                match frame {
                    Ok(Some(frame)) => return Ok(Some(HostEvent::Frame(frame))),
                    Ok(None) => continue,
                    Err(error) => {
                        self.decoder = None;
                        return Err(error);
                    }
                }
            }
            if let Found::Body(body) = self.finder.feed(input)
                && let Ok(hello) = Hello::decode(&body)
            {
                self.decoder = Some(Decoder::new());
                return Ok(Some(HostEvent::Hello(hello)));
            }
        }
        Ok(None)
    }

    /// Ignores frames until the next [`Hello`].
    pub fn close(&mut self) {
        self.decoder = None;
    }
}

/// What the host hears.
#[derive(Debug)]
pub struct FromAgent {
    nonce: [u8; NONCE_BYTES],
    finder: Finder,
    decoder: Option<Decoder>,
}

/// What [`FromAgent::feed`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// The agent is ready, the session has begun.
    Ack(Ack),
    /// A frame of the session.
    Frame(Frame),
}

impl FromAgent {
    /// Waits for the answer to the [`Hello`] with this nonce; whatever comes before is of an
    /// older session.
    pub fn new(nonce: [u8; NONCE_BYTES]) -> Self {
        FromAgent { nonce, finder: Finder::new(ACK_MAGIC), decoder: None }
    }

    /// Takes bytes from the front of `input` until something is whole or `input` is empty.
    ///
    /// # Errors
    /// Where the agent breaks the framing; the session is lost, and a new [`Hello`] with a new
    /// `FromAgent` is the only way on.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<AgentEvent>, ProtocolError> {
        if let Some(decoder) = &mut self.decoder {
            return Ok(decoder.feed(input)?.map(AgentEvent::Frame));
        }
        while !input.is_empty() {
            if let Found::Body(body) = self.finder.feed(input)
                && let Ok(ack) = Ack::decode(&body)
                && ack.nonce == self.nonce
            {
                self.decoder = Some(Decoder::new());
                return Ok(Some(AgentEvent::Ack(ack)));
            }
        }
        Ok(None)
    }
}
