//! What a reference meant when a registry was last asked: the cache's note for `--offline`.

use bundle::{Digest, Hasher};
use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::oci::RegistryReference;
use crate::{Error, Result, date};

/// The note.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Last {
    /// The reference, in full.
    image: String,
    /// Its manifest or index.
    pub(super) digest: Digest,
    /// When that was so, in seconds since 1970.
    pub(super) resolved: u64,
    /// The layers of the image that was taken, the bottom one first.
    blobs: Vec<Digest>,
}

impl Last {
    pub(super) fn new(reference: &RegistryReference, digest: Digest, blobs: Vec<Digest>) -> Last {
        Last { image: reference.to_string(), digest, resolved: date::now(), blobs }
    }

    pub(super) fn find(reference: &RegistryReference, cache: &Cache) -> Option<Last> {
        let note = cache.note(&key(&reference.to_string()))?;
        serde_json::from_slice(&note).ok()
    }

    pub(super) fn save(&self, cache: &Cache) -> Result<()> {
        let json = serde_json::to_vec(self).map_err(|e| Error::bug("write a note").because(e))?;
        cache.set_note(&key(&self.image), &json)
    }
}

fn key(image: &str) -> Digest {
    let mut key = Hasher::new();
    key.field("imgtool image 1");
    key.field(image);
    key.finish()
}
