//! The user asked us to stop: one flag for the process, set by SIGINT and SIGTERM.
//!
//! For synchronous code. A program calls [`install`] once, at its start; long work calls
//! [`check`] between its pieces, and [`Tool`](crate::Tool) waits on [`fd`]. The first signal asks
//! politely, the second ends the process at once.

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::{Class, Error, Result};

static INSTALLED: OnceLock<Interrupt> = OnceLock::new();

struct Interrupt {
    asked: Arc<AtomicBool>,
    /// Readable from the first signal on: nobody ever reads the byte.
    waker: UnixStream,
    /// Where [`raise`] makes it so; signal handlers have their own.
    raiser: Option<UnixStream>,
}

/// Takes over SIGINT and SIGTERM, but where our parent had us ignore them. A second call does
/// nothing.
///
/// # Errors
/// [`Class::Host`] where the handlers can not be set.
pub fn install() -> Result<()> {
    // Two threads that install at once must not both register handlers.
    static ONCE: Mutex<()> = Mutex::new(());
    let _once = ONCE.lock().unwrap_or_else(|p| p.into_inner());
    if INSTALLED.get().is_none() {
        let interrupt = register().map_err(|e| Error::host("set signal handlers").because(e))?;
        // It was empty, and we hold the lock.
        let _ = INSTALLED.set(interrupt);
    }
    Ok(())
}

/// For a program that listens to signals by itself: from then on [`raise`] is what asks. A second
/// call does nothing, nor one after [`install`].
///
/// # Errors
/// [`Class::Host`] where no pair of sockets can be made.
pub fn listen() -> Result<()> {
    let pair = UnixStream::pair().map_err(|e| Error::host("make a pair of sockets").because(e))?;
    let (waker, raiser) = pair;
    let interrupt = Interrupt { asked: Arc::default(), waker, raiser: Some(raiser) };
    // Whoever was first has the same.
    let _ = INSTALLED.set(interrupt);
    Ok(())
}

/// Asks all synchronous work to stop, as a signal does.
pub fn raise() {
    let Some(interrupt) = INSTALLED.get() else { return };
    interrupt.asked.store(true, Ordering::Relaxed);
    if let Some(mut raiser) = interrupt.raiser.as_ref() {
        // Nobody reads: once is enough, and full is as good.
        let _ = raiser.write(&[0]);
    }
}

fn register() -> std::io::Result<Interrupt> {
    let asked = Arc::new(AtomicBool::new(false));
    let (waker, signalled) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM].into_iter().filter(|&signal| !is_ignored(signal)) {
        // In this order: the first signal finds the flag unset and sets it, the second exits.
        let code = i32::from(Class::Interrupted.exit_code());
        flag::register_conditional_shutdown(signal, code, Arc::clone(&asked))?;
        flag::register(signal, Arc::clone(&asked))?;
        low_level::pipe::register(signal, signalled.try_clone()?)?;
    }
    Ok(Interrupt { asked, waker, raiser: None })
}

/// Whether `signal` is ignored, as `nohup` and the shell's `trap ''` arrange it for what they start.
/// Whoever handles such a signal undoes that.
pub fn is_ignored(signal: i32) -> bool {
    // proc(5): a mask in hexadecimal, signal 1 is the lowest bit. Without /proc none is known.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1
}

/// Whether a signal has come since [`install`].
pub fn interrupted() -> bool {
    INSTALLED.get().is_some_and(|i| i.asked.load(Ordering::Relaxed))
}

/// [`Error::interrupted`] once a signal has come.
pub fn check() -> Result<()> {
    if interrupted() { Err(Error::interrupted()) } else { Ok(()) }
}

/// Becomes readable with the first signal and stays so; for `poll`. `None` before [`install`].
/// Must not be read.
pub fn fd() -> Option<BorrowedFd<'static>> {
    INSTALLED.get().map(|i| i.waker.as_fd())
}
