//! The catalog: which bundles are published, and which of them no longer should be used.
//!
//! ```text
//! metadata/timestamp.json                         the only file that is ever overwritten
//! metadata/<n>.{root,targets,snapshot,timestamp}.json   created once; see tuf
//! targets/<sha256>.<name>-<version>-<arch>.tar.zst      the packed bundles, created once
//! targets/<sha256>.catalog.json                         the index for people, created once
//! ```
//! That is the layout of a TUF repository with consistent snapshots: any TUF client can read the
//! catalog and get what it lists. Each bundle is a target named as its file is; its `custom` field
//! is an [`Entry`] without what the target says already. `catalog.json` says the same for people.

use std::io::Write;

use bundle::{Arch, Digest, HashingWriter, Kind, Manifest, Name, Reference, Version};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::depot::Depot;
use crate::tuf::{self, Clock, Memory, Role, Target, Targets, Trusted};
use crate::{Error, Result};

/// Where the metadata are in a depot.
pub const METADATA: &str = "metadata";
/// Where the published files are.
pub const TARGETS: &str = "targets";
/// The index's target path.
pub const INDEX: &str = "catalog.json";
/// The index's format version.
const INDEX_SCHEMA: u32 = 1;
/// The field of `custom` that is ours.
const OURS: &str = "imgtool";

/// The file of `role`, version `version`, in a depot.
pub fn metadata_key(role: Role, version: u64) -> String {
    format!("{METADATA}/{}", role.file(version))
}

/// Where the newest timestamp is in a depot.
pub fn timestamp_key() -> String {
    format!("{METADATA}/timestamp.json")
}

/// Where the target `path` with these bytes is in a depot.
pub fn target_key(path: &str, digest: &Digest) -> String {
    format!("{TARGETS}/{}.{path}", digest.hex())
}

/// A published bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// The machine that it is for.
    pub arch: Arch,
    /// The digest of the packed file.
    pub digest: Digest,
    /// The packed file's size in bytes.
    pub size: u64,
    /// What it says of itself, as far as the catalog repeats it.
    pub about: About,
}

/// What the catalog says of a bundle beyond its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// An image or a kernel.
    pub kind: Kind,
    /// The digest of its `manifest.json`.
    pub manifest: Digest,
    /// The kernel that an image was built to run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Reference>,
    /// Whether its own tests passed before it was published.
    #[serde(default)]
    pub tested: bool,
    /// When it was published first: `2026-11-20T22:41:00Z`.
    pub published: String,
    /// Why nobody should use it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yanked: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Custom {
    name: Name,
    version: Version,
    arch: Arch,
    #[serde(flatten)]
    about: About,
}

impl Entry {
    /// Its file's name, which is its target path.
    pub fn path(&self) -> String {
        format!("{}-{}-{}.tar.zst", self.name, self.version, self.arch)
    }

    /// Where its file is in a depot.
    pub fn key(&self) -> String {
        target_key(&self.path(), &self.digest)
    }

    /// `name:version`, as people name it.
    pub fn title(&self) -> String {
        format!("{}:{} {}", self.name, self.version, self.arch)
    }

    /// As a target; [`Entry::path`] is its path.
    pub fn to_target(&self) -> Target {
        let custom = Custom {
            name: self.name.clone(),
            version: self.version.clone(),
            arch: self.arch,
            about: self.about.clone(),
        };
        let mut target = target_of(self.size, &self.digest);
        target.custom = Some(json!({ OURS: custom }));
        target
    }

    /// From a target; `None` for one that is no bundle of ours.
    ///
    /// # Errors
    /// Where it says that it is one and contradicts itself.
    pub fn from_target(path: &str, target: &Target) -> Result<Option<Self>> {
        let Some(custom) = target.custom.as_ref().and_then(|c| c.get(OURS)) else {
            return Ok(None);
        };
        let wrong = |why: &str| Error::trust(format!("the catalog's entry {path}: {why}"));
        let Custom { name, version, arch, about } =
            Custom::deserialize(custom).map_err(|e| wrong(&e.to_string()))?;
        let digest = target.digest().ok_or_else(|| wrong("it has no SHA-256"))?;
        let entry = Entry { name, version, arch, digest, size: target.length, about };
        if entry.path() != path {
            return Err(wrong(&format!("it is for {}", entry.path())));
        }
        Ok(Some(entry))
    }

    /// Whether a bundle is the one that this entry promises. Its digest alone would not tell: who
    /// publishes could list one bundle under another's name.
    ///
    /// # Errors
    /// [`crate::Class::Trust`] where it is another.
    pub fn check(&self, manifest: &Manifest) -> Result<()> {
        let names = (&self.name, &self.version, self.arch);
        let kernel = self.about.kernel == manifest.kernel;
        if names == (&manifest.name, &manifest.version, manifest.arch)
            && self.about.kind == manifest.kind
            && kernel
        {
            return Ok(());
        }
        let (ours, theirs) = (self.title(), manifest.file_name());
        let more = if kernel { "" } else { ", or for another kernel" };
        Err(Error::trust(format!(
            "the catalog lists {ours}, but the bundle there is {theirs}{more}"
        )))
    }

