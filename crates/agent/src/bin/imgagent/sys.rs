//! The system calls that have no safe form: signals by number, a signal descriptor, work between
//! fork and exec, vsock addresses.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use agent::SEED_BYTES;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

pub(crate) const SIGHUP: i32 = 1;
pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGTERM: i32 = 15;
pub(crate) const SIGCHLD: i32 = 17;
pub(crate) const SIGCONT: i32 = 18;
/// As PID 1: every process but PID 1. See kill(2).
pub(crate) const EVERYBODY: i32 = -1;

/// glibc's and musl's `sigset_t`: 1024 bits.
#[repr(C)]
struct SigSet([u64; 16]);

const SIG_BLOCK: c_int = 0;
const SIG_SETMASK: c_int = 2;
const SFD_CLOEXEC: c_int = 0o2000000;
const SFD_NONBLOCK: c_int = 0o4000;

// What std links already. rustix leaves signals to the C library.
unsafe extern "C" {
    #[link_name = "kill"]
    safe fn c_kill(pid: c_int, signal: c_int) -> c_int;
    #[link_name = "close_range"]
    safe fn c_close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    fn signal(signal: c_int, handler: usize) -> usize;
    fn sigemptyset(set: *mut SigSet) -> c_int;
    fn sigaddset(set: *mut SigSet, signal: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const SigSet, old: *mut SigSet) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn signalfd(fd: c_int, set: *const SigSet, flags: c_int) -> c_int;
}

/// kill(2). A target that is gone already is what was wanted, so the result does not matter.
pub(crate) fn kill(target: i32, signal: i32) {
    c_kill(target, signal);
}

/// Keeps what this program inherited, and did not ask for, from what it runs.
pub(crate) fn close_inherited_on_exec() {
    const AFTER_STANDARD_ERROR: c_uint = 3;
    const CLOSE_RANGE_CLOEXEC: c_int = 4;
    // A kernel too old for this (5.11) starts us with nothing to inherit.
    c_close_range(AFTER_STANDARD_ERROR, c_uint::MAX, CLOSE_RANGE_CLOEXEC);
}

/// Signals the process group of `pid`.
pub(crate) fn kill_group(pid: i32, signal: i32) {
    // 0 and 1 would be our own group and everybody.
    if pid > 1 {
        c_kill(-pid, signal);
    }
}

/// A descriptor that is readable when a child has ended; SIGCHLD is blocked from then on.
pub(crate) fn child_events() -> io::Result<OwnedFd> {
    let mut set = SigSet([0; 16]);
    // SAFETY: `set` is as large as the C library's type and lives for all four calls, none of
    // which keeps the pointer; a null `old` is allowed.
    let fd = unsafe {
        sigemptyset(&mut set);
        sigaddset(&mut set, SIGCHLD);
        if sigprocmask(SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// random(4)'s `struct rand_pool_info`.
#[repr(C)]
struct Entropy {
    bits: c_int,
    bytes: c_int,
    seed: [u8; SEED_BYTES],
}

/// Gives the kernel's random generator `seed`, and makes it forget what it would have said next.
pub(crate) fn reseed(seed: &[u8; SEED_BYTES]) -> io::Result<()> {
    // linux/random.h: _IOW('R', 0x03, int[2]) and _IO('R', 0x07).
    const RNDADDENTROPY: c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: c_ulong = 0x5207;
    let random = File::options().write(true).open("/dev/urandom")?;
    let (bits, bytes) = (8 * SEED_BYTES as c_int, SEED_BYTES as c_int);
    let entropy = Entropy { bits, bytes, seed: *seed };
    // SAFETY: the kernel reads `bytes` bytes behind the two numbers, which is all of `entropy`.
    if unsafe { ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const entropy) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // New entropy alone is not used before the next time that the generator reseeds itself.
    // SAFETY: this request has no argument.
    if unsafe { ioctl(random.as_raw_fd(), RNDRESEEDCRNG) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs `prepare` in the child, between fork and exec, with no signal blocked and none ignored.
pub(crate) fn before_exec(
    command: &mut Command,
    mut prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    const SIG_DFL: usize = 0;
    // 32 and 33 are the C library's own; SIGKILL and SIGSTOP refuse, and need no resetting.
    const SIGNALS: [std::ops::RangeInclusive<c_int>; 2] = [1..=31, 34..=64];
    let reset_signals = || {
        for number in SIGNALS.into_iter().flatten() {
            // SAFETY: the default action is always a valid one to set, also after a fork.
            unsafe { signal(number, SIG_DFL) };
        }
        let mut set = SigSet([0; 16]);
        // SAFETY: as in `child_events`.
        let result = unsafe {
            sigemptyset(&mut set);
            sigprocmask(SIG_SETMASK, &set, std::ptr::null_mut())
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: this program has one thread, so the child inherits no lock that is held, and
    // whatever is allowed before the fork is allowed after it.
    unsafe {
        command.pre_exec(move || reset_signals().and_then(|()| prepare()));
    }
}

/// vsock(7)'s `struct sockaddr_vm`.
#[repr(C)]
pub(crate) struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

impl VsockAddress {
    /// To listen on `port`, whoever we are for the host.
    pub(crate) fn any(port: u32) -> Self {
        const VMADDR_CID_ANY: u32 = u32::MAX;
        let family = rustix::net::AddressFamily::VSOCK.as_raw();
        VsockAddress { family, reserved: 0, port, cid: VMADDR_CID_ANY, zero: [0; 4] }
    }
}

// SAFETY: it is laid out as the kernel's structure, and lives as long as the call.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f(std::ptr::from_ref(self).cast(), size_of::<Self>() as SocketAddrLen)
    }
}
