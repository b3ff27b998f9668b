//! Whether a bundle in the store still is what it was, byte for byte.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bundle::{Digest, Frame, MANIFEST_BYTES_MAX, Manifest, Outline, Piece};

use super::{FRAMES, MANIFEST, ORIGIN, Origin, Store, threads};
use crate::{Cancel, Error, Progress, Result, Unit};

/// Zeros are compared in pieces of this size.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What is wrong with a bundle; nothing, if all is right.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    /// What is wrong, a line each: `rootfs.ext4: 3 of 1204 frames`.
    pub faults: Vec<String>,
    /// Frames that are not what they must be.
    pub frames: usize,
}

impl Damage {
    /// Whether nothing is wrong.
    pub fn is_none(&self) -> bool {
        self.faults.is_empty()
    }

    fn of(fault: impl Into<String>) -> Self {
        Damage { faults: vec![fault.into()], frames: 0 }
    }
}

impl Store {
    /// Reads all of the bundle `digest` and compares it with its frame table and its manifest.
    ///
    /// # Errors
    /// Where it is not here or can not be read for the host's reasons; damage is no error.
    pub fn verify(&self, digest: Digest, progress: &Progress, cancel: &Cancel) -> Result<Damage> {
        let dir = self.bundles().join(digest.hex());
        if !dir.exists() {
            return Err(Error::input(format!("{digest} is not here")));
        }
        let outline = match self.outline_of(digest) {
            Ok(outline) => outline,
            Err(fault) => return Ok(Damage::of(fault)),
        };
        let mut damage = Damage::default();
        for (index, entry) in outline.manifest().files.iter().enumerate() {
            let path = dir.join(&entry.name);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    damage.faults.push(format!("{}: missing", entry.name));
                    damage.frames += outline.pieces().iter().filter(|p| p.file == index).count();
                    continue;
                }
                Err(e) => return Err(Error::io(path.display(), e)),
            };
            let length = file.metadata().map_err(|e| Error::io(path.display(), e))?.len();
            if length != entry.size {
                let size = entry.size;
                damage.faults.push(format!("{}: {length} bytes, not {size}", entry.name));
            }
            let title = format!("verify {} {}", outline.manifest().name, entry.name);
            let stage = progress.stage(title, Unit::Bytes, Some(entry.size));
            let pieces = outline.pieces().iter().filter(|p| p.file == index).collect::<Vec<_>>();
            let wrong = wrong_pieces(&file, &pieces, &|bytes| stage.add(bytes), cancel)?;
            if wrong > 0 {
                damage.faults.push(format!("{}: {wrong} of {} frames", entry.name, pieces.len()));
                damage.frames += wrong;
            }
            stage.finish(if wrong == 0 { "ok".into() } else { format!("{wrong} frames damaged") });
        }
        Ok(damage)
    }

    /// The bundle's outline from its own files, or what is wrong with those.
    pub(crate) fn outline_of(&self, digest: Digest) -> Result<Outline, String> {
        let dir = self.bundles().join(digest.hex());
        let read = |name: &str, max: u64| {
            let path = dir.join(name);
            let length = path.metadata().map_err(|e| format!("{name}: {e}"))?.len();
            if length > max {
                return Err(format!("{name}: too long"));
            }
            fs::read(&path).map_err(|e| format!("{name}: {e}"))
        };
        let json = read(MANIFEST, MANIFEST_BYTES_MAX)?;
        if let Some(origin) = Origin::read(&dir.join(ORIGIN))
            && origin.manifest != Digest::of(&json)
        {
            return Err(format!("{MANIFEST}: it is not the one that came"));
        }
        let manifest = Manifest::parse(&json).map_err(|e| e.to_string())?;
        let table = read(FRAMES, manifest.frames.size)?;
        Outline::new(json, &table).map_err(|e| format!("{FRAMES}: {e}"))
    }
}

/// How many of `pieces` are not in `file` as they must be.
fn wrong_pieces(
    file: &File,
    pieces: &[&Piece],
    progress: &(dyn Fn(u64) + Sync),
    cancel: &Cancel,
) -> Result<usize> {
    let (next, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let error = Mutex::new(None);
    let work = || {
        let mut buffer = Vec::new();
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            match cancel.check().and_then(|()| is_right(file, piece, &mut buffer)) {
                Ok(true) => {}
                Ok(false) => {
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
                Err(e) => {
                    error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    return;
                }
            }
            progress(piece.frame.raw_bytes());
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads() {
            scope.spawn(work);
        }
        work();
    });
    match error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(e) => Err(e),
        None => Ok(wrong.into_inner()),
    }
}

/// Whether a piece's bytes in `file` are what they must be. What can not be read (a broken disk) is
/// not.
fn is_right(file: &File, piece: &Piece, buffer: &mut Vec<u8>) -> Result<bool> {
    match piece.frame {
        Frame::Data { raw_bytes, raw, .. } => {
            buffer.resize(raw_bytes as usize, 0);
            Ok(file.read_exact_at(buffer, piece.raw_at).is_ok() && Digest::of(&*buffer) == raw)
        }
        Frame::Zero { raw_bytes } => {
            let (mut at, end) = (piece.raw_at, piece.raw_at + u64::from(raw_bytes));
            buffer.resize(ZEROS.len(), 0);
            while at < end {
                // Holes are not read: most images are mostly that.
                match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
                    Ok(data) if data >= end => return Ok(true),
                    Ok(data) => at = at.max(data),
                    Err(rustix::io::Errno::NXIO) => return Ok(true),
                    Err(e) => return Err(Error::io("read", e.into())),
                }
                let n = (end - at).min(ZEROS.len() as u64) as usize;
                let there = file.read_exact_at(&mut buffer[..n], at).is_ok();
                if !there || buffer[..n] != ZEROS[..n] {
                    return Ok(false);
                }
                at += n as u64;
            }
            Ok(true)
        }
    }
}