    /// Copies its packed file to `out`: not one byte more than was signed, whatever `depot` sends.
    ///
    /// # Errors
    /// [`crate::Class::Trust`] where it is not there or other bytes are. What is in `out` is then to
    /// be thrown away; nothing may be done with it before this has returned.
    pub fn fetch(&self, depot: &dyn Depot, out: &mut dyn Write) -> Result<()> {
        let wrong =
            |why: &str| Err(Error::trust(format!("{}: {}: {why}", depot.title(), self.path())));
        let mut hash = HashingWriter::new(out);
        if depot.read(&self.key(), 0..self.size, &mut hash)?.is_none() {
            return wrong("it is not there");
        }
        let (_, digest, size) = hash.finish();
        match depot.size(&self.key())? {
            Some(there) if there != self.size => wrong(&format!(
                "it has {there} bytes instead of the {} that were signed",
                self.size
            )),
            _ if (digest, size) == (self.digest, self.size) => Ok(()),
            _ => wrong("its bytes are not those that were signed"),
        }
    }

    /// As a line of the index.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "name": self.name, "version": self.version, "arch": self.arch,
            "digest": self.digest, "size": self.size,
        });
        if let (Some(value), Ok(Value::Object(about))) =
            (value.as_object_mut(), serde_json::to_value(&self.about))
        {
            value.extend(about);
        }
        value
    }
}

/// A target without more.
pub fn target_of(length: u64, digest: &Digest) -> Target {
    Target { length, hashes: [("sha256".to_string(), digest.hex())].into(), custom: None }
}

/// The bundles of `targets`, by name, version and architecture.
///
/// # Errors
/// As [`Entry::from_target`].
pub fn entries(targets: &Targets) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (path, target) in &targets.targets {
        entries.extend(Entry::from_target(path, target)?);
    }
    entries.sort_by(|a, b| (&a.name, &a.version, a.arch).cmp(&(&b.name, &b.version, b.arch)));
    Ok(entries)
}

/// `catalog.json`: the same for equal entries.
pub fn index(entries: &[Entry]) -> Vec<u8> {
    let bundles: Vec<Value> = entries.iter().map(Entry::to_json).collect();
    let index = json!({ "schema": INDEX_SCHEMA, "bundles": bundles });
    let mut json = serde_json::to_vec_pretty(&index).unwrap_or_default();
    json.push(b'\n');
    json
}

/// A catalog whose metadata were verified, at the time when it was opened.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// The metadata.
    pub trusted: Trusted,
    /// What is published, by name, version and architecture.
    pub entries: Vec<Entry>,
}

impl Catalog {
    /// Reads and verifies what `depot` offers today; `memory` tells what was seen before, and
    /// whom to trust.
    ///
    /// # Errors
    /// As [`tuf::refresh`].
    pub fn open(depot: &dyn Depot, memory: &Memory, clock: Clock) -> Result<Self> {
        let about = |e: Error| e.within(depot.title());
        let fetch = |name: &str, max: u64| depot.get(&format!("{METADATA}/{name}"), max);
        let trusted = tuf::refresh(memory, &fetch, clock).map_err(about)?;
        let entries = entries(&trusted.targets).map_err(about)?;
        Ok(Catalog { trusted, entries })
    }

    /// The bundle `name`, `version` for `arch`.
    pub fn find(&self, name: &Name, version: &Version, arch: Arch) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == *name && e.version == *version && e.arch == arch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            name: "debian".parse().unwrap(),
            version: "12".parse().unwrap(),
            arch: Arch::X86_64,
            digest: Digest::of(b"x"),
            size: 1,
            about: About {
                kind: Kind::Kernel,
                manifest: Digest::of(b"m"),
                kernel: None,
                tested: true,
                published: "2026-11-20T22:41:00Z".to_string(),
                yanked: None,
            },
        }
    }

    #[test]
    fn an_entry_is_a_target_under_its_own_name_only() {
        let (entry, target) = (entry(), entry().to_target());
        assert_eq!(Entry::from_target(&entry.path(), &target).unwrap(), Some(entry));
        let error = Entry::from_target("alpine-12-x86_64.tar.zst", &target).unwrap_err();
        assert!(error.to_string().contains("it is for debian-12-x86_64.tar.zst"), "{error}");
        let plain = target_of(1, &Digest::of(b"x"));
        assert_eq!(Entry::from_target(INDEX, &plain).unwrap(), None);
    }

    /// imgrun's embedded default is what publishing nothing would write.
    #[test]
    fn the_index_at_the_top_is_an_index() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../catalog.json");
        let embedded: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(embedded, serde_json::from_slice::<Value>(&index(&[])).unwrap());
    }
}
