//! Why an image can not be written.

use thiserror::Error;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image can not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The content does not fit into the size asked for.
    #[error("the file system needs at least {needed} bytes, {given} were given")]
    TooSmall {
        /// Bytes needed, as far as is known by now.
        needed: u64,
        /// Bytes given.
        given: u64,
    },
    /// More content than the format, or the room kept for descriptors, can hold.
    #[error("{what} is {value}, at most {max} is possible")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The limit.
        max: u64,
    },
    /// A name that can not be a directory entry.
    #[error("{name:?} can not be a file name: {why}")]
    Name {
        /// The name, lossily as text.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An extended attribute that ext4 can not hold.
    #[error("extended attribute {name:?}: {why}")]
    Xattr {
        /// The attribute's name, lossily as text.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A time outside of 1901 to 2446.
    #[error("the time {seconds} s after 1970 can not be stored (1901 to 2446 can)")]
    Time {
        /// Seconds since 1970.
        seconds: i64,
    },
    /// A tree that is not one: an unknown node, or a directory with two parents or none.
    #[error("not a tree: {0}")]
    Tree(&'static str),
    /// Writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    pub(crate) fn name(name: &[u8], why: &'static str) -> Self {
        Error::Name { name: String::from_utf8_lossy(name).into_owned(), why }
    }

    pub(crate) fn xattr(name: &[u8], why: &'static str) -> Self {
        Error::Xattr { name: String::from_utf8_lossy(name).into_owned(), why }
    }
}
