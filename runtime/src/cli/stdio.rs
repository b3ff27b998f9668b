//! Standard input, output and error as channels.
//!
//! Each is a thread, because a blocking read or write can not be given up: when we leave, a thread
//! that hangs in one is simply left behind, and the process ends.

use std::io::{self, Read, Write};
use std::thread;

use tokio::sync::{mpsc, oneshot};

/// Bytes read of standard input at a time.
const READ_BYTES: usize = 64 * 1024;
/// Pieces under way between a thread and the session.
const PIECES_MAX: usize = 4;

/// Standard input, piece by piece; the channel closes at its end.
pub(super) fn input() -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (pieces, received) = mpsc::channel(PIECES_MAX);
    thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match stdin.read(&mut buffer) {
                Ok(n @ 1..) if pieces.blocking_send(buffer[..n].to_vec()).is_ok() => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    })?;
    Ok(received)
}

/// A stream of ours that is written to.
#[derive(Debug)]
pub(super) struct Outlet {
    pieces: mpsc::Sender<Vec<u8>>,
    result: oneshot::Receiver<io::Result<()>>,
}

impl Outlet {
    pub(super) fn stdout() -> io::Result<Self> {
        // Not `io::stdout()`: its line buffer would cost a search for line ends.
        let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 0)?;
        Self::to(std::fs::File::from(fd))
    }

    pub(super) fn stderr() -> io::Result<Self> {
        Self::to(io::stderr())
    }

    fn to(mut stream: impl Write + Send + 'static) -> io::Result<Self> {
        let (pieces, mut received) = mpsc::channel::<Vec<u8>>(PIECES_MAX);
        let (done, result) = oneshot::channel();
        thread::Builder::new().name("output".into()).spawn(move || {
            let mut write = || {
                while let Some(piece) = received.blocking_recv() {
                    stream.write_all(&piece)?;
                }
                stream.flush()
            };
            let _ = done.send(write());
        })?;
        Ok(Outlet { pieces, result })
    }

    /// Hands over a piece; false once writing failed: [`Outlet::finish`] says why.
    pub(super) async fn send(&self, piece: Vec<u8>) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Waits until everything is written.
    pub(super) async fn finish(self) -> io::Result<()> {
        drop(self.pieces);
        self.result.await.unwrap_or(Ok(()))
    }
}
