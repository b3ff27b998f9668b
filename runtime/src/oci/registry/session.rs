//! Requests to one repository: addresses, tokens, what an answer means.
//!
//! A log-in is sent to the registry itself and to the token server that the registry names, never
//! to another host that an answer sends us on to (reqwest drops it there). Plain http is for
//! loopback hosts and those that the user named; an https answer can not send us to http.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::Progress;
use crate::retry::{Failure, Tries, retry_after};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::challenge::Challenge;
use super::credentials::{Credentials, Login};
use crate::oci::Access;
use crate::oci::registries::{Place, Registries, is_loopback};
use crate::{Error, Result};

/// An answer of a token server is at most this long.
const TOKEN_BYTES_MAX: u64 = 1 << 20;
/// A file of certificates is at most this long.
const CA_BYTES_MAX: u64 = 4 << 20;
/// What we read of an error's text.
const ERROR_BYTES_MAX: u64 = 16 << 10;
/// What we show of it.
const ERROR_CHARS_MAX: usize = 200;
/// A server has this long to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server may be silent for this long.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers that send us on, at most.
const REDIRECTS_MAX: usize = 5;

/// A connection to one repository in one place.
pub(super) struct Session {
    client: Client,
    place: Place,
    /// The repository's name there.
    repository: String,
    is_mirror: bool,
    /// A mirror that failed and is not asked again.
    out: AtomicBool,
    /// `https://host/v2/repository`.
    base: String,
    registries: Registries,
    credentials: Credentials,
    /// Known once a registry wanted one.
    login: OnceCell<Option<Login>>,
    /// The `Authorization` that the registry has taken last.
    authorization: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl Session {
    /// To `repository` as `place` has it.
    pub(super) fn new(
        place: &Place,
        repository: &str,
        is_mirror: bool,
        access: &Access,
    ) -> Result<Session> {
        let Place { host, prefix } = place;
        let repository = match prefix.as_str() {
            "" => repository.to_string(),
            prefix => format!("{prefix}/{repository}"),
        };
        let plain = access.registries.is_plain(host);
        let scheme = if plain { "http" } else { "https" };
        // Docker's own registry is not where its name says.
        let server = if host == "docker.io" { "registry-1.docker.io" } else { host };
        let base = format!("{scheme}://{server}/v2/{repository}");
        Url::parse(&base).map_err(|e| Error::input(base.clone()).because(e))?;
        let registries = access.registries.clone();
        let policy = redirect::Policy::custom(move |attempt| follow(attempt, &registries));
        let client = client(host, &access.registries, policy)?;
        Ok(Session {
            client,
            place: place.clone(),
            repository,
            is_mirror,
            out: AtomicBool::new(false),
            base,
            registries: access.registries.clone(),
            credentials: access.credentials.clone(),
            login: OnceCell::new(),
            authorization: Mutex::new(None),
        })
    }

    /// Whether it is worth asking.
    pub(super) fn is_in(&self) -> bool {
        !self.out.load(Ordering::Relaxed)
    }

    /// Says that this mirror failed. One that only has not got something may be asked for others.
    pub(super) fn dismiss(&self, error: &Error, progress: &Progress) {
        let lasting = error.class() != crate::Class::Input;
        self.out.fetch_or(lasting, Ordering::Relaxed);
        progress.note(format!("mirror {}: {error}: asking elsewhere", self.place.host));
    }

    /// How patient to be.
    pub(super) fn tries(&self) -> Tries {
        if self.is_mirror { Tries::of_mirror() } else { Tries::default() }
    }

    /// Who we are here; found out once.
    async fn login(&self) -> Result<Option<&Login>> {
        let find = async || {
            let (credentials, host) = (self.credentials.clone(), self.place.host.clone());
            let repository = self.repository.clone();
            // A helper is a program that may wait for a person.
            let asked = tokio::task::spawn_blocking(move || credentials.find(&host, &repository));
            asked.await.map_err(|e| Error::bug("looking for a log-in broke").because(e))?
        };
        Ok(self.login.get_or_try_init(find).await?.as_ref())
    }

    /// Asks for `path` within the repository, and says who we are where that is wanted. `accept`
    /// are media types; `from` is the first byte wanted.
    pub(super) async fn get(
        &self,
        path: &str,
        accept: &str,
        from: u64,
    ) -> Result<Response, Failure> {
        let from = (from > 0).then(|| format!("bytes={from}-"));
        self.get_bytes(path, accept, from).await
    }

    /// The same for `part`, or for all of it.
    pub(super) async fn get_part(
        &self,
        path: &str,
        accept: &str,
        part: Option<Range<u64>>,
    ) -> Result<Response, Failure> {
        let bytes = part.map(|part| format!("bytes={}-{}", part.start, part.end - 1));
        self.get_bytes(path, accept, bytes).await
    }

    async fn get_bytes(
        &self,
        path: &str,
        accept: &str,
        bytes: Option<String>,
    ) -> Result<Response, Failure> {
        let url = self.url(path);
        let request = || {
            let request = self.client.get(&url).header(ACCEPT, accept);
            match &bytes {
                Some(bytes) => request.header(RANGE, bytes),
                None => request,
            }
        };
        accept_status(self.exchange(|_| Ok(request())).await?).await
    }

    /// The address of `path` within the repository.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    /// Whether `url` is this registry's own, to which a log-in may be sent.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        Url::parse(&self.base).is_ok_and(|base| base.origin() == url.origin())
    }

