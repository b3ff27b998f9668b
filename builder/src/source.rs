//! Where a root file system comes from: every source becomes layers on local disk.

mod bootstrap;
mod stdin;
mod tarball;

use std::path::Path;

use bundle::{Arch, Digest};
use imgrun::Progress;

use crate::cache::Cache;
use crate::oci::{self, Access};
use crate::recipe::{Recipe, Source};
use crate::{Error, Result};

pub use imgrun::layer::{
    Compression, Decompressed, ImageConfig, LAYER_BYTES_MAX, Layer, Pipe, Resolved, Verified,
    into_error,
};
pub use stdin::{Spooled, resolve as spool};
pub use tarball::resolve as tarball;

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

/// A source that is one tar: the stored bytes of `file`, called `origin` in errors.
fn single(
    origin: String,
    name: String,
    file: &Path,
    bytes: u64,
    digest: Digest,
) -> Result<Resolved> {
    if bytes == 0 {
        return Err(Error::input(format!("{origin}: it is empty")));
    }
    let file = file.to_path_buf();
    let layer = Layer { origin, file, offset: 0, bytes, digest, content: None };
    layer.compression()?;
    Ok(Resolved { layers: vec![layer], name, digest, config: None })
}
