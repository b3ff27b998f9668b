//! Writing a file with holes where its content is zero.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::{Cancel, Error, Result};

/// Runs of zeros are left out in aligned pieces of this many bytes, a page and an ext4 block.
const HOLE_BYTES: usize = 4096;

const ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];

/// A new file that receives a stream; stops with an error once `cancel` asks for it.
#[derive(Debug)]
pub(super) struct SparseFile {
    path: PathBuf,
    file: File,
    at: u64,
    cancel: Cancel,
}

impl SparseFile {
    pub(super) fn create(path: PathBuf, cancel: Cancel) -> Result<Self> {
        let file = File::create_new(&path).map_err(|e| Error::io(path.display(), e))?;
        Ok(SparseFile { path, file, at: 0, cancel })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the length, makes the file read-only and waits until it is on the disk.
    pub(super) fn finish(self) -> Result<()> {
        let finish = || {
            self.file.set_len(self.at)?;
            self.file.set_permissions(Permissions::from_mode(0o444))?;
            self.file.sync_all()
        };
        finish().map_err(|e| Error::io(self.path.display(), e))
    }
}

impl Write for SparseFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            // Not `ErrorKind::Interrupted`, which means "try again".
            return Err(io::Error::other(Error::interrupted()));
        }
        let mut from = 0;
        while from < buf.len() {
            let zero = run(&buf[from..], self.at + from as u64, true);
            let to = from + zero;
            let data = run(&buf[to..], self.at + to as u64, false);
            self.file.write_all_at(&buf[to..to + data], self.at + to as u64)?;
            from = to + data;
        }
        self.at += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How many bytes at the start of `buf`, which belongs at offset `at`, are blocks that are all zero
/// (`zero`) or are not.
fn run(buf: &[u8], at: u64, zero: bool) -> usize {
    let mut n = 0;
    while n < buf.len() {
        let to_boundary = HOLE_BYTES - ((at + n as u64) % HOLE_BYTES as u64) as usize;
        let block = &buf[n..buf.len().min(n + to_boundary)];
        if (block == &ZEROS[..block.len()]) != zero {
            break;
        }
        n += block.len();
    }
    n
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn any_cut_gives_the_same_bytes_and_holes() {
        let dir = tempfile::tempdir().unwrap();
        let mut content = vec![0; 1 << 20];
        content[5000] = 1;
        content[700_000..700_100].fill(7);
        content.extend_from_slice(&[0; 5000]);
        for (i, cut) in [1 << 20, 4096, 1000, 4097].into_iter().enumerate() {
            let path = dir.path().join(i.to_string());
            let mut file = SparseFile::create(path.clone(), Cancel::new()).unwrap();
            content.chunks(cut).for_each(|c| file.write_all(c).unwrap());
            file.finish().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
            let allocated = path.metadata().unwrap().blocks() * 512;
            assert!(allocated <= 4 * HOLE_BYTES as u64, "{allocated} bytes allocated");
        }
    }

    #[test]
    fn a_cancelled_write_ends() {
        let dir = tempfile::tempdir().unwrap();
        let cancel = Cancel::new();
        let mut file = SparseFile::create(dir.path().join("f"), cancel.clone()).unwrap();
        file.write_all(b"x").unwrap();
        cancel.cancel();
        assert!(file.write_all(b"x").is_err());
    }
}
