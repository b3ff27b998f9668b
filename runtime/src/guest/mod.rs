//! The host's end of the agent protocol: greets, runs commands, believes nothing.
//!
//! The wire itself is the `agent` crate's. Here it becomes [`Guest::exec`] and [`Running`]: a task
//! reads the stream, another writes it, and both share one state under one lock with the handles
//! (`link.rs`). A guest that breaks the protocol in any way ends the whole session; what it can
//! make us keep is bounded by the windows that we gave it and by [`link::OUT_BYTES_MAX`].

mod channel;
mod copy;
mod files;
mod link;
mod pipeline;
mod ports;
mod relay;
mod running;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent::{
    Ack, AgentEvent, FaultCode, FromAgent, Hello, Message, NONCE_BYTES, PROTOCOL_MAX, PROTOCOL_MIN,
    Shutdown,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf};
use tokio::task::JoinHandle;

use crate::{Error, Result};
use link::Link;

pub(crate) use copy::{Identity, Kept};
pub(crate) use link::Quiet;
pub use pipeline::Finished;
pub use relay::Wish;
pub use running::{Control, Output, Running, Stdin};

/// An agent may take this long to start a command, or to say why it does not.
const START_MAX: Duration = Duration::from_secs(30);

/// An agent reads all that it is sent in this time.
const HEAR_MAX: Duration = Duration::from_secs(10);
/// Bytes read at a time.
const READ_BYTES: usize = 256 * 1024;

/// A session with the agent of a machine.
#[derive(Debug)]
pub struct Guest {
    link: Arc<Link>,
    ack: Ack,
    tasks: [JoinHandle<()>; 2],
}

impl Guest {
    /// Greets the agent at the other end of `stream` and waits for its answer, however long that
    /// takes: the answer is the sign that the guest is ready. Give up by dropping the future.
    ///
    /// # Errors
    /// `Guest` where the stream ends or the agent speaks no protocol of ours.
    pub async fn greet<S>(stream: S) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        Ok(Self::begin(stream, None).await?.0)
    }

    async fn begin<S>(stream: S, keep: Option<Kept>) -> Result<(Self, Option<Running>)>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (mut read, mut write) = tokio::io::split(stream);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nonce = random::<NONCE_BYTES>()?;
        let mut hello = Hello::new(nonce, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
        hello.keep = keep.map(|kept| kept.channel);
        write.write_all(&hello.encode()).await.map_err(lost)?;
        let mut wire = FromAgent::new(nonce);
        let (ack, rest) = answer(&mut read, &mut wire).await?;
        if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&ack.protocol) {
            return Err(Error::guest(format!(
                "the agent in the image (version {}) speaks the protocols {} to {}, this imgrun {} to {}",
                ack.version, ack.protocol_min, ack.protocol_max, PROTOCOL_MIN, PROTOCOL_MAX
            ))
            .hint("build the image again with this version's imgtool"));
        }
        let link = Arc::new(Link::default());
        // Before anything is heard: the command may have something to say at once.
        let kept = keep.map(|kept| Running::new(Arc::new(link.adopt(kept)), kept.pid, false));
        let reader = tokio::spawn(receive(link.clone(), read, wire, rest));
        let writer = link.clone();
        let writer = tokio::spawn(async move { writer.send_all(write).await });
        Ok((Guest { link, ack, tasks: [reader, writer] }, kept))
    }

    /// What the agent said of itself.
    pub fn ack(&self) -> &Ack {
        &self.ack
    }

    /// Starts a command and waits until it runs, at most 30 s.
    ///
    /// # Errors
    /// [`NotRun`], with the reason, where the guest refused; its class is `Guest`, or `Usage`
    /// where the request itself is not allowed.
    pub async fn exec(&self, exec: agent::Exec) -> Result<Running, NotRun> {
        let stdin = exec.stdin;
        let handle = self.link.open(exec)?;
        let started = tokio::time::timeout(START_MAX, handle.started()).await;
        let pid = started.map_err(|_| {
            let limit = START_MAX.as_secs();
            Error::guest(format!("the agent did not start the command in {limit} s"))
        })??;
        Ok(Running::new(Arc::new(handle), pid, stdin))
    }

    /// Sends nothing from now on, as long as what is returned lives; the agent has heard all that
    /// was sent before.
    ///
    /// # Errors
    /// `Guest` where it does not say so in 10 s.
    pub(crate) async fn quiet(&self) -> Result<Quiet> {
        let quiet = self.link.quiet()?;
        let heard = tokio::time::timeout(HEAR_MAX, self.link.heard(quiet.token())).await;
        heard.map_err(|_| Error::guest("the agent does not answer"))??;
        Ok(quiet)
    }

    /// Asks the guest to end its commands, write everything to disk, and end the machine.
    pub fn ask_shutdown(&self) -> Result<()> {
        self.link.send(agent::CHANNEL_CONTROL, &Message::Shutdown(Shutdown::PowerOff))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.link.fail("the session was closed");
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Checks what can be known of a request without a guest.
///
/// # Errors
/// `Usage` where no agent would take it: arguments of more than 64 KiB, say.
pub fn check_exec(exec: &agent::Exec) -> Result<()> {
    let request = Message::Exec(exec.clone());
    // Any channel does.
    request.encode(1, &mut Vec::new()).map_err(|e| Error::usage(e.to_string()))
}

/// Why a command did not run.
#[derive(Debug)]
pub struct NotRun {
    /// The agent's reason; `None` where the machine failed rather than the command.
    pub code: Option<FaultCode>,
    /// The error, for people.
    pub error: Error,
}

impl From<Error> for NotRun {
    fn from(error: Error) -> Self {
        NotRun { code: None, error }
    }
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES]> {
    use std::io::Read;
    let mut bytes = [0; BYTES];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    read.map_err(|e| Error::host("/dev/urandom").because(e))?;
    Ok(bytes)
}

fn lost(e: io::Error) -> Error {
    Error::guest("the connection to the agent was lost").because(e)
}

/// Reads up to the answer to our greeting; returns it and what came behind it.
async fn answer<S: AsyncRead>(
    read: &mut ReadHalf<S>,
    wire: &mut FromAgent,
) -> Result<(Ack, Vec<u8>)> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let n = read.read(&mut buffer).await.map_err(lost)?;
        if n == 0 {
            return Err(Error::guest("the machine ended before its agent answered"));
        }
        let mut input = &buffer[..n];
        match wire.feed(&mut input).map_err(protocol)? {
            Some(AgentEvent::Ack(ack)) => return Ok((ack, input.to_vec())),
            Some(AgentEvent::Frame(_)) | None => {}
        }
    }
}

fn protocol(e: agent::ProtocolError) -> Error {
    Error::guest(format!("the guest broke the agent protocol: {e}"))
}

/// The reading task: everything that arrives, until the stream ends or the guest misbehaves.
async fn receive<S: AsyncRead>(
    link: Arc<Link>,
    mut read: ReadHalf<S>,
    mut wire: FromAgent,
    mut buffer: Vec<u8>,
) {
    let mut n = buffer.len();
    buffer.resize(READ_BYTES.max(n), 0);
    loop {
        let mut input = &buffer[..n];
        if let Err(e) = link.receive(&mut wire, &mut input) {
            return link.fail(&e.to_string());
        }
        n = match read.read(&mut buffer).await {
            Ok(0) => return link.fail("the machine ended"),
            Ok(n) => n,
            Err(e) => return link.fail(&lost(e).to_string()),
        };
    }
}
