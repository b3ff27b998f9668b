//! What a file was when it was written, to notice when it is another.
//!
//! A file is read again only where the kernel says that somebody changed it since: the digests of a
//! machine's memory would take longer than its start.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use bundle::{Digest, Hasher};
use serde::{Deserialize, Serialize};

use crate::replica::data;
use crate::{Error, Result};

/// Bytes read at a time, and the unit in which zeros are left out.
const PIECE_BYTES: u64 = 64 << 10;

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seal {
    /// Its length.
    bytes: u64,
    /// Of every piece of 64 KiB that is not all zeros: its place (u64, little-endian) and its bytes.
    digest: Digest,
    /// Its inode's number and last change: seconds and nanoseconds since 1970.
    inode: (u64, i64, i64),
}

impl Seal {
    /// Of the file as it is now.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let seal = || -> std::io::Result<Seal> {
            let file = File::open(path)?;
            let (bytes, inode) = (file.metadata()?.len(), inode(&file)?);
            Ok(Seal { bytes, digest: digest(&file)?, inode })
        };
        seal().map_err(|e| Error::io(path.display(), e))
    }

    /// Whether the file is still what it was.
    ///
    /// # Errors
    /// Where it can not be read.
    pub(super) fn holds(&self, path: &Path) -> Result<bool> {
        let holds = || -> std::io::Result<bool> {
            let file = File::open(path)?;
            if file.metadata()?.len() != self.bytes {
                return Ok(false);
            }
            Ok(inode(&file)? == self.inode || digest(&file)? == self.digest)
        };
        holds().map_err(|e| Error::io(path.display(), e))
    }
}

fn inode(file: &File) -> std::io::Result<(u64, i64, i64)> {
    let metadata = file.metadata()?;
    Ok((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

fn digest(file: &File) -> std::io::Result<Digest> {
    let bytes = file.metadata()?.len();
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; PIECE_BYTES as usize]);
    let mut done = 0;
    for range in data(file)? {
        // Pieces are counted from the file's beginning: the digest must not depend on its holes.
        let mut at = (range.start / PIECE_BYTES * PIECE_BYTES).max(done);
        while at < range.end {
            let piece = &mut buffer[..(bytes - at).min(PIECE_BYTES) as usize];
            file.read_exact_at(piece, at)?;
            if piece.iter().any(|&byte| byte != 0) {
                hasher.update(&at.to_le_bytes());
                hasher.update(piece);
            }
            at += PIECE_BYTES;
        }
        done = done.max(at);
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_for_the_same_bytes_and_breaks_with_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = File::create_new(&path).unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(b"a little", (1 << 20) - 4).unwrap();
        let seal = Seal::of(&path).unwrap();
        assert!(seal.holds(&path).unwrap());
        // Another file with the same bytes, and fewer holes.
        let copy = dir.path().join("copy");
        std::fs::write(&copy, std::fs::read(&path).unwrap()).unwrap();
        assert!(seal.holds(&copy).unwrap());
        file.write_all_at(b"x", 5 << 20).unwrap();
        assert!(!seal.holds(&path).unwrap());
        file.write_all_at(b"\0", 5 << 20).unwrap();
        assert!(seal.holds(&path).unwrap());
        file.set_len(9 << 20).unwrap();
        assert!(!seal.holds(&path).unwrap());
    }
}
