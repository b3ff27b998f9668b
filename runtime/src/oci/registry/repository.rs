//! A repository to write to (OCI distribution specification 1.1, "Push"), and what a depot needs to
//! read there.

use std::io::{Read as _, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::retry::Failure;
use crate::{Progress, Stage};
use bundle::Digest;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LINK, LOCATION};
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode, Url};

use super::super::reference::RegistryReference;
use super::patiently;
use super::session::{Session, accept_status, body, broken, header, send};
use crate::oci::Access;
use crate::oci::registries::Place;
use crate::oci::wire::{MANIFEST_BYTES_MAX, OCI_INDEX, OCI_MANIFEST};
use crate::patience::{self, Loop};
use crate::{Error, Result};

/// A page of tags is at most this long.
const TAGS_BYTES_MAX: u64 = 8 << 20;
/// Tags asked for at a time.
const TAGS_PAGE: u32 = 1000;
/// A file goes up in pieces of this many bytes.
const PIECE_BYTES: usize = 256 << 10;

/// What goes into a blob.
#[derive(Debug)]
pub enum Blob<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// The bytes of a file.
    File {
        /// The file.
        path: &'a Path,
        /// How long it is.
        size: u64,
        /// Hears how far it is.
        stage: &'a Stage,
    },
}

/// One repository of a registry.
pub struct Repository {
    session: Session,
    place: Place,
    runtime: Loop,
    progress: Progress,
    /// It has sent a whole blob where a part was asked for.
    whole_only: AtomicBool,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repository({})", self.session.url(""))
    }
}

impl Repository {
    /// `reference`'s; its tag or digest do not matter.
    pub fn open(reference: &RegistryReference, access: &Access) -> Result<Self> {
        let place = Place { host: reference.host.clone(), prefix: String::new() };
        Self::at(place, reference, false, access)
    }

