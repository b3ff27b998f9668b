//! Standard input, output and error as channels.
//!
//! Each is a thread, because a blocking read or write can not be given up: when we leave, a thread
//! that hangs in one is simply left behind, and the process ends.

use std::io;
use std::os::fd::BorrowedFd;
use std::thread;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};

/// Bytes read of standard input at a time.
const READ_BYTES: usize = 64 * 1024;
/// Pieces under way between a thread and the session.
const PIECES_MAX: usize = 4;

/// Standard input, piece by piece; the channel closes at its end. An error is the last piece.
pub(super) fn input() -> io::Result<mpsc::Receiver<io::Result<Vec<u8>>>> {
    let (pieces, received) = mpsc::channel(PIECES_MAX);
    thread::Builder::new().name("stdin".into()).spawn(move || {
        let stdin = rustix::stdio::stdin();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let piece = match read(stdin, &mut buffer) {
                Ok(0) => return,
                Ok(n) => Ok(buffer[..n].to_vec()),
                Err(e) => Err(e),
            };
            let last = piece.is_err();
            if pieces.blocking_send(piece).is_err() || last {
                return;
            }
        }
    })?;
    Ok(received)
}

/// Reads as if `from` were not set to non-blocking, which whoever shares it with us may do at any
/// time. 0 is the end.
fn read(from: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(from, &mut *buffer) {
            Ok(n) => return Ok(n),
            Err(Errno::AGAIN) => wait(from, PollFlags::IN)?,
            Err(Errno::INTR) => {}
            // It was closed, or opened for writing, as `nohup` does: there is no input.
            Err(Errno::BADF) => return Ok(0),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Writes all of `bytes`, as if `to` were not set to non-blocking.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::AGAIN) => wait(to, PollFlags::OUT)?,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn wait(fd: BorrowedFd<'_>, for_what: PollFlags) -> io::Result<()> {
    match rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, for_what)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A stream of ours that is written to.
#[derive(Debug)]
pub(super) struct Outlet {
    pieces: mpsc::Sender<Vec<u8>>,
    result: oneshot::Receiver<io::Result<()>>,
}

impl Outlet {
    pub(super) fn stdout() -> io::Result<Self> {
        Self::to(rustix::stdio::stdout())
    }

    pub(super) fn stderr() -> io::Result<Self> {
        Self::to(rustix::stdio::stderr())
    }

    fn to(stream: BorrowedFd<'static>) -> io::Result<Self> {
        let (pieces, mut received) = mpsc::channel::<Vec<u8>>(PIECES_MAX);
        let (done, result) = oneshot::channel();
        thread::Builder::new().name("output".into()).spawn(move || {
            let mut write = || {
                while let Some(piece) = received.blocking_recv() {
                    write_all(stream, &piece)?;
                }
                Ok(())
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    fn nonblocking_pipe() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        for end in [&reader, &writer] {
            rustix::io::ioctl_fionbio(end, true).unwrap();
        }
        (reader, writer)
    }

    #[test]
    fn non_blocking_streams_are_waited_for() {
        let (reader, writer) = nonblocking_pipe();
        let writes = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            // More than a pipe holds.
            write_all(writer.as_fd(), &[7; 300_000])
        });
        let (mut buffer, mut total) = ([0; 5000], 0);
        loop {
            match read(reader.as_fd(), &mut buffer).unwrap() {
                0 => break,
                n => total += n,
            }
            thread::sleep(Duration::from_micros(500));
        }
        assert_eq!(total, 300_000);
        writes.join().unwrap().unwrap();
    }

    #[test]
    fn an_error_is_not_the_end() {
        let directory = File::open("/").unwrap();
        let e = read(directory.as_fd(), &mut [0; 10]).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::IsADirectory);
        let write_only = File::options().write(true).open("/dev/null").unwrap();
        assert_eq!(read(write_only.as_fd(), &mut [0; 10]).unwrap(), 0);
    }
}
