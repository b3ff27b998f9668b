//! From a packed file to a directory in the store.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bundle::{Contents, Digest, Hasher, HashingReader, MANIFEST_BYTES_MAX, Manifest};

use super::sparse::SparseFile;
use super::{MANIFEST, Store, Stored};
use crate::lease::Lease;
use crate::{Cancel, Error, Progress, Result, Stage, Unit};

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

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
    /// every later `run` of the same file cheap. A file that is new is hashed again while it is
    /// unpacked: the digest under which it is kept is that of the bytes that were unpacked, even
    /// if somebody wrote to the file in between.
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
        let mut packed = File::open(file).map_err(|e| Error::io(file.display(), e))?;
        let metadata = packed.metadata().map_err(|e| Error::io(file.display(), e))?;
        if !metadata.is_file() {
            return Err(Error::input(format!("{}: not a regular file", file.display())));
        }
        let digest = hash(&mut packed, cancel).map_err(|e| e.within(file.display()))?;
        if let Some(expected) = expected
            && digest != expected
        {
            let file = file.display();
            return Err(Error::trust(format!("{file}: expected {expected}, found {digest}")));
        }
        if let Some(bundle) = self.by_digest(digest)? {
            return Ok(Imported { bundle, new: false });
        }
        packed.rewind().map_err(|e| Error::io(file.display(), e))?;
        let stage =
            progress.stage(format!("import {}", file.display()), Unit::Bytes, Some(metadata.len()));
        let imported = self.unpack(packed, &stage, cancel).map_err(|e| in_file(file, e, cancel))?;
        stage.finish(format!("{} {}", imported.bundle.title(), imported.bundle.digest.short()));
        Ok(imported)
    }

    fn unpack(&self, packed: File, stage: &Stage, cancel: &Cancel) -> Result<Imported> {
        let lease = Lease::create(&self.staging())?;
        let dir = lease.path().join("bundle");
        fs::create_dir(&dir).map_err(|e| Error::io(dir.display(), e))?;
        let watched = Watched { packed, stage, cancel };
        let reader = HashingReader::new(BufReader::with_capacity(READ_BYTES, watched));
        let mut contents = bundle::unpack(reader).map_err(from_bundle)?;
        while let Some(entry) = contents.upcoming() {
            // The manifest allows only the fixed names of its kind: no path can escape.
            let path = dir.join(&entry.name);
            copy_next(&mut contents, SparseFile::create(path, cancel.clone())?)?;
        }
        let (manifest, mut rest) = contents.finish().map_err(from_bundle)?;
        io::copy(&mut rest, &mut io::sink()).map_err(|e| Error::io("the end", e))?;
        let (digest, _) = rest.finish();
        write_manifest(&dir, &manifest, cancel)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o755))
            .map_err(|e| Error::io(dir.display(), e))?;
        sync_dir(&dir)?;
        cancel.check()?;
        self.publish(&dir, digest)
    }

    /// Gives a whole, synced directory its final name. Who comes second finds it there.
    fn publish(&self, dir: &Path, digest: Digest) -> Result<Imported> {
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

fn copy_next<R: Read>(contents: &mut Contents<R>, mut out: SparseFile) -> Result<()> {
    contents.copy_next(&mut out).map_err(|e| match e {
        bundle::Error::Io(cause) => Error::io(out.path().display(), cause),
        other => from_bundle(other),
    })?;
    out.finish()
}

fn write_manifest(dir: &Path, manifest: &Manifest, cancel: &Cancel) -> Result<()> {
    // As we print it, it may be longer than it was; what we would not read back must not come in.
    let json = manifest.to_json();
    if json.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(Error::input(format!(
            "its manifest is too long: {} bytes, {MANIFEST_BYTES_MAX} are allowed",
            json.len()
        )));
    }
    let mut file = SparseFile::create(dir.join(MANIFEST), cancel.clone())?;
    file.write_all(&json).map_err(|e| Error::io(file.path().display(), e))?;
    file.finish()
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io(dir.display(), e))
}

/// The digest of all that `packed` holds.
fn hash(packed: &mut File, cancel: &Cancel) -> Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        cancel.check()?;
        match packed.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", e)),
        }
    }
}

/// Whose fault it is that bytes are not a bundle.
fn from_bundle(e: bundle::Error) -> Error {
    match e {
        bundle::Error::Digest { .. } => Error::trust(e.to_string()),
        bundle::Error::Io(cause) => Error::input("not a valid bundle").because(cause),
        other => Error::input(other.to_string()),
    }
}

/// An interrupted import is not an error of the file's.
fn in_file(file: &Path, e: Error, cancel: &Cancel) -> Error {
    if cancel.is_cancelled() { Error::interrupted() } else { e.within(file.display()) }
}

/// Counts what is read of the packed file, and stops reading once asked to.
struct Watched<'a> {
    packed: File,
    stage: &'a Stage,
    cancel: &'a Cancel,
}

impl Read for Watched<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other(Error::interrupted()));
        }
        let n = self.packed.read(buf)?;
        self.stage.add(n as u64);
        Ok(n)
    }
}

fn is_taken(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}
