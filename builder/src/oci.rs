//! OCI images: from a reference to layers on local disk.

mod archive;
mod docker;
mod image;
mod layout;
mod reference;
mod registry;
mod wire;

use bundle::Arch;
use imgrun::Progress;

use crate::Result;
use crate::cache::Cache;
use crate::source::Resolved;
use archive::Archive;
use layout::Files;

pub use reference::{Pick, Reference, RegistryReference};
pub use registry::Credentials;

/// Brings the image `reference` for `arch` to local disk: from a registry into `cache`; what is
/// on disk already is used where it is.
///
/// # Errors
/// Each names the reference. [`crate::Class::Input`] for an image that is not there, is for another
/// machine or breaks the format; [`crate::Class::Trust`] for wrong digests and refused credentials;
/// [`crate::Class::Network`] for servers that can not be reached or misbehave.
pub fn resolve(
    reference: &Reference,
    arch: Arch,
    cache: &Cache,
    progress: &Progress,
) -> Result<Resolved> {
    let credentials = match reference {
        Reference::Registry(_) => Credentials::of_user()?,
        _ => Credentials::none(),
    };
    resolve_as(reference, arch, &credentials, cache, progress)
}

/// As [`resolve`], with these log-ins instead of the user's.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_as(
    reference: &Reference,
    arch: Arch,
    credentials: &Credentials,
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
            registry::resolve(reference, arch, credentials, cache, progress)
        }
    }
}
