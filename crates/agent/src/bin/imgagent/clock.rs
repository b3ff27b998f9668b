//! The wall clock, which is the host's.

use std::time::{Duration, SystemTime};

use rustix::event::Timespec;
use rustix::time::ClockId;

use crate::console;

/// A wall clock that is further off than this is corrected.
const OFF_MAX: Duration = Duration::from_secs(1);

/// Sets the wall clock to the host's, where it is wrong.
pub(crate) fn correct(unix_ns: u64) {
    let Some(wanted) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(unix_ns)) else {
        return;
    };
    let now = SystemTime::now();
    let off = now.duration_since(wanted).or_else(|_| wanted.duration_since(now));
    if off.is_ok_and(|off| off <= OFF_MAX) {
        return;
    }
    if let Err(why) = set(unix_ns) {
        console::say(&why);
    }
}

/// Sets the wall clock.
pub(crate) fn set(unix_ns: u64) -> Result<(), String> {
    let time = Timespec::try_from(Duration::from_nanos(unix_ns));
    let time = time.map_err(|_| "a time that clocks do not have".to_string())?;
    rustix::time::clock_settime(ClockId::Realtime, time)
        .map_err(|e| format!("cannot set the clock: {e}"))
}
