//! `s3:`: a bucket, at AWS or at anybody who speaks its protocol.
//!
//! `s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&path-style=true&profile=NAME]`. What is not said
//! comes from where AWS's own tools take it: the environment, `~/.aws`, the machine's role.
//!
//! - **Exclusive creation** is `If-None-Match: *`. 412 says that we lost; 409 that somebody else is
//!   at it, which is tried again. Whether the server means it, [`super::probe`] finds out.
//! - **Checksums**: only those that an operation requires. The ones that newer AWS programs add
//!   unasked are errors at R2 and older servers; and a body is never sent in signed chunks, which R2
//!   does not take. Each request's body is signed with its SHA-256 instead.
//! - **Big files** go up in equal parts ([`upload`]).

mod upload;

use std::future::Future;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use imgrun::depot::{BucketAddress, Depot, Login, check_key, is_bare};
use tokio::runtime::Runtime;

use super::{Body, Listed, Put, Writable};
use crate::{Class, Error, Result, patience};

/// A server has this long to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server may be silent for this long.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries of one request, by the SDK: 5xx, 429, cut connections.
const ATTEMPTS_MAX: u32 = 5;
/// Tries where two writers collide (409), or a download is cut.
const TRIES_MAX: u32 = 6;
const WAIT_FIRST: Duration = Duration::from_millis(200);

/// What never changes may be kept by everybody for ever.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";
const MUTABLE: &str = "no-cache";

/// A bucket, or what is below a prefix in one.
#[derive(Clone, Debug)]
pub struct Bucket {
    title: String,
    client: Client,
    bucket: String,
    /// Empty, or with a slash at its end.
    prefix: String,
    runtime: Arc<Runtime>,
}

/// What an operation failed with.
struct Failure {
    status: Option<u16>,
    code: String,
    text: String,
}

impl Failure {
    fn of<E, R>(error: SdkError<E, R>) -> Self
    where
        E: std::error::Error + aws_sdk_s3::error::ProvideErrorMetadata + 'static,
        R: std::fmt::Debug + Status + 'static,
    {
        let status = error.raw_response().map(Status::status);
        let metadata = aws_sdk_s3::error::ProvideErrorMetadata::meta(&error);
        let code = metadata.code().unwrap_or_default().to_string();
        let said = metadata.message().map(str::to_string);
        let text = match (status, said) {
            (Some(status), Some(said)) => format!("{code} ({status}): {said}"),
            (Some(status), None) => format!("{code} ({status})"),
            (None, _) => innermost(&error),
        };
        Failure { status, code, text }
    }

    fn is_absent(&self) -> bool {
        self.status == Some(404) && self.code != "NoSuchBucket"
    }

    fn error(&self, what: &str) -> Error {
        let class = match self.status {
            Some(401 | 403) => Class::Host,
            Some(400..=499) => Class::Input,
            _ => Class::Network,
        };
        let error = Error::new(class, format!("{what}: {}", self.text));
        match self.status {
            Some(401 | 403) => error
                .hint("are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile, right?"),
            _ => error,
        }
    }
}

/// The last cause, which alone says something ("connection refused").
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match cause.to_string() {
        text if text.is_empty() => DisplayErrorContext(error).to_string(),
        text => text,
    }
}

/// The status of a raw response.
trait Status {
    fn status(&self) -> u16;
}

impl Status for aws_sdk_s3::config::http::HttpResponse {
    fn status(&self) -> u16 {
        self.status().as_u16()
    }
}

impl Bucket {
    /// At `address`; `login` instead of what AWS's own tools would take.
    ///
    /// # Errors
    /// [`Class::Usage`] for an address that is none; [`Class::Host`] where no client can be made.
    pub fn new(address: &str, login: Option<Login>) -> Result<Self> {
        let BucketAddress { bucket, prefix, endpoint, region, path_style, profile } =
            BucketAddress::parse(address)?;
        let runtime = patience::runtime()?;
        let client = runtime.block_on(async {
            let http = aws_smithy_http_client::Builder::new()
                .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                .build_https();
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
                .build();
            let mut loader = aws_config::defaults(BehaviorVersion::latest())
                .http_client(http)
                .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
                .timeout_config(timeouts);
            if let Some(Login { id, secret }) = login {
                let given = Credentials::builder().provider_name("given").access_key_id(id);
                loader = loader.credentials_provider(given.secret_access_key(secret).build());
            }
            if let Some(region) = region {
                loader = loader.region(Region::new(region));
            }
            if let Some(profile) = profile {
                loader = loader.profile_name(profile);
            }
            if let Some(endpoint) = &endpoint {
                loader = loader.endpoint_url(endpoint);
            }
            let shared = loader.load().await;
            let endpoint = shared.endpoint_url().map(str::to_string);
            let mut config = aws_sdk_s3::config::Builder::from(&shared)
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
                .force_path_style(path_style.unwrap_or(endpoint.is_some_and(|e| is_bare(&e))));
            if shared.region().is_none() {
                // Others than AWS want any; R2 calls it so.
                config = config.region(Region::new("auto"));
            }
            Client::from_conf(config.build())
        });
        let at = endpoint.map(|e| format!("?endpoint={e}")).unwrap_or_default();
        let title = format!("s3://{bucket}/{prefix}{at}");
        Ok(Bucket { title, client, bucket, prefix, runtime: Arc::new(runtime) })
    }

    fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        patience::run(&self.runtime, work)
    }

    fn key(&self, key: &str) -> Result<String> {
        check_key(key)?;
        Ok(format!("{}{key}", self.prefix))
    }

    fn what(&self, key: &str) -> String {
        format!("{}: {key}", self.title)
    }

    async fn put(&self, key: &str, bytes: Vec<u8>, new: bool) -> Result<Put> {
        let mut tries = 0;
        loop {
            let request = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(self.key(key)?)
                .cache_control(if new { IMMUTABLE } else { MUTABLE })
                .content_type(content_type(key))
                .set_if_none_match(new.then(|| "*".to_string()))
                .body(ByteStream::from(bytes.clone()));
            let failure = match request.send().await.map_err(Failure::of) {
                Ok(_) => return Ok(Put::Created),
                Err(failure) => failure,
            };
            tries += 1;
            match failure.status {
                Some(412) if new => return Ok(Put::Exists),
                Some(409) if tries < TRIES_MAX => pause(tries).await,
                _ => return Err(failure.error(&self.what(key))),
            }
        }
    }

    /// Copies from `at` on up to `end`, as far as the answer goes.
    async fn copy(&self, key: &str, at: &mut u64, end: u64, out: &mut dyn Write) -> Result<Copied> {
        let mut request = self.client.get_object().bucket(&self.bucket).key(self.key(key)?);
        if *at > 0 {
            request = request.range(format!("bytes={at}-{}", end.saturating_sub(1)));
        }
        let mut body = match request.send().await.map_err(Failure::of) {
            Ok(answer) => answer.body,
            // Nothing is there after the end.
            Err(failure) if failure.status == Some(416) => return Ok(Copied::All),
            Err(failure) if failure.is_absent() => return Ok(Copied::Absent),
            Err(failure) => return Err(failure.error(&self.what(key))),
        };
        while *at < end {
            let Some(chunk) = body.next().await else { return Ok(Copied::All) };
            let Ok(chunk) = chunk else { return Ok(Copied::Cut) };
            let take = chunk.len().min(usize::try_from(end - *at).unwrap_or(usize::MAX));
            out.write_all(&chunk[..take]).map_err(|e| Error::host("write what came").because(e))?;
            *at += take as u64;
        }
        Ok(Copied::All)
    }
}

enum Copied {
    All,
    Absent,
    Cut,
}

/// Waits longer after each try.
async fn pause(tries: u32) {
    tokio::time::sleep(WAIT_FIRST * (1 << tries.min(6))).await;
}

fn content_type(key: &str) -> &'static str {
    if key.ends_with(".json") { "application/json" } else { "application/octet-stream" }
}

impl Depot for Bucket {
    fn title(&self) -> String {
        self.title.clone()
    }

    fn read(&self, key: &str, range: Range<u64>, out: &mut dyn Write) -> Result<Option<u64>> {
        self.run(async {
            let (mut at, mut tries) = (range.start, 0);
            loop {
                let before = at;
                match self.copy(key, &mut at, range.end, out).await? {
                    Copied::All => return Ok(Some(at - range.start)),
                    Copied::Absent => return Ok(None),
                    Copied::Cut if at > before => {}
                    Copied::Cut if tries < TRIES_MAX => {
                        tries += 1;
                        pause(tries).await;
                    }
                    Copied::Cut => {
                        return Err(Error::network(format!("{}: it is cut", self.what(key))));
                    }
                }
            }
        })
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        let request = self.client.head_object().bucket(&self.bucket).key(self.key(key)?);
        self.run(async {
            match request.send().await.map_err(Failure::of) {
                Ok(head) => Ok(head.content_length().and_then(|n| u64::try_from(n).ok())),
                Err(failure) if failure.is_absent() => Ok(None),
                Err(failure) => Err(failure.error(&self.what(key))),
            }
        })
    }
}

impl Writable for Bucket {
    fn put_new(&self, key: &str, body: Body<'_>) -> Result<Put> {
        match body {
            Body::Bytes(bytes) => self.run(self.put(key, bytes.to_vec(), true)),
            Body::File { path, size, stage } => self.put_file(key, path, size, stage),
        }
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.run(self.put(key, bytes.to_vec(), false)).map(drop)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        check_key(prefix.trim_end_matches('/'))?;
        let start = format!("{}{prefix}", self.prefix);
        self.run(async {
            let mut listed = Vec::new();
            let mut more = None;
            loop {
                let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(&start);
                let page = request.set_continuation_token(more).send().await;
                let page = page.map_err(|e| Failure::of(e).error(&self.what(prefix)))?;
                for object in page.contents() {
                    let key = object.key().and_then(|k| k.strip_prefix(&self.prefix));
                    let Some(key) = key else { continue };
                    let size = object.size().and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
                    let modified = object.last_modified().map_or(i64::MAX, |t| t.secs());
                    let modified = u64::try_from(modified).unwrap_or(0);
                    listed.push(Listed { key: key.to_string(), size, modified });
                }
                more = page.next_continuation_token().map(str::to_string);
                if more.is_none() {
                    return Ok(listed);
                }
            }
        })
    }

    fn delete(&self, key: &str) -> Result<()> {
        let request = self.client.delete_object().bucket(&self.bucket).key(self.key(key)?);
        self.run(async {
            match request.send().await.map_err(Failure::of) {
                Err(failure) if !failure.is_absent() => Err(failure.error(&self.what(key))),
                _ => Ok(()),
            }
        })
    }

    fn sweep(&self, unused_seconds: u64) -> Result<usize> {
        self.abort_old(unused_seconds)
    }
}
