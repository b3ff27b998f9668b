//! The JSON of OCI images, as far as we read it; unknown fields are ignored.
//!
//! OCI image specification 1.1 (index, manifest, config), docker's image manifest version 2,
//! schema 2 (the same fields under other media types) and what `docker save` writes.

use std::collections::BTreeMap;

use bundle::{Arch, Digest};
use serde::Deserialize;

use crate::layer::ImageConfig;
use crate::{Error, Result};

/// An index or manifest is at most this many bytes: 4 MiB, as the others have it.
pub(super) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// An image's configuration is at most this many bytes.
pub(super) const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// An image has at most this many layers (docker stops at 127).
pub(super) const LAYERS_MAX: usize = 512;

/// The media type of an index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of a manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The tag that an image has in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Set by buildkit on what it attaches to an image.
const ATTACHMENT: &str = "vnd.docker.reference.type";

/// Names content by digest and size.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    /// Only foreign layers have any; those are not distributable and we refuse them.
    #[serde(default)]
    pub(super) urls: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) variant: Option<String>,
}

/// An index or a manifest: which of the two is told by its fields, as media types may be missing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// What a digest of the image's top may lead to.
#[derive(Debug)]
pub(super) enum Top {
    /// Several images, of which one is to be picked.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

impl Top {
    /// # Errors
    /// Where the bytes are neither an index nor a manifest of an image.
    pub(super) fn parse(json: &[u8]) -> Result<Top> {
        let document: Document = serde_json::from_slice(json)
            .map_err(|e| Error::input("it is no index or manifest of an image").because(e))?;
        let media_type = document.media_type.as_deref();
        if document.schema_version != 2 {
            let version = document.schema_version;
            return Err(Error::input(format!("manifests of schema version {version} are too old")));
        }
        // A document that can be read as both is an attack (CVE-2021-41190).
        match (document.manifests, document.config, document.layers) {
            (Some(manifests), None, None)
                if matches!(media_type, None | Some(OCI_INDEX | DOCKER_INDEX)) =>
            {
                Ok(Top::Index(manifests))
            }
            (None, Some(config), Some(layers))
                if matches!(media_type, None | Some(OCI_MANIFEST | DOCKER_MANIFEST)) =>
            {
                if layers.len() > LAYERS_MAX {
                    return Err(Error::input(format!("{} layers are too many", layers.len())));
                }
                Ok(Top::Manifest(Manifest { config, layers }))
            }
            _ => Err(Error::input("it is neither an index nor a manifest of an image")),
        }
    }
}

impl Descriptor {
    pub(super) fn tag(&self) -> Option<&str> {
        self.annotations.as_ref()?.get(REF_NAME).map(String::as_str)
    }

    /// Provenance and signatures that are listed beside the images.
    pub(super) fn is_attachment(&self) -> bool {
        let unknown = |p: &Platform| p.architecture == "unknown" || p.os == "unknown";
        self.platform.as_ref().is_some_and(unknown)
            || self.annotations.as_ref().is_some_and(|all| all.contains_key(ATTACHMENT))
    }

    /// Whether registries keep it with the manifests rather than with the blobs.
    pub(super) fn is_manifest(&self) -> bool {
        let types = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];
        types.contains(&self.media_type.as_str())
    }

    pub(super) fn is_image(&self) -> bool {
        (self.media_type.is_empty() || self.is_manifest()) && !self.is_attachment()
    }
}

impl Platform {
    pub(super) fn is(&self, arch: Arch) -> bool {
        self.architecture == arch.oci_name() && self.os == "linux"
    }
}

impl std::fmt::Display for Platform {
    /// As docker's `--platform` takes it: `linux/arm64/v8`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// An image's configuration.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(flatten)]
    pub(super) platform: Platform,
    #[serde(default)]
    config: Option<RunConfig>,
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RunConfig {
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    working_dir: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootFs {
    /// The digests of the decompressed layers.
    #[serde(default)]
    pub(super) diff_ids: Vec<Digest>,
}

impl Config {
    /// # Errors
    /// Where the bytes are no configuration, or that of an image for another machine or with
    /// another number of layers than `layers`.
    pub(super) fn parse(json: &[u8], arch: Arch, layers: usize) -> Result<Config> {
        let config: Config = serde_json::from_slice(json)
            .map_err(|e| Error::input("its configuration is no image configuration").because(e))?;
        if !config.platform.is(arch) {
            let (found, wanted) = (&config.platform, arch.oci_name());
            return Err(Error::input(format!("it is for {found}; linux/{wanted} is wanted")));
        }
        if config.rootfs.diff_ids.len() != layers {
            let listed = config.rootfs.diff_ids.len();
            return Err(Error::input(format!(
                "its configuration lists {listed} layers, its manifest {layers}"
            )));
        }
        Ok(config)
    }

    pub(super) fn image_config(self) -> ImageConfig {
        let run = self.config.unwrap_or_default();
        ImageConfig {
            env: run.env.unwrap_or_default(),
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            workdir: run.working_dir.unwrap_or_default(),
        }
    }
}

/// An entry of a docker-archive's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    /// The configuration's member.
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    /// The layers' members, the bottom one first.
    pub(super) layers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_one_thing() {
        let digest = Digest::of(b"x");
        let descriptor = format!(r#"{{"mediaType":"m","digest":"{digest}","size":3,"new":1}}"#);
        let index = format!(r#""manifests":[{descriptor}]"#);
        let manifest = format!(r#""config":{descriptor},"layers":[{descriptor}]"#);
        let parse = |inside: &str| Top::parse(format!("{{{inside}}}").as_bytes());
        assert!(matches!(parse(&format!(r#""schemaVersion":2,{index}"#)), Ok(Top::Index(_))));
        assert!(matches!(parse(&format!(r#""schemaVersion":2,{manifest}"#)), Ok(Top::Manifest(_))));
        let bad = [
            index.clone(),
            format!(r#""schemaVersion":1,{manifest}"#),
            format!(r#""schemaVersion":2,{manifest},{index}"#),
            format!(r#""schemaVersion":2,"mediaType":"{OCI_INDEX}",{manifest}"#),
            format!(r#""schemaVersion":2,"mediaType":"{OCI_MANIFEST}",{index}"#),
            r#""schemaVersion":2"#.to_string(),
            manifest.replace("sha256", "sha512"),
        ];
        for text in bad {
            assert_eq!(parse(&text).unwrap_err().class(), crate::Class::Input, "{text}");
        }
        assert!(Top::parse(b"<html>").is_err());
    }

    #[test]
    fn a_configuration_is_checked() {
        let parse = |json: &str, layers| Config::parse(json.as_bytes(), Arch::X86_64, layers);
        let good = r#"{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":[]},
            "config":{"Env":["A=1"],"Cmd":null,"Entrypoint":["/x"],"User":"u","WorkingDir":"/w"}}"#;
        let config = parse(good, 0).unwrap().image_config();
        assert_eq!((config.user.as_str(), config.workdir.as_str()), ("u", "/w"));
        assert_eq!((config.env.len(), config.cmd.len(), config.entrypoint.len()), (1, 0, 1));
        assert!(parse(good, 1).unwrap_err().to_string().contains("lists 0 layers"));
        let other = good.replace("amd64", "arm64").replace(r#""os""#, r#""variant":"v8","os""#);
        let error = parse(&other, 0).unwrap_err();
        assert_eq!(error.to_string(), "it is for linux/arm64/v8; linux/amd64 is wanted");
    }
}
