//! Writing a file with holes where its content is zero.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, fstatfs};

use crate::{Error, Result};

/// Runs of zeros are left out in aligned pieces of this many bytes, a page and an ext4 block.
const HOLE_BYTES: usize = 4096;

const ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];

/// File systems on which `copy_file_range` shares blocks (statfs(2)): btrfs, XFS, bcachefs. XFS
/// shares where it was made to; where not, the kernel copies.
const SHARING: [i64; 3] = [0x9123_683e, 0x5846_5342, 0xca45_1a4e];

/// A new file of a known length, which is written in pieces and in any order.
#[derive(Debug)]
pub(super) struct SparseFile {
    path: PathBuf,
    file: File,
    shares: bool,
}

impl SparseFile {
    pub(super) fn create(path: PathBuf, bytes: u64) -> Result<Self> {
        let create = || {
            let file = File::create_new(&path)?;
            file.set_len(bytes)?;
            Ok(file)
        };
        let file = create().map_err(|e| Error::io(path.display(), e))?;
        let shares = shares(&file);
        Ok(SparseFile { path, file, shares })
    }

    /// One that somebody began before; its content is to be judged by whoever reads it.
    pub(super) fn reopen(path: PathBuf, bytes: u64) -> Result<Self> {
        let open = || {
            if let Ok(metadata) = path.symlink_metadata()
                && metadata.is_file()
            {
                fs::set_permissions(&path, Permissions::from_mode(0o644))?;
            }
            let mut options = fs::OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&path)?;
            file.set_len(bytes)?;
            Ok(file)
        };
        let file = open().map_err(|e| Error::io(path.display(), e))?;
        let shares = shares(&file);
        Ok(SparseFile { path, file, shares })
    }

    /// Whether anything was written in these bytes.
    pub(super) fn is_hole(&self, at: u64, bytes: u64) -> bool {
        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => data >= at + bytes,
            Err(e) => e == rustix::io::Errno::NXIO,
        }
    }

    /// Reads exactly `buffer`.
    pub(super) fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(buffer, at).map_err(|e| Error::io(self.path.display(), e))
    }

    /// Makes these bytes a hole again.
    pub(super) fn punch(&self, at: u64, bytes: u64) -> Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, at, bytes)
            .map_err(|e| Error::io(self.path.display(), e.into()))
    }

    /// Whether [`SparseFile::share`] can work here.
    pub(super) fn shares(&self) -> bool {
        self.shares
    }

    /// Takes `bytes` bytes over from another file without copying them, where the file system can
    /// do that: both then share the blocks. False where it can not; then nothing was taken.
    pub(super) fn share(&self, from: &File, from_at: u64, at: u64, bytes: u64) -> bool {
        let (mut from_at, mut to, end) = (from_at, at, at + bytes);
        while self.shares && to < end {
            let left = (end - to) as usize;
            match copy_file_range(from, Some(&mut from_at), &self.file, Some(&mut to), left) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return false,
            }
        }
        self.shares
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

fn shares(file: &File) -> bool {
    fstatfs(file).is_ok_and(|stat| SHARING.contains(&(stat.f_type)))
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
