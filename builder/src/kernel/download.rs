//! One file from a server, by http or https.

use std::io::Write;
use std::time::Duration;

use imgrun::Stage;
use reqwest::{Client, StatusCode, Url, redirect};

use crate::{Error, Result, patience};

/// A server has this long to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server may be silent for this long.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers that send us on, at most.
const REDIRECTS_MAX: usize = 5;

/// Writes what is at `url`, at most `bytes_max` bytes, to `out`. `stage` counts bytes.
///
/// # Errors
/// [`Class::Network`](crate::Class::Network) where the server can not be reached, is silent, fails
/// or ends early; [`Class::Input`](crate::Class::Input) where it has no such file or the file is
/// too long.
pub(super) fn download(
    url: &Url,
    bytes_max: u64,
    out: &mut dyn Write,
    stage: &Stage,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::host("start an asynchronous runtime").because(e))?;
    patience::run(&runtime, fetch(url, bytes_max, out, stage))
}

async fn fetch(url: &Url, bytes_max: u64, out: &mut dyn Write, stage: &Stage) -> Result<()> {
    // The cause, which is what tells a person something, is at the end of reqwest's chain.
    let failed = |e: reqwest::Error| Error::network(format!("get {url}")).because(e.without_url());
    let too_long = || Error::input(format!("{url} is longer than {bytes_max} bytes"));
    let mut response = client(url)?.get(url.clone()).send().await.map_err(failed)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => {
            return Err(Error::input(format!("{url}: the server has no such file")));
        }
        status => return Err(Error::network(format!("{url}: the server answers {status}"))),
    }
    if response.content_length().is_some_and(|length| length > bytes_max) {
        return Err(too_long());
    }
    let mut bytes = 0;
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        bytes += chunk.len() as u64;
        if bytes > bytes_max {
            return Err(too_long());
        }
        out.write_all(&chunk).map_err(|e| Error::io(format!("keep {url}"), e))?;
        stage.add(chunk.len() as u64);
    }
    Ok(())
}

fn client(url: &Url) -> Result<Client> {
    let policy = redirect::Policy::custom(|attempt| {
        let from_http = attempt.previous().last().is_some_and(|url| url.scheme() == "http");
        if attempt.url().scheme() != "https" && !from_http {
            attempt.error("it sends us on to a place without https")
        } else if attempt.previous().len() > REDIRECTS_MAX {
            attempt.error("it sends us on too often")
        } else {
            attempt.follow()
        }
    });
    let mut builder = Client::builder()
        .user_agent(concat!("imgtool/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(STALL_TIMEOUT)
        .referer(false)
        .redirect(policy);
    if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
        builder = builder.no_proxy();
    }
    builder
        .build()
        .map_err(|e| Error::host("set up https").because(e).hint("apt-get install ca-certificates"))
}
