//! `oci:`: a repository in a registry, one artifact for each file.
//!
//! `oci://HOST[:PORT]/REPOSITORY`. Log-ins, mirrors' file and plain http are those of pulling.
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
//! No registry can create a tag only where there is none. So there is one publisher at a time.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

use bundle::{Digest, HashingReader, Name, Version};
use imgrun::catalog::{Entry, METADATA, TARGETS};
use imgrun::depot::{Depot, check_key};
use imgrun::tuf::time;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Body, Listed, Put, Writable};
use crate::oci::{Access, Blob, OCI_INDEX, OCI_MANIFEST, RegistryReference, Repository};
use crate::{Error, Result};

/// What the artifacts are.
const ARTIFACT_TYPE: &str = "application/vnd.imgtool.file.v1";
const BUNDLE_TYPE: &str = "application/vnd.imgtool.bundle.v1.tar+zstd";
/// OCI's configuration of what has none: `{}`.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";
const TITLE: &str = "org.opencontainers.image.title";
const CREATED: &str = "org.opencontainers.image.created";
const VERSION: &str = "org.opencontainers.image.version";
/// Under which key a file is.
const KEY: &str = "dev.imgtool.key";
/// A tag is at most this long.
const TAG_BYTES_MAX: usize = 128;

/// A repository that holds files.
#[derive(Debug)]
pub struct Artifacts {
    title: String,
    repository: Repository,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Layer {
    digest: Digest,
    size: u64,
}

/// A file's artifact.
struct Found {
    digest: Digest,
    /// Of the manifest, in bytes.
    size: usize,
    layer: Layer,
    annotations: BTreeMap<String, String>,
}

/// The tag of the file under `key`.
fn tag(key: &str) -> Result<String> {
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
fn plain(text: &str) -> String {
    text.replace('+', "_").replace('~', "-")
}

impl Artifacts {
    /// At `address`, with the user's log-ins.
    ///
    /// # Errors
    /// [`crate::Class::Usage`] for an address that is none.
    pub fn open(address: &str, access: &Access) -> Result<Self> {
        let wrong = |why: &str| Error::usage(format!("{address}: {why}"));
        let name = address.strip_prefix("oci://").unwrap_or(address).trim_end_matches('/');
        let reference: RegistryReference = name.parse().map_err(|e: String| wrong(&e))?;
        if reference.digest.is_some() || name.rsplit('/').next().is_some_and(|n| n.contains(':')) {
            return Err(wrong("a repository is wanted, without tag and digest"));
        }
        let repository = Repository::open(&reference, access)?;
        let title = format!("oci://{}/{}", reference.host, reference.repository);
        Ok(Artifacts { title, repository })
    }

    fn find(&self, tag: &str) -> Result<Option<Found>> {
        let Some((digest, json)) = self.repository.manifest(tag)? else { return Ok(None) };
        let size = json.len();
        let wrong = || Error::input(format!("{}: {tag}: it is no file of ours", self.title));
        let manifest: Manifest = serde_json::from_slice(&json).map_err(|_| wrong())?;
        let annotations = manifest.annotations;
        let layer = manifest.layers.into_iter().next().ok_or_else(wrong)?;
        Ok(Some(Found { digest, size, layer, annotations }))
    }

    fn put(&self, key: &str, blob: &Blob<'_>, digest: Digest, size: u64) -> Result<()> {
        self.repository.put_blob(&Digest::of(EMPTY), &Blob::Bytes(EMPTY))?;
        self.repository.put_blob(&digest, blob)?;
        let name = key.rsplit('/').next().unwrap_or(key);
        // Without the digest in front, as it was before it was published.
        let title = match name.split_once('.') {
            Some((hex, rest)) if hex.len() == 64 => rest,
            _ => name,
        };
        let media_type = match title {
            title if title.ends_with(".json") => "application/json",
            title if title.ends_with(".tar.zst") => BUNDLE_TYPE,
            _ => "application/octet-stream",
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": { "mediaType": EMPTY_TYPE, "digest": Digest::of(EMPTY), "size": EMPTY.len() },
            "layers": [{
                "mediaType": media_type, "digest": digest, "size": size,
                "annotations": { TITLE: title },
            }],
            "annotations": { KEY: key, CREATED: time::to_text(time::now()) },
        });
        let json = serde_json::to_vec(&manifest).unwrap_or_default();
        self.repository.put_manifest(&tag(key)?, OCI_MANIFEST, &json)
    }

    fn index(&self, tag: &str, entries: &[&Entry]) -> Result<()> {
        if entries.is_empty() || tag.len() > TAG_BYTES_MAX {
            return Ok(());
        }
        let mut manifests: Vec<Value> = Vec::new();
        for entry in entries {
            let Some(found) = self.find(&self::tag(&entry.key())?)? else { continue };
            manifests.push(json!({
                "mediaType": OCI_MANIFEST, "artifactType": ARTIFACT_TYPE,
                "digest": found.digest, "size": found.size,
                "platform": { "architecture": entry.arch.oci_name(), "os": "linux" },
                "annotations": { TITLE: entry.path(), VERSION: entry.version.to_string() },
            }));
        }
        let index = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests,
        });
        let json = serde_json::to_vec(&index).unwrap_or_default();
        self.repository.put_manifest(tag, OCI_INDEX, &json)
    }
}

