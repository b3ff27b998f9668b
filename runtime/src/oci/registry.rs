//! Images in registries (OCI distribution specification 1.1, "Pull"): a thin client of our own.
//!
//! Our own and not the crate oci-client, because of what that one leaves out and a pull can not do
//! without: every body is bounded (manifests 4 MiB, configurations 8 MiB, tokens 1 MiB), a blob's
//! download ends at the size that its descriptor names, a cut one goes on where it ended, 429 and
//! 5xx are tried again as `Retry-After` says, and a stalled server is given up. All of that is
//! policy around a handful of GET requests, which are the smaller part.
//!
//! ```text
//! credentials   log-ins from the user's files          challenge   what WWW-Authenticate asks for
//! helper        log-ins that a program keeps
//! session       requests, tokens, what answers mean    route       mirrors first, then the host
//! download      one blob into the cache                last        what a tag was when last asked
//! repository    writing: blobs, manifests, tags
//! ```
//!
//! The requests are asynchronous on a runtime of their own within the calling thread; callers see
//! a synchronous function. A signal ([`crate::interrupt`]) ends it between any two bytes.

mod challenge;
mod credentials;
mod download;
mod helper;
mod last;
mod repository;
mod route;
mod session;

use std::future::Future;
use std::sync::Arc;

use crate::retry::Failure;
use crate::{Progress, Stage, Unit};
use bundle::{Arch, Digest};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Access;
use super::image::Image;
use super::reference::RegistryReference;
use super::wire::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, MANIFEST_BYTES_MAX, OCI_INDEX, OCI_MANIFEST,
};
use crate::cache::Cache;
use crate::layer::{Layer, Resolved};
use crate::patience::run;
use crate::{Error, Result, date};
use last::Last;
use route::Route;
use session::Session;

pub use credentials::Credentials;
pub use repository::{Blob, Repository};

/// Blobs that are fetched at once.
const DOWNLOADS_MAX: usize = 4;

/// Brings an image into `cache`.
pub(super) fn resolve(
    reference: &RegistryReference,
    arch: Arch,
    access: &Access,
    cache: &Cache,
    progress: &Progress,
) -> Result<Resolved> {
    let online = if access.offline { None } else { Some(Online::new(reference, access)?) };
    let pull = Pull { online, reference, cache, progress };
    let about = |e: Error| e.within(reference);
    let (top_digest, top) = pull.top().map_err(about)?;
    let image = Image::find(top_digest, &top, arch, &mut |blob| pull.small(blob)).map_err(about)?;
    let layers = layers(reference, &image);
    pull.layers(&layers)?;
    if !access.offline {
        let blobs = image.layers.iter().map(|blob| blob.digest).collect();
        Last::new(reference, top_digest, blobs).save(cache)?;
    }
    let layers = layers.into_iter().map(|(origin, blob)| {
        let Descriptor { digest, size: bytes, .. } = blob;
        let file = cache.find(&digest, bytes);
        let file = file.ok_or_else(|| Error::host(format!("{origin}: it left the cache")))?;
        Ok(Layer { origin, file, offset: 0, bytes, digest, content: None })
    });
    Ok(Resolved {
        layers: layers.collect::<Result<_>>()?,
        name: reference.to_string(),
        digest: image.digest,
        config: Some(image.config),
    })
}

/// Each layer and what errors call it.
fn layers(reference: &RegistryReference, image: &Image) -> Vec<(String, Descriptor)> {
    let named =
        image.layers.iter().enumerate().map(|(i, blob)| {
            (format!("{reference} layer {} ({})", i + 1, blob.digest), blob.clone())
        });
    named.collect()
}

/// Calls `ask` until it answers, or another try does not help.
async fn patiently<T, F>(
    session: &Session,
    progress: &Progress,
    mut ask: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut tries = session.tries();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => tries.wait(failure, 0, progress).await?,
        }
    }
}

/// What it takes to ask.
struct Online {
    runtime: Runtime,
    route: Arc<Route>,
}

impl Online {
    fn new(reference: &RegistryReference, access: &Access) -> Result<Online> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::host("start an asynchronous runtime").because(e))?;
        let route = Route::new(reference, access).map_err(|e| e.within(reference))?;
        Ok(Online { runtime, route: Arc::new(route) })
    }
}

/// One image on its way into the cache.
struct Pull<'a> {
    /// `None`: the cache is all there is.
    online: Option<Online>,
    reference: &'a RegistryReference,
    cache: &'a Cache,
    progress: &'a Progress,
}

