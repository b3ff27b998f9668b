//! The state that the two tasks and all handles of a session share: one lock, one signal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent::{
    AgentEvent, CHANNEL_CONTROL, CHANNELS_MAX, Exec, FaultCode, Frame, FromAgent, Message, Stream,
    encode_stdin,
};
use tokio::io::{AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::Notify;

use super::NotRun;
use super::channel::{Channel, End, broken};
use super::relay::Relayed;
use crate::{Error, Result};

/// Frames that wait to be written, bytes. Standard input stops well below; a guest that makes us
/// want to send more than this without reading any of it is cut off.
pub(super) const OUT_BYTES_MAX: usize = 4 << 20;
/// Standard input waits while this much is unwritten, bytes.
const OUT_STDIN_BYTES_MAX: usize = 256 << 10;

/// Streams that may have much on the way, at a time.
const WIDE_WINDOWS_MAX: usize = 4;

const SIGKILL: u8 = 9;

/// A session's state.
#[derive(Debug, Default)]
pub(super) struct Link {
    state: Mutex<State>,
    /// Something in the state changed; everybody looks again. There are a handful of waiters.
    changed: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) out: Vec<u8>,
    channels: HashMap<u32, Channel>,
    /// Channels of other processes: no number is in both.
    pub(super) relayed: HashMap<u32, Relayed>,
    last_channel: u32,
    /// Frames that are sent whoever wants quiet: they came before.
    before_quiet: Vec<u8>,
    /// Somebody wants quiet: [`State::out`] waits.
    quiet: bool,
    /// The tokens of the last ping and the last answer.
    pinged: u64,
    ponged: u64,
    /// The guest's answer to [`Message::Restore`].
    pub(super) restored: Option<agent::Restored>,
    failure: Option<String>,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under the lock leaves it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something in the state. Safe to give up.
    async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking, so that no change in between is missed.
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            changed.await;
        }
    }

    /// Ends the session: every handle gets this as its error. The first reason stays.
    pub(super) fn fail(&self, why: &str) {
        let mut state = self.lock();
        state.failure.get_or_insert_with(|| why.to_string());
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until the session has failed.
    pub(super) async fn failed(&self) {
        self.until(|state| state.failure.as_ref().map(drop)).await;
    }

    /// Changes the state.
    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }

    /// Changes the state as soon as there is room for more frames.
    pub(super) async fn room(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut change = Some(change);
        self.until(|state| {
            if let Err(e) = state.alive() {
                return Some(Err(e));
            }
            if state.out.len() >= OUT_STDIN_BYTES_MAX {
                return None;
            }
            if let Some(change) = change.take() {
                change(state);
            }
            Some(Ok(()))
        })
        .await?;
        self.changed.notify_waiters();
        Ok(())
    }

    /// Queues a small message.
    pub(super) fn send(&self, channel: u32, message: &Message) -> Result<()> {
        let mut state = self.lock();
        state.queue(channel, message)?;
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    /// The writing task: what is queued, until the session fails.
    pub(super) async fn send_all<S: AsyncWrite>(&self, mut write: WriteHalf<S>) {
        loop {
            let next = self.until(|state| match &state.failure {
                Some(_) => Some(None),
                None if !state.before_quiet.is_empty() => {
                    Some(Some(std::mem::take(&mut state.before_quiet)))
                }
                None if state.quiet || state.out.is_empty() => None,
                None => Some(Some(std::mem::take(&mut state.out))),
            });
            let Some(bytes) = next.await else { return };
            self.changed.notify_waiters();
            if let Err(e) = write.write_all(&bytes).await {
                return self.fail(&super::lost(e).to_string());
            }
        }
    }

    /// Takes everything in `input`.
    pub(super) fn receive(&self, wire: &mut FromAgent, input: &mut &[u8]) -> Result<()> {
        while let Some(event) = wire.feed(input)? {
            match event {
                AgentEvent::Frame(frame) => self.receive_frame(frame)?,
                AgentEvent::Ack(_) => return Err(broken("a second ACK")),
            }
        }
        Ok(())
    }

    fn receive_frame(&self, frame: Frame) -> Result<()> {
        let channel = frame.channel;
        let mut state = self.lock();
        if let Some(relayed) = state.relayed.get(&channel) {
            let (credit, last) = relayed.receive(&frame);
            if last {
                state.relayed.remove(&channel);
            }
            if let Some(credit) = credit {
                state.queue(channel, &credit)?;
                drop(state);
                self.changed.notify_waiters();
            }
            return Ok(());
        }
        drop(state);
        let message = Message::decode(frame)?;
        if channel == CHANNEL_CONTROL {
            self.change(|state| match message {
                Message::Pong { token } => state.ponged = token,
                Message::Restored(ref restored) => state.restored = Some(restored.clone()),
                _ => {}
            });
            return match message {
                Message::Pong { .. } | Message::Restored(_) | Message::Error(_) => Ok(()),
                _ => Err(broken("an unexpected frame on the control channel")),
            };
        }
        let mut state = self.lock();
        let known = state.channels.get_mut(&channel);
        let known =
            known.ok_or_else(|| broken(&format!("a frame on channel {channel}, not open")))?;
        known.receive(message)?;
        let (abandoned, ended) = (known.abandoned, known.end.is_some());
        if abandoned && ended {
            state.channels.remove(&channel);
        } else if abandoned {
            state.throw_away(channel);
        }
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Holds back what is sent from now on; see [`super::Guest::quiet`].
    pub(super) fn quiet(self: &Arc<Self>) -> Result<Quiet> {
        let mut state = self.lock();
        if state.quiet {
            return Err(Error::usage("the machine is being saved already"));
        }
        let token = state.pinged + 1;
        state.queue(CHANNEL_CONTROL, &Message::Ping { token })?;
        let before = std::mem::take(&mut state.out);
        state.before_quiet.extend_from_slice(&before);
        (state.pinged, state.quiet) = (token, true);
        drop(state);
        self.changed.notify_waiters();
        Ok(Quiet { link: self.clone(), token })
    }

    /// Waits until the guest has answered the ping `token`.
    pub(super) async fn heard(&self, token: u64) -> Result<()> {
        self.until(|state| match state.ponged == token {
            true => Some(Ok(())),
            false => state.alive().err().map(Err),
        })
        .await
    }

    /// Waits for the guest's answer to [`Message::Restore`].
    pub(super) async fn restored(&self) -> Result<agent::Restored> {
        let answer = |state: &mut State| {
            let restored = state.restored.take().map(Ok);
            restored.or_else(|| state.alive().err().map(Err))
        };
        self.until(answer).await
    }

    /// Takes over a command of the session before.
    pub(super) fn adopt(self: &Arc<Self>, kept: super::Kept) -> Handle {
        let channel = Channel { started: Some(kept.pid), ..Channel::default() };
        self.change(|state| drop(state.channels.insert(kept.channel, channel)));
        Handle { link: self.clone(), id: kept.channel }
    }

    /// Sends EXEC on a new channel.
    pub(super) fn open(self: &Arc<Self>, exec: Exec) -> Result<Handle> {
        let mut state = self.lock();
        state.alive()?;
        if state.open_channels() >= CHANNELS_MAX {
            return Err(Error::usage(format!("{CHANNELS_MAX} commands run already")));
        }
        let id = state.free_channel();
        let request = Message::Exec(exec);
        request.encode(id, &mut state.out).map_err(|e| Error::usage(e.to_string()))?;
        state.channels.insert(id, Channel::default());
        drop(state);
        self.changed.notify_waiters();
        Ok(Handle { link: self.clone(), id })
    }
}

impl State {
    pub(super) fn open_channels(&self) -> usize {
        self.channels.len() + self.relayed.len()
    }

    /// A number that no channel has.
    pub(super) fn free_channel(&mut self) -> u32 {
        loop {
            let id = self.last_channel.wrapping_add(1).max(1);
            self.last_channel = id;
            if !self.channels.contains_key(&id) && !self.relayed.contains_key(&id) {
                return id;
            }
        }
    }

    /// Queues a small message.
    pub(super) fn queue(&mut self, channel: u32, message: &Message) -> Result<()> {
        self.alive()?;
        message.encode(channel, &mut self.out).map_err(|e| Error::usage(e.to_string()))?;
        if self.out.len() > OUT_BYTES_MAX {
            self.failure = Some("the guest does not read what it is sent".to_string());
        }
        Ok(())
    }

    /// Throws away what arrived on an abandoned channel and lets the guest send the rest.
    fn throw_away(&mut self, channel: u32) {
        let credits = self.channels.get_mut(&channel).map(Channel::throw_away);
        for credit in credits.into_iter().flatten() {
            // It fails only where the whole session did.
            let _ = self.queue(channel, &credit);
        }
    }

    /// Lets much of a stream be on the way that flows, and is taken: where not too many do.
    fn widen(&mut self, channel: u32, stream: Stream) {
        let wide = |c: &Channel| usize::from(c.stdout.is_wide()) + usize::from(c.stderr.is_wide());
        if self.channels.values().map(wide).sum::<usize>() < WIDE_WINDOWS_MAX
            && let Some(channel) = self.channels.get_mut(&channel)
        {
            channel.inbox(stream).widen();
        }
    }

    fn alive(&self) -> Result<()> {
        self.failure.as_ref().map_or(Ok(()), |why| Err(Error::guest(why.clone())))
    }
}

/// While it lives nothing is sent.
#[derive(Debug)]
pub(crate) struct Quiet {
    link: Arc<Link>,
    token: u64,
}

impl Quiet {
    pub(super) fn token(&self) -> u64 {
        self.token
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.link.change(|state| state.quiet = false);
    }
}

/// The right to a channel. Dropped before the command ended, it kills the command.
#[derive(Debug)]
pub(super) struct Handle {
    link: Arc<Link>,
    id: u32,
}

impl Handle {
    pub(super) fn channel(&self) -> u32 {
        self.id
    }

    /// Waits for something of the channel; an error once the session failed and `look` finds
    /// nothing in what had arrived before.
    async fn until<T>(&self, mut look: impl FnMut(&mut Channel) -> Option<T>) -> Result<T> {
        self.link
            .until(|state| {
                let found = state.channels.get_mut(&self.id).and_then(&mut look);
                found.map(Ok).or_else(|| state.alive().err().map(Err))
            })
            .await
    }

    /// Waits until the command runs; its process id.
    pub(super) async fn started(&self) -> Result<u32, NotRun> {
        let answer = self.until(|channel| match (&channel.end, channel.started) {
            (Some(End::Fault(fault)), _) => Some(Err(fault.clone())),
            (_, Some(pid)) => Some(Ok(pid)),
            (_, None) => None,
        });
        answer.await?.map_err(|fault| NotRun {
            error: match fault.code {
                FaultCode::BadRequest | FaultCode::NoSuchUser | FaultCode::NoSuchCwd => {
                    Error::usage(fault.text)
                }
                _ => Error::guest(fault.text),
            },
            code: Some(fault.code),
        })
    }

    /// Waits until the command ended.
    pub(super) async fn ended(&self) -> Result<agent::Exit> {
        self.until(|channel| match channel.end {
            Some(End::Exit(exit)) => Some(exit),
            _ => None,
        })
        .await
    }

    /// Waits for bytes of `stream`; `None` at its end.
    pub(super) async fn read(&self, stream: Stream) -> Result<Option<Vec<u8>>> {
        let taken = self.until(|channel| {
            let inbox = channel.inbox(stream);
            match (inbox.bytes.is_empty(), inbox.ended) {
                (false, _) => Some(Some(inbox.take())),
                (true, true) => Some(None),
                (true, false) => None,
            }
        });
        let Some((bytes, credit)) = taken.await? else { return Ok(None) };
        if credit.is_some() {
            self.link.lock().widen(self.id, stream);
        }
        if let Some(credit) = credit {
            // Where the session has failed, what arrived before is still worth having.
            let _ = self.send(&Message::Credit { stream, bytes: credit });
        }
        Ok(Some(bytes))
    }

    /// Queues some of `bytes` for standard input, as soon as there is room, and says how many.
    /// Nothing is ever taken once the command ended: 0.
    pub(super) async fn write(&self, bytes: &[u8]) -> Result<usize> {
        let id = self.id;
        let queued = self.link.until(|state| {
            if let Err(e) = state.alive() {
                return Some(Err(e));
            }
            let State { out, channels, .. } = state;
            let Some(channel) = channels.get_mut(&id).filter(|c| c.end.is_none()) else {
                return Some(Ok(0));
            };
            let n = bytes.len().min(channel.stdin.left());
            if n == 0 || out.len() >= OUT_STDIN_BYTES_MAX {
                return None;
            }
            if let Err(e) = channel.stdin.sent(n) {
                return Some(Err(e.into()));
            }
            encode_stdin(id, &bytes[..n], out);
            Some(Ok(n))
        });
        let n = queued.await?;
        self.link.changed.notify_waiters();
        Ok(n)
    }

    /// Queues a message of this channel, unless the command ended.
    pub(super) fn send(&self, message: &Message) -> Result<()> {
        let ended = self.link.lock().channels.get(&self.id).is_none_or(|c| c.end.is_some());
        if ended { Ok(()) } else { self.link.send(self.id, message) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.link.lock();
        let Some(channel) = state.channels.get_mut(&self.id) else { return };
        if channel.end.is_some() {
            state.channels.remove(&self.id);
            return;
        }
        channel.abandoned = true;
        state.throw_away(self.id);
        drop(state);
        // It fails only where the whole session did.
        let _ = self.send(&Message::Signal { signo: SIGKILL });
    }
}
