//! Times as TUF writes them: `2026-11-20T22:41:00Z`, to the second, always UTC.

const DAY: u64 = 86_400;

/// Seconds since 1970 as text.
pub fn to_text(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / DAY);
    let (hour, minute, second) = (seconds % DAY / 3600, seconds % 3600 / 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Text as seconds since 1970; `None` where it is no such time.
pub fn from_text(text: &str) -> Option<u64> {
    let shape = text.bytes().enumerate().all(|(i, byte)| match i {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        19 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    });
    if text.len() != 20 || !shape {
        return None;
    }
    let part = |from: usize, to: usize| text[from..to].parse::<u64>().ok();
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    if year < 1970 || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days(year, month, day)?;
    Some(days * DAY + hour * 3600 + minute * 60 + second)
}

/// Now, in seconds since 1970.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if day < 1 || day > month_days(year, month) {
        return None;
    }
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    Some(years + (1..month).map(|m| month_days(year, m)).sum::<u64>() + day - 1)
}

fn civil(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / 366;
    while self::days(year + 1, 1, 1).is_some_and(|first| first <= days) {
        year += 1;
    }
    days -= self::days(year, 1, 1).unwrap_or(0);
    let mut month = 1;
    while days >= month_days(year, month) {
        days -= month_days(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip() {
        let table = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in table {
            assert_eq!(to_text(seconds), text);
            assert_eq!(from_text(text), Some(seconds));
        }
        for day in 0..60_000 {
            assert_eq!(from_text(&to_text(day * DAY)), Some(day * DAY));
        }
        let wrong = ["", "2026-11-20", "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z"];
        for text in wrong.into_iter().chain(["2026-11-20T22:41:00.5Z", "2026-11-20T22:41:00+0"]) {
            assert_eq!(from_text(text), None, "{text}");
        }
    }
}
