//! `s3:`: a bucket, read with plain GET requests, signed where there is a key to sign with.
//!
//! `s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&path-style=true]`. The key comes from
//! `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`; without it nothing is signed,
//! and the bucket has to be public. What is not said of endpoint and region comes from
//! `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_REGION` and `AWS_DEFAULT_REGION`.
//!
//! All but the signature is [`Http`]: retries, parts, stalls. The builder, which also writes, has
//! AWS's own library for it; a host that reads does not need its 80 crates.

use aws_lc_rs::hmac;
use reqwest::Url;

use super::{Http, check_key};
use crate::tuf::{time, to_hex};
use crate::{Error, Result};

/// The SHA-256 of nothing: the body of a GET.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// AWS's, and what others take, too.
const REGION_DEFAULT: &str = "us-east-1";

/// What the address says.
#[derive(Debug, Default, PartialEq)]
pub struct BucketAddress {
    /// The bucket.
    pub bucket: String,
    /// Empty, or with a slash at its end.
    pub prefix: String,
    /// Another server than AWS's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Whether the bucket stands in the path and not in the host.
    pub path_style: Option<bool>,
    /// A section of AWS's own files.
    pub profile: Option<String>,
}

impl BucketAddress {
    /// `s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&path-style=true&profile=NAME]`
    ///
    /// # Errors
    /// [`crate::Class::Usage`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format!("{text}: {why}"))
                .hint("s3://BUCKET/PREFIX?endpoint=URL&region=NAME&path-style=true&profile=NAME")
        };
        let url = Url::parse(text).map_err(|e| wrong(&e.to_string()))?;
        let bucket = url.host_str().filter(|b| !b.is_empty()).ok_or_else(|| wrong("no bucket"))?;
        let path = url.path().trim_matches('/');
        if !path.is_empty() {
            check_key(path).map_err(|_| wrong("a plain prefix is wanted"))?;
        }
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let mut address = BucketAddress { bucket: bucket.to_string(), prefix, ..Self::default() };
        for (name, value) in url.query_pairs() {
            let value = value.into_owned();
            match name.as_ref() {
                "endpoint" => address.endpoint = Some(value),
                "region" => address.region = Some(value),
                "profile" => address.profile = Some(value),
                "path-style" if value == "true" => address.path_style = Some(true),
                "path-style" if value == "false" => address.path_style = Some(false),
                _ => return Err(wrong(&format!("{name}={value} is not understood"))),
            }
        }
        Ok(address)
    }
}

/// An access key, where it does not come from the environment.
#[derive(Clone)]
pub struct Login {
    /// The access key's id.
    pub id: String,
    /// The secret access key.
    pub secret: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({})", self.id)
    }
}

/// Whether a bucket's name can not be put before that host: an address, or this machine.
pub fn is_bare(endpoint: &str) -> bool {
    let url = Url::parse(endpoint).ok();
    let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
    host == "localhost" || host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok()
}

