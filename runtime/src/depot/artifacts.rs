//! `oci:`: a repository in a registry, one artifact for each file.
//!
//! `oci://HOST[:PORT]/REPOSITORY`. Log-ins, mirrors' file and plain http are those of container
//! images.
//!
//! ```text
//! tag                  what
//! _<sha256>            a published file: an artifact with one layer, the file
//! _metadata-<file>     metadata: likewise
//! <name>-<version>     an index: the bundle for each architecture
//! <name>               an index: all versions that are not yanked
//! ```
//! The last two are for people and for other tools (`oras pull`, `skopeo copy` take them as they
//! are); nobody's trust is in them. In their tags `+` is written `_`, and `~` is written `-`.
//!
//! A mirror is a depot of its own, asked before the host: what it sends is checked against what was
//! signed, and the first wrong byte ends its service. Which artifact a tag is the host says, unless
//! `tags_from_mirrors` lets the mirrors say it.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bundle::Digest;
use serde::Deserialize;

use super::{Depot, check_key};
use crate::catalog::TARGETS;
use crate::oci::{Access, RegistryReference, Repository};
use crate::{Error, Result};

/// A tag is at most this long.
pub const TAG_BYTES_MAX: usize = 128;
/// Files that are remembered by their tags.
const KNOWN_MAX: usize = 256;

/// A repository that holds files.
#[derive(Debug)]
pub struct Artifacts {
    title: String,
    /// Who says what a tag is.
    tags: Arc<Repository>,
    /// Who has the bytes.
    blobs: Arc<Repository>,
    /// Files that are never replaced, by their tags; `None`: it is asked every time.
    known: Option<Mutex<BTreeMap<String, Layer>>>,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The bytes of a file.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Layer {
    /// Of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

/// A file's artifact.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// Of the manifest.
    pub digest: Digest,
    /// Of the manifest, in bytes.
    pub size: usize,
    /// The file.
    pub layer: Layer,
    /// What is noted on it.
    pub annotations: BTreeMap<String, String>,
}

/// The tag of the file under `key`.
///
/// # Errors
/// [`crate::Class::Input`] for one that is too long.
pub fn tag(key: &str) -> Result<String> {
    check_key(key)?;
    let target = key.strip_prefix(TARGETS).and_then(|rest| rest.strip_prefix('/'));
    let tag = match target.and_then(|rest| rest.split_once('.')) {
        Some((digest, _)) if digest.len() == 64 => format!("_{digest}"),
        _ => format!("_{}", plain(&key.replace('/', "-"))),
    };
    if tag.len() > TAG_BYTES_MAX {
        return Err(Error::input(format!("{key}: it is too long for a registry")));
    }
    Ok(tag)
}

/// In the alphabet of tags.
pub fn plain(text: &str) -> String {
    text.replace('+', "_").replace('~', "-")
}

impl Artifacts {
    /// At `address`, without mirrors, and asked anew every time: for who writes there.
    ///
    /// # Errors
    /// [`crate::Class::Usage`] for an address that is none.
    pub fn open(address: &str, access: &Access) -> Result<Self> {
        let reference = reference(address)?;
        let host = Arc::new(Repository::open(&reference, access)?);
        Ok(Artifacts { title: title(&reference), tags: host.clone(), blobs: host, known: None })
    }

    /// All ways to read `address`, in the order in which to ask; the host itself is last.
    ///
    /// # Errors
    /// As [`Artifacts::open`].
    pub fn ways(address: &str, access: &Access) -> Result<Vec<Self>> {
        let reference = reference(address)?;
        let host = Arc::new(Repository::open(&reference, access)?);
        let title = title(&reference);
        let mut ways = Vec::new();
        for mirror in Repository::mirrors(&reference, access)? {
            let blobs = Arc::new(mirror);
            let says = access.takes_tags_from_mirrors(&reference);
            let tags = if says { blobs.clone() } else { host.clone() };
            let title = format!("{title} by {}", blobs.place());
            ways.push(Artifacts { title, tags, blobs, known: Some(Mutex::default()) });
        }
        ways.push(Artifacts {
            title,
            tags: host.clone(),
            blobs: host,
            known: Some(Mutex::default()),
        });
        Ok(ways)
    }

    /// Where it is.
    pub fn repository(&self) -> &Repository {
        &self.blobs
    }

    /// What is under a tag.
    ///
    /// # Errors
    /// [`crate::Class::Input`] where it is no file of ours.
    pub fn find(&self, tag: &str) -> Result<Option<Artifact>> {
        let Some((digest, json)) = self.tags.manifest(tag)? else { return Ok(None) };
        let size = json.len();
        let wrong = || Error::input(format!("{}: {tag}: it is no file of ours", self.title));
        let manifest: Manifest = serde_json::from_slice(&json).map_err(|_| wrong())?;
        let annotations = manifest.annotations;
        let layer = manifest.layers.into_iter().next().ok_or_else(wrong)?;
        Ok(Some(Artifact { digest, size, layer, annotations }))
    }

    /// The bytes under `key`. Those of a target never change, so they are asked for once.
    fn layer(&self, key: &str) -> Result<Option<Layer>> {
        let tag = tag(key)?;
        let known = self.known.as_ref().filter(|_| key.starts_with(TARGETS));
        let known = || known.map(|known| known.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(layer) = known().and_then(|known| known.get(&tag).copied()) {
            return Ok(Some(layer));
        }
        let layer = self.find(&tag)?.map(|found| found.layer);
        if let (Some(mut known), Some(layer)) = (known(), layer) {
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(tag, layer);
        }
        Ok(layer)
    }
}

fn reference(address: &str) -> Result<RegistryReference> {
    let wrong = |why: &str| Error::usage(format!("{address}: {why}"));
    let name = address.strip_prefix("oci://").unwrap_or(address).trim_end_matches('/');
    let reference: RegistryReference = name.parse().map_err(|e: String| wrong(&e))?;
    if reference.digest.is_some() || name.rsplit('/').next().is_some_and(|n| n.contains(':')) {
        return Err(wrong("a repository is wanted, without tag and digest"));
    }
    Ok(reference)
}

fn title(reference: &RegistryReference) -> String {
    format!("oci://{}/{}", reference.host, reference.repository)
}

impl Depot for Artifacts {
    fn title(&self) -> String {
        self.title.clone()
    }

    fn read(&self, key: &str, range: Range<u64>, out: &mut dyn Write) -> Result<Option<u64>> {
        let Some(Layer { digest, size }) = self.layer(key)? else { return Ok(None) };
        let range = range.start.min(size)..range.end.min(size);
        if range.is_empty() {
            return Ok(Some(0));
        }
        self.blobs.read_blob(&digest, range, size, out)
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        Ok(self.layer(key)?.map(|layer| layer.size))
    }

    fn sends_parts(&self) -> bool {
        self.blobs.sends_parts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_tag_of_its_own() {
        let hex = "a".repeat(64);
        let long = format!("targets/{hex}.{}-1-x86_64.tar.zst", "n".repeat(64));
        assert_eq!(tag(&long).unwrap(), format!("_{hex}"));
        assert_eq!(tag("metadata/5.targets.json").unwrap(), "_metadata-5.targets.json");
        assert_eq!(plain("6.1+a~b"), "6.1_a-b");
        assert!(tag("../x").is_err());
    }
}
