//! Whole builds: a bundle that lies where it was put, made of what is asked for again, is not made
//! again.
//!
//! The cache notes, under the key of all that decides a bundle and the place where it goes, what
//! the file looked like when it was finished. As git does for its index, a file counts as unchanged
//! while device, inode, size and the times of last change to content and inode are the same; it is
//! not read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bundle::{Digest, Hasher, Manifest};
use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::pack::Packed;
use crate::recipe::Recipe;
use crate::step::{Site, Stages};
use crate::{Error, Result};

/// Part of every key: raised when the same inputs begin to give another bundle.
const PROCEDURE: u32 = 2;

/// The key of a whole build: all that decides a bundle's bytes, and where it goes.
pub fn key(
    recipe: &Recipe,
    source: &crate::source::Resolved,
    stages: &Stages,
    site: &Site,
    output: &Path,
) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("imgtool build");
    hasher.field(env!("CARGO_PKG_VERSION"));
    hasher.update(&PROCEDURE.to_le_bytes());
    hasher.field(recipe.digest.as_bytes());
    hasher.field(site.arch.name());
    hasher.field(&source.name);
    hasher.field(source.digest.as_bytes());
    source.layers.iter().for_each(|layer| hasher.field(layer.digest.as_bytes()));
    hasher.field(stages.digest().as_bytes());
    hasher.field(site.kernel.digest.as_bytes());
    hasher.field(site.agent.digest().as_bytes());
    let output = std::path::absolute(output).unwrap_or_else(|_| output.to_path_buf());
    hasher.field(output.to_string_lossy().as_bytes());
    hasher.finish()
}

/// The key of the same build under a lock, which the manifest names.
pub fn locked(key: &Digest, lock: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(key.as_bytes());
    hasher.field(lock.as_bytes());
    hasher.finish()
}

#[derive(Serialize, Deserialize)]
struct Note {
    path: PathBuf,
    stamp: Stamp,
    digest: Digest,
    bytes: u64,
    manifest: Manifest,
}

/// What a file looks like from outside.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Stamp> {
        let found = fs::symlink_metadata(path)?;
        Ok(Stamp {
            dev: found.dev(),
            ino: found.ino(),
            size: found.len(),
            mtime: (found.mtime(), found.mtime_nsec()),
            ctime: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// The finished bundle under `key`, where it still lies where it was put.
pub fn find(key: &Digest, cache: &Cache) -> Option<Packed> {
    let note: Note = serde_json::from_slice(&cache.note(key)?).ok()?;
    let same = Stamp::of(&note.path).is_ok_and(|stamp| stamp == note.stamp);
    let Note { path, digest, bytes, manifest, .. } = note;
    same.then_some(Packed { path, digest, bytes, manifest })
}

/// Remembers `packed`.
///
/// # Errors
/// Where the cache can not be written.
pub fn remember(key: &Digest, packed: &Packed, cache: &Cache) -> Result<()> {
    let about = |e| Error::io(packed.path.display(), e);
    let note = Note {
        path: std::path::absolute(&packed.path).map_err(about)?,
        stamp: Stamp::of(&packed.path).map_err(about)?,
        digest: packed.digest,
        bytes: packed.bytes,
        manifest: packed.manifest.clone(),
    };
    let json = serde_json::to_vec(&note).map_err(|e| Error::bug("write a note").because(e))?;
    cache.set_note(key, &json)
}
