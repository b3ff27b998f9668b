//! Images in a docker-archive: what `docker save`, `podman save` and skopeo write, read in place.
//!
//! `manifest.json` lists the images; the configuration vouches for the layers by the digests of
//! their tars, and its own digest is the image's id (moby, "image/spec/v1.2.md").

use bundle::{Arch, Digest};

use super::archive::Archive;
use super::layout::read_range;
use super::reference::RegistryReference;
use super::wire::{CONFIG_BYTES_MAX, Config, DockerImage, LAYERS_MAX, MANIFEST_BYTES_MAX};
use crate::layer::{Compression, Layer, Resolved};
use crate::{Error, Result};

const MANIFEST: &str = "manifest.json";

/// The image `name`, or the only one; `origin` names it in errors.
pub(super) fn resolve(
    archive: &Archive,
    name: Option<&str>,
    arch: Arch,
    origin: &str,
) -> Result<Resolved> {
    let about = |e: Error| e.within(origin);
    let list = read(archive, MANIFEST, MANIFEST_BYTES_MAX).map_err(about)?;
    let images: Vec<DockerImage> = serde_json::from_slice(&list)
        .map_err(|e| Error::input(format!("{origin}: {MANIFEST}")).because(e))?;
    let image = pick(&images, name).map_err(about)?;
    let json = read(archive, &image.config, CONFIG_BYTES_MAX).map_err(about)?;
    let digest = Digest::of(&json);
    check_config_name(&image.config, digest).map_err(about)?;
    if image.layers.len() > LAYERS_MAX {
        return Err(about(Error::input(format!("{} layers are too many", image.layers.len()))));
    }
    let config = Config::parse(&json, arch, image.layers.len()).map_err(about)?;
    let mut layers = Vec::new();
    for (i, (member, content)) in image.layers.iter().zip(&config.rootfs.diff_ids).enumerate() {
        let origin = format!("{origin} layer {} ({content})", i + 1);
        layers.push(layer(archive, member, *content, origin)?);
    }
    let (name, config) = (origin.to_string(), Some(config.image_config()));
    Ok(Resolved { layers, name, digest, config })
}

fn read(archive: &Archive, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
    let member = archive.member(name)?;
    if member.bytes > bytes_max {
        let bytes = member.bytes;
        return Err(Error::input(format!("{name} has {bytes} bytes; {bytes_max} are read")));
    }
    read_range(archive.file(), member.offset, member.bytes)
}

/// A layer whose tar has the digest `content`. Where it is stored compressed, nothing vouches for
/// the stored bytes: they are hashed here, and the tar's digest is checked when it is read.
fn layer(archive: &Archive, member: &str, content: Digest, origin: String) -> Result<Layer> {
    let place = archive.member(member).map_err(|e| e.within(&origin))?;
    let mut layer = Layer {
        origin,
        file: archive.file().to_path_buf(),
        offset: place.offset,
        bytes: place.bytes,
        digest: content,
        content: None,
    };
    if layer.compression()? != Compression::None {
        layer.digest = layer.hash()?;
        layer.content = Some(content);
    }
    Ok(layer)
}

fn pick<'a>(images: &'a [DockerImage], name: Option<&str>) -> Result<&'a DockerImage> {
    let tags = |image: &DockerImage| image.repo_tags.clone().unwrap_or_default();
    let all: Vec<String> = images.iter().flat_map(tags).collect();
    let hint =
        format!("its names: {}", if all.is_empty() { "none".into() } else { all.join(", ") });
    let found = match (name, images) {
        (None, [only]) => return Ok(only),
        (None, []) => return Err(Error::input("it holds no image")),
        (None, _) => {
            return Err(Error::input("it holds several images; name one of them").hint(hint));
        }
        // Short names are written in full on both sides.
        (Some(name), images) => images.iter().find(|image| {
            let full = |tag: &String| tag.parse::<RegistryReference>().map(|r| r.to_string());
            tags(image).iter().any(|tag| tag == name || full(tag).is_ok_and(|tag| tag == name))
        }),
    };
    found.ok_or_else(|| {
        let name = name.unwrap_or_default();
        Error::input(format!("it holds no image named {name}")).hint(hint)
    })
}

/// A configuration is called by its digest; one that is called by another one was tampered with.
fn check_config_name(name: &str, digest: Digest) -> Result<()> {
    let stem = name.rsplit('/').next().unwrap_or(name);
    let stem = stem.strip_suffix(".json").unwrap_or(stem);
    match format!("sha256:{stem}").parse::<Digest>() {
        Ok(named) if named != digest => {
            Err(Error::trust(format!("expected {named}, found {digest}")).within(name))
        }
        _ => Ok(()),
    }
}
