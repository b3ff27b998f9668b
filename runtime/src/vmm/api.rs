//! The API of a VMM that has one: HTTP/1.1 on a UNIX socket, a request at a time.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{API_SOCKET, Place};
use crate::{Error, Result};

/// A VMM answers in milliseconds, or not at all.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// An answer is at most this long, bytes: a few words of JSON.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) body: Option<Value>,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        self.body.iter().try_for_each(|body| write!(f, " {body}"))
    }
}

impl Request {
    /// Sends it to the VMM in `place` and waits until it is done, at most 10 s.
    ///
    /// # Errors
    /// `Host` with the VMM's own words where it refuses or does not answer.
    pub(super) async fn send(&self, place: &Place) -> Result<()> {
        let asked = || format!("the VMM's API: {} {}", self.method, self.path);
        let answer = tokio::time::timeout(ANSWER_MAX, self.exchange(place)).await;
        let (status, body) = answer
            .map_err(|_| Error::host(format!("{}: no answer in {ANSWER_MAX:?}", asked())))?
            .map_err(|e| Error::host(asked()).because(e))?;
        if (200..300).contains(&status) {
            return Ok(());
        }
        let words = crate::console::printable(&body);
        Err(Error::host(format!("{}: {status}: {}", asked(), words.trim())))
    }

    async fn exchange(&self, place: &Place) -> io::Result<(u16, Vec<u8>)> {
        let mut stream = place.connect(Path::new(API_SOCKET)).await?;
        stream.write_all(self.to_http().as_bytes()).await?;
        let mut answer = Vec::new();
        loop {
            if let Some(whole) = parse(&answer) {
                return whole;
            }
            let mut part = [0; 4096];
            let n = stream.read(&mut part).await?;
            if n == 0 || answer.len() > ANSWER_BYTES_MAX {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&part[..n]);
        }
    }

    fn to_http(&self) -> String {
        let body = self.body.as_ref().map(Value::to_string).unwrap_or_default();
        format!(
            "{} {} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.method,
            self.path,
            body.len()
        )
    }
}

/// The status and the body of an answer; `None` while it is not whole.
fn parse(answer: &[u8]) -> Option<io::Result<(u16, Vec<u8>)>> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    let invalid = || Some(Err(io::ErrorKind::InvalidData.into()));
    let mut lines = head.split("\r\n");
    let status =
        lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let Some(status) = status else { return invalid() };
    let mut length = 0;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return invalid() };
        if name.eq_ignore_ascii_case("content-length") {
            let Ok(bytes) = value.trim().parse::<usize>() else { return invalid() };
            if bytes > ANSWER_BYTES_MAX {
                return invalid();
            }
            length = bytes;
        }
    }
    body.get(..length).map(|body| Ok((status, body.to_vec())))
}

impl Place {
    /// Connects to a socket in the directory, however long its path is.
    pub(super) async fn connect(&self, name: &Path) -> io::Result<UnixStream> {
        use std::os::fd::AsRawFd;
        let directory = std::fs::File::open(&self.directory)?;
        let through = format!("/proc/self/fd/{}", directory.as_raw_fd());
        UnixStream::connect(Path::new(&through).join(name)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_or_refused() {
        let whole = b"HTTP/1.1 400 \r\nServer: x\r\nContent-Length: 5\r\n\r\nfault";
        for n in 0..whole.len() {
            assert!(parse(&whole[..n]).is_none(), "{n}");
        }
        assert_eq!(parse(whole).unwrap().unwrap(), (400, b"fault".to_vec()));
        assert_eq!(parse(b"HTTP/1.1 204 \r\n\r\n").unwrap().unwrap(), (204, Vec::new()));
        let huge = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n";
        for bad in [&b"SSH-2.0\r\n\r\n"[..], b"HTTP/1.1 2\r\n\r\n", huge] {
            assert!(parse(bad).unwrap().is_err());
        }
    }
}
