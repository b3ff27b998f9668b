//! Other processes' commands on our session: the protocol itself is passed on.
//!
//! A client of ours is a [`super::Guest`] in another process. It greets us as it would greet an
//! agent and speaks the same frames; between it and the agent only the numbers of channels change.
//! So credit goes from end to end, nothing is copied through a second protocol, and who believes
//! nothing that a guest says is the client, as ever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent::{
    Ack, CHANNEL_CONTROL, CHANNELS_MAX, Fault, FaultCode, Frame, FromHost, Hello, HostEvent,
    Message, PROTOCOL_MAX, PROTOCOL_MIN, Stream, WINDOW_BYTES, kind,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;

use super::link::Link;
use super::{Guest, READ_BYTES};
use crate::Result;

/// Frames that wait for a client, bytes. Its windows keep an honest client's far below; who reads
/// none of them is sent away.
const CLIENT_BYTES_MAX: usize = 16 << 20;
const SIGKILL: u8 = 9;

/// What a client came for, once it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing more.
    Nothing,
    /// The machine is to shut down.
    Shutdown,
}

/// One channel of a client.
#[derive(Debug)]
pub(super) struct Relayed {
    /// `None` once it went: then its command is being killed, and what it says thrown away.
    client: Option<Arc<Outbox>>,
    /// The channel's number for the client.
    id: u32,
}

/// What waits to be written to a client.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Mutex<Vec<u8>>,
    changed: Notify,
    too_many: Notify,
}

impl Outbox {
    fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.lock();
        if bytes.len() > CLIENT_BYTES_MAX {
            self.too_many.notify_one();
            return;
        }
        write(&mut bytes);
        drop(bytes);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, channel: u32, message: &Message) {
        // Small messages of ours always fit a frame.
        self.push(|out| {
            let _ = message.encode(channel, out);
        });
    }

    /// Writes what waits, until the client is gone or too much waits for it.
    async fn send_all<S: AsyncWrite>(&self, mut write: WriteHalf<S>) {
        let send = async {
            loop {
                let bytes = std::mem::take(&mut *self.lock());
                if !bytes.is_empty() && write.write_all(&bytes).await.is_err() {
                    return;
                }
                if bytes.is_empty() {
                    self.changed.notified().await;
                }
            }
        };
        tokio::select! {
            () = send => {}
            () = self.too_many.notified() => {}
        }
    }
}

impl Relayed {
    /// Passes on a frame of the agent's. Returns the credit that nobody else gives, and whether it
    /// was the channel's last frame.
    pub(super) fn receive(&self, frame: &Frame) -> (Option<Message>, bool) {
        let last = matches!(frame.kind, kind::EXIT | kind::ERROR);
        let Some(client) = &self.client else {
            let stream = match frame.kind {
                kind::STDOUT => Some(Stream::Stdout),
                kind::STDERR => Some(Stream::Stderr),
                _ => None,
            };
            // A frame holds 64 KiB at most.
            let bytes = frame.payload.len() as u32;
            let credit = stream.filter(|_| bytes > 0);
            return (credit.map(|stream| Message::Credit { stream, bytes }), last);
        };
        client.push(|out| frame.encode(self.id, out));
        (None, last)
    }
}

/// A client's place in the link; what it has open is killed when this is dropped.
struct Client {
    link: Arc<Link>,
    outbox: Arc<Outbox>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.forget_client(&self.outbox);
    }
}

impl Guest {
    /// Serves one client, to its end or that of the session. Dropping the future sends it away.
    pub fn relay<S>(&self, stream: S) -> impl Future<Output = Wish> + Send + 'static
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        let client = Client { link: self.link.clone(), outbox: Arc::default() };
        let ack = self.ack.clone();
        async move {
            tokio::select! {
                wish = client.hear(read, &ack) => wish,
                () = client.outbox.send_all(write) => Wish::Nothing,
                () = client.link.failed() => Wish::Nothing,
            }
        }
    }

    /// Waits until the session is over: the machine ended, or its agent broke the protocol.
    pub async fn lost(&self) {
        self.link.failed().await;
    }
}

