//! Writing the packed file: the files cut into frames, compressed in parallel, then the manifest.

use std::collections::VecDeque;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::cut::{Cut, Cutter};
use crate::member::{glue, head, head_bytes};
use crate::zstd_frame::{stored, zeros};
use crate::{
    BLOCK_BYTES, Blob, Digest, Error, FRAMES_MAX, FileEntry, Frame, Hasher, MANIFEST_BYTES_MAX,
    Manifest, Outline, Result, table,
};

/// Bytes read of a file at a time: few enough to stay in a processor's own cache.
const READ_BYTES: usize = 128 << 10;
/// Pieces that the file's digest may be behind its frames.
const PIECES_BEHIND: usize = 32;
/// Frames under way for each thread. Frames differ in length and are written in order: with fewer a
/// short one would often wait for a long one, and its thread for work.
const FRAMES_A_THREAD: usize = 16;

/// A file for a bundle.
#[derive(Clone, Debug)]
pub struct Content<R> {
    /// Its name, one of [`Kind::files`](crate::Kind::files).
    pub name: String,
    /// Its bytes, of which there must be `size`.
    pub reader: R,
    /// How many there are.
    pub size: u64,
    /// Offsets, ascending, where frames must begin because what follows has nothing to do with what
    /// comes before; multiples of [`BLOCK_BYTES`].
    pub seams: Vec<u64>,
}

impl<R> Content<R> {
    /// A file that may be cut anywhere.
    pub fn new(name: impl Into<String>, reader: R, size: u64) -> Self {
        Content { name: name.into(), reader, size, seams: Vec::new() }
    }
}

/// How a bundle is packed.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    /// zstd's level.
    pub level: i32,
    /// Frames have about so many raw bytes, at least a quarter and at most four times as many.
    pub average_bytes: u32,
    /// Threads that compress. They change the speed, not the bytes.
    pub threads: usize,
}

/// Packs `contents`, in the order of [`Kind::files`](crate::Kind::files), behind `manifest` into
/// `out`, which must be empty. `manifest`'s `files` and `frames` are filled in on the way. The bytes
/// depend on the arguments only. `progress` is told of raw bytes.
///
/// # Errors
/// Where a file is shorter or longer than its size, or reading or writing fails. What is in `out`
/// is then to be thrown away.
pub fn pack<R: Read, W: Write + Seek>(
    mut manifest: Manifest,
    contents: Vec<Content<R>>,
    out: W,
    packing: &Packing,
    progress: impl Fn(u64),
) -> Result<(W, Outline)> {
    // The manifest comes first, but its digests and lengths are known last. Neither can make it
    // longer than this, and spaces fill up what it is shorter.
    let unknown = Digest::from_bytes([0; 32]);
    let entry = |content: &Content<R>| FileEntry {
        name: content.name.clone(),
        digest: unknown,
        size: content.size,
        packed: u64::MAX,
    };
    manifest.files = contents.iter().map(entry).collect();
    manifest.frames = Blob { digest: unknown, size: u64::MAX };
    let room = manifest.to_json().len();
    if room as u64 > MANIFEST_BYTES_MAX {
        return Err(Error::format(format!(
            "its manifest would have {room} bytes, {MANIFEST_BYTES_MAX} are allowed"
        )));
    }
    thread::scope(|scope| {
        let mut frames = Frames::start(scope, out, packing);
        frames.out.seek(SeekFrom::Start(head_bytes(room as u64)))?;
        for (index, content) in contents.into_iter().enumerate() {
            frames.push(Pending::Fixed(stored(&glue(&manifest.files, index)?)))?;
            let digest = frames.cut(scope, content, packing.average_bytes, &progress, index)?;
            manifest.files[index].digest = digest;
        }
        frames.push(Pending::Fixed(stored(&glue(&manifest.files, manifest.files.len())?)))?;
        let (mut out, made) = frames.finish()?;
        for (index, file) in manifest.files.iter_mut().enumerate() {
            let own = made.iter().filter(|(file, _)| *file == index);
            file.packed = own.map(|(_, frame)| frame.packed_bytes()).sum();
        }
        let table = table::encode(made.iter().map(|(_, frame)| frame));
        manifest.frames = Blob::of(&table);
        let json = padded(&manifest, room);
        let outline = Outline::new(json, &table)?;
        out.write_all(&outline.tail())?;
        out.seek(SeekFrom::Start(0))?;
        out.write_all(&head(outline.json())?)?;
        out.flush()?;
        Ok((out, outline))
    })
}

