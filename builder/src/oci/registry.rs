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
//! session       requests, tokens, what answers mean    retry       when to try again
//! download      one blob into the cache
//! ```
//!
//! The requests are asynchronous on a runtime of their own within the calling thread; callers see
//! a synchronous function. A signal ([`imgrun::interrupt`]) ends it between any two bytes.

mod challenge;
mod credentials;
mod download;
mod retry;
mod session;

use std::future::Future;
use std::sync::Arc;

use bundle::{Arch, Digest};
use imgrun::{Progress, Unit, interrupt};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::image::Image;
use super::reference::RegistryReference;
use super::wire::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, MANIFEST_BYTES_MAX, OCI_INDEX, OCI_MANIFEST,
};
use crate::cache::Cache;
use crate::source::{Layer, Resolved};
use crate::{Error, Result};
use retry::{Failure, Tries};
use session::Session;

pub use credentials::Credentials;

/// Blobs that are fetched at once.
const DOWNLOADS_MAX: usize = 4;

/// Brings an image into `cache`.
pub(super) fn resolve(
    reference: &RegistryReference,
    arch: Arch,
    credentials: &Credentials,
    cache: &Cache,
    progress: &Progress,
) -> Result<Resolved> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::host("start an asynchronous runtime").because(e))?;
    let session = Arc::new(Session::new(reference, credentials)?);
    let about = |e: Error| e.within(reference);
    let (digest, top) = top(&runtime, &session, reference, cache, progress).map_err(about)?;
    let mut small = |blob: &Descriptor| small(&runtime, &session, blob, cache, progress);
    let image = Image::find(digest, &top, arch, &mut small).map_err(about)?;
    let layers = layers(reference, &image);
    let missing = layers.iter().filter(|(_, blob)| cache.find(&blob.digest, blob.size).is_none());
    let mut missing: Vec<_> = missing.cloned().collect();
    missing.sort_by_key(|(_, blob)| blob.digest);
    missing.dedup_by_key(|(_, blob)| blob.digest);
    run(&runtime, fetch_all(session, missing, cache.clone(), progress.clone()))?;
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

/// Runs to the end or to a signal.
fn run<T>(runtime: &Runtime, work: impl Future<Output = Result<T>>) -> Result<T> {
    interrupt::check()?;
    runtime.block_on(async {
        tokio::select! {
            result = work => result,
            () = signalled() => Err(Error::interrupted()),
        }
    })
}

/// Returns when a signal has come; never where none can be waited for.
async fn signalled() {
    // A socket that becomes readable. It is ours alone, but for its mode, which nobody minds.
    let watched = interrupt::fd().and_then(|fd| {
        let socket = std::os::unix::net::UnixStream::from(fd.try_clone_to_owned().ok()?);
        socket.set_nonblocking(true).ok()?;
        tokio::net::UnixStream::from_std(socket).ok()
    });
    match watched {
        // Any answer will do: an error must not keep a user from stopping us.
        Some(socket) => drop(socket.readable().await),
        None => std::future::pending().await,
    }
}

/// Calls `ask` until it answers, or another try does not help.
async fn patiently<T, F>(progress: &Progress, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut tries = Tries::default();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => tries.wait(failure, 0, progress).await?,
        }
    }
}

/// The index or manifest that the reference names. One with a digest that is in the cache is not
/// asked for.
fn top(
    runtime: &Runtime,
    session: &Session,
    reference: &RegistryReference,
    cache: &Cache,
    progress: &Progress,
) -> Result<(Digest, Vec<u8>)> {
    let cached = reference.digest.and_then(|d| Some((d, cache.read(&d, MANIFEST_BYTES_MAX)?)));
    if let Some(found) = cached {
        return Ok(found);
    }
    let name = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.clone().unwrap_or_default(),
    };
    let json = run(runtime, manifest(session, &name, progress))?;
    let digest = Digest::of(&json);
    if let Some(expected) = reference.digest
        && expected != digest
    {
        return Err(Error::trust(format!("expected {expected}, found {digest}")));
    }
    cache.put(&json)?;
    Ok((digest, json))
}

async fn manifest(session: &Session, name: &str, progress: &Progress) -> Result<Vec<u8>> {
    let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
    let path = format!("manifests/{name}");
    let ask = async || {
        let response = session.get(&path, &accept, 0).await?;
        session::body(response, MANIFEST_BYTES_MAX).await
    };
    patiently(progress, ask).await
}

/// A manifest or a configuration, from the cache or the registry. [`Image::find`] has checked its
/// size and checks its digest; in the cache it is only once both are right.
fn small(
    runtime: &Runtime,
    session: &Session,
    blob: &Descriptor,
    cache: &Cache,
    progress: &Progress,
) -> Result<Vec<u8>> {
    if let Some(found) = cache.read(&blob.digest, blob.size) {
        return Ok(found);
    }
    let digest = blob.digest.to_string();
    let bytes = if blob.is_manifest() {
        run(runtime, manifest(session, &digest, progress))?
    } else {
        let path = format!("blobs/{digest}");
        let ask = async || {
            let response = session.get(&path, "*/*", 0).await?;
            session::body(response, blob.size).await
        };
        run(runtime, patiently(progress, ask))?
    };
    if Digest::of(&bytes) == blob.digest {
        cache.put(&bytes)?;
    }
    Ok(bytes)
}

/// Fetches blobs, some at once. The first error ends it; the drafts of the others go with it.
async fn fetch_all(
    session: Arc<Session>,
    blobs: Vec<(String, Descriptor)>,
    cache: Cache,
    progress: Progress,
) -> Result<()> {
    let places = Arc::new(Semaphore::new(DOWNLOADS_MAX));
    let mut downloads = JoinSet::new();
    for (origin, blob) in blobs {
        let (session, cache, progress) = (session.clone(), cache.clone(), progress.clone());
        let places = places.clone();
        downloads.spawn(async move {
            let _place = places.acquire_owned().await;
            let title = format!("fetch {}", blob.digest.short());
            let stage = progress.stage(title, Unit::Bytes, Some(blob.size));
            let fetched = download::fetch(&session, &blob, &cache, &stage, &progress).await;
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
