//! The ways to one repository: its host's mirrors, then the host itself.

use super::session::Session;
use crate::Result;
use crate::oci::registries::Place;
use crate::oci::{Access, RegistryReference};

/// Where a repository is to be had.
pub(super) struct Route {
    mirrors: Vec<Session>,
    host: Session,
    tags_from_mirrors: bool,
}

impl Route {
    pub(super) fn new(reference: &RegistryReference, access: &Access) -> Result<Route> {
        let host = access.registries.host(&reference.host);
        let session = |place: &Place, is_mirror| {
            Session::new(place, &reference.repository, is_mirror, access)
        };
        let itself = Place { host: reference.host.clone(), prefix: String::new() };
        let mirrors = host.mirrors.iter().map(|place| session(place, true));
        Ok(Route {
            mirrors: mirrors.collect::<Result<_>>()?,
            host: session(&itself, false)?,
            tags_from_mirrors: host.tags_from_mirrors,
        })
    }

    /// The mirrors that are to be asked first; for a tag, which no digest vouches for, usually none.
    pub(super) fn mirrors(&self, is_tag: bool) -> impl Iterator<Item = &Session> {
        let asked = !is_tag || self.tags_from_mirrors;
        self.mirrors.iter().filter(move |mirror| asked && mirror.is_in())
    }

    /// Who is asked last, and whose errors count.
    pub(super) fn host(&self) -> &Session {
        &self.host
    }
}
