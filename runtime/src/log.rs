//! A file that is written to for as long as a machine lives, and never grows beyond a limit.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Then the file becomes `NAME.old`, and what was that is gone. Bytes.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// The end of what was said: at least the last [`LOG_BYTES_MAX`], at most twice as much.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    /// Starts anew at `path`.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let _ = fs::remove_file(old(path));
        let file = empty(path).map_err(|e| Error::io(path.display(), e))?;
        Ok(Log { path: path.to_path_buf(), file, bytes: 0 })
    }

    /// Adds `bytes`. A full disk loses some: the machine goes on.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        if self.bytes + bytes.len() as u64 > LOG_BYTES_MAX
            && fs::rename(&self.path, old(&self.path)).is_ok()
            && let Ok(file) = empty(&self.path)
        {
            (self.file, self.bytes) = (file, 0);
        }
        if self.file.write_all(bytes).is_ok() {
            self.bytes += bytes.len() as u64;
        }
    }
}

fn empty(path: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(true).write(true).mode(0o600).open(path)
}

/// Where the part before `path` is.
pub(crate) fn old(path: &Path) -> PathBuf {
    path.with_extension("old")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_its_end_and_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output");
        let mut log = Log::create(&path).unwrap();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            log.add(&piece);
        }
        log.add(b"the end");
        let text = fs::read(&path).unwrap();
        assert!(text.ends_with(b"the end"));
        let bytes = text.len() as u64 + fs::metadata(old(&path)).unwrap().len();
        assert!((LOG_BYTES_MAX..=2 * LOG_BYTES_MAX).contains(&bytes), "{bytes}");
    }
}