    /// The same repository in each of its host's mirrors.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn mirrors(reference: &RegistryReference, access: &Access) -> Result<Vec<Self>> {
        let mirrors = access.registries.host(&reference.host).mirrors.into_iter();
        mirrors.map(|place| Self::at(place, reference, true, access)).collect()
    }

    fn at(
        place: Place,
        reference: &RegistryReference,
        is_mirror: bool,
        access: &Access,
    ) -> Result<Self> {
        let session = Session::new(&place, &reference.repository, is_mirror, access)?;
        let (runtime, progress) = (Loop::start()?, Progress::silent());
        Ok(Repository { session, place, runtime, progress, whole_only: AtomicBool::new(false) })
    }

    /// The host that is spoken to, with what goes before the repository's name there.
    pub fn place(&self) -> String {
        match self.place.prefix.as_str() {
            "" => self.place.host.clone(),
            prefix => format!("{}/{prefix}", self.place.host),
        }
    }

    /// Whether parts of a blob come alone, as far as that is known.
    pub fn sends_parts(&self) -> bool {
        !self.whole_only.load(Ordering::Relaxed)
    }

    /// Asks until there is an answer; `None` for a 404.
    fn ask(&self, request: impl Fn(&Client) -> Result<RequestBuilder>) -> Result<Option<Response>> {
        let ask = async || answer(self.session.exchange(&request).await?).await;
        patience::run(self.runtime.get()?, patiently(&self.session, &self.progress, ask))
    }

    /// The manifest that `name`, a tag or digest, means, with its digest; `None` for none.
    pub fn manifest(&self, name: &str) -> Result<Option<(Digest, Vec<u8>)>> {
        let url = self.session.url(&format!("manifests/{name}"));
        let accept = format!("{OCI_MANIFEST}, {OCI_INDEX}");
        let ask = async || {
            let get = |client: &Client| Ok(client.get(&url).header(ACCEPT, &accept));
            match answer(self.session.exchange(get).await?).await? {
                Some(response) => body(response, MANIFEST_BYTES_MAX).await.map(Some),
                None => Ok(None),
            }
        };
        let bytes =
            patience::run(self.runtime.get()?, patiently(&self.session, &self.progress, ask))?;
        Ok(bytes.map(|bytes| (Digest::of(&bytes), bytes)))
    }

    /// Puts a manifest of type `media_type` under `name`: a tag, or its own digest.
    pub fn put_manifest(&self, name: &str, media_type: &str, json: &[u8]) -> Result<()> {
        let url = self.session.url(&format!("manifests/{name}"));
        let put = |client: &Client| {
            Ok(client.put(&url).header(CONTENT_TYPE, media_type).body(json.to_vec()))
        };
        self.ask(put)?.map(drop).ok_or_else(|| Error::input(format!("{url}: it is not taken")))
    }

    /// Removes what `digest` names, with all its tags.
    pub fn delete_manifest(&self, digest: &Digest) -> Result<()> {
        let url = self.session.url(&format!("manifests/{digest}"));
        self.ask(|client| Ok(client.delete(&url))).map(drop)
    }

    /// All tags.
    pub fn tags(&self) -> Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Page {
            // Null where the last tag was removed.
            tags: Option<Vec<String>>,
        }
        let mut url = self.session.url(&format!("tags/list?n={TAGS_PAGE}"));
        let mut tags = Vec::new();
        loop {
            let ask = async || {
                let get = |client: &Client| Ok(client.get(&url));
                let Some(response) = answer(self.session.exchange(get).await?).await? else {
                    return Ok(None);
                };
                let next = header(response.headers(), LINK).and_then(|link| next(&url, &link));
                Ok(Some((body(response, TAGS_BYTES_MAX).await?, next)))
            };
            let page =
                patience::run(self.runtime.get()?, patiently(&self.session, &self.progress, ask))?;
            let Some((json, next)) = page else { return Ok(tags) };
            let page: Page = serde_json::from_slice(&json)
                .map_err(|e| Error::network(format!("{url}: no list of tags")).because(e))?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) if self.session.is_own(&next) => url = next.to_string(),
                _ => return Ok(tags),
            }
        }
    }

    /// Copies bytes `range` of a blob of `size` bytes to `out`; returns how many, `None` where it is
    /// not there.
    pub fn read_blob(
        &self,
        digest: &Digest,
        range: Range<u64>,
        size: u64,
        out: &mut dyn Write,
    ) -> Result<Option<u64>> {
        let path = format!("blobs/{digest}");
        let mut at = range.start;
        patience::run(self.runtime.get()?, async {
            let mut tries = self.session.tries();
            loop {
                let before = at;
                match self.copy(&path, &mut at, range.end, size, out).await {
                    Ok(()) => return Ok(Some(at - range.start)),
                    Err(failure) => tries.wait(failure, at - before, &self.progress).await?,
                }
            }
        })
    }

    async fn copy(
        &self,
        path: &str,
        at: &mut u64,
        end: u64,
        size: u64,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let part = Some(*at..end).filter(|part| *part != (0..size));
        let mut response = self.session.get_part(path, "*/*", part.clone()).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(());
        }
        // A server that does not know ranges sends all of it.
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT { 0 } else { *at };
        if part.is_some() && response.status() != StatusCode::PARTIAL_CONTENT {
            self.whole_only.store(true, Ordering::Relaxed);
        }
        while *at < end {
            let chunk = response.chunk().await.map_err(|e| Failure::passing(broken(e), None))?;
            let Some(chunk) = chunk else { return Ok(()) };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let chunk = &chunk[skipped as usize..];
            let take = chunk.len().min(usize::try_from(end - *at).unwrap_or(usize::MAX));
            let written = out.write_all(&chunk[..take]);
            written.map_err(|e| Error::host("write what came").because(e))?;
            *at += take as u64;
        }
        // The connection serves the next request only if this answer was read to its end.
        if response.content_length().is_some() && self.sends_parts() {
            let _ = response.chunk().await;
        }
        Ok(())
    }

    /// Brings a blob there, unless it is.
    pub fn put_blob(&self, digest: &Digest, blob: &Blob<'_>) -> Result<()> {
        let url = self.session.url(&format!("blobs/{digest}"));
        if self.ask(|client| Ok(client.head(&url)))?.is_some() {
            return Ok(());
        }
        let ask = async || self.upload(digest, blob).await;
        patience::run(self.runtime.get()?, patiently(&self.session, &self.progress, ask))
    }

    /// One request that opens an upload, and one with all the bytes: every registry takes that.
    async fn upload(&self, digest: &Digest, blob: &Blob<'_>) -> Result<(), Failure> {
        let url = self.session.url("blobs/uploads/");
        let begin = |client: &Client| Ok(client.post(&url).header(CONTENT_LENGTH, 0));
        let begun = accept_status(self.session.exchange(begin).await?).await?;
        let location = header(begun.headers(), LOCATION);
        let location = location.and_then(|location| begun.url().join(&location).ok());
        let wrong = || Error::network(format!("{url}: no place to upload to"));
        let mut location = location.ok_or_else(wrong)?;
        location.query_pairs_mut().append_pair("digest", &digest.to_string());
        let put = |client: &Client| request(client, &location, blob);
        let response = match self.session.is_own(&location) {
            true => self.session.exchange(put).await?,
            false => send(put(&Client::new())?).await?,
        };
        accept_status(response).await.map(drop)
    }
}

