//! The stream to the host: what arrives, and what waits to be sent.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent::{FromHost, HostEvent, Message, ProtocolError};
use rustix::event::epoll;
use rustix::io::Errno;

use crate::port::{Listener, Port};

/// Outputs of commands are read while less than this waits to be sent.
const OUT_BYTES_MAX: usize = 256 * 1024;
/// Nothing more is taken from the host while more than this waits: it does not read its answers.
const ANSWERS_BYTES_MAX: usize = 4 * OUT_BYTES_MAX;
/// Read from the host at once.
const READ_BYTES: usize = 64 * 1024;

/// What a read found.
pub(crate) enum Heard {
    /// So many bytes are in the buffer.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The stream has ended, for ever.
    End,
}

pub(crate) struct Host {
    fd: OwnedFd,
    /// Edge-triggered: a port whose host is away reports a hangup all the time, and poll would
    /// spin on that.
    edges: OwnedFd,
    readable: bool,
    writable: bool,
    /// Reading nothing means: the host is away. It may come back.
    outlives_connections: bool,
    /// Where it then comes back on another stream.
    listener: Option<Listener>,
    from: FromHost,
    buffer: Vec<u8>,
    out: Vec<u8>,
    /// So much of `out` has been written.
    written: usize,
}

impl Host {
    pub(crate) fn new(port: Port, outlives_connections: bool) -> io::Result<Self> {
        let Port { stream, listener } = port;
        Ok(Host {
            edges: edges_of(&stream)?,
            fd: stream,
            readable: true,
            writable: true,
            outlives_connections: outlives_connections && listener.is_none(),
            listener,
            from: FromHost::new(),
            buffer: vec![0; READ_BYTES],
            out: Vec::new(),
            written: 0,
        })
    }

    /// Readable when something has changed; then call [`Host::refresh`].
    pub(crate) fn edges(&self) -> BorrowedFd<'_> {
        self.edges.as_fd()
    }

    /// Takes notice of a change.
    pub(crate) fn refresh(&mut self) {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 1];
        if let Ok((events, _)) = epoll::wait(&self.edges, &mut events, Some(&Default::default()))
            && !events.is_empty()
        {
            self.readable = true;
            self.writable = true;
        }
    }

    /// Whether [`Host::read`] or [`Host::flush`] may get further without waiting.
    pub(crate) fn has_work(&self) -> bool {
        self.may_read() || (self.writable && self.waiting() > 0)
    }

    fn may_read(&self) -> bool {
        self.readable && self.waiting() < ANSWERS_BYTES_MAX
    }

    fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// How much output of commands may be added now.
    pub(crate) fn room(&self) -> usize {
        OUT_BYTES_MAX.saturating_sub(self.waiting())
    }

    /// Reads once into the buffer.
    pub(crate) fn read(&mut self) -> io::Result<Heard> {
        if !self.may_read() {
            return Ok(Heard::Nothing);
        }
        match rustix::io::read(&self.fd, &mut self.buffer) {
            Ok(0) if self.outlives_connections => self.readable = false,
            Ok(0) | Err(Errno::CONNRESET) => return self.reconnect(),
            Ok(n) => return Ok(Heard::Bytes(n)),
            Err(Errno::AGAIN) => self.readable = false,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(Heard::Nothing)
    }

    /// The stream has ended: waits for the next one, where there can be one.
    fn reconnect(&mut self) -> io::Result<Heard> {
        let Some(listener) = &self.listener else { return Ok(Heard::End) };
        self.fd = listener.accept()?;
        self.edges = edges_of(&self.fd)?;
        self.from.close();
        self.forget();
        (self.readable, self.writable) = (true, true);
        Ok(Heard::Nothing)
    }

    /// The next whole thing in the buffer from `at` on, and how far that was.
    pub(crate) fn next(
        &mut self,
        at: usize,
        end: usize,
    ) -> (usize, Result<Option<HostEvent>, ProtocolError>) {
        let mut input = &self.buffer[at..end];
        let event = self.from.feed(&mut input);
        (end - input.len(), event)
    }

    /// Ignores everything until the next greeting.
    pub(crate) fn close_session(&mut self) {
        self.from.close();
    }

    /// Drops what waits to be sent: it is of an old session. A frame cut in the middle does not
    /// matter, the host looks for the greeting in any bytes.
    pub(crate) fn forget(&mut self) {
        self.out.clear();
        self.written = 0;
    }

    pub(crate) fn send_raw(&mut self, frame: &[u8]) {
        self.out.extend_from_slice(frame);
    }

    /// Messages of ours always fit a frame.
    pub(crate) fn send(&mut self, channel: u32, message: &Message) {
        let encoded = message.encode(channel, &mut self.out);
        debug_assert!(encoded.is_ok(), "{message:?}");
    }

    /// Sends output of a command, whole frames. Where nothing waits it goes straight to the
    /// transport, and is never copied.
    pub(crate) fn send_output(&mut self, frames: &[u8]) {
        let mut rest = frames;
        while self.waiting() == 0 && self.writable && !rest.is_empty() {
            match rustix::io::write(&self.fd, rest) {
                Ok(n) if n > 0 => rest = &rest[n..],
                // Errors come up again in `flush`.
                _ => break,
            }
        }
        self.out.extend_from_slice(rest);
    }

    /// Writes as much as the transport takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.writable && self.waiting() > 0 {
            match rustix::io::write(&self.fd, &self.out[self.written..]) {
                Ok(n) if n > 0 => self.written += n,
                Ok(_) | Err(Errno::AGAIN) => self.writable = false,
                Err(Errno::INTR) => {}
                // Reading finds out, and waits for the next stream.
                Err(Errno::PIPE | Errno::CONNRESET) if self.listener.is_some() => self.forget(),
                Err(e) => return Err(e.into()),
            }
        }
        if self.waiting() == 0 {
            self.forget();
        } else if self.written >= OUT_BYTES_MAX {
            self.out.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }
}

/// Tells of changes of `stream`.
fn edges_of(stream: &OwnedFd) -> io::Result<OwnedFd> {
    let edges = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
    epoll::add(&edges, stream, epoll::EventData::new_u64(0), flags)?;
    Ok(edges)
}
