//! What a machine takes of the host, as the kernel counts it.

use std::fs;
use std::time::Duration;

use super::Kept;
use crate::{Error, Result};

/// What a machine that runs takes of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The VMM's processor time since the machine started.
    pub cpu: Duration,
    /// The VMM's resident memory, the guest's included, bytes.
    pub memory_bytes: u64,
    /// The supervisor's resident memory, bytes.
    pub supervisor_bytes: u64,
}

impl Kept {
    /// What it takes of the host now.
    ///
    /// # Errors
    /// `Usage` where it does not run.
    pub async fn usage(&self) -> Result<Usage> {
        let (pid, _connection) = self.supervisor().await?;
        let pid = pid.as_raw_nonzero();
        let gone = || Error::usage(format!("{} does not run", self.name));
        // The VMM is the supervisor's only child.
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let vmm = children.unwrap_or_default().split_whitespace().next().map(str::to_string);
        let vmm = vmm.ok_or_else(gone)?;
        let stat = fs::read_to_string(format!("/proc/{vmm}/stat")).map_err(|_| gone())?;
        Ok(Usage {
            cpu: cpu(&stat).ok_or_else(gone)?,
            memory_bytes: resident_bytes(&vmm).ok_or_else(gone)?,
            supervisor_bytes: resident_bytes(&pid.to_string()).ok_or_else(gone)?,
        })
    }
}

/// proc(5): `utime` and `stime` are fields 14 and 15; the second, a name, may have anything in it.
fn cpu(stat: &str) -> Option<Duration> {
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let ticks: u64 =
        fields.next()?.parse::<u64>().ok()?.checked_add(fields.next()?.parse().ok()?)?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_millis(ticks.checked_mul(1000)? / per_second.max(1)))
}

fn resident_bytes(pid: &str) -> Option<u64> {
    let pages = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = pages.split_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a ) S (b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(cpu(stat), Some(Duration::from_millis(200_000 / ticks)));
        assert_eq!(cpu("7 (x) S 1"), None);
    }
}
