//! What no flattener can beat: layers decompressed on one thread and written, one after another,
//! on the other.
//!
//! `floor OUT LAYER...`; with `--no-sync` first, OUT is not synced at the end.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

const PIECE_BYTES: usize = 64 << 10;
const PIECES_AHEAD: usize = 32;

fn open(path: &str) -> io::Result<Box<dyn Read>> {
    let mut magic = [0; 2];
    File::open(path)?.read_exact(&mut magic)?;
    let stored = BufReader::with_capacity(PIECE_BYTES, File::open(path)?);
    Ok(match magic {
        [0x1f, 0x8b] => Box::new(flate2::bufread::MultiGzDecoder::new(stored)),
        [0x28, 0xb5] => Box::new(zstd::Decoder::with_buffer(stored)?),
        _ => Box::new(stored),
    })
}

fn fill(stream: &mut dyn Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < piece.len() {
        match stream.read(&mut piece[length..])? {
            0 => break,
            n => length += n,
        }
    }
    Ok(length)
}

fn main() -> io::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let sync = arguments[0] != "--no-sync";
    if !sync {
        arguments.remove(0);
    }
    let mut out = File::create(arguments.remove(0))?;
    let (send, filled) = sync_channel::<(Vec<u8>, usize)>(PIECES_AHEAD);
    let (give_back, empty) = channel::<Vec<u8>>();
    let decoder = thread::spawn(move || -> io::Result<()> {
        for layer in arguments {
            let mut stream = open(&layer)?;
            loop {
                let mut piece = empty.try_recv().unwrap_or_else(|_| vec![0; PIECE_BYTES]);
                let length = fill(&mut *stream, &mut piece)?;
                if length == 0 || send.send((piece, length)).is_err() {
                    break;
                }
            }
        }
        Ok(())
    });
    for (piece, length) in filled {
        out.write_all(&piece[..length])?;
        let _ = give_back.send(piece);
    }
    decoder.join().map_err(|_| io::Error::other("the decoder panicked"))??;
    if sync { out.sync_all() } else { Ok(()) }
}
