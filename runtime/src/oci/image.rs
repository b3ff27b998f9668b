//! From the top of an image (an index or a manifest) to its layers, wherever its blobs are.

use bundle::{Arch, Digest};

use super::wire::{
    CONFIG_BYTES_MAX, Config, Descriptor, MANIFEST_BYTES_MAX, Manifest, Platform, Top,
};
use crate::layer::ImageConfig;
use crate::{Error, Result};

/// Indexes inside indexes, at most this deep.
const INDEX_DEPTH_MAX: usize = 4;

/// An image for one architecture: all but its layers' bytes.
#[derive(Debug)]
pub(super) struct Image {
    /// The manifest's digest.
    pub(super) digest: Digest,
    /// The layers, the bottom one first.
    pub(super) layers: Vec<Descriptor>,
    pub(super) config: ImageConfig,
}

impl Image {
    /// Follows `top`, whose digest is `digest`, to the image for `arch`. `small` gets an index, a
    /// manifest or a configuration of at most so many bytes; what it gives is checked here.
    ///
    /// # Errors
    /// Where there is no image for `arch`, or any of it is wrong. They do not name the image.
    pub(super) fn find(
        digest: Digest,
        top: &[u8],
        arch: Arch,
        small: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>>,
    ) -> Result<Image> {
        let mut small = |descriptor: &Descriptor, bytes_max| {
            check_size(descriptor, bytes_max)?;
            check_blob(small(descriptor)?, descriptor)
        };
        let (mut digest, mut json) = (digest, top.to_vec());
        for _ in 0..INDEX_DEPTH_MAX {
            match Top::parse(&json)? {
                Top::Manifest(manifest) => {
                    let config = small(&manifest.config, CONFIG_BYTES_MAX)?;
                    return Self::of_manifest(digest, manifest, &config, arch);
                }
                Top::Index(entries) => {
                    let entry = select(&entries, arch)?;
                    json = small(entry, MANIFEST_BYTES_MAX)?;
                    digest = entry.digest;
                }
            }
        }
        Err(Error::input(format!("its indexes are nested more than {INDEX_DEPTH_MAX} deep")))
    }

    fn of_manifest(digest: Digest, manifest: Manifest, config: &[u8], arch: Arch) -> Result<Image> {
        let config = Config::parse(config, arch, manifest.layers.len())?.image_config();
        if manifest.layers.iter().any(|layer| layer.urls.as_ref().is_some_and(|u| !u.is_empty())) {
            return Err(Error::input("it has layers that are kept elsewhere (foreign layers)"));
        }
        Ok(Image { digest, layers: manifest.layers, config })
    }
}

fn check_size(descriptor: &Descriptor, bytes_max: u64) -> Result<()> {
    if descriptor.size <= bytes_max {
        return Ok(());
    }
    let Descriptor { digest, size, .. } = descriptor;
    Err(Error::input(format!("{digest} has {size} bytes; {bytes_max} at most are read")))
}

/// The bytes again if they are what the descriptor says.
fn check_blob(bytes: Vec<u8>, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let (size, found) = (bytes.len() as u64, Digest::of(&bytes));
    if size != descriptor.size {
        let expected = descriptor.size;
        return Err(Error::trust(format!(
            "{} has {size} bytes instead of {expected}",
            descriptor.digest
        )));
    }
    if found != descriptor.digest {
        return Err(Error::trust(format!("expected {}, found {found}", descriptor.digest)));
    }
    Ok(bytes)
}

/// The entry of an index that is for `arch`. An entry without a platform is taken where it is the
/// only one: its configuration tells.
fn select(entries: &[Descriptor], arch: Arch) -> Result<&Descriptor> {
    let images: Vec<_> = entries.iter().filter(|entry| entry.is_image()).collect();
    let fits = |entry: &&&Descriptor| entry.platform.as_ref().is_some_and(|p| p.is(arch));
    if let Some(entry) = images.iter().find(fits) {
        return Ok(entry);
    }
    if let [only] = images[..]
        && only.platform.as_ref().is_none_or(|p| p.architecture.is_empty())
    {
        return Ok(only);
    }
    let platforms = images.iter().filter_map(|entry| entry.platform.as_ref());
    let mut there: Vec<String> = platforms.map(Platform::to_string).collect();
    there.sort();
    there.dedup();
    let list = if there.is_empty() { "none".to_string() } else { there.join(", ") };
    let wanted = arch.oci_name();
    Err(Error::input(format!("it has no image for linux/{wanted}; there are: {list}")))
}
