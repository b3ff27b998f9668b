//! A packed file that could be published.

use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bundle::{Digest, HashingReader, Manifest, Outline};
use imgrun::catalog::{About, Entry};
use imgrun::interrupt;
use imgrun::tuf::time;

use crate::trial::Document;
use crate::{Error, Result};

/// Threads that check a bundle: each holds a frame, at most 8 MiB.
const THREADS_MAX: usize = 8;

/// A bundle that was read to its end and is whole: its contents have the digests that its manifest
/// promises.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Where it is.
    pub file: PathBuf,
    /// How the catalog would list it; not tested, until a result is verified.
    pub entry: Entry,
    /// What is said to have come of its tests.
    pub result: Option<Document>,
}

impl Draft {
    /// Reads and checks `file`.
    ///
    /// # Errors
    /// Where it is no bundle, or a damaged one, or what lies beside it as its test's result is none.
    pub fn read(file: &Path) -> Result<Self> {
        let about = |e: bundle::Error| Error::input(file.display().to_string()).because(e);
        let packed = File::open(file).map_err(|e| Error::io(file.display(), e))?;
        if !packed.metadata().is_ok_and(|m| m.is_file()) {
            return Err(Error::input(format!("{}: not a regular file", file.display())));
        }
        let outline = Outline::open(&mut &packed).map_err(about)?;
        check(&outline, &packed).map_err(|e| e.within(file.display()))?;
        let mut reader = HashingReader::new(&packed);
        (&packed).rewind().map_err(|e| Error::io(file.display(), e))?;
        io::copy(&mut reader, &mut io::sink()).map_err(|e| Error::io(file.display(), e))?;
        let (digest, size) = reader.finish();
        let entry = entry(outline.manifest(), outline.json(), digest, size);
        let result = Document::beside(file)?;
        Ok(Draft { file: file.to_path_buf(), entry, result })
    }
}

/// Decompresses and checks every frame.
fn check(outline: &Outline, packed: &File) -> Result<()> {
    let read = |buffer: &mut [u8], at: u64| {
        interrupt::check()?;
        packed.read_exact_at(buffer, at).map_err(|e| Error::io("read", e))
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    outline.unpack(threads.min(THREADS_MAX), read, |_, _| Ok::<(), Error>(()))
}

fn entry(manifest: &Manifest, json: &[u8], digest: Digest, size: u64) -> Entry {
    Entry {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        arch: manifest.arch,
        digest,
        size,
        about: About {
            kind: manifest.kind,
            manifest: Digest::of(json),
            kernel: manifest.kernel.clone(),
            tested: false,
            published: time::to_text(time::now()),
            yanked: None,
        },
    }
}