/// Opens the bucket at `address` for reading; `login` instead of the environment's key.
///
/// # Errors
/// [`crate::Class::Usage`] for an address that is none, or names a profile: we do not read AWS's
/// files.
pub fn open_bucket(address: &str, login: Option<Login>) -> Result<Http> {
    let parsed = BucketAddress::parse(address)?;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if parsed.profile.is_some() {
        return Err(Error::usage(format!("{address}: imgrun reads no profiles"))
            .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
    }
    let region = parsed.region.clone();
    let region = region.or_else(|| variable("AWS_REGION"));
    let region = region.or_else(|| variable("AWS_DEFAULT_REGION"));
    let region = region.unwrap_or_else(|| REGION_DEFAULT.to_string());
    let base = parsed
        .base(&region, variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL")))?;
    let (given, mut token) = (login.is_some(), None);
    let login = login.or_else(|| {
        token = variable("AWS_SESSION_TOKEN");
        let (id, secret) = (variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?);
        Some(Login { id, secret })
    });
    let token = token.filter(|_| !given);
    let signer = login.map(|login| Signer { login, token, region });
    Http::signed(&base, signer)
}

impl BucketAddress {
    /// The address of what is in the bucket, below the prefix.
    fn base(&self, region: &str, default_endpoint: Option<String>) -> Result<String> {
        let (bucket, prefix) = (&self.bucket, &self.prefix);
        let Some(endpoint) = self.endpoint.clone().or(default_endpoint) else {
            return Ok(match self.path_style {
                Some(true) => format!("https://s3.{region}.amazonaws.com/{bucket}/{prefix}"),
                _ => format!("https://{bucket}.s3.{region}.amazonaws.com/{prefix}"),
            });
        };
        let endpoint = endpoint.trim_end_matches('/');
        if self.path_style.unwrap_or_else(|| is_bare(endpoint)) {
            return Ok(format!("{endpoint}/{bucket}/{prefix}"));
        }
        let (scheme, host) = endpoint.split_once("://").ok_or_else(|| {
            Error::usage(format!("{endpoint}: an endpoint is an address: https://…"))
        })?;
        Ok(format!("{scheme}://{bucket}.{host}/{prefix}"))
    }
}

/// Signs requests (AWS signature version 4).
#[derive(Clone, Debug)]
pub(super) struct Signer {
    login: Login,
    token: Option<String>,
    region: String,
}

impl Signer {
    /// The headers that `method` on `url` needs, now.
    pub(super) fn headers(&self, method: &str, url: &Url) -> Vec<(&'static str, String)> {
        let time: String =
            time::to_text(time::now()).chars().filter(|c| !matches!(c, '-' | ':')).collect();
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_string(),
        };
        let mut signed = vec![
            ("host", host.as_str()),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", time.as_str()),
        ];
        signed.extend(self.token.as_deref().map(|token| ("x-amz-security-token", token)));
        let authorization = self.authorization(method, url, &signed, EMPTY, &time);
        let sent = signed.iter().skip(1).map(|(name, value)| (*name, value.to_string()));
        sent.chain([("authorization", authorization)]).collect()
    }

    /// The header `Authorization` for these others, which are sorted by name.
    fn authorization(
        &self,
        method: &str,
        url: &Url,
        headers: &[(&str, &str)],
        body: &str,
        time: &str,
    ) -> String {
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        // Our keys need no other encoding than the one that the address has.
        let path = url.path();
        let request = format!("{method}\n{path}\n\n{lines}\n{names}\n{body}");
        let (date, region) = (&time[..8], &self.region);
        let scope = format!("{date}/{region}/s3/aws4_request");
        let digest = bundle::Digest::of(&request).hex();
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}");
        let mut key = format!("AWS4{}", self.login.secret).into_bytes();
        for part in [date, region, "s3", "aws4_request"] {
            key = mac(&key, part);
        }
        let signature = to_hex(&mac(&key, &text));
        let id = &self.login.id;
        format!(
            "AWS4-HMAC-SHA256 Credential={id}/{scope},SignedHeaders={names},Signature={signature}"
        )
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example "GET Object" of AWS's documentation of signature version 4.
    #[test]
    fn signatures_are_those_of_the_documentation() {
        let login = Login {
            id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
        };
        let signer = Signer { login, token: None, region: "us-east-1".into() };
        let url: Url = "https://examplebucket.s3.amazonaws.com/test.txt".parse().unwrap();
        let time = "20130524T000000Z";
        let headers = [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY),
            ("x-amz-date", time),
        ];
        let signed = signer.authorization("GET", &url, &headers, EMPTY, time);
        let expected = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/\
                        aws4_request,SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
                        Signature=f0e8bdb87c964420e857bd35b5d6ed31\
                        0bd44f0170aba48dd91039c6036bdb41";
        assert_eq!(signed, expected);
    }

    #[test]
    fn addresses_say_where_and_how() {
        let plain = BucketAddress::parse("s3://images").unwrap();
        assert_eq!((plain.bucket.as_str(), plain.prefix.as_str()), ("images", ""));
        let full = "s3://images/a/b/?endpoint=http://127.0.0.1:1&region=auto&path-style=true";
        let full = BucketAddress::parse(full).unwrap();
        assert_eq!((full.prefix.as_str(), full.path_style), ("a/b/", Some(true)));
        assert_eq!(full.endpoint.as_deref(), Some("http://127.0.0.1:1"));
        for wrong in ["s3://", "s3:x", "s3://a/../b?x=1", "s3://a/b?colour=red", "s3://a/a%20b"] {
            assert!(BucketAddress::parse(wrong).is_err(), "{wrong}");
        }
        assert!(is_bare("http://127.0.0.1:9000") && !is_bare("https://s3.example.com"));
    }
}