    /// Sends what `request` makes, and says who we are where that is wanted; `request` is called
    /// again then. The answer may have any status but "not logged in".
    pub(super) async fn exchange(
        &self,
        request: impl Fn(&Client) -> Result<RequestBuilder>,
    ) -> Result<Response, Failure> {
        let known = self.known_authorization();
        let response = send(with_authorization(request(&self.client)?, known)).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let authorization = self.authorize(&response).await?;
        *self.authorization.lock().unwrap_or_else(|p| p.into_inner()) = Some(authorization.clone());
        send(with_authorization(request(&self.client)?, Some(authorization))).await
    }

    fn known_authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(|p| p.into_inner()).clone()
    }

    /// What to answer to a challenge.
    async fn authorize(&self, response: &Response) -> Result<HeaderValue, Failure> {
        let url = response.url();
        let headers = response.headers().get_all(WWW_AUTHENTICATE).into_iter();
        let challenge = Challenge::parse(headers.filter_map(|value| value.to_str().ok()));
        let refused = |why: &str| {
            Error::input(format!("{url}: the registry wants a log-in{why}"))
                .hint("log in with `skopeo login` or `docker login`")
        };
        match (challenge, self.login().await?) {
            (Some(Challenge::Basic), Some(Login::Password { user, password })) => {
                use base64::Engine as _;
                let plain = format!("{user}:{password}");
                let code = base64::engine::general_purpose::STANDARD.encode(plain);
                Ok(secret(&format!("Basic {code}"))?)
            }
            (Some(Challenge::Basic), Some(Login::Identity(_))) => {
                Err(refused(" with a password, and there is only a token").into())
            }
            (Some(Challenge::Basic), None) => Err(refused("").into()),
            (Some(Challenge::Bearer { realm, service, scope }), login) => {
                self.token(&realm, service, scope, login).await
            }
            (None, _) => Err(refused(" of a kind that we do not know").into()),
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
        login: Option<&Login>,
    ) -> Result<HeaderValue, Failure> {
        let mut url = Url::parse(realm)
            .map_err(|e| Error::network(format!("token server {realm:?}")).because(e))?;
        let from_http = self.base.starts_with("http://");
        if url.scheme() != "https" && !(from_http && is_plain_url(&url, &self.registries)) {
            return Err(Error::network(format!("token server {realm}: it is not https")).into());
        }
        let asked = [("service", service), ("scope", scope)];
        let asked = asked.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let request = match login {
            Some(Login::Identity(token)) => {
                let mut form = Url::parse("form:").map_err(|e| Error::bug("a form").because(e))?;
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "imgtool")
                    .append_pair("refresh_token", token)
                    .extend_pairs(asked);
                let body = form.query().unwrap_or_default().to_string();
                // Sent on, the token would go along.
                let none = redirect::Policy::none();
                let client = client(&self.place.host, &self.registries, none)?;
                let request = client.post(url.clone()).body(body);
                request.header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            }
            login => {
                let asked: Vec<_> = asked.collect();
                if !asked.is_empty() {
                    url.query_pairs_mut().extend_pairs(asked);
                }
                let request = self.client.get(url.clone());
                match login {
                    Some(Login::Password { user, password }) => {
                        request.basic_auth(user, Some(password))
                    }
                    _ => request,
                }
            }
        };
        let response = send(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(Error::input(format!("{url}: the log-in is refused"))
                .hint("log in again with `skopeo login` or `docker login`")
                .into());
        }
        let json = body(accept_status(response).await?, TOKEN_BYTES_MAX).await?;
        let token = serde_json::from_slice::<Token>(&json).ok();
        let token = token.and_then(|t| t.token.or(t.access_token)).filter(|t| !t.is_empty());
        let token = token.ok_or_else(|| Error::network(format!("{url}: it gave no token")))?;
        Ok(secret(&format!("Bearer {token}"))?)
    }
}

