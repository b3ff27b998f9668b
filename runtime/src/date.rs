//! Times for people, in UTC.

/// The day of a time in seconds since 1970, as `2026-11-20`.
pub fn day(seconds: u64) -> String {
    let (year, month, day) = civil(seconds);
    format!("{year:04}-{month:02}-{day:02}")
}

fn civil(seconds: u64) -> (u64, u64, u64) {
    // Days since 0000-03-01, so that a leap day ends its year.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (400 * era + year + u64::from(month <= 2), month, day)
}

/// The minute, as `2026-11-20 22:41 UTC`.
pub fn minute(seconds: u64) -> String {
    let (hour, minute) = (seconds % 86_400 / 3600, seconds % 3600 / 60);
    format!("{} {hour:02}:{minute:02} UTC", day(seconds))
}

/// The second, as `2026-11-20T22:41:07Z` (RFC 3339).
pub fn second(seconds: u64) -> String {
    let (hour, minute) = (seconds % 86_400 / 3600, seconds % 3600 / 60);
    format!("{}T{hour:02}:{minute:02}:{:02}Z", day(seconds), seconds % 60)
}

/// Any time that a file system holds, as `2026-11-20 22:41:07.000000000`.
pub fn instant(time: ext4::Time) -> String {
    // Whole cycles of the calendar later no time is before 1970.
    const CYCLES: i64 = 5;
    const CYCLE_SECONDS: i64 = 146_097 * 86_400;
    let seconds = time.seconds.saturating_add(CYCLES * CYCLE_SECONDS).max(0) as u64;
    let (year, month, day) = civil(seconds);
    let year = year as i64 - CYCLES * 400;
    let (hour, minute, second) = (seconds % 86_400 / 3600, seconds % 3600 / 60, seconds % 60);
    let nanoseconds = time.nanoseconds;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{nanoseconds:09}")
}

/// Now, in seconds since 1970.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        let table = [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_700_000_000, "2023-11-14"),
            (4_107_542_400, "2100-03-01"),
        ];
        for (seconds, date) in table {
            assert_eq!(day(seconds), date);
        }
        assert_eq!(minute(1_700_000_000), "2023-11-14 22:13 UTC");
        assert_eq!(second(1_700_000_000), "2023-11-14T22:13:20Z");
        let instant = |seconds, nanoseconds| instant(ext4::Time { seconds, nanoseconds });
        assert_eq!(instant(1_700_000_000, 5), "2023-11-14 22:13:20.000000005");
        assert_eq!(instant(-1, 999_999_999), "1969-12-31 23:59:59.999999999");
        assert_eq!(instant(-(1 << 31), 0), "1901-12-13 20:45:52.000000000");
        assert_eq!(instant((1 << 34) - (1 << 31) - 1, 0), "2446-05-10 22:38:55.000000000");
    }
}