/// The manifest as `room` bytes of JSON.
fn padded(manifest: &Manifest, room: usize) -> Vec<u8> {
    let mut json = manifest.to_json();
    json.pop();
    json.resize(room - 1, b' ');
    json.push(b'\n');
    json
}

/// What will be written next, in order.
enum Pending {
    /// What follows from the manifest.
    Fixed(Vec<u8>),
    /// A hole of so many bytes, of the file of that number.
    Zero(usize, u32),
    /// Being compressed, of the file of that number.
    Data(usize, Receiver<Result<Compressed>>),
}

/// A frame to compress, memory to compress it into, and where to send the result.
struct Job {
    raw: Vec<u8>,
    packed: Vec<u8>,
    done: SyncSender<Result<Compressed>>,
}

struct Compressed {
    raw: Vec<u8>,
    packed: Vec<u8>,
    frame: Frame,
}

/// Frames under way: compressed by threads in any order, written in theirs.
struct Frames<W> {
    out: W,
    jobs: SyncSender<Job>,
    pending: VecDeque<Pending>,
    pending_max: usize,
    made: Vec<(usize, Frame)>,
    /// Memory of frames that were written, to be used again: for raw bytes, and for packed ones.
    spare: Vec<Vec<u8>>,
    spare_packed: Vec<Vec<u8>>,
}

impl<W: Write + Seek> Frames<W> {
    fn start<'s>(scope: &'s thread::Scope<'s, '_>, out: W, packing: &Packing) -> Self {
        let threads = packing.threads.max(1);
        let (jobs, queue) = sync_channel::<Job>(FRAMES_A_THREAD * threads);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = queue.clone();
            let level = packing.level;
            scope.spawn(move || {
                let mut compressor = compressor(level);
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(Job { raw, packed, done }) = next() {
                    // Nobody waits for it where packing has failed.
                    let _ = done.send(compress(&mut compressor, raw, packed));
                }
            });
        }
        Frames {
            out,
            jobs,
            pending: VecDeque::new(),
            pending_max: FRAMES_A_THREAD * threads,
            made: Vec::new(),
            spare: Vec::new(),
            spare_packed: Vec::new(),
        }
    }

    /// Cuts a file into frames; returns its digest.
    fn cut<'s, R: Read>(
        &mut self,
        scope: &'s thread::Scope<'s, '_>,
        mut content: Content<R>,
        average_bytes: u32,
        progress: &impl Fn(u64),
        file: usize,
    ) -> Result<Digest> {
        let mut cutter = Cutter::new(average_bytes, &content.seams);
        let whole = Whole::start(scope);
        let mut left = content.size;
        while left > 0 {
            let n = left.min(READ_BYTES as u64) as usize;
            let mut bytes = whole.piece();
            bytes.resize(n, 0);
            content.reader.read_exact(&mut bytes)?;
            for block in bytes.chunks(BLOCK_BYTES as usize) {
                cutter.block(block, &mut |cut| self.add(file, cut))?;
                cutter.reuse(&mut self.spare);
            }
            whole.add(bytes)?;
            progress(n as u64);
            left -= n as u64;
        }
        cutter.finish(&mut |cut| self.add(file, cut))?;
        if content.reader.read(&mut [0; 1])? != 0 {
            return Err(Error::format("a file grew while it was packed"));
        }
        whole.finish()
    }

    fn add(&mut self, file: usize, cut: Cut) -> Result<()> {
        match cut {
            Cut::Zero(bytes) => self.push(Pending::Zero(file, bytes as u32)),
            Cut::Data(raw) => {
                let (done, result) = sync_channel(1);
                let packed = self.spare_packed.pop().unwrap_or_default();
                self.jobs.send(Job { raw, packed, done }).map_err(|_| ended_early())?;
                self.push(Pending::Data(file, result))
            }
        }
    }

    fn push(&mut self, pending: Pending) -> Result<()> {
        self.pending.push_back(pending);
        while self.pending.len() > self.pending_max {
            self.write_next()?;
        }
        Ok(())
    }

    fn write_next(&mut self) -> Result<()> {
        match self.pending.pop_front() {
            None => return Ok(()),
            Some(Pending::Fixed(bytes)) => self.out.write_all(&bytes)?,
            Some(Pending::Zero(file, raw_bytes)) => {
                self.out.write_all(&zeros(u64::from(raw_bytes)))?;
                self.made.push((file, Frame::Zero { raw_bytes }));
            }
            Some(Pending::Data(file, result)) => {
                let done = result.recv().map_err(|_| ended_early())??;
                self.out.write_all(&done.packed)?;
                self.made.push((file, done.frame));
                self.spare.push(done.raw);
                self.spare_packed.push(done.packed);
            }
        }
        if self.made.len() > FRAMES_MAX {
            return Err(Error::format(format!("it has more than {FRAMES_MAX} frames")));
        }
        Ok(())
    }

    /// The output and all frames, each with its file's number.
    fn finish(mut self) -> Result<(W, Vec<(usize, Frame)>)> {
        while !self.pending.is_empty() {
            self.write_next()?;
        }
        Ok((self.out, self.made))
    }
}