/// What speaks to `host` and to the servers that it names.
fn client(host: &str, registries: &Registries, policy: redirect::Policy) -> Result<Client> {
    let mut builder = Client::builder()
        .user_agent(concat!("imgtool/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(STALL_TIMEOUT)
        .referer(false)
        .redirect(policy);
    if is_loopback(host) {
        builder = builder.no_proxy();
    }
    if let Some(file) = registries.host(host).ca {
        builder = builder.tls_certs_merge(certificates(&file)?);
    }
    builder
        .build()
        .map_err(|e| Error::host("set up https").because(e).hint("apt-get install ca-certificates"))
}

fn with_authorization(request: RequestBuilder, value: Option<HeaderValue>) -> RequestBuilder {
    match value {
        Some(value) => request.header(AUTHORIZATION, value),
        None => request,
    }
}

fn secret(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Error::input("a user, password or token with characters that are no text"))?;
    value.set_sensitive(true);
    Ok(value)
}

pub(super) async fn send(request: RequestBuilder) -> Result<Response, Failure> {
    request.send().await.map_err(|e| {
        let (unreached, lasting) = (e.is_connect(), e.is_redirect() || e.is_builder());
        let error = broken(e);
        match (lasting, unreached) {
            (true, _) => error.into(),
            (false, true) => Failure::unreached(error),
            (false, false) => Failure::passing(error, None),
        }
    })
}

/// A failed exchange as an error of ours: the address, then the innermost cause, which alone says
/// something ("connection refused").
pub(super) fn broken(error: reqwest::Error) -> Error {
    let url = error.url().map(|url| url.as_str().to_string()).unwrap_or_default();
    let what = if error.is_timeout() { "no answer in time" } else { "no answer" };
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Error::network(format!("{url}: {what}: {cause}"))
}

/// The answer again, if it is one that we asked for.
pub(super) async fn accept_status(response: Response) -> Result<Response, Failure> {
    let (status, url) = (response.status(), response.url().clone());
    if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
        return Ok(response);
    }
    let after = header(response.headers(), RETRY_AFTER)
        .and_then(|value| retry_after(&value, SystemTime::now()));
    let said = said(response).await;
    let about = |what: &str| format!("{url}: {what} ({}){said}", status.as_u16());
    Err(match status {
        StatusCode::NOT_FOUND => Error::input(about("there is no such image")).into(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let error = Error::input(about("access is denied"));
            error.hint("is its name right, and are you logged in there?").into()
        }
        StatusCode::TOO_MANY_REQUESTS => {
            Failure::passing(Error::network(about("too many requests")), after)
        }
        StatusCode::REQUEST_TIMEOUT => Failure::passing(Error::network(about("timeout")), after),
        _ if status.is_server_error() => {
            Failure::passing(Error::network(about("the server failed")), after)
        }
        _ => Error::network(about("an answer that we do not understand")).into(),
    })
}

/// What the registry says about an error (OCI distribution specification, "Error Codes").
async fn said(response: Response) -> String {
    #[derive(Deserialize)]
    struct Said {
        errors: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        message: String,
    }
    let Ok(json) = body(response, ERROR_BYTES_MAX).await else { return String::new() };
    let Ok(said) = serde_json::from_slice::<Said>(&json) else { return String::new() };
    let messages: Vec<_> = said.errors.into_iter().map(|item| item.message).collect();
    let text: String = messages.join("; ").chars().take(ERROR_CHARS_MAX).collect();
    let text = text.replace(|c: char| c.is_control(), " ");
    if text.trim().is_empty() { text } else { format!(": {text}") }
}

/// The whole answer, if it has at most `bytes_max` bytes.
pub(super) async fn body(mut response: Response, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let url = response.url().clone();
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| Failure::passing(broken(e), None))? {
        if (bytes.len() + chunk.len()) as u64 > bytes_max {
            return Err(Error::network(format!("{url}: more than {bytes_max} bytes")).into());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

pub(super) fn header(headers: &HeaderMap, name: reqwest::header::HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_string())
}

/// How long the answer says it is.
pub(super) fn content_length(response: &Response) -> Option<u64> {
    header(response.headers(), CONTENT_LENGTH)?.parse().ok()
}

/// Whether to go where an answer sends us.
fn follow(attempt: redirect::Attempt, registries: &Registries) -> redirect::Action {
    let from_http = attempt.previous().last().is_some_and(|url| url.scheme() == "http");
    let plain = || is_plain_url(attempt.url(), registries);
    let safe = attempt.url().scheme() == "https" || (from_http && plain());
    if !safe {
        attempt.error("it sends us on to a place without https")
    } else if attempt.previous().len() > REDIRECTS_MAX {
        attempt.error("it sends us on too often")
    } else {
        attempt.follow()
    }
}

/// Whether the user lets us speak plain http there.
fn is_plain_url(url: &Url, registries: &Registries) -> bool {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    url.host_str().is_some_and(|host| registries.is_plain(&format!("{host}{port}")))
}

/// The certificates of a PEM file.
fn certificates(file: &Path) -> Result<Vec<Certificate>> {
    let about = |e| Error::io(file.display(), e);
    let mut pem = Vec::new();
    let opened = File::open(file).map_err(about)?;
    opened.take(CA_BYTES_MAX).read_to_end(&mut pem).map_err(about)?;
    let found = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if found.is_empty() {
        return Err(Error::input(format!("{}: it holds no PEM certificate", file.display())));
    }
    Ok(found)
}