impl Client {
    async fn hear<S: AsyncRead>(&self, mut read: ReadHalf<S>, ack: &Ack) -> Wish {
        let (mut wire, mut buffer) = (FromHost::new(), vec![0; READ_BYTES]);
        while let Ok(n @ 1..) = read.read(&mut buffer).await {
            let mut input = &buffer[..n];
            loop {
                match wire.feed(&mut input) {
                    Ok(Some(HostEvent::Hello(hello))) => self.greet(&hello, ack),
                    Ok(Some(HostEvent::Frame(frame))) => match self.take(frame).await {
                        Ok(Wish::Nothing) => {}
                        Ok(Wish::Shutdown) => return Wish::Shutdown,
                        Err(_) => return Wish::Nothing,
                    },
                    Ok(None) => break,
                    Err(_) => return Wish::Nothing,
                }
            }
        }
        Wish::Nothing
    }

    fn greet(&self, hello: &Hello, ack: &Ack) {
        self.link.forget_client(&self.outbox);
        let ack = Ack {
            nonce: hello.nonce,
            protocol: hello.choose_protocol().unwrap_or(0),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            ..ack.clone()
        };
        self.outbox.push(|out| out.extend_from_slice(&ack.encode()));
    }

    async fn take(&self, frame: Frame) -> Result<Wish> {
        if frame.channel == CHANNEL_CONTROL {
            match Message::decode(frame) {
                Ok(Message::Shutdown(_)) => return Ok(Wish::Shutdown),
                Ok(Message::Ping { token }) => {
                    self.outbox.send(CHANNEL_CONTROL, &Message::Pong { token });
                }
                Ok(_) | Err(_) => {}
            }
            return Ok(Wish::Nothing);
        }
        let is_host = matches!(
            frame.kind,
            kind::EXEC | kind::STDIN | kind::CREDIT | kind::SIGNAL | kind::RESIZE
        );
        if is_host {
            self.link.forward(&self.outbox, frame).await?;
        }
        Ok(Wish::Nothing)
    }
}

impl Link {
    /// Passes a client's frame on, once there is room for it.
    async fn forward(&self, client: &Arc<Outbox>, frame: Frame) -> Result<()> {
        self.room(|state| {
            let known = state.relayed.iter().find(|(_, relayed)| relayed.is(client, frame.channel));
            let channel = match (known, frame.kind) {
                (Some(_), kind::EXEC) => {
                    let text = "this channel is in use".into();
                    let fault = Fault { code: FaultCode::BadRequest, text };
                    client.send(CHANNEL_CONTROL, &Message::Error(fault));
                    return;
                }
                (Some((&channel, _)), _) => channel,
                (None, kind::EXEC) if state.open_channels() >= CHANNELS_MAX => {
                    let text = "too many commands at a time".into();
                    let fault = Fault { code: FaultCode::TooMany, text };
                    client.send(frame.channel, &Message::Error(fault));
                    return;
                }
                (None, kind::EXEC) => {
                    let channel = state.free_channel();
                    let relayed = Relayed { client: Some(client.clone()), id: frame.channel };
                    state.relayed.insert(channel, relayed);
                    channel
                }
                // It crossed the channel's end.
                (None, _) => return,
            };
            frame.encode(channel, &mut state.out);
        })
        .await
    }

    /// Kills what a client has open.
    fn forget_client(&self, client: &Arc<Outbox>) {
        self.change(|state| {
            let mut orphans = Vec::new();
            for (&channel, relayed) in &mut state.relayed {
                if relayed.client.as_ref().is_some_and(|c| Arc::ptr_eq(c, client)) {
                    relayed.client = None;
                    orphans.push(channel);
                }
            }
            for channel in orphans {
                // What the client had not read took credit that nobody else would give back, and
                // without it the guest could not come to the command's end.
                let credit = |stream| Message::Credit { stream, bytes: WINDOW_BYTES };
                let kill = Message::Signal { signo: SIGKILL };
                for message in [kill, credit(Stream::Stdout), credit(Stream::Stderr)] {
                    // It fails only where the whole session did.
                    let _ = state.queue(channel, &message);
                }
            }
        });
    }
}

impl Relayed {
    fn is(&self, client: &Arc<Outbox>, id: u32) -> bool {
        self.id == id && self.client.as_ref().is_some_and(|c| Arc::ptr_eq(c, client))
    }
}
