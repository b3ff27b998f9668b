//! What long work says while it lasts: events, which only the programs draw.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a stage counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things: files, objects, packages.
    Items,
}

impl Unit {
    /// `n` of it, for people: `98.34 MiB`, `12737`.
    pub fn amount(self, n: u64) -> String {
        match self {
            Unit::Bytes => indicatif::HumanBytes(n).to_string(),
            Unit::Items => n.to_string(),
        }
    }
}

/// Something happened that a person or a log may want to see.
#[derive(Clone, Debug)]
pub enum Event {
    /// A stage began. `total` is how much there is to do, where that is known.
    Begin {
        /// Identifies the stage in later events.
        stage: u64,
        /// What is being done and to what: "fetch sha256:12ab…".
        title: String,
        /// What `done` counts.
        unit: Unit,
        /// How much there is to do.
        total: Option<u64>,
    },
    /// A stage advanced to `done` in all.
    Advance {
        /// The stage.
        stage: u64,
        /// How much is done in all.
        done: u64,
    },
    /// A stage ended; `summary` is `None` where it failed or was given up.
    End {
        /// The stage.
        stage: u64,
        /// One line on the result.
        summary: Option<String>,
    },
    /// A line worth reading: a decision taken, a fallback, a warning.
    Note {
        /// The line.
        text: String,
    },
}

/// A handle through which work reports. Cheap to clone; silent by default.
#[derive(Clone)]
pub struct Progress {
    sink: Arc<dyn Fn(Event) + Send + Sync>,
    next: Arc<AtomicU64>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::silent()
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

impl Progress {
    /// Sends every event to `sink`.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Progress { sink: Arc::new(sink), next: Arc::new(AtomicU64::new(1)) }
    }

    /// Says nothing.
    pub fn silent() -> Self {
        Self::new(|_| {})
    }

    /// Begins a stage.
    pub fn stage(&self, title: impl Into<String>, unit: Unit, total: Option<u64>) -> Stage {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        (self.sink)(Event::Begin { stage: id, title: title.into(), unit, total });
        Stage { progress: self.clone(), id, done: AtomicU64::new(0), ended: false }
    }

    /// Says one line.
    pub fn note(&self, text: impl Into<String>) {
        (self.sink)(Event::Note { text: text.into() });
    }
}

/// A piece of long work under way. Dropped without [`Stage::finish`], it counts as failed.
#[derive(Debug)]
pub struct Stage {
    progress: Progress,
    id: u64,
    done: AtomicU64,
    ended: bool,
}

impl Stage {
    /// `more` has been done.
    pub fn add(&self, more: u64) {
        let done = self.done.fetch_add(more, Ordering::Relaxed) + more;
        (self.progress.sink)(Event::Advance { stage: self.id, done });
    }

    /// `done` in all has been done.
    pub fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
        (self.progress.sink)(Event::Advance { stage: self.id, done });
    }

    /// The stage succeeded; `summary` is one line on the result.
    pub fn finish(mut self, summary: impl Into<String>) {
        self.ended = true;
        (self.progress.sink)(Event::End { stage: self.id, summary: Some(summary.into()) });
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.ended {
            (self.progress.sink)(Event::End { stage: self.id, summary: None });
        }
    }
}
