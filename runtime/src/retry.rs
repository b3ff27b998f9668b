//! When to try again, and after how long.

use std::time::{Duration, SystemTime};

use crate::{Error, Progress, Result};

/// Tries in a row that bring no progress, at most.
const TRIES_MAX: u32 = 6;
/// Tries in a row that reach no server at all, at most: a name without an address, a closed port.
const TRIES_UNREACHED_MAX: u32 = 3;
/// The same for a mirror: there are others to ask.
const TRIES_MIRROR_MAX: u32 = 2;
/// Tries in all, at most, progress or not.
const TRIES_IN_ALL_MAX: u32 = 100;
/// So many bytes more are progress.
const PROGRESS_BYTES: u64 = 1 << 20;
/// The wait before the second try; it doubles with each further one.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// The longest such wait.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The longest wait that a server may ask for; we give up where it asks for more.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

/// An error and whether another try may help.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub error: Error,
    /// `None`: no other try. `Some(None)`: after our own waiting time.
    again: Option<Option<Duration>>,
    /// No server was reached.
    unreached: bool,
}

impl Failure {
    /// Another try may help, perhaps after the time that the server has named.
    pub fn passing(error: Error, after: Option<Duration>) -> Self {
        Failure { error, again: Some(after), unreached: false }
    }

    /// No server was reached; another try or two may help.
    pub fn unreached(error: Error) -> Self {
        Failure { error, again: Some(None), unreached: true }
    }
}

impl From<Error> for Failure {
    /// No other try helps.
    fn from(error: Error) -> Self {
        Failure { error, again: None, unreached: false }
    }
}

/// Counts the tries of one download.
#[derive(Debug)]
pub struct Tries {
    in_a_row_max: u32,
    in_a_row: u32,
    in_all: u32,
    unreached: u32,
}

impl Default for Tries {
    fn default() -> Self {
        Tries { in_a_row_max: TRIES_MAX, in_a_row: 0, in_all: 0, unreached: 0 }
    }
}

impl Tries {
    /// Those that a mirror gets.
    pub fn of_mirror() -> Self {
        Tries { in_a_row_max: TRIES_MIRROR_MAX, ..Self::default() }
    }

    /// Waits after `failure` until it is time for the next try, and says so; `came` bytes came
    /// before it.
    ///
    /// # Errors
    /// The failure's, where there is to be no other try.
    pub async fn wait(&mut self, failure: Failure, came: u64, progress: &Progress) -> Result<()> {
        let why = failure.error.to_string();
        let wait = self.next(failure, came)?;
        progress.note(format!("trying again in {:.1} s: {why}", wait.as_secs_f32()));
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// How long to wait after `failure`.
    fn next(&mut self, failure: Failure, came: u64) -> Result<Duration> {
        let Some(asked) = failure.again else { return Err(failure.error) };
        if came >= PROGRESS_BYTES {
            self.in_a_row = 0;
        }
        self.unreached = if failure.unreached { self.unreached + 1 } else { 0 };
        self.in_a_row += 1;
        self.in_all += 1;
        if self.in_a_row >= self.in_a_row_max
            || self.in_all >= TRIES_IN_ALL_MAX
            || self.unreached >= TRIES_UNREACHED_MAX
        {
            let tries = self.in_all;
            return Err(failure.error.within(format!("gave up after {tries} tries")));
        }
        let own = WAIT_FIRST.saturating_mul(1 << (self.in_a_row - 1).min(16)).min(WAIT_MAX);
        match asked {
            Some(asked) if asked > RETRY_AFTER_MAX => {
                let seconds = asked.as_secs();
                Err(failure.error.within(format!("the server wants us back in {seconds} s")))
            }
            Some(asked) => Ok(asked.max(WAIT_FIRST)),
            None => Ok(own),
        }
    }
}

/// The header `Retry-After`: seconds or a date (RFC 9110, 10.2.3).
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing(after: Option<u64>) -> Failure {
        Failure::passing(Error::network("cut"), after.map(Duration::from_secs))
    }

    #[test]
    fn tries_are_bounded() {
        let mut tries = Tries::default();
        let waits: Vec<_> = std::iter::from_fn(|| tries.next(passing(None), 0).ok()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000].map(Duration::from_millis));
        let mut tries = Tries::default();
        let count = std::iter::from_fn(|| tries.next(passing(None), PROGRESS_BYTES).ok()).count();
        assert_eq!(count, TRIES_IN_ALL_MAX as usize - 1);
        let mut tries = Tries::default();
        let unreached = || Failure::unreached(Error::network("refused"));
        let count = std::iter::from_fn(|| tries.next(unreached(), 0).ok()).count();
        assert_eq!(count, TRIES_UNREACHED_MAX as usize - 1);
        assert!(Tries::default().next(Error::trust("wrong").into(), 0).is_err());
    }

    #[test]
    fn the_server_may_name_the_time() {
        let mut tries = Tries::default();
        assert_eq!(tries.next(passing(Some(7)), 0).unwrap(), Duration::from_secs(7));
        let error = tries.next(passing(Some(3600)), 0).unwrap_err();
        assert_eq!(error.to_string(), "the server wants us back in 3600 s: cut");
        let now = httpdate::parse_http_date("Fri, 20 Nov 2026 21:00:00 GMT").unwrap();
        let table = [
            ("3", Some(3)),
            ("Fri, 20 Nov 2026 21:00:05 GMT", Some(5)),
            ("Fri, 20 Nov 2026 20:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ];
        for (value, seconds) in table {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