impl Depot for Artifacts {
    fn title(&self) -> String {
        self.title.clone()
    }

    fn read(&self, key: &str, range: Range<u64>, out: &mut dyn Write) -> Result<Option<u64>> {
        let Some(found) = self.find(&tag(key)?)? else { return Ok(None) };
        self.repository.read_blob(&found.layer.digest, range, out)
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        Ok(self.find(&tag(key)?)?.map(|found| found.layer.size))
    }
}

impl Writable for Artifacts {
    fn put_new(&self, key: &str, body: Body<'_>) -> Result<Put> {
        if self.find(&tag(key)?)?.is_some() {
            return Ok(Put::Exists);
        }
        match body {
            Body::Bytes(bytes) => {
                self.put(key, &Blob::Bytes(bytes), Digest::of(bytes), bytes.len() as u64)?;
            }
            Body::File { path, size, stage } => {
                let about = |e| Error::io(path.display(), e);
                let file = std::fs::File::open(path).map_err(about)?;
                let mut reader = HashingReader::new(file);
                std::io::copy(&mut reader, &mut std::io::sink()).map_err(about)?;
                let (digest, found) = reader.finish();
                if found != size {
                    let path = path.display();
                    return Err(Error::input(format!("{path}: it changes while it is read")));
                }
                self.put(key, &Blob::File { path, size, stage }, digest, size)?;
            }
        }
        Ok(Put::Created)
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.put(key, &Blob::Bytes(bytes), Digest::of(bytes), bytes.len() as u64)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let metadata = prefix.trim_end_matches('/') == METADATA;
        let mut listed = Vec::new();
        for tag in self.repository.tags()? {
            let ours = tag.starts_with('_') && tag.starts_with("_metadata-") == metadata;
            let Some(found) = ours.then(|| self.find(&tag)).transpose()?.flatten() else {
                continue;
            };
            let Some(key) = found.annotations.get(KEY).filter(|key| key.starts_with(prefix)) else {
                continue;
            };
            let created = found.annotations.get(CREATED);
            let modified = created.and_then(|c| time::from_text(c)).unwrap_or(u64::MAX);
            listed.push(Listed { key: key.clone(), size: found.layer.size, modified });
        }
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }

    fn delete(&self, key: &str) -> Result<()> {
        match self.find(&tag(key)?)? {
            Some(found) => self.repository.delete_manifest(&found.digest),
            None => Ok(()),
        }
    }

    fn exclusive(&self) -> Option<bool> {
        Some(false)
    }

    fn announce(&self, published: &[Entry], changed: &[Entry]) -> Result<()> {
        let mut versions: BTreeMap<&Name, Vec<&Version>> = BTreeMap::new();
        for entry in changed {
            versions.entry(&entry.name).or_default().push(&entry.version);
        }
        for (name, versions) in versions {
            let all = published.iter().filter(|e| e.name == *name);
            let fresh: Vec<&Entry> = all.filter(|e| e.about.yanked.is_none()).collect();
            self.index(&plain(name.as_str()), &fresh)?;
            for version in versions {
                let one = published.iter().filter(|e| e.name == *name && e.version == *version);
                self.index(&plain(&format!("{name}-{version}")), &one.collect::<Vec<_>>())?;
            }
        }
        Ok(())
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
