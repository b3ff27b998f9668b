//! A copy of a file that somebody is writing to: most of it is copied while that goes on, and the
//! rest while it stands still.
//!
//! Where the file system shares blocks between files, both times are an instant. Elsewhere the
//! second time reads both files and writes what differs: that takes as long as their data takes to
//! be read from memory twice, 10 ms for 50 MB, and asks for nothing of the writer.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{SeekFrom, ioctl_ficlone};
use rustix::io::Errno;

use crate::{Error, Result};

/// Bytes compared at a time: two of them stay in a processor's cache.
const PIECE_BYTES: usize = 128 << 10;
/// What differs is written in whole pages.
const PAGE_BYTES: usize = 4096;
/// Threads that compare: memory has no more to give than this.
const THREADS_MAX: usize = 4;

/// A copy of a file, to be brought up to date.
#[derive(Debug)]
pub(crate) struct Replica {
    from: File,
    to: File,
    path: PathBuf,
    /// Both files share their blocks.
    shares: bool,
}

impl Replica {
    /// Copies `from`, which may change meanwhile, to a new file at `path`, which only this user
    /// reads. Holes stay holes.
    pub(crate) fn create(from: File, path: &Path) -> Result<Self> {
        let replica = Self::begin(from, path)?;
        if !replica.shares {
            replica.update()?;
        }
        Ok(replica)
    }

    /// Makes the file, which is as long as `from`; [`Replica::update`] makes it a copy.
    pub(crate) fn begin(from: File, path: &Path) -> Result<Self> {
        let failed = |e| Error::io(path.display(), e);
        let mut options = File::options();
        let to = options.read(true).write(true).create_new(true).mode(0o600).open(path);
        let to = to.map_err(failed)?;
        to.set_len(from.metadata().map_err(failed)?.len()).map_err(failed)?;
        let shares = ioctl_ficlone(&to, &from).is_ok();
        Ok(Replica { from, to, path: path.to_path_buf(), shares })
    }

    /// Makes sure that the copy survives the host.
    pub(crate) fn sync(&self) -> Result<()> {
        self.to.sync_all().map_err(|e| Error::io(self.path.display(), e))
    }

    /// Makes the copy what the file is now.
    pub(crate) fn update(&self) -> Result<()> {
        let failed = |e| Error::io(self.path.display(), e);
        if self.shares {
            return ioctl_ficlone(&self.to, &self.from).map_err(|e| failed(e.into()));
        }
        let pieces = self.pieces().map_err(failed)?;
        let threads = thread::available_parallelism().map_or(1, |n| n.get()).min(THREADS_MAX);
        let share = pieces.len().div_ceil(threads).max(1);
        thread::scope(|scope| {
            let work = |pieces: &[Range<u64>]| pieces.iter().try_for_each(|p| self.copy(p));
            let threads: Vec<_> =
                pieces.chunks(share).map(|part| scope.spawn(move || work(part))).collect();
            let broken = || Err(io::Error::other("a thread failed"));
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| broken()))
        })
        .map_err(failed)
    }

    /// Where either file has data.
    fn pieces(&self) -> io::Result<Vec<Range<u64>>> {
        let mut both = data(&self.from)?;
        both.extend(data(&self.to)?);
        both.sort_by_key(|range| range.start);
        let (mut pieces, mut done) = (Vec::new(), 0);
        for range in both {
            let mut at = range.start.max(done);
            while at < range.end {
                let end = range.end.min(at + PIECE_BYTES as u64);
                pieces.push(at..end);
                at = end;
            }
            done = done.max(range.end);
        }
        Ok(pieces)
    }

    /// Writes what differs in `piece`.
    fn copy(&self, piece: &Range<u64>) -> io::Result<()> {
        let bytes = (piece.end - piece.start) as usize;
        let (mut new, mut old) = ([0; PIECE_BYTES], [0; PIECE_BYTES]);
        let (new, old) = (&mut new[..bytes], &mut old[..bytes]);
        self.from.read_exact_at(new, piece.start)?;
        self.to.read_exact_at(old, piece.start)?;
        if new == old {
            return Ok(());
        }
        let mut at = 0;
        while at < bytes {
            let mut end = at;
            while end < bytes {
                let page = end..bytes.min(end + PAGE_BYTES);
                if new[page.clone()] == old[page.clone()] {
                    break;
                }
                end = page.end;
            }
            if end > at {
                self.to.write_all_at(&new[at..end], piece.start + at as u64)?;
            }
            at = end + PAGE_BYTES;
        }
        Ok(())
    }
}

/// The ranges of a file that are not holes.
pub(crate) fn data(file: &File) -> io::Result<Vec<Range<u64>>> {
    let bytes = file.metadata()?.len();
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < bytes {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        // It may grow meanwhile.
        ranges.push(start..end.min(bytes));
        at = end;
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_becomes_what_the_file_is_and_keeps_its_holes() {
        const BYTES: u64 = 64 << 20;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("from");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(BYTES).unwrap();
        let write = |at: u64, byte: u8, bytes: usize| {
            file.write_all_at(&vec![byte; bytes], at).unwrap();
        };
        write(5000, 1, 300_000);
        write(BYTES - 7, 2, 7);
        let replica = Replica::create(file.try_clone().unwrap(), &dir.path().join("to")).unwrap();
        let same = |replica: &Replica| {
            let mut both = [vec![0; BYTES as usize], vec![0; BYTES as usize]];
            file.read_exact_at(&mut both[0], 0).unwrap();
            replica.to.read_exact_at(&mut both[1], 0).unwrap();
            both[0] == both[1]
        };
        assert!(same(&replica));
        // Changed, added, zeroed, and a hole again.
        write(6000, 3, 1);
        write(20 << 20, 4, 9000);
        write(200_000, 0, 50_000);
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, BYTES - 4096, 4096).unwrap();
        assert!(!same(&replica));
        replica.update().unwrap();
        assert!(same(&replica));
        assert!(replica.to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
