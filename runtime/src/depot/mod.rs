//! Where bundles are kept for others: a directory, a web server, a bucket, a registry.
//!
//! A depot knows nothing of bundles: it has files under keys. This is its reading half, which is
//! all that a host needs; writing is the builder's. (The [`Store`](crate::Store) is what this host
//! has taken in; a depot is where it comes from.)

pub mod artifacts;
mod chunked;
mod directory;
mod http;
mod s3;

use std::fmt::Debug;
use std::io::Write;
use std::ops::Range;

use crate::oci::Access;
use crate::{Error, Result};

pub use artifacts::Artifacts;
pub use chunked::{Chunked, chunks_key, frames_key};
pub use directory::Directory;
pub use http::Http;
pub use s3::{BucketAddress, Login, is_bare, open_bucket};

/// A key is at most this long.
const KEY_BYTES_MAX: usize = 512;

/// The reading half of a place that keeps files under keys.
pub trait Depot: Debug + Send + Sync {
    /// What errors call it: its address.
    fn title(&self) -> String;

    /// Copies the bytes `range` of the file under `key` to `out`, fewer where it ends before; never
    /// more, whatever the other side sends. Returns how many there were, or `None` for no file.
    ///
    /// # Errors
    /// Where the file can not be read, or `out` not written. What was copied is then worthless.
    fn read(&self, key: &str, range: Range<u64>, out: &mut dyn Write) -> Result<Option<u64>>;

    /// The size of the file under `key`, or `None` for no file.
    ///
    /// # Errors
    /// Where that can not be found out.
    fn size(&self, key: &str) -> Result<Option<u64>>;

    /// Whether the file under `key` is there with all that it is kept as: see [`Chunked`].
    ///
    /// # Errors
    /// As [`Depot::size`].
    fn is_whole(&self, key: &str) -> Result<bool> {
        Ok(self.size(key)?.is_some())
    }

    /// The whole file under `key`, if it has at most `bytes_max` bytes.
    ///
    /// # Errors
    /// As [`Depot::read`], and where it is longer.
    fn get(&self, key: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let found = self.read(key, 0..bytes_max.saturating_add(1), &mut bytes)?;
        bounded(self, key, bytes_max, found.map(|_| bytes))
    }

    /// Whether parts of a file come alone. Some web servers send all of it, whatever part is asked
    /// for; that is known once [`Depot::read`] was called.
    fn sends_parts(&self) -> bool {
        true
    }
}

fn bounded<D: Depot + ?Sized>(
    depot: &D,
    key: &str,
    bytes_max: u64,
    bytes: Option<Vec<u8>>,
) -> Result<Option<Vec<u8>>> {
    if bytes.as_ref().is_some_and(|bytes| bytes.len() as u64 > bytes_max) {
        let title = depot.title();
        return Err(Error::trust(format!("{title}: {key}: more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Refuses what could be anything but a plain path below the depot: `a/b.c`, of letters, digits and
/// `. _ + ~ -`.
///
/// # Errors
/// [`crate::Class::Bug`] for others: keys are made by us.
pub fn check_key(key: &str) -> Result<()> {
    let part = |part: &str| {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"._+~-".contains(&c);
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain)
    };
    if key.len() <= KEY_BYTES_MAX && key.split('/').all(part) {
        return Ok(());
    }
    Err(Error::bug(format!("{key:?} can not be a key")))
}

/// Opens the reading half of the depot at `address`: `file:/dir`, `http://…`, `https://…`,
/// `s3://…`, `oci://…`.
///
/// # Errors
/// [`crate::Class::Usage`] for another address, and where no client can be made.
pub fn open(address: &str) -> Result<Box<dyn Depot>> {
    let mut ways = ways(address)?;
    ways.pop().ok_or_else(|| Error::bug(format!("{address}: no way leads there")))
}

/// All ways to the depot at `address`, in the order in which to ask: the mirrors that this host knows
/// of a registry, and last what [`open`] gives.
///
/// # Errors
/// As [`open`].
pub fn ways(address: &str) -> Result<Vec<Box<dyn Depot>>> {
    let one = |depot: Box<dyn Depot>| -> Result<Vec<Box<dyn Depot>>> { Ok(vec![chunked(depot)]) };
    if let Some(path) = address.strip_prefix("file:") {
        return one(Box::new(Directory::new(path)?));
    }
    if address.starts_with("http://") || address.starts_with("https://") {
        return one(Box::new(Http::new(address)?));
    }
    if address.starts_with("s3:") {
        return one(Box::new(s3::open_bucket(address, None)?));
    }
    if address.starts_with("oci://") {
        let ways = Artifacts::ways(address, &Access::of_user(None, false)?)?;
        return Ok(ways.into_iter().map(|way| chunked(Box::new(way))).collect());
    }
    Err(Error::usage(format!("{address}: it is no file:, http:, https:, s3: or oci: address"))
        .hint("file:DIRECTORY, https://HOST/PATH, s3://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY"))
}

fn chunked(depot: Box<dyn Depot>) -> Box<dyn Depot> {
    Box::new(Chunked::new(depot))
}
