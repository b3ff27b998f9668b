//! The end of the machine.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use agent::Shutdown;
use rustix::mount::{MountFlags, mount_remount};
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};

use crate::volume::Volume;
use crate::{console, sys};

/// Between SIGTERM and SIGKILL for everything.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// How often it is looked whether all are gone.
const LOOK: Duration = Duration::from_millis(2);

/// What ends the machine at once. Without ACPI the kernel cannot power off: it halts, and the VMM
/// would wait for ever. A restart ends it, as every VMM is started so that it does not reboot.
fn command(kind: Shutdown) -> RebootCommand {
    match kind {
        Shutdown::PowerOff if Path::new("/sys/firmware/acpi").exists() => RebootCommand::PowerOff,
        Shutdown::PowerOff | Shutdown::Reboot => RebootCommand::Restart,
    }
}

/// After a failure at boot.
pub(crate) fn fail() -> ! {
    rustix::fs::sync();
    end(command(Shutdown::PowerOff))
}

/// As PID 1: ends every process, writes everything, ends the machine.
pub(crate) fn shut_down(kind: Shutdown, upper: Option<&OwnedFd>, volumes: &[Volume]) -> ! {
    sys::kill(sys::EVERYBODY, sys::SIGTERM);
    sys::kill(sys::EVERYBODY, sys::SIGCONT);
    if !reap_all(TERM_GRACE) {
        sys::kill(sys::EVERYBODY, sys::SIGKILL);
        reap_all(TERM_GRACE);
    }
    rustix::fs::sync();
    // One may be mounted in another.
    volumes.iter().rev().for_each(Volume::unmount);
    if let Some(upper) = upper {
        // Leaves a clean file system where one is kept. No path leads to the upper file system,
        // but its descriptor does. What was synced is safe in any case.
        let _ = mount_remount("/", MountFlags::RDONLY, c"");
        let path = format!("/proc/self/fd/{}", upper.as_raw_fd());
        if let Err(e) = mount_remount(path, MountFlags::RDONLY, c"") {
            console::say(&format!("the upper file system stays writable: {e}"));
        }
    }
    end(command(kind))
}

/// As a unit: asks systemd (its documented signals; RTMIN is glibc's).
pub(crate) fn ask_systemd(kind: Shutdown) {
    const SIGRTMIN: i32 = 34;
    const POWER_OFF: i32 = SIGRTMIN + 4;
    const REBOOT: i32 = SIGRTMIN + 5;
    let signal = match command(kind) {
        RebootCommand::PowerOff => POWER_OFF,
        _ => REBOOT,
    };
    sys::kill(1, signal);
}

/// Waits until no child is left, at most `limit`. PID 1 is everybody's parent in the end.
fn reap_all(limit: Duration) -> bool {
    let began = Instant::now();
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(_) => return true,
        }
        if began.elapsed() > limit {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

fn end(command: RebootCommand) -> ! {
    if let Err(e) = reboot(command) {
        console::say(&format!("cannot end the machine: {e}"));
    }
    // The end of PID 1 is a kernel panic, and panic=-1 the machine's end.
    std::process::exit(1)
}
