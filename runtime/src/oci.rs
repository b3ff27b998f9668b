//! OCI images: from a reference to layers on local disk.

mod archive;
mod docker;
mod image;
mod layout;
mod reference;
mod registries;
mod registry;
mod wire;

use std::path::Path;

use crate::Progress;
use bundle::Arch;

use crate::Result;
use crate::cache::Cache;
use crate::layer::Resolved;
use archive::Archive;
use layout::Files;

pub use reference::{Pick, Reference, RegistryReference};
pub use registries::{REGISTRIES_VARIABLE, Registries};
pub use registry::{Blob, Credentials, Repository};
pub use wire::{OCI_INDEX, OCI_MANIFEST};

/// How images may be got: who we are, by which ways, and whether at all.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The log-ins.
    pub credentials: Credentials,
    /// Mirrors and what else is said about hosts.
    pub registries: Registries,
    /// Nothing is asked: what the cache has is all there is.
    pub offline: bool,
}

impl Access {
    /// The user's log-ins and registries, these from `file` where it is given.
    ///
    /// # Errors
    /// As [`Credentials::of_user`] and [`Registries::of_user`].
    pub fn of_user(file: Option<&Path>, offline: bool) -> Result<Access> {
        let registries = Registries::of_user(file)?;
        Ok(Access { credentials: Credentials::of_user()?, registries, offline })
    }

    /// Whether the mirrors of `reference`'s host may say what a tag means.
    pub fn takes_tags_from_mirrors(&self, reference: &RegistryReference) -> bool {
        self.registries.host(&reference.host).tags_from_mirrors
    }
}

/// Brings the image `reference` for `arch` to local disk: from a registry into `cache`; what is
/// on disk already is used where it is.
///
/// # Errors
/// Each names the reference. [`crate::Class::Input`] for an image that is not there, is for another
/// machine or breaks the format; [`crate::Class::Trust`] for wrong digests and refused credentials;
/// [`crate::Class::Network`] for servers that can not be reached or misbehave, and for what is
/// missing where `access` is offline.
pub fn resolve(
    reference: &Reference,
    arch: Arch,
    access: &Access,
    cache: &Cache,
    progress: &Progress,
) -> Result<Resolved> {
    let origin = reference.to_string();
    match reference {
        Reference::Layout { dir, pick } => {
            layout::resolve(&Files::Directory(dir.clone()), pick, arch, &origin)
        }
        Reference::OciArchive { file, pick } => {
            let files = Files::Archive(Archive::open(file)?);
            layout::resolve(&files, pick, arch, &origin)
        }
        Reference::DockerArchive { file, name } => {
            docker::resolve(&Archive::open(file)?, name.as_deref(), arch, &origin)
        }
        Reference::Registry(reference) => {
            registry::resolve(reference, arch, access, cache, progress)
        }
    }
}
