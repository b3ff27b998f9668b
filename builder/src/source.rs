//! Where a root file system comes from: every source becomes layers on local disk.

mod bootstrap;
mod layer;
mod pipe;
mod stdin;
mod tarball;

use bundle::{Arch, Digest};
use imgrun::Progress;

use crate::cache::Cache;
use crate::oci::{self, Access};
use crate::recipe::{Recipe, Source};
use crate::{Error, Result};

pub use layer::{Compression, Decompressed, LAYER_BYTES_MAX, Layer, Verified, into_error};
pub use pipe::Pipe;
pub use stdin::{Spooled, resolve as spool};
pub use tarball::resolve as tarball;

/// A source whose bytes are here.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The layers, the bottom one first.
    pub layers: Vec<Layer>,
    /// What it is called, for people: the image's reference, the tarball's name.
    pub name: String,
    /// The digest of the image's manifest (of its configuration for a docker-archive, which has no
    /// manifest), of the tarball as stored, or of the bootstrap's uncompressed tar.
    pub digest: Digest,
    /// How the image wants to be run, where it is an image.
    pub config: Option<ImageConfig>,
}

/// How an image wants to be run (OCI image specification, "config").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// More arguments, or the program where there is no entrypoint.
    pub cmd: Vec<String>,
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// The directory to start in; empty is `/`.
    pub workdir: String,
}

/// Brings the source of `recipe` for `arch` to local disk, as `access` allows. `refresh` makes a
/// bootstrap anew that is in the cache.
///
/// # Errors
/// As the source's kind has them; each names the source.
pub fn resolve(
    recipe: &Recipe,
    arch: Arch,
    refresh: bool,
    access: &Access,
    cache: &Cache,
    progress: &Progress,
) -> Result<Resolved> {
    match &recipe.source {
        Source::Bootstrap(bootstrap) => {
            let epoch = recipe.source_date_epoch;
            let epoch = epoch.ok_or_else(|| Error::bug("a bootstrap without source_date_epoch"))?;
            let want = bootstrap::Want { refresh, offline: access.offline };
            bootstrap::resolve(bootstrap, arch, epoch, want, cache, progress)
        }
        Source::Oci(reference) => oci::resolve(reference, arch, access, cache, progress),
        Source::Tarball(file) => tarball(file, progress),
    }
}

/// A tar header's checksum as it states it and as it is; `None` where the field is not octal.
pub(crate) fn tar_checksum(block: &[u8; 512]) -> Option<(u32, u32)> {
    let field = &block[148..156];
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    let stated = u32::from_str_radix(text, 8).ok()?;
    let rest = block[..148].iter().chain(&block[156..]);
    let found = rest.map(|&b| u32::from(b)).sum::<u32>() + 8 * u32::from(b' ');
    Some((stated, found))
}
