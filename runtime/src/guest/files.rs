//! Files in and out of a guest: [`agent::copy`]'s stream through a command's standard streams.

use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use agent::copy::{self, Copied};
use agent::{Exec, GUEST_PATH, Status};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Guest, Running};
use crate::{Error, Result, printable};

/// Pieces under way between the session and the thread that reads or writes files.
const PIECES_MAX: usize = 8;
/// Bytes of a piece.
const PIECE_BYTES: usize = 64 << 10;
/// What the agent says of an error is at most this long, bytes.
const SAID_BYTES_MAX: usize = 64 << 10;
const SIGKILL: u8 = 9;

impl Guest {
    /// Copies `from` in the guest to `to` here, as `cp -R` would: modes (but for the set-user-id,
    /// set-group-id and sticky bits), times, symlinks and holes. The guest can name no place but
    /// `to`. What is new is the caller's own.
    ///
    /// # Errors
    /// `Guest` where it can not be read there, or what comes is none of ours; `Host` where it can
    /// not be written here.
    pub async fn copy_out(&self, from: &str, to: &Path, user: Option<&str>) -> Result<Copied> {
        let name = last_part(Path::new(from))?;
        let mut running = self.exec(request(&["send", from], user)).await.map_err(|e| e.error)?;
        let control = running.control();
        let (pieces, received) = mpsc::channel(PIECES_MAX);
        let place = to.to_path_buf();
        let files = tokio::task::spawn_blocking(move || {
            let mut stream = Incoming { received, piece: Vec::new(), at: 0 };
            copy::receive(&place, name.as_bytes(), false, &mut stream)
        });
        let feed = async {
            while let Some(piece) = running.stdout.read().await? {
                // Where it has ended it says why; what the guest has left is not wanted.
                if pieces.send(piece).await.is_err() {
                    control.signal(SIGKILL)?;
                    break;
                }
            }
            drop(pieces);
            Ok::<_, Error>(())
        };
        let (fed, said) = tokio::join!(feed, running.stderr.read_to_end(SAID_BYTES_MAX));
        fed?;
        let done = finished(files).await;
        match done {
            // It was the guest that ended first, and knows better why.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                ended(&running, &said?).await?;
                Err(Error::guest(format!("copying {from}")).because(e))
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                Err(Error::guest(format!("copying {from}: the guest sent what is not allowed"))
                    .because(e))
            }
            Err(e) => Err(Error::io(to.display(), e)),
            Ok(copied) => ended(&running, &said?).await.map(|()| copied),
        }
    }

    /// Copies `from` here to `to` in the guest, as `cp -R` would: modes, times, symlinks and holes;
    /// what is new is `user`'s, else root's.
    ///
    /// # Errors
    /// `Host` where it can not be read here, `Guest` where it can not be written there.
    pub async fn copy_in(&self, from: &Path, to: &str, user: Option<&str>) -> Result<Copied> {
        let name = last_part(from)?;
        let request = Exec { stdin: true, ..request(&["receive", to, &name], user) };
        let mut running = self.exec(request).await.map_err(|e| e.error)?;
        let mut stdin = running.stdin.take();
        let (pieces, mut received) = mpsc::channel::<Vec<u8>>(PIECES_MAX);
        let source = from.to_path_buf();
        let files = tokio::task::spawn_blocking(move || {
            let mut out = BufWriter::with_capacity(PIECE_BYTES, Outgoing { pieces });
            copy::send(&source, &mut out)
        });
        let feed = async {
            while let Some(piece) = received.recv().await {
                let Some(stdin) = &mut stdin else { break };
                if !stdin.write(&piece).await? {
                    break;
                }
            }
            drop(stdin);
            drop(received);
            Ok::<_, Error>(())
        };
        let (fed, said) = tokio::join!(feed, running.stderr.read_to_end(SAID_BYTES_MAX));
        fed?;
        match finished(files).await {
            // The guest went away: it knows why.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                ended(&running, &said?).await?;
                Err(Error::guest(format!("copying to {to}")).because(e))
            }
            Err(e) => Err(Error::io("copying", e)),
            Ok(copied) => ended(&running, &said?).await.map(|()| copied),
        }
    }
}

fn request(words: &[&str], user: Option<&str>) -> Exec {
    let argv = std::iter::once(GUEST_PATH).chain(words.iter().copied());
    Exec {
        argv: argv.map(|word| word.as_bytes().to_vec()).collect(),
        user: user.map(|user| user.as_bytes().to_vec()),
        // Relative paths there are root's business, wherever its home is.
        cwd: Some(b"/".to_vec()),
        ..Exec::default()
    }
}

/// The name that a copy gets in a directory.
fn last_part(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_string);
    name.ok_or_else(|| Error::usage(format!("{}: it has no name to copy it by", path.display())))
}

async fn ended(running: &Running, said: &[u8]) -> Result<()> {
    if running.wait().await?.status == Status::Code(0) {
        return Ok(());
    }
    let said = printable(said);
    let line = said.lines().last().unwrap_or("the copy ended early");
    let line = line.strip_prefix("imgagent: ").unwrap_or(line);
    let e = Error::guest(format!("in the guest: {line}"));
    match line.starts_with("usage: ") {
        true => Err(e.hint("its agent can not copy yet: build the image again")),
        false => Err(e),
    }
}

async fn finished(thread: JoinHandle<io::Result<Copied>>) -> io::Result<Copied> {
    thread.await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

/// Pieces as a reader.
struct Incoming {
    received: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            let Some(piece) = self.received.blocking_recv() else { return Ok(0) };
            (self.piece, self.at) = (piece, 0);
        }
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// A writer of pieces.
struct Outgoing {
    pieces: mpsc::Sender<Vec<u8>>,
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.pieces.blocking_send(bytes.to_vec());
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
