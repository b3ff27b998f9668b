//! One blob into the cache, whatever the network does.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::retry::Failure;
use crate::{Progress, Stage};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::session::{STALL_TIMEOUT, Session, broken, content_length, header};
use crate::cache::{Cache, Draft};
use crate::oci::wire::Descriptor;
use crate::{Error, Result};

/// Within every [`STALL_TIMEOUT`] at least so many bytes have to come.
const STALL_BYTES: u64 = 16 << 10;

/// Fetches a blob into the cache and returns where it is. What has come stays over a cut, and over
/// the end of the process: the next try asks for the rest. No byte after the descriptor's last is
/// read, and the blob has its name in the cache only when its digest is right.
pub(super) async fn fetch(
    session: &Session,
    blob: &Descriptor,
    cache: &Cache,
    stage: &Stage,
    progress: &Progress,
) -> Result<PathBuf> {
    let mut draft = cache.resume(&blob.digest)?;
    if draft.bytes() > blob.size {
        draft.restart()?;
    }
    let resumed = draft.bytes() > 0;
    stage.set(draft.bytes());
    take(session, blob, &mut draft, stage, progress).await?;
    if let Some(path) = cache.find(&blob.digest, blob.size) {
        // Another process was faster. Its file stays: it may hold that one until its end.
        draft.discard();
        return Ok(path);
    }
    match draft.commit(&blob.digest, blob.size) {
        // What was found may have been damaged: it is no evidence against the server.
        Err(error) if resumed && error.class() == crate::Class::Trust => {
            progress.note(format!("what was left of {} is damaged: fetching all", blob.digest));
            let mut draft = cache.draft()?;
            stage.set(0);
            take(session, blob, &mut draft, stage, progress).await?;
            draft.commit(&blob.digest, blob.size)
        }
        result => result,
    }
}

/// Tries until the draft is full.
async fn take(
    session: &Session,
    blob: &Descriptor,
    draft: &mut Draft,
    stage: &Stage,
    progress: &Progress,
) -> Result<()> {
    let mut tries = session.tries();
    while draft.bytes() < blob.size {
        let before = draft.bytes();
        if let Err(failure) = go_on(session, blob, draft, stage).await {
            let came = draft.bytes().saturating_sub(before);
            tries.wait(failure, came, progress).await?;
        }
    }
    Ok(())
}

/// Asks for what is missing and takes what comes.
async fn go_on(
    session: &Session,
    blob: &Descriptor,
    draft: &mut Draft,
    stage: &Stage,
) -> Result<(), Failure> {
    let path = format!("blobs/{}", blob.digest);
    let mut response = session.get(&path, "*/*", draft.bytes()).await?;
    if !continues(&response, draft.bytes(), blob.size) {
        draft.restart()?;
        stage.set(0);
        if response.status() != StatusCode::OK {
            let error = Error::network(format!("{}: the wrong part of it came", response.url()));
            return Err(Failure::passing(error, None));
        }
    }
    let left = blob.size - draft.bytes();
    if let Some(length) = content_length(&response)
        && length != left
    {
        let url = response.url();
        let error = Error::network(format!("{url}: it offers {length} bytes instead of {left}"));
        return Err(Failure::passing(error, None));
    }
    let url = response.url().clone();
    let mut pace = Pace::new();
    while draft.bytes() < blob.size {
        let chunk = response.chunk().await.map_err(|e| Failure::passing(broken(e), None))?;
        let Some(chunk) = chunk else {
            let (bytes, size) = (draft.bytes(), blob.size);
            let error = Error::network(format!("{url}: it ended after {bytes} of {size} bytes"));
            return Err(Failure::passing(error, None));
        };
        let left = usize::try_from(blob.size - draft.bytes()).unwrap_or(usize::MAX);
        let chunk = &chunk[..chunk.len().min(left)];
        draft.append(chunk)?;
        stage.add(chunk.len() as u64);
        if !pace.keeps_up(chunk.len() as u64) {
            let seconds = STALL_TIMEOUT.as_secs();
            let error = Error::network(format!("{url}: next to nothing came in {seconds} s"));
            return Err(Failure::passing(error, None));
        }
    }
    Ok(())
}

/// Whether the answer is the rest from byte `from` on, of a blob of `size` bytes.
fn continues(response: &Response, from: u64, size: u64) -> bool {
    match response.status() {
        StatusCode::OK => from == 0,
        StatusCode::PARTIAL_CONTENT => {
            let range = header(response.headers(), CONTENT_RANGE);
            range.is_some_and(|range| is_range(&range, from, size))
        }
        _ => false,
    }
}

/// `bytes <from>-<last>/<size>`, exactly; the size may be `*` (RFC 9110, 14.4).
fn is_range(header: &str, from: u64, size: u64) -> bool {
    let Some(range) = header.trim().strip_prefix("bytes ") else { return false };
    let Some((range, whole)) = range.split_once('/') else { return false };
    let last = size.saturating_sub(1);
    range == format!("{from}-{last}") && (whole == "*" || whole == size.to_string())
}

/// Tells a slow server from one that only keeps us busy.
struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new() -> Self {
        Pace { since: Instant::now(), bytes: 0 }
    }

    fn keeps_up(&mut self, more: u64) -> bool {
        self.bytes += more;
        self.check(self.since.elapsed())
    }

    fn check(&mut self, elapsed: Duration) -> bool {
        if self.bytes >= STALL_BYTES {
            *self = Self::new();
            return true;
        }
        elapsed < STALL_TIMEOUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_right_or_not() {
        assert!(is_range("bytes 5-9/10", 5, 10));
        assert!(is_range("bytes 5-9/*", 5, 10));
        for wrong in ["", "bytes 4-9/10", "bytes 5-8/10", "bytes 5-9/11", "5-9/10", "bytes 5-9"] {
            assert!(!is_range(wrong, 5, 10), "{wrong}");
        }
    }

    #[test]
    fn a_trickle_is_no_pace() {
        let mut pace = Pace { since: Instant::now(), bytes: STALL_BYTES - 1 };
        assert!(pace.check(STALL_TIMEOUT / 2));
        assert!(!pace.check(STALL_TIMEOUT));
        pace.bytes = STALL_BYTES;
        assert!(pace.check(STALL_TIMEOUT * 2));
        assert_eq!(pace.bytes, 0);
    }
}
