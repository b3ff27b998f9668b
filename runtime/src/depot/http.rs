//! `http:` and `https:`: any web server, read only; a CDN in front of a bucket, for instance.
//!
//! The requests are asynchronous on a runtime of their own within the calling thread, so this must
//! not be called from asynchronous code directly (`tokio::task::spawn_blocking` will do).

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url, redirect};

use super::s3::Signer;
use super::{Depot, check_key};
use crate::patience::Loop;
use crate::retry::{Failure, Tries, retry_after};
use crate::{Error, Progress, Result};

/// A server has this long to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server may be silent for this long.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Within every [`STALL_TIMEOUT`] at least so many bytes have to come.
const STALL_BYTES: u64 = 16 << 10;
/// What is read of a refusal.
const REFUSAL_BYTES_MAX: usize = 4 << 10;
/// Answers that send us on, at most.
const REDIRECTS_MAX: usize = 5;

/// A web server's directory.
#[derive(Clone, Debug)]
pub struct Http {
    base: Url,
    client: Client,
    /// One for all requests: connections live in it.
    runtime: Arc<Loop>,
    signer: Option<Signer>,
    /// It has sent a whole file where a part was asked for.
    whole_only: Arc<AtomicBool>,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq)]
enum Ask {
    /// Nothing but the headers.
    Head,
    /// The file.
    Whole,
    /// Its bytes from here to there, not included.
    Part(u64, u64),
}

impl Http {
    /// Below `address`.
    ///
    /// # Errors
    /// [`crate::Class::Usage`] for no URL, or one with a query.
    pub fn new(address: &str) -> Result<Self> {
        Self::signed(address, None)
    }

    /// The same with signed requests.
    pub(super) fn signed(address: &str, signer: Option<Signer>) -> Result<Self> {
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
        let runtime = Arc::new(Loop::start()?);
        Ok(Http { base, client, runtime, signer, whole_only: Arc::default() })
    }

    fn url(&self, key: &str) -> Result<Url> {
        check_key(key)?;
        // S3 and others take a bare + in a path for a space.
        let url = self.base.join(&key.replace('+', "%2B"));
        url.map_err(|e| Error::bug(format!("{key}: {e}")))
    }

    async fn send(&self, url: &Url, ask: Ask) -> Result<Option<Response>, Failure> {
        let mut request = match ask {
            Ask::Head => self.client.head(url.clone()),
            Ask::Whole | Ask::Part(..) => self.client.get(url.clone()),
        };
        request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Ask::Part(start, end) = ask {
            request = request.header(RANGE, format!("bytes={start}-{}", end - 1));
        }
        let method = if ask == Ask::Head { "HEAD" } else { "GET" };
        let signed = self.signer.iter().flat_map(|signer| signer.headers(method, url));
        for (name, value) in signed {
            request = request.header(name, value);
        }
        let about = |e: reqwest::Error| Error::network(url.to_string()).because(e.without_url());
        let response =
            request.send().await.map_err(|e| match (e.is_redirect(), e.is_connect()) {
                (true, _) => about(e).into(),
                (false, true) => Failure::unreached(about(e)),
                (false, false) => Failure::passing(about(e), None),
            })?;
        let status = response.status();
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(Some(response)),
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(Some(response)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            // Private buckets say so of what is not there, where listing is not allowed.
            StatusCode::FORBIDDEN => match refusal(response).await {
                None => Ok(None),
                Some(code) => Err(Error::host(format!("{url}: {code}"))
                    .hint("are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and the clock, right?")
                    .into()),
            },
            _ => {
                let error = Error::network(format!("{url}: {status}"));
                let passing = status.is_server_error()
                    || matches!(
                        status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    );
                let after = text(response.headers(), RETRY_AFTER.as_str());
                let after = after.and_then(|after| retry_after(after, SystemTime::now()));
                Err(if passing { Failure::passing(error, after) } else { error.into() })
            }
        }
    }

