//! A layer that another thread decompresses.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread;

const PIECE_BYTES: usize = 1 << 20;
const PIECES_AHEAD: usize = 4;

type Piece = io::Result<(Vec<u8>, usize)>;

/// A layer's tar stream.
pub struct Layer {
    filled: Receiver<Piece>,
    used: Sender<Vec<u8>>,
    current: (Vec<u8>, usize),
    at: usize,
}

impl Layer {
    /// Starts to decompress the file at `path`: gzip, zstd or neither.
    pub fn open(path: &str) -> io::Result<Layer> {
        let mut magic = [0; 2];
        File::open(path)?.read_exact(&mut magic)?;
        let stored = BufReader::with_capacity(PIECE_BYTES, File::open(path)?);
        let mut stream: Box<dyn Read + Send> = match magic {
            [0x1f, 0x8b] => Box::new(flate2::bufread::MultiGzDecoder::new(stored)),
            [0x28, 0xb5] => Box::new(zstd::Decoder::with_buffer(stored)?),
            _ => Box::new(stored),
        };
        let (send, filled) = sync_channel::<Piece>(PIECES_AHEAD);
        let (used, empty) = channel::<Vec<u8>>();
        thread::spawn(move || {
            loop {
                let mut piece = empty.try_recv().unwrap_or_else(|_| vec![0; PIECE_BYTES]);
                let read = stream.read(&mut piece);
                let last = !matches!(read, Ok(n) if n > 0);
                if send.send(read.map(|n| (piece, n))).is_err() || last {
                    return;
                }
            }
        });
        Ok(Layer { filled, used, current: (Vec::new(), 0), at: 0 })
    }
}

impl Read for Layer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.1 {
            let Ok(next) = self.filled.recv() else { return Ok(0) };
            let (piece, _) = std::mem::replace(&mut self.current, next?);
            self.at = 0;
            if !piece.is_empty() {
                let _ = self.used.send(piece);
            }
        }
        let n = buffer.len().min(self.current.1 - self.at);
        buffer[..n].copy_from_slice(&self.current.0[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
