//! Images in the OCI image layout (OCI image specification, "image-layout"): a directory, or the
//! same in a tar that is read in place.

use std::fs::File;
use std::path::{Path, PathBuf};

use bundle::{Arch, Digest};
use serde::Deserialize;

use super::archive::Archive;
use super::image::Image;
use super::reference::Pick;
use super::wire::{CONFIG_BYTES_MAX, Descriptor, MANIFEST_BYTES_MAX};
use crate::layer::{Layer, Resolved};
use crate::{Error, Result};

/// The layout's mark is at most this many bytes long.
const MARK_BYTES_MAX: u64 = 4096;
const MARK: &str = "oci-layout";
const INDEX: &str = "index.json";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    image_layout_version: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// Where a layout's files are.
pub(super) enum Files {
    Directory(PathBuf),
    Archive(Archive),
}

/// Some bytes on disk.
struct Place {
    file: PathBuf,
    offset: u64,
    bytes: u64,
}

impl Files {
    /// # Errors
    /// Where there is no such file: without the layout's own name.
    fn find(&self, name: &str) -> Result<Place> {
        match self {
            Files::Directory(dir) => {
                let file = dir.join(name);
                let found = std::fs::metadata(&file).map_err(|e| Error::io(name, e))?;
                if !found.is_file() {
                    return Err(Error::input(format!("{name} is not a regular file")));
                }
                Ok(Place { file, offset: 0, bytes: found.len() })
            }
            Files::Archive(archive) => {
                let member = archive.member(name)?;
                let (offset, bytes) = (member.offset, member.bytes);
                Ok(Place { file: archive.file().to_path_buf(), offset, bytes })
            }
        }
    }

    /// A small file.
    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        let place = self.find(name)?;
        if place.bytes > bytes_max {
            let bytes = place.bytes;
            return Err(Error::input(format!("{name} has {bytes} bytes; {bytes_max} are read")));
        }
        read_range(&place.file, place.offset, place.bytes).map_err(|e| e.within(name))
    }
}

/// `bytes` bytes of `file` from `offset` on.
pub(super) fn read_range(file: &Path, offset: u64, bytes: u64) -> Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let about = |e| Error::io(file.display(), e);
    let mut content = vec![0; usize::try_from(bytes).map_err(|_| Error::input("too large"))?];
    let opened = File::open(file).map_err(about)?;
    opened.read_exact_at(&mut content, offset).map_err(about)?;
    Ok(content)
}

/// The image that `pick` picks; `origin` names it in errors.
pub(super) fn resolve(files: &Files, pick: &Pick, arch: Arch, origin: &str) -> Result<Resolved> {
    let about = |e: Error| e.within(origin);
    let mark: Mark = serde_json::from_slice(&files.read(MARK, MARK_BYTES_MAX).map_err(about)?)
        .map_err(|e| Error::input(format!("{origin}: {MARK}")).because(e))?;
    if !mark.image_layout_version.starts_with("1.") {
        let version = mark.image_layout_version;
        return Err(Error::input(format!("{origin}: layout version {version:?} is not known")));
    }
    let index = files.read(INDEX, MANIFEST_BYTES_MAX).map_err(about)?;
    let (digest, top) = top(files, &index, pick).map_err(about)?;
    let mut small = |descriptor: &Descriptor| {
        files.read(&blob(&descriptor.digest), MANIFEST_BYTES_MAX.max(CONFIG_BYTES_MAX))
    };
    let image = Image::find(digest, &top, arch, &mut small).map_err(about)?;
    let mut layers = Vec::new();
    for (i, descriptor) in image.layers.iter().enumerate() {
        let origin = format!("{origin} layer {} ({})", i + 1, descriptor.digest);
        let place = files.find(&blob(&descriptor.digest)).map_err(|e| e.within(&origin))?;
        if place.bytes != descriptor.size {
            let (found, wanted) = (place.bytes, descriptor.size);
            let kind = if found < wanted { "is truncated" } else { "is too long" };
            return Err(Error::input(format!("{origin} {kind}: {found} bytes of {wanted}")));
        }
        let Place { file, offset, bytes } = place;
        layers.push(Layer {
            origin,
            file,
            offset,
            bytes,
            digest: descriptor.digest,
            content: None,
        });
    }
    let (name, digest) = (origin.to_string(), image.digest);
    Ok(Resolved { layers, name, digest, config: Some(image.config) })
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The index or manifest that `pick` picks.
fn top(files: &Files, index: &[u8], pick: &Pick) -> Result<(Digest, Vec<u8>)> {
    let parsed: Index =
        serde_json::from_slice(index).map_err(|e| Error::input(INDEX).because(e))?;
    let images: Vec<_> = parsed.manifests.iter().filter(|entry| entry.is_image()).collect();
    let digest = match pick {
        Pick::Digest(digest) => *digest,
        Pick::Only => match images[..] {
            [] => return Err(Error::input("it holds no image")),
            [only] => only.digest,
            // Several without tags are one image for several machines.
            _ if images.iter().all(|i| i.tag().is_none() && i.platform.is_some()) => {
                return Ok((Digest::of(index), index.to_vec()));
            }
            _ => {
                return Err(Error::input("it holds several images; name one of them")
                    .hint(format!("its tags: {}", tags(&images))));
            }
        },
        Pick::Tag(tag) => {
            let mut tagged = images.iter().filter(|i| i.tag() == Some(tag));
            match (tagged.next(), tagged.next()) {
                (Some(image), None) => image.digest,
                (Some(_), Some(_)) => {
                    return Err(Error::input(format!("it holds several images tagged {tag:?}")));
                }
                (None, _) => {
                    return Err(Error::input(format!("it holds no image tagged {tag:?}"))
                        .hint(format!("its tags: {}", tags(&images))));
                }
            }
        }
    };
    let json = files.read(&blob(&digest), MANIFEST_BYTES_MAX)?;
    let found = Digest::of(&json);
    if found != digest {
        return Err(Error::trust(format!("expected {digest}, found {found}")));
    }
    Ok((digest, json))
}

fn tags(images: &[&Descriptor]) -> String {
    let all: Vec<_> = images.iter().filter_map(|image| image.tag()).collect();
    if all.is_empty() { "none".to_string() } else { all.join(", ") }
}
