//! Between the threads that fetch and those that write: frames that have come.
//!
//! Spans are begun in the order of the file, and frames are taken in that order, too. So a span may
//! be begun whenever the window has room for it, and nobody can wait for one that is not: the
//! frames before it are all taken, or about to be.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::rate::Rate;
use super::sources::Sources;
use super::span::Span;
use crate::{Cancel, Error, Result, Stage};

/// Bytes of frames that are under way or waiting.
pub(super) const WINDOW_BYTES_MAX: u64 = 10 << 20;
/// Requests at once.
const CONNECTIONS_MAX: usize = 6;
/// How often a waiting thread looks whether the user has stopped us.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is to come and what has.
#[derive(Debug)]
pub(super) struct Supply {
    state: Mutex<State>,
    moved: Condvar,
    stopped: AtomicBool,
    /// All comes in one stream.
    whole: bool,
}

#[derive(Debug)]
struct State {
    spans: VecDeque<Span>,
    ready: HashMap<usize, Vec<u8>>,
    /// Of spans that were begun: bytes that nobody has taken.
    begun_bytes: u64,
    /// Of frames that have come.
    ready_bytes: u64,
    error: Option<Error>,
}

impl Supply {
    pub(super) fn new(spans: VecDeque<Span>, parts: bool) -> Self {
        let ready = HashMap::new();
        let state = State { spans, ready, begun_bytes: 0, ready_bytes: 0, error: None };
        let (state, moved, stopped) = (Mutex::new(state), Condvar::new(), AtomicBool::new(false));
        Supply { state, moved, stopped, whole: !parts }
    }

    /// Starts to fetch. The threads end with the last span, an error, or [`Supply::stop`]; nobody
    /// waits for them, since a server may keep one busy for a while.
    pub(super) fn start(
        self: &Arc<Self>,
        sources: &Arc<Sources>,
        rate: &Arc<Rate>,
        stage: &Arc<Stage>,
    ) {
        let spans = self.lock().spans.len();
        for _ in 0..spans.min(CONNECTIONS_MAX) {
            let (supply, sources) = (Arc::clone(self), Arc::clone(sources));
            let (rate, stage) = (Arc::clone(rate), Arc::downgrade(stage));
            std::thread::spawn(move || {
                let _watch = Watch(&supply);
                while let Some(span) = supply.next() {
                    if let Err(e) = sources.fetch(&span, &supply, &rate, &stage) {
                        supply.fail(e);
                    }
                }
            });
        }
    }

    /// The next span, once there is room for it.
    fn next(&self) -> Option<Span> {
        let mut state = self.lock();
        loop {
            if self.is_stopped() {
                return None;
            }
            let bytes = state.spans.front()?.frame_bytes();
            if state.begun_bytes == 0 || state.begun_bytes + bytes <= WINDOW_BYTES_MAX {
                state.begun_bytes += bytes;
                return state.spans.pop_front();
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A frame has come, and is what it must be.
    pub(super) fn deliver(&self, index: usize, packed: Vec<u8>) {
        let mut state = self.lock();
        // Of several streams the first must never wait: its frames are those that are wanted.
        while self.whole && state.ready_bytes > WINDOW_BYTES_MAX && !self.is_stopped() {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.ready_bytes += packed.len() as u64;
        state.ready.insert(index, packed);
        drop(state);
        self.moved.notify_all();
    }

    /// Waits for frame `index`, which becomes the content of `buffer`.
    pub(super) fn take(&self, index: usize, buffer: &mut Vec<u8>, cancel: &Cancel) -> Result<()> {
        let mut state = self.lock();
        loop {
            if let Some(packed) = state.ready.remove(&index) {
                state.begun_bytes -= packed.len() as u64;
                state.ready_bytes -= packed.len() as u64;
                *buffer = packed;
                drop(state);
                self.moved.notify_all();
                return Ok(());
            }
            cancel.check()?;
            if let Some(e) = state.error.take() {
                return Err(e);
            }
            if self.is_stopped() {
                // Another thread has the error.
                return Err(Error::bug("a frame was waited for that nobody fetches"));
            }
            let waited = self.moved.wait_timeout(state, LOOK_EVERY);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn fail(&self, error: Error) {
        self.lock().error.get_or_insert(error);
        self.stop();
    }

    /// Nobody wants anything any more.
    pub(super) fn stop(&self) {
        // Under the lock, so that nobody misses it between a look and a wait.
        let state = self.lock();
        self.stopped.store(true, Ordering::Relaxed);
        drop(state);
        self.moved.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets nobody wait for a thread that panicked.
struct Watch<'s>(&'s Supply);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::bug("a thread that fetches has failed"));
        }
    }
}
