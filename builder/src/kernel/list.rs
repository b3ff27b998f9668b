//! Which kernels there are, and what each is made of.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bundle::{Arch, Digest, Name, Version};
use serde::Serialize;

use super::build::Patch;
use super::config::{Config, Place};
use super::entry::{self, Entry};
use super::fragment::Wanted;
use super::toolchain::Toolchain;
use super::{Inputs, directory, names, read_text};
use crate::cache::Cache;
use crate::{Error, Result};

/// Whether a kernel is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is configured and in the cache.
    Built,
    /// It is configured only.
    Configured,
    /// It is in the cache only: imported, or of a configuration or compiler that changed.
    Other,
}

impl State {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            State::Built => "built",
            State::Configured => "configured",
            State::Other => "other",
        }
    }
}

/// A kernel that is configured or in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// The machine it is for.
    pub arch: Arch,
    /// Whether it is there.
    pub state: State,
    /// Its bundle, if it is in the cache.
    pub bundle: Option<Stored>,
}

/// A bundle in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// Where it is.
    pub path: PathBuf,
    /// The digest of the packed file, as it was when it was put there.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}

/// All kernels that `config_dir` configures and that `cache` holds, by name.
///
/// # Errors
/// Where a configuration is wrong.
pub fn list(config_dir: &Path, cache: &Cache) -> Result<Vec<Listed>> {
    let mut stored = in_cache(cache);
    // Those that are missing can not have built anything that would be found again.
    let toolchains: BTreeMap<Arch, Toolchain> =
        Arch::ALL.into_iter().filter_map(|a| Some((a, Toolchain::find(a, false).ok()?))).collect();
    let mut listed = Vec::new();
    for name in names(config_dir)? {
        let path = config_dir.join(format!("{name}.toml"));
        let config = Config::parse(&path, &read_text(&path)?)?;
        for arch in config.fragments.keys().copied() {
            let inputs = Inputs::read(&path, arch)?;
            let dir = toolchains
                .get(&arch)
                .map(|toolchain| Entry::of(&directory(cache), &inputs, toolchain).dir());
            let bundle = dir.and_then(|dir| stored.remove(&dir)).map(|(_, bundle)| bundle);
            listed.push(Listed {
                name: config.name.clone(),
                version: config.version.clone(),
                arch,
                state: if bundle.is_some() { State::Built } else { State::Configured },
                bundle,
            });
        }
    }
    listed.extend(stored.into_values().map(|((name, version, arch), bundle)| Listed {
        name,
        version,
        arch,
        state: State::Other,
        bundle: Some(bundle),
    }));
    listed.sort_by(|a, b| {
        (&a.name, a.state, &a.version, a.arch).cmp(&(&b.name, b.state, &b.version, b.arch))
    });
    Ok(listed)
}

type Title = (Name, Version, Arch);

/// The finished kernels of a cache, by their directories.
fn in_cache(cache: &Cache) -> BTreeMap<PathBuf, (Title, Stored)> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let stored = |dir: PathBuf| {
        let digest = entry::note(&dir)?;
        let path = entries(&dir)
            .map(|e| e.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "zst"))?;
        let bytes = fs::metadata(&path).ok()?.len();
        let file = File::open(&path).ok()?;
        let manifest = bundle::unpack(file).ok()?.manifest().clone();
        let title = (manifest.name, manifest.version, manifest.arch);
        Some((dir, (title, Stored { path, digest, bytes })))
    };
    entries(&directory(cache)).map(|e| e.path()).filter_map(stored).collect()
}

/// What a kernel's configuration says, all files read.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// The machine.
    pub arch: Arch,
    /// Its sources, as people say it.
    pub source: String,
    /// Their digest.
    pub source_digest: Digest,
    /// The fingerprints of those one of whom must have signed them.
    pub signers: Vec<String>,
    /// Changes of the sources, by digest.
    pub patches: Vec<Part>,
    /// Fragments, by digest.
    pub fragments: Vec<Part>,
    /// What they ask for, by name.
    pub options: BTreeMap<String, Wanted>,
}

/// A file that goes in.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
}

/// What the configuration file `config` says for `arch`.
///
/// # Errors
/// Where it or a fragment is wrong.
pub fn show(config: &Path, arch: Arch) -> Result<Shown> {
    let Inputs { config, arch, fragments, request, patches, .. } = Inputs::read(config, arch)?;
    let signers = match &config.source.place {
        Place::Url { signature: Some(signature), .. } => signature.signers.clone(),
        _ => Vec::new(),
    };
    let patch =
        |Patch { name, text }: &Patch| Part { name: name.clone(), digest: Digest::of(text) };
    let fragment =
        |(name, digest): &(Name, Digest)| Part { name: name.to_string(), digest: *digest };
    Ok(Shown {
        source: config.source.title(),
        source_digest: config.source.digest,
        name: config.name,
        version: config.version,
        arch,
        signers,
        patches: patches.iter().map(patch).collect(),
        fragments: fragments.iter().map(fragment).collect(),
        options: request.options().clone(),
    })
}

/// The manifest and `build.json` of a kernel's bundle.
///
/// # Errors
/// Where it is none.
pub fn show_bundle(path: &Path) -> Result<serde_json::Value> {
    let about = |e: bundle::Error| Error::input(path.display().to_string()).because(e);
    let file = File::open(path).map_err(|e| Error::io(path.display(), e))?;
    let manifest = bundle::unpack(file).map_err(about)?.manifest().clone();
    let build = super::options::member(path, "build.json")?;
    let build: serde_json::Value = serde_json::from_str(&build)
        .map_err(|e| Error::input(format!("{}: build.json", path.display())).because(e))?;
    Ok(serde_json::json!({ "manifest": manifest, "build": build }))
}