impl Pull<'_> {
    /// The index or manifest that the reference names. One with a digest that is in the cache is
    /// not asked for.
    fn top(&self) -> Result<(Digest, Vec<u8>)> {
        let Pull { reference, cache, progress, .. } = *self;
        let Some(online) = &self.online else { return self.last_top() };
        let cached = reference.digest.and_then(|d| Some((d, cache.read(&d, MANIFEST_BYTES_MAX)?)));
        if let Some(found) = cached {
            return Ok(found);
        }
        let name = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_default(),
        };
        let path = format!("manifests/{name}");
        let wanted = reference.digest.as_ref();
        let small = small(&online.route, &path, MANIFEST_BYTES_MAX, wanted, progress);
        let json = run(&online.runtime, small)?;
        let digest = Digest::of(&json);
        cache.put(&json)?;
        Ok((digest, json))
    }

    /// The same from the cache: a tag is what it was when it was last asked for.
    fn last_top(&self) -> Result<(Digest, Vec<u8>)> {
        let digest = match self.reference.digest {
            Some(digest) => digest,
            None => {
                let last = Last::find(self.reference, self.cache).ok_or_else(|| {
                    Error::network("offline: what its tag means was never asked from here")
                        .hint("pull it once without --offline")
                })?;
                let when = date::minute(last.resolved);
                let said = format!("offline: {} is {} as of {when}", self.reference, last.digest);
                self.progress.note(said);
                last.digest
            }
        };
        match self.cache.read(&digest, MANIFEST_BYTES_MAX) {
            Some(json) => Ok((digest, json)),
            None => Err(missing(&format!("its manifest {digest} is"))),
        }
    }

    /// A manifest or a configuration, from the cache or the registry. [`Image::find`] has checked
    /// its size and checks its digest; in the cache it is only once both are right.
    fn small(&self, blob: &Descriptor) -> Result<Vec<u8>> {
        if let Some(found) = self.cache.read(&blob.digest, blob.size) {
            return Ok(found);
        }
        let (digest, size) = (&blob.digest, blob.size);
        let (kind, what, max) = match blob.is_manifest() {
            true => ("manifests", "manifest", MANIFEST_BYTES_MAX),
            false => ("blobs", "configuration", size),
        };
        let Some(online) = &self.online else {
            return Err(missing(&format!("its {what} {digest} is")));
        };
        let path = format!("{kind}/{digest}");
        let bytes =
            run(&online.runtime, small(&online.route, &path, max, Some(digest), self.progress))?;
        self.cache.put(&bytes)?;
        Ok(bytes)
    }

    /// Brings the layers that are not in the cache.
    fn layers(&self, layers: &[(String, Descriptor)]) -> Result<()> {
        let cache = self.cache;
        let mut absent: Vec<_> = layers
            .iter()
            .filter(|(_, blob)| cache.find(&blob.digest, blob.size).is_none())
            .cloned()
            .collect();
        absent.sort_by_key(|(_, blob)| blob.digest);
        absent.dedup_by_key(|(_, blob)| blob.digest);
        match &self.online {
            Some(Online { runtime, route }) => {
                run(runtime, fetch_all(route.clone(), absent, cache.clone(), self.progress.clone()))
            }
            None if absent.is_empty() => Ok(()),
            None => {
                let names: Vec<_> = absent.iter().map(|(_, b)| b.digest.to_string()).collect();
                let (n, all, names) = (names.len(), layers.len(), names.join(", "));
                Err(missing(&format!("{n} of its {all} layers ({names}) are"))
                    .within(self.reference))
            }
        }
    }
}

/// `what` with its verb: `its manifest … is`.
fn missing(what: &str) -> Error {
    Error::network(format!("offline: {what} not in the cache"))
        .hint("pull it once without --offline")
}

/// A small thing of at most `bytes_max` bytes: from a mirror, where it has the digest `wanted`; else
/// from the host. A wrong digest there is an error, too.
async fn small(
    route: &Route,
    path: &str,
    bytes_max: u64,
    wanted: Option<&Digest>,
    progress: &Progress,
) -> Result<Vec<u8>> {
    for mirror in route.mirrors(wanted.is_none()) {
        match small_from(mirror, path, bytes_max, wanted, progress).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => mirror.dismiss(&error, progress),
        }
    }
    small_from(route.host(), path, bytes_max, wanted, progress).await
}

async fn small_from(
    session: &Session,
    path: &str,
    bytes_max: u64,
    wanted: Option<&Digest>,
    progress: &Progress,
) -> Result<Vec<u8>> {
    let accept = match path.starts_with("manifests/") {
        true => [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", "),
        false => "*/*".to_string(),
    };
    let ask = async || {
        let response = session.get(path, &accept, 0).await?;
        session::body(response, bytes_max).await
    };
    let bytes = patiently(session, progress, ask).await?;
    let found = Digest::of(&bytes);
    match wanted {
        Some(wanted) if *wanted != found => {
            Err(Error::trust(format!("expected {wanted}, found {found}")))
        }
        _ => Ok(bytes),
    }
}

/// Fetches blobs, some at once. The first error ends it; the drafts of the others go with it.
async fn fetch_all(
    route: Arc<Route>,
    blobs: Vec<(String, Descriptor)>,
    cache: Cache,
    progress: Progress,
) -> Result<()> {
    let places = Arc::new(Semaphore::new(DOWNLOADS_MAX));
    let mut downloads = JoinSet::new();
    for (origin, blob) in blobs {
        let (route, cache, progress) = (route.clone(), cache.clone(), progress.clone());
        let places = places.clone();
        downloads.spawn(async move {
            let _place = places.acquire_owned().await;
            let title = format!("fetch {}", blob.digest.short());
            let stage = progress.stage(title, Unit::Bytes, Some(blob.size));
            let fetched = fetch(&route, &blob, &cache, &stage, &progress).await;
            fetched.map_err(|e| e.within(origin))?;
            stage.finish("fetched");
            Ok::<(), Error>(())
        });
    }
    while let Some(done) = downloads.join_next().await {
        done.map_err(|e| Error::bug("a download broke").because(e))??;
    }
    Ok(())
}

/// One blob, from the first that has it right.
async fn fetch(
    route: &Route,
    blob: &Descriptor,
    cache: &Cache,
    stage: &Stage,
    progress: &Progress,
) -> Result<()> {
    for mirror in route.mirrors(false) {
        match download::fetch(mirror, blob, cache, stage, progress).await {
            Ok(_) => return Ok(()),
            Err(error) => mirror.dismiss(&error, progress),
        }
    }
    download::fetch(route.host(), blob, cache, stage, progress).await.map(drop)
}
