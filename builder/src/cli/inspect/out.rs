//! Standard output, as long as somebody reads it.

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

use imgrun::{Error, Result};
use imgtool::inspect::hex;
use serde_json::{Map, Value};

/// Standard output. Once its reader has gone away (`| head`), what is written is dropped.
pub(super) struct Out {
    stdout: BufWriter<StdoutLock<'static>>,
    is_closed: bool,
}

impl Out {
    pub(super) fn new() -> Self {
        Out { stdout: BufWriter::with_capacity(64 << 10, io::stdout().lock()), is_closed: false }
    }

    /// Whether nobody reads any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(super) fn line(&mut self, line: impl Display) -> Result<()> {
        if self.is_closed {
            return Ok(());
        }
        let written = writeln!(self.stdout, "{line}");
        self.settle(written)
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if self.is_closed {
            return Ok(());
        }
        let written = self.stdout.write_all(bytes);
        self.settle(written)
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.is_closed {
            return Ok(());
        }
        let written = self.stdout.flush();
        self.settle(written)
    }

    fn settle(&mut self, written: io::Result<()>) -> Result<()> {
        match written {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            written => written.map_err(|e| Error::io("standard output", e)),
        }
    }
}

/// Puts a name into a JSON object: as text, and where it is not UTF-8 exactly, in hexadecimal.
pub(super) fn put_name(object: &mut Map<String, Value>, key: &str, name: &[u8]) {
    let text = String::from_utf8_lossy(name);
    if str::from_utf8(name).is_err() {
        object.insert(format!("{key}_hex"), hex(name).into());
    }
    object.insert(key.into(), text.into_owned().into());
}
