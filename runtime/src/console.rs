//! The guest's console: read always, kept only at its end, searched for a kernel panic.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::log::Log;

/// Lines kept. A console that floods costs this much memory and no disk.
const LINES_MAX: usize = 200;
/// Bytes kept of a line.
const LINE_BYTES_MAX: usize = 512;
/// Lines shown in an error.
const LINES_SHOWN: usize = 20;
/// What the kernel says when it gives up.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// The end of a console, filled by a task of its own.
#[derive(Debug)]
pub(crate) struct Console {
    state: Arc<Mutex<Tail>>,
    panicked: Arc<Notify>,
    reader: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<Vec<u8>>,
    partial: Vec<u8>,
    panicked: bool,
}

impl Console {
    /// Starts to read `stream`, until it ends; all of it goes to `log`, too.
    pub(crate) fn read(
        mut stream: impl AsyncRead + Unpin + Send + 'static,
        mut log: Option<Log>,
    ) -> Self {
        let (state, panicked) = (Arc::new(Mutex::new(Tail::default())), Arc::new(Notify::new()));
        let (tail, found) = (state.clone(), panicked.clone());
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                if let Some(log) = &mut log {
                    log.add(&buffer[..n]);
                }
                let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                if tail.push(&buffer[..n]) {
                    found.notify_one();
                }
            }
        });
        Console { state, panicked, reader }
    }

    /// Returns once the kernel has panicked.
    pub(crate) async fn panicked(&self) {
        while !self.has_panicked() {
            self.panicked.notified().await;
        }
    }

    pub(crate) fn has_panicked(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).panicked
    }

    /// Waits until all has been read: after the VMM ended.
    pub(crate) async fn drained(&mut self) {
        if !self.reader.is_finished() {
            // It never panics, and nobody aborts it before the console is dropped.
            let _ = (&mut self.reader).await;
        }
    }

    /// The last lines, made harmless for a terminal.
    pub(crate) fn last_lines(&self) -> String {
        let tail = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = tail.lines.iter().chain(Some(&tail.partial).filter(|p| !p.is_empty()));
        let lines: Vec<String> = lines.map(|l| printable(l)).collect();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Tail {
    /// Adds bytes; true where a panic was found in them.
    fn push(&mut self, bytes: &[u8]) -> bool {
        let before = self.panicked;
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let room = LINE_BYTES_MAX - self.partial.len();
            self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") || self.partial.len() == LINE_BYTES_MAX {
                self.panicked |= self.partial.windows(PANIC.len()).any(|w| w == PANIC);
                if self.lines.len() == LINES_MAX {
                    self.lines.pop_front();
                }
                let line = std::mem::take(&mut self.partial);
                self.lines.push_back(line.trim_ascii_end().to_vec());
            }
        }
        self.panicked && !before
    }
}

/// Text from a guest or a program, with everything a terminal could act on replaced.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let harmless = |c: char| match c {
        '\n' => '\n',
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.trim_end().chars().filter(|&c| c != '\r').map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_bounded() {
        let mut tail = Tail::default();
        for _ in 0..100_000 {
            tail.push(b"no line end at all ");
            tail.push(b"\x1b[2J a line\n");
        }
        assert!(tail.lines.len() <= LINES_MAX);
        assert!(tail.lines.iter().all(|l| l.len() <= LINE_BYTES_MAX));
    }

    #[test]
    fn a_panic_is_found_across_reads_and_the_text_is_harmless() {
        let mut tail = Tail::default();
        assert!(!tail.push(b"[ 0.1] Kernel pan"));
        assert!(tail.push(b"ic - not syncing: VFS\r\n"));
        assert!(!tail.push(b"more\n"));
        assert_eq!(printable(b"a\x1b[31mb\r\nc\n"), "a\u{fffd}[31mb\nc");
    }
}
