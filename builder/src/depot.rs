//! Depots that one can write to: the other half of [`imgrun::depot`].
//!
//! All that a commit needs is that of any number of writers who create one key at once, exactly one
//! is told that it did ([`Writable::put_new`]). [`probe`] finds out which places keep that promise.

mod artifacts;
mod directory;
pub mod probe;
mod s3;

use std::path::Path;

use imgrun::Stage;
use imgrun::catalog::Entry;
use imgrun::depot::{Chunked, Depot, Directory};

use crate::{Error, Result, oci};

pub use artifacts::Artifacts;
pub use imgrun::depot::Login;
pub use s3::Bucket;

/// What is put.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// A whole file of so many bytes; `stage` hears how far it is.
    File {
        /// The file.
        path: &'a Path,
        /// Its size in bytes.
        size: u64,
        /// Counts bytes.
        stage: &'a Stage,
    },
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there now, and was not before.
    Created,
    /// Something was there, and is as it was.
    Exists,
}

/// A file in a depot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was put, in seconds since 1970.
    pub modified: u64,
}

/// A depot that one can write to.
pub trait Writable: Depot {
    /// Puts a file where none is. It is there as a whole or not at all, and on disk when this
    /// returns. After an error nobody knows; another try finds out.
    ///
    /// # Errors
    /// Where the depot can not be reached or written.
    fn put_new(&self, key: &str, body: Body<'_>) -> Result<Put>;

    /// Puts a small file, whatever is there. Readers see the old or the new one.
    ///
    /// # Errors
    /// As [`Writable::put_new`].
    fn replace(&self, key: &str, bytes: &[u8]) -> Result<()>;

    /// The files whose keys begin with `prefix`, a whole directory: `targets/`.
    ///
    /// # Errors
    /// Where they can not be listed.
    fn list(&self, prefix: &str) -> Result<Vec<Listed>>;

    /// Removes a file; one that is not there is no error.
    ///
    /// # Errors
    /// Where it can not be removed.
    fn delete(&self, key: &str) -> Result<()>;

    /// Removes what puts that were cut more than `unused_seconds` ago have left; returns how many.
    ///
    /// # Errors
    /// Where that can not be found out.
    fn sweep(&self, unused_seconds: u64) -> Result<usize> {
        let _ = unused_seconds;
        Ok(0)
    }

    /// Whether [`Writable::put_new`] keeps its promise by what the depot is made of, or can not keep
    /// it; `None` where one has to try ([`probe`]).
    fn exclusive(&self) -> Option<bool> {
        None
    }

    /// Hears which bundles are published now, and which of them have `changed`, so that those are
    /// also found by other ways than the catalog, where a depot has any.
    ///
    /// # Errors
    /// As [`Writable::put_new`].
    fn announce(&self, published: &[Entry], changed: &[Entry]) -> Result<()> {
        let _ = (published, changed);
        Ok(())
    }
}

/// Opens the depot at `address` for writing.
///
/// # Errors
/// [`crate::Class::Usage`] for an address that is none, or can only be read.
pub fn open(address: &str) -> Result<Box<dyn Writable>> {
    if let Some(path) = address.strip_prefix("file:") {
        return Ok(Box::new(Directory::new(path)?));
    }
    if address.starts_with("s3:") {
        return Ok(Box::new(Bucket::new(address, None)?));
    }
    if address.starts_with("oci://") {
        return Ok(Box::new(Artifacts::open(address, &oci::Access::of_user(None, false)?)?));
    }
    if address.starts_with("http://") || address.starts_with("https://") {
        return Err(Error::usage(format!("{address}: web servers can only be read")));
    }
    Err(Error::usage(format!("{address}: no address of a store that can be written"))
        .hint("file:DIRECTORY, s3://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY"))
}

/// Opens the depot at `address` for reading: also a web server.
///
/// # Errors
/// As [`open`].
pub fn open_to_read(address: &str) -> Result<Box<dyn Depot>> {
    if address.starts_with("http://") || address.starts_with("https://") {
        return imgrun::depot::open(address);
    }
    let depot: Box<dyn Depot> = open(address)?;
    Ok(Box::new(Chunked::new(depot)))
}