/// The answer; `None` for what is not there.
async fn answer(response: Response) -> Result<Option<Response>, Failure> {
    if response.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    accept_status(response).await.map(Some)
}

fn request(client: &Client, url: &Url, blob: &Blob<'_>) -> Result<RequestBuilder> {
    let request = client.request(Method::PUT, url.clone());
    let request = request.header(CONTENT_TYPE, "application/octet-stream");
    Ok(match blob {
        Blob::Bytes(bytes) => request.body(bytes.to_vec()),
        Blob::File { path, size, stage } => {
            stage.set(0);
            let body = Body::wrap_stream(pieces(path)?);
            request.header(CONTENT_LENGTH, *size).body(body)
        }
    })
}

/// A file as a stream: read piece by piece, which a local disk does faster than any network asks.
fn pieces(
    path: &Path,
) -> Result<impl futures_core::Stream<Item = std::io::Result<Vec<u8>>> + use<>> {
    let mut file = std::fs::File::open(path).map_err(|e| Error::io(path.display(), e))?;
    Ok(Pieces(move || {
        let mut piece = vec![0; PIECE_BYTES];
        match file.read(&mut piece) {
            Ok(0) => None,
            Ok(n) => {
                piece.truncate(n);
                Some(Ok(piece))
            }
            Err(e) => Some(Err(e)),
        }
    }))
}

/// What a closure returns until it returns nothing.
struct Pieces<F>(F);

impl<F: FnMut() -> Option<std::io::Result<Vec<u8>>> + Unpin> futures_core::Stream for Pieces<F> {
    type Item = std::io::Result<Vec<u8>>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready((self.0)())
    }
}

/// The next page, as the header `Link: </v2/…>; rel="next"` names it.
fn next(url: &str, link: &str) -> Option<Url> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    let next = rest.contains("rel=\"next\"") || rest.contains("rel=next");
    if next { Url::parse(url).ok()?.join(target).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_where_the_link_says() {
        let url = "https://r.example/v2/a/tags/list?n=2";
        let link = "</v2/a/tags/list?last=b&n=2>; rel=\"next\"";
        let want = "https://r.example/v2/a/tags/list?last=b&n=2";
        assert_eq!(next(url, link).unwrap().as_str(), want);
        assert_eq!(next(url, "</v2/a>; rel=\"prev\""), None);
        assert_eq!(next(url, "nonsense"), None);
    }
}
