//! From a packed file to a directory in the store.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bundle::{Digest, HashingReader, Outline, Piece};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::draft::{Draft, sync_dir};
use super::{Container, MANIFEST, Origin, Store, Stored};
use crate::lease::Lease;
use crate::{Cancel, Error, Progress, Result, Stage, Unit};

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;
/// Threads of one import: each holds a frame, at most 8 MiB.
const THREADS_MAX: usize = 8;

/// What an import found.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The bundle, now in the store.
    pub bundle: Stored,
    /// False where it was there already and nothing was written.
    pub new: bool,
}

impl Store {
    /// Takes the packed bundle `file` into the store. Blocks; may take seconds.
    ///
    /// The file is hashed first (80 MB: 0.05 s) to learn whether the store has it, which makes
    /// every later `run` of the same file cheap. Of a file that is new every frame is then checked
    /// by the frame table, and that by the manifest, whose bytes are those that were hashed: the
    /// digest under which it is kept is that of the bytes that were unpacked, even if somebody wrote
    /// to the file in between.
    ///
    /// # Errors
    /// `Input` for a file that is not a whole bundle, `Trust` for contents that differ from the
    /// manifest's digests, `Host` for a full disk, `Interrupted` after [`Cancel::cancel`]. Nothing
    /// is left behind then.
    pub fn import(&self, file: &Path, progress: &Progress, cancel: &Cancel) -> Result<Imported> {
        self.import_expecting(file, None, progress, cancel)
    }

    /// As [`Store::import`], for a file that must have the digest `expected`.
    pub(super) fn import_expecting(
        &self,
        file: &Path,
        expected: Option<Digest>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Imported> {
        let packed = File::open(file).map_err(|e| Error::io(file.display(), e))?;
        let metadata = packed.metadata().map_err(|e| Error::io(file.display(), e))?;
        if !metadata.is_file() {
            return Err(Error::input(format!("{}: not a regular file", file.display())));
        }
        let (digest, json) = identify(&packed, cancel).map_err(|e| in_file(file, e, cancel))?;
        if let Some(expected) = expected
            && digest != expected
        {
            let file = file.display();
            return Err(Error::trust(format!("{file}: expected {expected}, found {digest}")));
        }
        if let Some(bundle) = self.by_digest(digest)? {
            return Ok(Imported { bundle, new: false });
        }
        let stage =
            progress.stage(format!("import {}", file.display()), Unit::Bytes, Some(metadata.len()));
        let imported = json
            .map_err(Error::from)
            .and_then(|json| self.unpack(&packed, json, digest, &stage, cancel))
            .map_err(|e| in_file(file, e, cancel))?;
        stage.finish(format!("{} {}", imported.bundle.title(), imported.bundle.digest.short()));
        Ok(imported)
    }

    /// Takes in a bundle that was made of `container` here: `dir` holds its files, `outline` was made
    /// of them, and `digest` is what they were packed to.
    pub(crate) fn adopt(
        &self,
        dir: PathBuf,
        outline: &Outline,
        digest: Digest,
        container: &Container,
        cancel: &Cancel,
    ) -> Result<Imported> {
        let mut origin = Origin::of(outline, &[]);
        origin.container = Some(container.clone());
        let dir = Draft::adopt(dir, outline, &origin)?.finish(cancel)?;
        match self.by_digest(digest)? {
            None => self.publish(&dir, digest),
            // It came as a file, and nobody knew what it was made of.
            Some(_) => Ok(Imported { bundle: self.replace(&dir, digest)?, new: true }),
        }
    }

    /// Makes `bundle` the one that came last.
    pub(crate) fn renew(&self, bundle: &Stored) -> Result<()> {
        let path = bundle.dir.join(MANIFEST);
        let renewed = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        renewed.map_err(|e| Error::io(path.display(), e))
    }

    fn unpack(
        &self,
        packed: &File,
        json: Vec<u8>,
        digest: Digest,
        stage: &Stage,
        cancel: &Cancel,
    ) -> Result<Imported> {
        let outline = Outline::read(json, &mut &*packed)?;
        let lease = Lease::create(&self.staging())?;
        let origin = Origin::of(&outline, &[]);
        let draft = Draft::create(lease.path().join("bundle"), &outline, &origin)?;
        let read = |buffer: &mut [u8], at: u64| {
            packed.read_exact_at(buffer, at).map_err(|e| Error::io("read", e))?;
            stage.add(buffer.len() as u64);
            Ok(())
        };
        let put = |piece: &Piece, raw: &[u8]| {
            cancel.check()?;
            draft.write(piece, raw)
        };
        outline.unpack(threads(), read, put)?;
        let dir = draft.finish(cancel)?;
        self.publish(&dir, digest)
    }

    /// Puts a whole, synced directory in the place of a damaged one; at no moment is there none, where
    /// the file system can exchange two names.
    pub(crate) fn replace(&self, dir: &Path, digest: Digest) -> Result<Stored> {
        let target = self.bundles().join(digest.hex());
        let about = |e: Errno| Error::io(target.display(), e.into());
        match renameat_with(CWD, dir, CWD, &target, RenameFlags::EXCHANGE) {
            // It was removed meanwhile.
            Err(Errno::NOENT) => return Ok(self.publish(dir, digest)?.bundle),
            // Not every file system can exchange two names.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                self.remove(digest)?;
                return Ok(self.publish(dir, digest)?.bundle);
            }
            exchanged => exchanged.map_err(about)?,
        }
        sync_dir(&self.bundles())?;
        let bundle = self.by_digest(digest)?;
        bundle.ok_or_else(|| Error::host(format!("{}: removed meanwhile", target.display())))
    }

    /// Gives a whole, synced directory its final name. Who comes second finds it there.
    pub(crate) fn publish(&self, dir: &Path, digest: Digest) -> Result<Imported> {
        let target = self.bundles().join(digest.hex());
        let new = match fs::rename(dir, &target) {
            Ok(()) => true,
            Err(e) if is_taken(&e) => false,
            Err(e) => return Err(Error::io(target.display(), e)),
        };
        sync_dir(&self.bundles())?;
        let bundle = self.by_digest(digest)?;
        let bundle = bundle.ok_or_else(|| {
            Error::host(format!("{}: removed while it was imported", target.display()))
        })?;
        Ok(Imported { bundle, new })
    }
}

/// As many as work at once, within [`THREADS_MAX`].
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(THREADS_MAX)
}

/// The digest of all that `packed` holds, and the manifest that it begins with: of the very bytes
/// that were hashed.
fn identify(packed: &File, cancel: &Cancel) -> Result<(Digest, bundle::Result<Vec<u8>>)> {
    let watched = Watched { packed, cancel };
    let mut reader = HashingReader::new(BufReader::with_capacity(READ_BYTES, watched));
    let json = bundle::read_manifest(&mut reader);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", e)),
        }
    }
    Ok((reader.finish().0, json))
}

/// An interrupted import is not an error of the file's.
fn in_file(file: &Path, e: Error, cancel: &Cancel) -> Error {
    if cancel.is_cancelled() { Error::interrupted() } else { e.within(file.display()) }
}

/// Stops reading once asked to.
struct Watched<'a> {
    packed: &'a File,
    cancel: &'a Cancel,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other(Error::interrupted()));
        }
        (&mut &*self.packed).read(buf)
    }
}

fn is_taken(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}
