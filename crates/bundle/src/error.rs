//! What can be wrong with a bundle's bytes.

use thiserror::Error;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why bytes are not a bundle, or text not one of its values.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Text that is not a digest, name, version or architecture.
    #[error("{what} {text:?} is not valid: {rule}")]
    Value {
        /// What it should have been: "digest", "name".
        what: &'static str,
        /// What it is.
        text: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The container or the manifest breaks the format.
    #[error("not a valid bundle: {0}")]
    Format(String),
    /// Bytes do not have the digest that they must have.
    #[error("{what}: expected {expected}, found {found}")]
    Digest {
        /// The file inside the bundle.
        what: String,
        /// What the manifest says.
        expected: crate::Digest,
        /// What the bytes have.
        found: crate::Digest,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    pub(crate) fn format(text: impl Into<String>) -> Self {
        Error::Format(text.into())
    }
}
