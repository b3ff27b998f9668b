//! From frames, wherever they come from, to a bundle's files: in parallel, each checked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use zstd::bulk::Decompressor;

use crate::{Digest, Error, Frame, Hasher, Outline, Piece, zstd_frame};

/// Zeros are hashed in pieces of this size.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What a frame's bytes were asked for, and are given, as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are in the packed file.
    Packed,
    /// Decompressed: copied from another bundle, or from what was written before.
    Raw,
}

impl Outline {
    /// Writes the bundle's files: gets every data frame from `fetch`, checks it, and gives its raw
    /// bytes to `put`, on `threads` threads. Whole files are checked against their digests, too. For
    /// holes `put` gets no bytes, and nothing is fetched.
    ///
    /// `fetch(index, form, buffer)` fills the empty `buffer` with frame `index` and says in which
    /// form that is. Asked for [`Form::Raw`] it may give either: raw bytes that are not the frame's
    /// after all lead to a second call, for [`Form::Packed`], which must be obeyed. Indexes come in
    /// about ascending order, each to one thread. `put(piece, raw)` writes at [`Piece::raw_at`]; it
    /// is called before all of a file is known to be right, so nothing is to be seen by others
    /// before `assemble` returns.
    ///
    /// Each thread holds one frame packed and raw: at most 8 MiB.
    ///
    /// # Errors
    /// The first of `fetch` and `put`; [`Error::Digest`] and [`Error::Format`] for a frame that is
    /// not what the frame table says. The other threads end after the frame they are at.
    pub fn assemble<E: From<Error> + Send>(
        &self,
        threads: usize,
        fetch: impl Fn(usize, Form, &mut Vec<u8>) -> Result<Form, E> + Sync,
        put: impl Fn(&Piece, &[u8]) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let next = AtomicUsize::new(0);
        let order = Order::new();
        let work = || {
            let _watch = Watch(&order);
            let mut buffers = Buffers::new().map_err(|e| order.fail(E::from(e)))?;
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(piece) = self.pieces().get(index) else { return Ok(()) };
                let done =
                    buffers.load(piece, |form, buffer| fetch(index, form, buffer)).and_then(|()| {
                        if piece.frame.is_zero() { Ok(()) } else { put(piece, &buffers.raw) }
                    });
                done.map_err(|e| order.fail(e))?;
                order.hash(self, index, &buffers.raw)?;
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.clamp(1, self.pieces().len().max(1)) {
                scope.spawn(work);
            }
            let _: Result<(), Failed> = work();
        });
        match order.into_error() {
            None => Ok(()),
            Some(e) => Err(e),
        }
    }
}

impl Outline {
    /// As [`Outline::assemble`], with every frame from the packed file itself: `read(buffer, at)`
    /// fills `buffer` with its bytes from `at` on.
    ///
    /// # Errors
    /// As [`Outline::assemble`], and those of `read`.
    pub fn unpack<E: From<Error> + Send>(
        &self,
        threads: usize,
        read: impl Fn(&mut [u8], u64) -> Result<(), E> + Sync,
        put: impl Fn(&Piece, &[u8]) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let fetch = |index: usize, _: Form, buffer: &mut Vec<u8>| {
            let piece = &self.pieces()[index];
            buffer.resize(piece.frame.packed_bytes() as usize, 0);
            read(buffer, piece.packed_at).map(|()| Form::Packed)
        };
        self.assemble(threads, fetch, put)
    }
}

/// One thread's memory.
pub(crate) struct Buffers {
    decoder: Decompressor<'static>,
    packed: Vec<u8>,
    /// The last frame loaded; nothing of a hole.
    pub(crate) raw: Vec<u8>,
}

impl Buffers {
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Buffers { decoder: Decompressor::new()?, packed: Vec::new(), raw: Vec::new() })
    }

    /// Gets a data frame's raw bytes into `raw`.
    pub(crate) fn load<E: From<Error>>(
        &mut self,
        piece: &Piece,
        fetch: impl Fn(Form, &mut Vec<u8>) -> Result<Form, E>,
    ) -> Result<(), E> {
        self.packed.clear();
        self.raw.clear();
        let Frame::Data { raw_bytes, raw, packed, .. } = piece.frame else { return Ok(()) };
        let mut form = fetch(Form::Raw, &mut self.packed)?;
        if form == Form::Raw {
            if Digest::of(&self.packed) == raw {
                std::mem::swap(&mut self.packed, &mut self.raw);
                return Ok(());
            }
            self.packed.clear();
            form = fetch(Form::Packed, &mut self.packed)?;
        }
        if form != Form::Packed {
            return Err(Error::format("a frame was given raw that had to be packed").into());
        }
        let what = || format!("the frame at byte {}", piece.packed_at);
        check(&self.packed, packed, what)?;
        self.raw.resize(raw_bytes as usize, 0);
        zstd_frame::open(&mut self.decoder, &self.packed, &mut self.raw)?;
        check(&self.raw, raw, || format!("{}, decompressed", what()))?;
        Ok(())
    }
}

fn check(bytes: &[u8], expected: Digest, what: impl Fn() -> String) -> Result<(), Error> {
    let found = Digest::of(bytes);
    if found == expected { Ok(()) } else { Err(Error::Digest { what: what(), expected, found }) }
}

/// The order of frames, which a file's digest needs, among threads that end theirs in any order.
struct Order<E> {
    state: Mutex<State<E>>,
    moved: Condvar,
}

struct State<E> {
    /// The frame whose turn it is.
    next: usize,
    /// Of the file under way.
    hasher: Hasher,
    error: Option<E>,
    /// There was an error, or a thread panicked.
    failed: bool,
}

/// The error is in [`Order`].
struct Failed;

impl<E: From<Error>> Order<E> {
    fn new() -> Self {
        let state = State { next: 0, hasher: Hasher::new(), error: None, failed: false };
        Order { state: Mutex::new(state), moved: Condvar::new() }
    }

    /// Waits for the turn of frame `index` and adds it to its file's digest.
    fn hash(&self, outline: &Outline, index: usize, raw: &[u8]) -> Result<(), Failed> {
        let mut state = self.lock();
        while state.next != index && !state.failed {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.failed {
            return Err(Failed);
        }
        let piece = &outline.pieces()[index];
        match piece.frame {
            Frame::Data { .. } => state.hasher.update(raw),
            Frame::Zero { raw_bytes } => {
                let mut left = raw_bytes as usize;
                while left > 0 {
                    let n = left.min(ZEROS.len());
                    state.hasher.update(&ZEROS[..n]);
                    left -= n;
                }
            }
        }
        state.next += 1;
        let file = &outline.manifest().files[piece.file];
        let is_last = piece.raw_at + piece.frame.raw_bytes() == file.size;
        let found = is_last.then(|| std::mem::take(&mut state.hasher).finish());
        drop(state);
        self.moved.notify_all();
        match found {
            Some(found) if found != file.digest => {
                let (what, expected) = (file.name.clone(), file.digest);
                Err(self.fail(Error::Digest { what, expected, found }.into()))
            }
            _ => Ok(()),
        }
    }

    fn fail(&self, error: E) -> Failed {
        let mut state = self.lock();
        state.error.get_or_insert(error);
        state.failed = true;
        self.moved.notify_all();
        Failed
    }

    fn into_error(self) -> Option<E> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).error
    }
}

impl<E> Order<E> {
    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets no thread wait for one that panicked.
struct Watch<'o, E>(&'o Order<E>);

impl<E> Drop for Watch<'_, E> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().failed = true;
            self.0.moved.notify_all();
        }
    }
}
