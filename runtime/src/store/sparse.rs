//! Writing a file with holes where its content is zero.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use crate::{Error, Result};

/// Runs of zeros are left out in aligned pieces of this many bytes, a page and an ext4 block.
const HOLE_BYTES: usize = 4096;

const ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];

/// A new file of a known length, which is written in pieces and in any order.
#[derive(Debug)]
pub(super) struct SparseFile {
    path: PathBuf,
    file: File,
}

impl SparseFile {
    pub(super) fn create(path: PathBuf, bytes: u64) -> Result<Self> {
        let create = || {
            let file = File::create_new(&path)?;
            file.set_len(bytes)?;
            Ok(file)
        };
        let file = create().map_err(|e| Error::io(path.display(), e))?;
        Ok(SparseFile { path, file })
    }

    /// Writes `bytes` at `at`, where nothing was written before.
    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> Result<()> {
        let mut from = 0;
        while from < bytes.len() {
            let zero = run(&bytes[from..], at + from as u64, true);
            let to = from + zero;
            let data = run(&bytes[to..], at + to as u64, false);
            self.file
                .write_all_at(&bytes[to..to + data], at + to as u64)
                .map_err(|e| Error::io(self.path.display(), e))?;
            from = to + data;
        }
        Ok(())
    }

    /// Makes the file read-only and waits until it is on the disk.
    pub(super) fn finish(self) -> Result<()> {
        let finish = || {
            self.file.set_permissions(Permissions::from_mode(0o444))?;
            self.file.sync_all()
        };
        finish().map_err(|e| Error::io(self.path.display(), e))
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
    fn any_cut_in_any_order_gives_the_same_bytes_and_holes() {
        let dir = tempfile::tempdir().unwrap();
        let mut content = vec![0; 1 << 20];
        content[5000] = 1;
        content[700_000..700_100].fill(7);
        content.extend_from_slice(&[0; 5000]);
        for (i, cut) in [1 << 20, 4096, 1000, 4097].into_iter().enumerate() {
            let path = dir.path().join(i.to_string());
            let file = SparseFile::create(path.clone(), content.len() as u64).unwrap();
            let pieces: Vec<_> = content.chunks(cut).enumerate().collect();
            for (n, piece) in pieces.into_iter().rev() {
                file.write_at(piece, (n * cut) as u64).unwrap();
            }
            file.finish().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
            let allocated = path.metadata().unwrap().blocks() * 512;
            assert!(allocated <= 4 * HOLE_BYTES as u64, "{allocated} bytes allocated");
        }
    }
}