/// The digest of a whole file, computed by a thread of its own: it is one long chain, which whoever
/// reads and writes would have to wait for.
struct Whole<'s> {
    pieces: SyncSender<Vec<u8>>,
    used: Receiver<Vec<u8>>,
    thread: thread::ScopedJoinHandle<'s, Digest>,
}

impl<'s> Whole<'s> {
    fn start(scope: &'s thread::Scope<'s, '_>) -> Self {
        let (pieces, queue) = sync_channel::<Vec<u8>>(PIECES_BEHIND);
        let (back, used) = channel();
        let thread = scope.spawn(move || {
            let mut hasher = Hasher::new();
            for piece in queue {
                hasher.update(&piece);
                // Nobody takes it where packing has failed.
                let _ = back.send(piece);
            }
            hasher.finish()
        });
        Whole { pieces, used, thread }
    }

    /// Memory for the next piece.
    fn piece(&self) -> Vec<u8> {
        self.used.try_recv().unwrap_or_default()
    }

    fn add(&self, piece: Vec<u8>) -> Result<()> {
        self.pieces.send(piece).map_err(|_| ended_early())
    }

    fn finish(self) -> Result<Digest> {
        drop(self.pieces);
        self.thread.join().map_err(|_| ended_early())
    }
}

fn ended_early() -> Error {
    Error::format("a thread of the packing ended early")
}

type Compressor = zstd::bulk::Compressor<'static>;

pub(crate) fn compressor(level: i32) -> std::io::Result<Compressor> {
    let mut compressor = Compressor::new(level)?;
    compressor.include_checksum(true)?;
    Ok(compressor)
}

fn compress(
    compressor: &mut std::io::Result<Compressor>,
    raw: Vec<u8>,
    mut packed: Vec<u8>,
) -> Result<Compressed> {
    let compressor = match compressor {
        Ok(compressor) => compressor,
        Err(e) => return Err(std::io::Error::other(e.to_string()).into()),
    };
    packed.clear();
    packed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
    compressor.compress_to_buffer(&raw, &mut packed)?;
    let frame = Frame::Data {
        raw_bytes: raw.len() as u32,
        packed_bytes: packed.len() as u32,
        raw: Digest::of(&raw),
        packed: Digest::of(&packed),
    };
    Ok(Compressed { raw, packed, frame })
}
