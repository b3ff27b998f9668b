//! Why an image can not be read.

use thiserror::Error;

/// `Result` with the reader's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image, or something in it, can not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No superblock of ext4.
    #[error("there is no ext4 file system in it")]
    NotExt4,
    /// The image is shorter than its file system.
    #[error("it is cut: it has {given} bytes of {needed}")]
    Truncated {
        /// Bytes that the file system takes.
        needed: u64,
        /// Bytes that there are.
        given: u64,
    },
    /// A right file system may have it, this reader does not know it.
    #[error("{place}: {what} can not be read")]
    Unsupported {
        /// Where it is.
        place: String,
        /// What it is.
        what: &'static str,
    },
    /// Bytes that no right file system has.
    #[error("it is damaged: {place}: {why}")]
    Damaged {
        /// Where: the superblock, a group, a block or an inode.
        place: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A path that leads nowhere, or to something of another kind than is wanted.
    #[error("{path:?} {why}")]
    Path {
        /// The path, lossily as text.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Reading the image failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    pub(super) fn superblock(why: &'static str) -> Self {
        Error::Damaged { place: "the superblock".into(), why }
    }

    pub(super) fn group(group: u64, why: &'static str) -> Self {
        Error::Damaged { place: format!("group {group}"), why }
    }

    pub(super) fn block(block: u64, why: &'static str) -> Self {
        Error::Damaged { place: format!("block {block}"), why }
    }

    pub(super) fn inode(inode: u32, why: &'static str) -> Self {
        Error::Damaged { place: format!("inode {inode}"), why }
    }

    pub(super) fn unsupported(inode: u32, what: &'static str) -> Self {
        Error::Unsupported { place: format!("inode {inode}"), what }
    }

    pub(super) fn path(path: &[u8], why: &'static str) -> Self {
        Error::Path { path: String::from_utf8_lossy(path).into_owned(), why }
    }
}
