//! Bundles that a depot keeps in pieces, read as if they were whole.
//!
//! ```text
//! targets/<sha256>.<name>-<version>-<arch>.tar.zst          the packed file, or instead of it:
//! targets/<sha256>.<name>-<version>-<arch>.tar.zst.chunks   its chunk index (bundle::Chunks)
//! targets/<sha256>.frames                                   an object of packed frames, named by itself
//! ```
//! The catalog says nothing of it: name, digest and size are the packed file's. A reader who finds no
//! file looks for the index, and checks what it gets as always. Who has an index once goes by it, and
//! asks for nothing but pieces.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bundle::{Bytes, CHUNKS_BYTES_MAX, Chunks, Digest};

use super::Depot;
use crate::catalog::TARGETS;
use crate::{Error, Result};

/// Chunk indexes that are remembered; each takes a few hundred bytes for each frame.
const INDEXES_MAX: usize = 4;

/// Where the chunk index of the file `key` is.
pub fn chunks_key(key: &str) -> String {
    format!("{key}.chunks")
}

/// Where an object of frames is.
pub fn frames_key(object: &Digest) -> String {
    format!("{TARGETS}/{}.frames", object.hex())
}

/// A depot whose files may be in pieces.
#[derive(Debug)]
pub struct Chunked<D> {
    depot: D,
    indexes: Mutex<BTreeMap<String, Arc<Chunks>>>,
}

impl<D: Deref<Target: Depot> + std::fmt::Debug + Send + Sync> Chunked<D> {
    /// What is in `depot`, whole or not.
    pub fn new(depot: D) -> Self {
        Chunked { depot, indexes: Mutex::default() }
    }

    /// The chunk index of the file `key`, if it has one.
    ///
    /// # Errors
    /// [`crate::Class::Trust`] where it is damaged; where it can not be read.
    pub fn chunks(&self, key: &str) -> Result<Option<Arc<Chunks>>> {
        if let Some(known) = self.lock().get(key) {
            return Ok(Some(known.clone()));
        }
        let index = chunks_key(key);
        let Some(bytes) = self.depot.get(&index, CHUNKS_BYTES_MAX)? else { return Ok(None) };
        let title = self.title();
        let chunks = Chunks::parse(&bytes)
            .map_err(|e| Error::trust(format!("{title}: {index}: {e}")))
            .map(Arc::new)?;
        let mut indexes = self.lock();
        if indexes.len() >= INDEXES_MAX {
            indexes.clear();
        }
        indexes.insert(key.to_string(), chunks.clone());
        Ok(Some(chunks))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Chunks>>> {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index of the file `key`, where it was needed before.
    fn remembered(&self, key: &str) -> Option<Arc<Chunks>> {
        self.lock().get(key).cloned()
    }

    fn read_pieces(
        &self,
        key: &str,
        chunks: &Chunks,
        range: Range<u64>,
        out: &mut dyn Write,
    ) -> Result<u64> {
        let mut copied = 0;
        let read = chunks.read(range, &mut |bytes| {
            copied += self.copy(bytes, out)?;
            Ok::<(), Error>(())
        });
        // It may be there as a whole now, in the place of pieces that were lost.
        read.inspect_err(|_| drop(self.lock().remove(key)))?;
        Ok(copied)
    }

    fn copy(&self, bytes: Bytes<'_>, out: &mut dyn Write) -> Result<u64> {
        match bytes {
            Bytes::Here(bytes) => {
                let written = out.write_all(bytes);
                written.map_err(|e| Error::io(self.title(), e))?;
                Ok(bytes.len() as u64)
            }
            Bytes::There(object, range) => {
                let (key, wanted) = (frames_key(&object), range.end - range.start);
                match self.depot.read(&key, range, out)? {
                    Some(found) if found == wanted => Ok(found),
                    _ => {
                        let title = self.title();
                        Err(Error::trust(format!("{title}: {key}: it is cut short or not there")))
                    }
                }
            }
        }
    }
}

impl<D: Deref<Target: Depot> + std::fmt::Debug + Send + Sync> Depot for Chunked<D> {
    fn title(&self) -> String {
        self.depot.title()
    }

    fn read(&self, key: &str, range: Range<u64>, out: &mut dyn Write) -> Result<Option<u64>> {
        if let Some(chunks) = self.remembered(key) {
            return self.read_pieces(key, &chunks, range, out).map(Some);
        }
        if let Some(found) = self.depot.read(key, range.clone(), out)? {
            return Ok(Some(found));
        }
        let Some(chunks) = self.chunks_of_target(key)? else { return Ok(None) };
        self.read_pieces(key, &chunks, range, out).map(Some)
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        let known = self.remembered(key);
        if known.is_none()
            && let Some(size) = self.depot.size(key)?
        {
            return Ok(Some(size));
        }
        let chunks = known.map_or_else(|| self.chunks_of_target(key), |known| Ok(Some(known)))?;
        Ok(chunks.map(|chunks| chunks.outline().packed_bytes()))
    }

    /// Looks for all of its pieces.
    fn is_whole(&self, key: &str) -> Result<bool> {
        if self.depot.size(key)?.is_some() {
            return Ok(true);
        }
        let Some(chunks) = self.chunks_of_target(key)? else { return Ok(false) };
        for (object, bytes) in chunks.extents() {
            if self.depot.size(&frames_key(&object))?.is_none_or(|there| there < bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn sends_parts(&self) -> bool {
        self.depot.sends_parts()
    }
}

impl<D: Deref<Target: Depot> + std::fmt::Debug + Send + Sync> Chunked<D> {
    /// Only packed files are ever in pieces: of others no index is looked for.
    fn chunks_of_target(&self, key: &str) -> Result<Option<Arc<Chunks>>> {
        if key.ends_with(".tar.zst") { self.chunks(key) } else { Ok(None) }
    }
}
