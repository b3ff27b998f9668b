//! A bundle's directory while it is being made.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bundle::{Digest, Frame, MANIFEST_BYTES_MAX, Manifest, Outline, Piece};

use super::origin::Origin;
use super::sparse::SparseFile;
use super::{FRAMES, MANIFEST, ORIGIN};
use crate::{Cancel, Error, Result};

/// Files of the right names and lengths, whose content comes frame by frame and in any order.
#[derive(Debug)]
pub(crate) struct Draft {
    dir: PathBuf,
    files: Vec<SparseFile>,
}

impl Draft {
    /// In a directory that is made for it; `origin` is where the bundle comes from.
    pub(crate) fn create(dir: PathBuf, outline: &Outline, origin: &Origin) -> Result<Self> {
        fs::create_dir(&dir).map_err(|e| Error::io(dir.display(), e))?;
        describe(&dir, outline, origin)?;
        Self::with(dir, outline, SparseFile::create)
    }

    /// In a directory that holds all files of the bundle already, right ones.
    pub(crate) fn adopt(dir: PathBuf, outline: &Outline, origin: &Origin) -> Result<Self> {
        describe(&dir, outline, origin)?;
        Self::with(dir, outline, SparseFile::reopen)
    }

    /// What a killed process has left in `dir`, where that is the beginning of the bundle whose
    /// manifest has the digest `manifest`.
    pub(crate) fn outline(dir: &Path, manifest: Digest) -> Option<Outline> {
        let json = read_small(&dir.join(MANIFEST), MANIFEST_BYTES_MAX)?;
        if Digest::of(&json) != manifest {
            return None;
        }
        let table = read_small(&dir.join(FRAMES), Manifest::parse(&json).ok()?.frames.size)?;
        Outline::new(json, &table).ok()
    }

    /// Goes on with the files there. They may hold anything: see [`Draft::holds`].
    pub(crate) fn reopen(dir: PathBuf, outline: &Outline) -> Result<Self> {
        Self::with(dir, outline, SparseFile::reopen)
    }

    fn with(
        dir: PathBuf,
        outline: &Outline,
        open: fn(PathBuf, u64) -> Result<SparseFile>,
    ) -> Result<Self> {
        // The manifest allows only the fixed names of its kind: no path can escape.
        let entries = outline.manifest().files.iter();
        let files = entries.map(|entry| open(dir.join(&entry.name), entry.size));
        let files = files.collect::<Result<Vec<_>>>()?;
        Ok(Draft { dir, files })
    }

    /// Whether a piece is there as it must be. What is there otherwise becomes a hole again.
    pub(crate) fn holds(&self, piece: &Piece, buffer: &mut Vec<u8>) -> Result<bool> {
        let (file, bytes) = (&self.files[piece.file], piece.frame.raw_bytes());
        if file.is_hole(piece.raw_at, bytes) {
            return Ok(piece.frame.is_zero());
        }
        if let Frame::Data { raw, .. } = piece.frame {
            self.read(piece, buffer)?;
            if Digest::of(&*buffer) == raw {
                return Ok(true);
            }
        }
        file.punch(piece.raw_at, bytes)?;
        Ok(piece.frame.is_zero())
    }

    /// A data frame's raw bytes, as they are there.
    pub(crate) fn read(&self, piece: &Piece, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.resize(piece.frame.raw_bytes() as usize, 0);
        self.files[piece.file].read_at(buffer, piece.raw_at)
    }

    /// Writes a piece where nothing was written before.
    pub(crate) fn write(&self, piece: &Piece, raw: &[u8]) -> Result<()> {
        self.files[piece.file].write_at(raw, piece.raw_at)
    }

    /// Writes a piece over whatever is there.
    pub(crate) fn rewrite(&self, piece: &Piece, raw: &[u8]) -> Result<()> {
        self.files[piece.file].punch(piece.raw_at, piece.frame.raw_bytes())?;
        self.write(piece, raw)
    }

    /// Whether [`Draft::share`] can work here.
    pub(crate) fn shares(&self) -> bool {
        self.files.iter().any(SparseFile::shares)
    }

    /// Shares a piece's blocks with a file of another bundle; false where that can not be.
    pub(crate) fn share(&self, piece: &Piece, from: &File, from_at: u64) -> bool {
        self.files[piece.file].share(from, from_at, piece.raw_at, piece.frame.raw_bytes())
    }

    /// Waits until all is on the disk; returns the directory, ready for its final name.
    pub(crate) fn finish(self, cancel: &Cancel) -> Result<PathBuf> {
        for file in self.files {
            cancel.check()?;
            file.finish()?;
        }
        fs::set_permissions(&self.dir, Permissions::from_mode(0o755))
            .map_err(|e| Error::io(self.dir.display(), e))?;
        sync_dir(&self.dir)?;
        cancel.check()?;
        Ok(self.dir)
    }
}

/// Writes what there is besides a bundle's files.
fn describe(dir: &Path, outline: &Outline, origin: &Origin) -> Result<()> {
    write_whole(&dir.join(ORIGIN), &origin.to_json())?;
    write_whole(&dir.join(FRAMES), &outline.table())?;
    // Last: who finds a manifest finds all that is needed to go on.
    write_whole(&dir.join(MANIFEST), outline.json())
}

fn read_small(path: &Path, bytes_max: u64) -> Option<Vec<u8>> {
    let fits = path.metadata().is_ok_and(|m| m.is_file() && m.len() <= bytes_max);
    if fits { fs::read(path).ok() } else { None }
}

pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = SparseFile::create(path.to_path_buf(), bytes.len() as u64)?;
    file.write_at(bytes, 0)?;
    file.finish()
}

pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io(dir.display(), e))
}
