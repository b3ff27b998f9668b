//! `oci:`: the writing half of [`imgrun::depot::Artifacts`].
//!
//! No registry can create a tag only where there is none. So there is one publisher at a time.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

use bundle::{Digest, HashingReader, Name, Version};
use imgrun::catalog::{Entry, METADATA};
use imgrun::depot::Depot;
use imgrun::depot::artifacts::{TAG_BYTES_MAX, plain, tag};
use imgrun::tuf::time;
use serde_json::{Value, json};

use super::{Body, Listed, Put, Writable};
use crate::oci::{Access, Blob, OCI_INDEX, OCI_MANIFEST};
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
/// A repository that holds files.
#[derive(Debug)]
pub struct Artifacts(imgrun::depot::Artifacts);

impl Artifacts {
    /// At `address`, with the user's log-ins.
    ///
    /// # Errors
    /// [`crate::Class::Usage`] for an address that is none.
    pub fn open(address: &str, access: &Access) -> Result<Self> {
        Ok(Artifacts(imgrun::depot::Artifacts::open(address, access)?))
    }

    fn put(&self, key: &str, blob: &Blob<'_>, digest: Digest, size: u64) -> Result<()> {
        self.0.repository().put_blob(&Digest::of(EMPTY), &Blob::Bytes(EMPTY))?;
        self.0.repository().put_blob(&digest, blob)?;
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
        self.0.repository().put_manifest(&tag(key)?, OCI_MANIFEST, &json)
    }

    fn index(&self, name: &str, entries: &[&Entry]) -> Result<()> {
        if entries.is_empty() || name.len() > TAG_BYTES_MAX {
            return Ok(());
        }
        let mut manifests: Vec<Value> = Vec::new();
        for entry in entries {
            let Some(found) = self.0.find(&tag(&entry.key())?)? else { continue };
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
        self.0.repository().put_manifest(name, OCI_INDEX, &json)
    }
}

impl Depot for Artifacts {
    fn title(&self) -> String {
        self.0.title()
    }

    fn read(&self, key: &str, range: Range<u64>, out: &mut dyn Write) -> Result<Option<u64>> {
        self.0.read(key, range, out)
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        self.0.size(key)
    }
}

impl Writable for Artifacts {
    fn put_new(&self, key: &str, body: Body<'_>) -> Result<Put> {
        if self.0.find(&tag(key)?)?.is_some() {
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
        for tag in self.0.repository().tags()? {
            let ours = tag.starts_with('_') && tag.starts_with("_metadata-") == metadata;
            let Some(found) = ours.then(|| self.0.find(&tag)).transpose()?.flatten() else {
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
        match self.0.find(&tag(key)?)? {
            Some(found) => self.0.repository().delete_manifest(&found.digest),
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