    /// Copies from `start` on, at most up to `end`; `start` follows what was written.
    async fn copy(
        &self,
        url: &Url,
        start: &mut u64,
        end: u64,
        whole: bool,
        out: &mut dyn Write,
    ) -> Result<bool, Failure> {
        let wrong = |why: &str| Error::network(format!("{url}: {why}"));
        let ask = if whole && *start == 0 { Ask::Whole } else { Ask::Part(*start, end) };
        let Some(mut response) = self.send(url, ask).await? else { return Ok(false) };
        // It has no byte there.
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(true);
        }
        let mut skip = *start;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = text(response.headers(), CONTENT_RANGE.as_str());
            if !range.is_some_and(|r| r.starts_with(&format!("bytes {start}-"))) {
                return Err(wrong("it sent another part than was asked for").into());
            }
            skip = 0;
        } else if ask != Ask::Whole {
            self.whole_only.store(true, Ordering::Relaxed);
        }
        let (mut since, mut came) = (Instant::now(), 0);
        while *start < end {
            let chunk = response.chunk().await.map_err(|e| {
                Failure::passing(wrong("the answer was cut").because(e.without_url()), None)
            })?;
            let Some(chunk) = chunk else { break };
            came += chunk.len() as u64;
            if came >= STALL_BYTES {
                (since, came) = (Instant::now(), 0);
            } else if since.elapsed() > STALL_TIMEOUT {
                return Err(wrong("next to nothing comes from it").into());
            }
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let chunk = &chunk[skipped as usize..];
            let take = chunk.len().min(usize::try_from(end - *start).unwrap_or(usize::MAX));
            let written = out.write_all(&chunk[..take]);
            written.map_err(|e| Error::host("write what came").because(e))?;
            *start += take as u64;
        }
        // The connection serves the next request only if this answer was read to its end.
        if *start == end && response.content_length().is_some() {
            let _ = response.chunk().await;
        }
        Ok(true)
    }

    fn fetch(
        &self,
        key: &str,
        range: Range<u64>,
        whole: bool,
        out: &mut dyn Write,
    ) -> Result<Option<u64>> {
        let url = self.url(key)?;
        let (mut at, mut tries) = (range.start, Tries::default());
        if range.is_empty() {
            return Ok(self.size(key)?.map(|_| 0));
        }
        self.runtime.get()?.block_on(async {
            loop {
                let before = at;
                match self.copy(&url, &mut at, range.end, whole, out).await {
                    Ok(true) => return Ok(Some(at - range.start)),
                    Ok(false) => return Ok(None),
                    Err(failure) => {
                        tries.wait(failure, at - before, &Progress::silent()).await?;
                    }
                }
            }
        })
    }
}

/// What a bucket says of a signature that it does not take; `None` where it only keeps to itself
/// what it has.
async fn refusal(mut response: Response) -> Option<String> {
    let mut body = Vec::new();
    while body.len() < REFUSAL_BYTES_MAX
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    let code = body.split_once("<Code>")?.1.split_once("</Code>")?.0;
    let plain = code.bytes().all(|c| c.is_ascii_alphanumeric());
    (plain && code != "AccessDenied").then(|| code.to_string())
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
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
        self.fetch(key, range, false, out)
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        let url = self.url(key)?;
        self.runtime.get()?.block_on(async {
            let mut tries = Tries::default();
            let response = loop {
                match self.send(&url, Ask::Head).await {
                    Ok(response) => break response,
                    Err(failure) => tries.wait(failure, 0, &Progress::silent()).await?,
                }
            };
            let Some(response) = response else { return Ok(None) };
            let length = text(response.headers(), CONTENT_LENGTH.as_str());
            let length = length.and_then(|l| l.parse().ok());
            length.map(Some).ok_or_else(|| Error::network(format!("{url}: it names no size")))
        })
    }

    fn get(&self, key: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let found = self.fetch(key, 0..bytes_max.saturating_add(1), true, &mut bytes)?;
        super::bounded(self, key, bytes_max, found.map(|_| bytes))
    }

    fn sends_parts(&self) -> bool {
        !self.whole_only.load(Ordering::Relaxed)
    }
}
