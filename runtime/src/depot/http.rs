//! `http:` and `https:`: any web server, read only; a CDN in front of a bucket, for instance.
//!
//! The requests are asynchronous on a runtime of their own within the calling thread, so this must
//! not be called from asynchronous code directly (`tokio::task::spawn_blocking` will do).

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use tokio::runtime::Runtime;

use super::{Depot, check_key};
use crate::{Error, Result};

/// A server has this long to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server may be silent for this long.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Within every [`STALL_TIMEOUT`] at least so many bytes have to come.
const STALL_BYTES: u64 = 16 << 10;
/// Tries of one request.
const TRIES_MAX: u32 = 4;
/// The wait before the second try; it doubles with each further one.
const WAIT_FIRST: Duration = Duration::from_millis(300);
/// Answers that send us on, at most.
const REDIRECTS_MAX: usize = 5;

/// A web server's directory.
#[derive(Clone, Debug)]
pub struct Http {
    base: Url,
    client: Client,
    /// One for all requests: connections live in it.
    runtime: Arc<Runtime>,
}

/// Whether another try may help.
enum Failure {
    Final(Error),
    Passing(Error),
}

impl Http {
    /// Below `address`.
    ///
    /// # Errors
    /// [`crate::Class::Usage`] for no URL, or one with a query.
    pub fn new(address: &str) -> Result<Self> {
        let wrong = |why: &str| Error::usage(format!("{address}: {why}"));
        let mut base = Url::parse(address).map_err(|e| wrong(&e.to_string()))?;
        if base.query().is_some() || base.fragment().is_some() || base.cannot_be_a_base() {
            return Err(wrong("a plain address is wanted, without ? and #"));
        }
        let path = format!("{}/", base.path().trim_end_matches('/'));
        base.set_path(&path);
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(STALL_TIMEOUT)
            .user_agent(concat!("imgrun/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::custom(follow))
            .build()
            .map_err(|e| Error::host("start a web client").because(e))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::host("start an asynchronous runtime").because(e))?;
        Ok(Http { base, client, runtime: Arc::new(runtime) })
    }

    fn url(&self, key: &str) -> Result<Url> {
        check_key(key)?;
        // S3 and others take a bare + in a path for a space.
        let url = self.base.join(&key.replace('+', "%2B"));
        url.map_err(|e| Error::bug(format!("{key}: {e}")))
    }

    async fn send(&self, url: &Url, head: bool, from: u64) -> Result<Option<Response>, Failure> {
        let request =
            if head { self.client.head(url.clone()) } else { self.client.get(url.clone()) };
        let mut request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let about = |e: reqwest::Error| Error::network(url.to_string()).because(e.without_url());
        let response = request.send().await.map_err(|e| match e.is_redirect() {
            true => Failure::Final(about(e)),
            false => Failure::Passing(about(e)),
        })?;
        let status = response.status();
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(Some(response)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            // Private buckets say so of what is not there, where listing is not allowed.
            StatusCode::FORBIDDEN => Ok(None),
            _ => {
                let error = Error::network(format!("{url}: {status}"));
                let passing = status.is_server_error()
                    || matches!(
                        status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    );
                Err(if passing { Failure::Passing(error) } else { Failure::Final(error) })
            }
        }
    }

    /// Copies from `start` on, at most up to `end`; `start` follows what was written.
    async fn copy(
        &self,
        url: &Url,
        start: &mut u64,
        end: u64,
        out: &mut dyn Write,
    ) -> Result<bool, Failure> {
        let wrong = |why: &str| Error::network(format!("{url}: {why}"));
        let Some(mut response) = self.send(url, false, *start).await? else { return Ok(false) };
        let mut skip = *start;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = response.headers().get(CONTENT_RANGE).and_then(|r| r.to_str().ok());
            if !range.is_some_and(|r| r.starts_with(&format!("bytes {start}-"))) {
                return Err(Failure::Final(wrong("it sent another part than was asked for")));
            }
            skip = 0;
        }
        let (mut since, mut came) = (Instant::now(), 0);
        while *start < end {
            let chunk = response.chunk().await.map_err(|e| {
                Failure::Passing(wrong("the answer was cut").because(e.without_url()))
            })?;
            let Some(chunk) = chunk else { break };
            came += chunk.len() as u64;
            if came >= STALL_BYTES {
                (since, came) = (Instant::now(), 0);
            } else if since.elapsed() > STALL_TIMEOUT {
                return Err(Failure::Final(wrong("next to nothing comes from it")));
            }
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let chunk = &chunk[skipped as usize..];
            let take = chunk.len().min(usize::try_from(end - *start).unwrap_or(usize::MAX));
            let written = out.write_all(&chunk[..take]);
            written.map_err(|e| Failure::Final(Error::host("write what came").because(e)))?;
            *start += take as u64;
        }
        Ok(true)
    }
}

/// The waits between the tries, then the error.
async fn wait(tries: &mut u32, failure: Failure) -> Result<()> {
    *tries += 1;
    match failure {
        Failure::Passing(_) if *tries < TRIES_MAX => {
            tokio::time::sleep(WAIT_FIRST * (1 << (*tries - 1))).await;
            Ok(())
        }
        Failure::Passing(error) | Failure::Final(error) => Err(error),
    }
}

/// https may not send us to http.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let was_https = attempt.previous().iter().any(|url| url.scheme() == "https");
    if was_https && attempt.url().scheme() != "https" {
        attempt.error("it sends us on to a place without https")
    } else if attempt.previous().len() > REDIRECTS_MAX {
        attempt.error("it sends us on too often")
    } else {
        attempt.follow()
    }
}

impl Depot for Http {
    fn title(&self) -> String {
        self.base.to_string().trim_end_matches('/').to_string()
    }

    fn read(&self, key: &str, range: Range<u64>, out: &mut dyn Write) -> Result<Option<u64>> {
        let url = self.url(key)?;
        let end = range.end.max(range.start);
        self.runtime.block_on(async {
            let (mut at, mut tries) = (range.start, 0);
            loop {
                match self.copy(&url, &mut at, end, out).await {
                    Ok(true) => return Ok(Some(at - range.start)),
                    Ok(false) => return Ok(None),
                    Err(failure) => wait(&mut tries, failure).await?,
                }
            }
        })
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        let url = self.url(key)?;
        self.runtime.block_on(async {
            let mut tries = 0;
            let response = loop {
                match self.send(&url, true, 0).await {
                    Ok(response) => break response,
                    Err(failure) => wait(&mut tries, failure).await?,
                }
            };
            let Some(response) = response else { return Ok(None) };
            let length = response.headers().get(reqwest::header::CONTENT_LENGTH);
            let length = length.and_then(|l| l.to_str().ok()?.parse().ok());
            length.map(Some).ok_or_else(|| Error::network(format!("{url}: it names no size")))
        })
    }
}
