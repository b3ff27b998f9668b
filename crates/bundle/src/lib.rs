//! What a bundle is: the packed file, its manifest, and the small values both are made of.
//!
//! A bundle is an ordinary `.tar.zst` (any `zstd -d | tar x` opens it) with `manifest.json` first
//! and the files that the manifest names after it, in its order. It is immutable and named by the
//! SHA-256 of the packed file. This crate reads and writes bytes; it touches no network and starts
//! no process. See [`Manifest`] for the fields and [`pack`]/[`unpack`] for the container.

mod arch;
mod digest;
mod error;
mod manifest;
mod name;
mod pack;
mod unpack;

pub use arch::Arch;
pub use digest::{Digest, Hasher, HashingReader, HashingWriter};
pub use error::{Error, Result};
pub use manifest::{AgentInfo, Boot, FileEntry, Init, Kind, Manifest, Reference, SCHEMA, Source};
pub use name::{Name, Version};
pub use pack::pack;
pub use unpack::{Contents, MANIFEST_BYTES_MAX, WINDOW_LOG_MAX, unpack};
