//! The rate of the host's time stamp counter.
//!
//! A guest under TCG sees the host's counter. Its kernel would calibrate it against an emulated
//! timer, which takes 50 ms and, on a loaded host, fails so that the boot hangs; so it is told.
#![allow(unsafe_code)] // RDTSC is an intrinsic

/// Measured over 10 ms, kHz; `None` on machines without such a counter.
#[cfg(target_arch = "x86_64")]
pub fn tsc_khz() -> Option<u64> {
    use std::time::{Duration, Instant};

    /// Long enough for an error below 0.1 %, short beside a boot.
    const MEASURE: Duration = Duration::from_millis(10);

    // SAFETY: every x86_64 processor has RDTSC and user code may run it; it touches no memory.
    let read = || unsafe { core::arch::x86_64::_rdtsc() };
    let (began, first) = (Instant::now(), read());
    std::thread::sleep(MEASURE);
    let (last, elapsed) = (read(), began.elapsed());
    let ticks = u128::from(last.checked_sub(first)?);
    let khz = ticks * 1_000_000 / elapsed.as_nanos().max(1);
    u64::try_from(khz).ok().filter(|&khz| khz > 0)
}

/// Measured over 10 ms, kHz; `None` on machines without such a counter.
#[cfg(not(target_arch = "x86_64"))]
pub fn tsc_khz() -> Option<u64> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #[test]
    fn two_measurements_agree() {
        let (a, b) = (super::tsc_khz().unwrap(), super::tsc_khz().unwrap());
        assert!(a.abs_diff(b) < a / 20, "{a} kHz, then {b} kHz");
    }
}
