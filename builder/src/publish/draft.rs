//! A packed file that could be published.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bundle::{Digest, HashingReader, MANIFEST_BYTES_MAX, Manifest};
use imgrun::catalog::{About, Entry};
use imgrun::interrupt;
use imgrun::tuf::time;
use serde::Deserialize;

use crate::{Error, Result};

/// A bundle that was read to its end and is whole: its contents have the digests that its manifest
/// promises.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Where it is.
    pub file: PathBuf,
    /// How the catalog would list it.
    pub entry: Entry,
}

/// What we look at beyond [`Manifest`].
#[derive(Deserialize)]
struct Tested {
    #[serde(default)]
    tests: Option<serde_json::Value>,
}

impl Draft {
    /// Reads and checks `file`.
    ///
    /// # Errors
    /// Where it is no bundle, or a damaged one.
    pub fn read(file: &Path) -> Result<Self> {
        let about = |e: bundle::Error| Error::input(file.display().to_string()).because(e);
        let packed = File::open(file).map_err(|e| Error::io(file.display(), e))?;
        if !packed.metadata().is_ok_and(|m| m.is_file()) {
            return Err(Error::input(format!("{}: not a regular file", file.display())));
        }
        let mut contents = bundle::unpack(HashingReader::new(packed)).map_err(about)?;
        while contents.upcoming().is_some() {
            interrupt::check()?;
            contents.copy_next(&mut io::sink()).map_err(about)?;
        }
        let (manifest, mut reader) = contents.finish().map_err(about)?;
        io::copy(&mut reader, &mut io::sink()).map_err(|e| Error::io(file.display(), e))?;
        let (digest, size) = reader.finish();
        let json = manifest_bytes(file)?;
        let entry = entry(&manifest, &json, digest, size);
        Ok(Draft { file: file.to_path_buf(), entry })
    }
}

/// `manifest.json` as it is in the file: with the fields that this program does not know.
fn manifest_bytes(file: &Path) -> Result<Vec<u8>> {
    let about = |e| Error::io(file.display(), e);
    let decoder = zstd::Decoder::new(File::open(file).map_err(about)?).map_err(about)?;
    let mut archive = tar::Archive::new(decoder);
    let first = archive.entries().map_err(about)?.next();
    let gone = || Error::input(format!("{}: it has no manifest", file.display()));
    let mut json = Vec::new();
    let entry = first.ok_or_else(gone)?.map_err(about)?;
    entry.take(MANIFEST_BYTES_MAX).read_to_end(&mut json).map_err(about)?;
    Ok(json)
}

fn entry(manifest: &Manifest, json: &[u8], digest: Digest, size: u64) -> Entry {
    let tests = serde_json::from_slice::<Tested>(json).ok().and_then(|t| t.tests);
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
            tested: tests.is_some_and(|tests| tests["passed"] == true),
            published: time::to_text(time::now()),
            yanked: None,
        },
    }
}
