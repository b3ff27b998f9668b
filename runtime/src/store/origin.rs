//! Where a stored bundle came from, and what its manifest was then.

use std::fs;
use std::path::Path;

use bundle::{Digest, Outline};
use serde::{Deserialize, Serialize};

/// An origin is at most this long.
const BYTES_MAX: u64 = 64 << 10;

/// The file `origin` beside a bundle's files. The bundle's name is the packed file's digest, which
/// the files do not give back; this says which manifest it stood for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Of `manifest.json`.
    pub(crate) manifest: Digest,
    /// The packed file's length.
    pub(crate) packed_bytes: u64,
    /// The addresses of the depots that it was pulled from; none where it was a file.
    #[serde(default)]
    pub(crate) depots: Vec<String>,
    /// What it was made of, where this host made it of a container image.
    #[serde(default)]
    pub(crate) container: Option<Container>,
}

/// A container image that became a bundle here: see [`crate::container`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The image's reference, in full.
    pub reference: String,
    /// The digest of all that decided the bundle.
    pub key: Digest,
}

impl Origin {
    pub(crate) fn of(outline: &Outline, depots: &[String]) -> Self {
        Origin {
            manifest: Digest::of(outline.json()),
            packed_bytes: outline.packed_bytes(),
            depots: depots.to_vec(),
            container: None,
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// `None` where it is not there (an older imgrun wrote none) or damaged.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        if path.metadata().ok()?.len() > BYTES_MAX {
            return None;
        }
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}
