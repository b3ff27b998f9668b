//! Bytes a second, over all connections.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The lowest limit: what is slower looks like a server that has stalled.
pub const RATE_MIN: u64 = 16 << 10;

/// What may come at once after a silence: a fifth of a second's worth.
const BURST_PART: u64 = 5;

/// `500K`, `2M`, `1G`, or bytes: a second.
///
/// # Errors
/// What is wanted, where it is something else.
pub fn parse_rate(text: &str) -> Result<NonZeroU64, String> {
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err("a whole number and K, M or G".to_string()),
    };
    let number: u64 = digits.parse().map_err(|_| "a whole number and K, M or G".to_string())?;
    let rate = number.checked_mul(unit).filter(|rate| *rate >= RATE_MIN).and_then(NonZeroU64::new);
    rate.ok_or_else(|| format!("at least {}K", RATE_MIN >> 10))
}

/// A limit, or none.
#[derive(Debug)]
pub(super) struct Rate {
    bytes_a_second: Option<NonZeroU64>,
    /// When all that was taken so far is due.
    due: Mutex<Instant>,
}

impl Rate {
    pub(super) fn new(bytes_a_second: Option<NonZeroU64>) -> Self {
        Rate { bytes_a_second, due: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more are allowed.
    pub(super) fn take(&self, bytes: u64) {
        if let Some(wait) = self.wait(bytes, Instant::now()) {
            std::thread::sleep(wait);
        }
    }

    fn wait(&self, bytes: u64, now: Instant) -> Option<Duration> {
        let rate = self.bytes_a_second?.get().max(RATE_MIN);
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let burst = Duration::from_secs_f64(1.0 / BURST_PART as f64);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        *due = (*due).max(now.checked_sub(burst).unwrap_or(now)) + cost;
        due.checked_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spread_over_time() {
        let rate = Rate::new(NonZeroU64::new(1 << 20));
        let start = Instant::now();
        let mut now = start;
        for _ in 0..64 {
            now += rate.wait(64 << 10, now).unwrap_or_default();
        }
        let seconds = (now - start).as_secs_f64();
        assert!((3.7..=4.1).contains(&seconds), "{seconds}");
        assert_eq!(Rate::new(None).wait(1 << 40, start), None);
    }
}
