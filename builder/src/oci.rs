//! OCI images.
mod reference;
pub use reference::{Pick, Reference, RegistryReference};
