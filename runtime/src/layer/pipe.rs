//! A layer's tar stream, decompressed on a thread of its own.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use super::Layer;
use crate::Result;

/// Bytes handed over at a time: large enough that handing over costs nothing.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces decompressed ahead of the reader, so 2 MiB for each layer that is open.
const PIECES_AHEAD: usize = 8;

/// Reads a layer while another thread decompresses and checks what comes next.
#[derive(Debug)]
pub struct Pipe {
    filled: Receiver<io::Result<Piece>>,
    /// Pieces go back to the thread to be filled again.
    used: Sender<Vec<u8>>,
    current: Piece,
    at: usize,
    ended: bool,
    stored: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    length: usize,
}

impl Pipe {
    /// Starts to decompress `layer`.
    ///
    /// # Errors
    /// Where it can not be opened.
    pub fn start(layer: &Layer) -> Result<Pipe> {
        let mut stream = layer.decompressed()?;
        let stored = stream.stored_bytes_read();
        let (send, filled) = sync_channel(PIECES_AHEAD);
        let (used, empty) = channel();
        thread::Builder::new()
            .name("decompress".into())
            .spawn(move || pump(&mut stream, &send, &empty))
            .map_err(|e| crate::Error::host("start a thread").because(e))?;
        Ok(Pipe { filled, used, current: Piece::default(), at: 0, ended: false, stored })
    }

    /// How many of the layer's stored bytes have been read, perhaps ahead of what was given out.
    pub fn stored_bytes_read(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }
}

/// Runs until the stream ends or fails, or nobody reads any more.
fn pump(stream: &mut impl Read, filled: &SyncSender<io::Result<Piece>>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut bytes = empty.try_recv().unwrap_or_else(|_| vec![0; PIECE_BYTES]);
        let piece = fill(stream, &mut bytes).map(|length| Piece { bytes, length });
        let last = !matches!(&piece, Ok(piece) if piece.length > 0);
        if filled.send(piece).is_err() || last {
            return;
        }
    }
}

fn fill(stream: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match stream.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // What came before is worth nothing without its end: say the error first.
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

impl BufRead for Pipe {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.length && !self.ended {
            let next = self.filled.recv().unwrap_or_else(|_| {
                Err(io::Error::other(crate::Error::bug("the decompressing thread ended early")))
            })?;
            let piece = std::mem::replace(&mut self.current, next);
            self.at = 0;
            self.ended = self.current.length == 0;
            if !piece.bytes.is_empty() {
                // The thread may be gone already: then nobody needs the piece.
                let _ = self.used.send(piece.bytes);
            }
        }
        Ok(&self.current.bytes[self.at..self.current.length])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
        debug_assert!(self.at <= self.current.length);
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}
