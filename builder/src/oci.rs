//! OCI images.
mod reference;
pub use reference::{Pick, Reference, RegistryReference};
/// TODO
pub fn resolve(
    _: &Reference,
    _: bundle::Arch,
    _: &crate::cache::Cache,
    _: &imgrun::Progress,
) -> crate::Result<crate::source::Resolved> {
    Err(crate::Error::bug("not yet"))
}
