//! Writing the packed file: a tar stream cut into independent zstd frames, compressed in parallel.
//!
//! Every member's header starts a frame and file data is cut every [`FRAME_BYTES`], so equal input
//! gives equal bytes whatever the number of threads, and a reader can decompress frames apart.

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::{Error, Manifest, Result};

/// Raw bytes in a frame of file data, at most.
pub(crate) const FRAME_BYTES: usize = 1 << 20;

pub(crate) const MANIFEST_NAME: &str = "manifest.json";

/// A tar header for a file of ours: the same bytes for the same name and size, always.
pub(crate) fn tar_header(name: &str, size: u64) -> Result<[u8; 512]> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// Zero bytes that follow a member of `size` bytes up to the next 512.
pub(crate) fn tar_padding(size: u64) -> usize {
    (size.wrapping_neg() % 512) as usize
}

/// Packs `manifest` and its files into `out`.
///
/// `files` are the contents in the manifest's order, each exactly as long as the manifest says.
/// `level` is zstd's; `threads` changes the speed, not the bytes. `progress` is told of raw bytes.
///
/// # Errors
/// Where a file is shorter or longer than its entry, or reading or writing fails. What is in `out`
/// is then to be thrown away.
pub fn pack<R: Read, W: Write>(
    manifest: &Manifest,
    files: impl IntoIterator<Item = R>,
    out: W,
    level: i32,
    threads: usize,
    progress: impl Fn(u64),
) -> Result<W> {
    let json = manifest.to_json();
    thread::scope(|scope| {
        let mut frames = Frames::start(scope, out, level, threads.max(1));
        let mut carry = tar_header(MANIFEST_NAME, json.len() as u64)?.to_vec();
        carry.extend_from_slice(&json);
        carry.resize(carry.len() + tar_padding(json.len() as u64), 0);
        let mut files = files.into_iter();
        for entry in &manifest.files {
            frames.push(std::mem::take(&mut carry))?;
            frames.push(tar_header(&entry.name, entry.size)?.to_vec())?;
            let mut file = files
                .next()
                .ok_or_else(|| Error::format(format!("no content was given for {}", entry.name)))?;
            let mut left = entry.size;
            while left > 0 {
                let n = left.min(FRAME_BYTES as u64) as usize;
                let mut chunk = frames.buffer();
                chunk.resize(n, 0);
                file.read_exact(&mut chunk)?;
                frames.push(chunk)?;
                progress(n as u64);
                left -= n as u64;
            }
            if file.read(&mut [0; 1])? != 0 {
                return Err(Error::format(format!("{} grew while it was packed", entry.name)));
            }
            carry = vec![0; tar_padding(entry.size)];
        }
        carry.resize(carry.len() + 1024, 0);
        frames.push(carry)?;
        frames.finish()
    })
}

/// Chunks go to the workers in turn and come back in turn: order without a queue.
struct Frames<W> {
    out: W,
    workers: Vec<(SyncSender<Vec<u8>>, Receiver<Compressed>)>,
    pushed: usize,
    written: usize,
    spare: Vec<Vec<u8>>,
}

struct Compressed {
    raw: Vec<u8>,
    frame: std::io::Result<Vec<u8>>,
}

impl<W: Write> Frames<W> {
    fn start<'s>(scope: &'s thread::Scope<'s, '_>, out: W, level: i32, threads: usize) -> Self {
        let worker = || {
            let (chunks_in, chunks) = sync_channel::<Vec<u8>>(2);
            let (frames, frames_out) = sync_channel(2);
            scope.spawn(move || {
                let mut compressor = zstd::bulk::Compressor::new(level).and_then(|mut c| {
                    c.include_checksum(true)?;
                    Ok(c)
                });
                for raw in chunks {
                    let frame = match &mut compressor {
                        Ok(compressor) => compressor.compress(&raw),
                        Err(e) => Err(std::io::Error::other(e.to_string())),
                    };
                    if frames.send(Compressed { raw, frame }).is_err() {
                        break;
                    }
                }
            });
            (chunks_in, frames_out)
        };
        let workers = (0..threads).map(|_| worker()).collect();
        Frames { out, workers, pushed: 0, written: 0, spare: Vec::new() }
    }

    fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    fn push(&mut self, chunk: Vec<u8>) -> Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        if self.pushed - self.written >= 2 * self.workers.len() {
            self.write_next()?;
        }
        let (worker, _) = &self.workers[self.pushed % self.workers.len()];
        worker.send(chunk).map_err(|_| Error::format("a compression thread ended early"))?;
        self.pushed += 1;
        Ok(())
    }

    fn write_next(&mut self) -> Result<()> {
        let (_, done) = &self.workers[self.written % self.workers.len()];
        let done = done.recv().map_err(|_| Error::format("a compression thread ended early"))?;
        self.out.write_all(&done.frame?)?;
        self.written += 1;
        self.spare.push(done.raw);
        Ok(())
    }

    fn finish(mut self) -> Result<W> {
        while self.written < self.pushed {
            self.write_next()?;
        }
        Ok(self.out)
    }
}
