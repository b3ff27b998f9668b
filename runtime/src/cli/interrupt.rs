//! Ctrl-C and its kin, as something to await.

use imgrun::interrupt::is_ignored;
use imgrun::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask us to stop. From the moment they are listened to, they no longer kill us.
/// One that our parent had us ignore (`nohup`) never comes.
#[derive(Debug)]
pub(super) struct Interrupts {
    int: Option<Signal>,
    term: Option<Signal>,
    hup: Option<Signal>,
    last: i32,
    came: bool,
}

impl Interrupts {
    pub(super) fn listen() -> Result<Self> {
        let listen = |kind: SignalKind| match is_ignored(kind.as_raw_value()) {
            true => Ok(None),
            false => signal(kind).map(Some).map_err(|e| Error::host("signal handlers").because(e)),
        };
        Ok(Interrupts {
            int: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
            hup: listen(SignalKind::hangup())?,
            last: SignalKind::interrupt().as_raw_value(),
            came: false,
        })
    }

    /// Waits for the next one; its number.
    pub(super) async fn next(&mut self) -> u8 {
        let kind = tokio::select! {
            () = came(&mut self.int) => SignalKind::interrupt(),
            () = came(&mut self.term) => SignalKind::terminate(),
            () = came(&mut self.hup) => SignalKind::hangup(),
        };
        self.came = true;
        self.last = kind.as_raw_value();
        self.last as u8
    }

    /// Whether [`Interrupts::next`] has ever returned.
    pub(super) fn came(&self) -> bool {
        self.came
    }

    /// What a shell says of a program that the last one ended.
    pub(super) fn exit_code(&self) -> i32 {
        128 + self.last
    }
}

async fn came(signal: &mut Option<Signal>) {
    let came = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    // No more can come.
    if came.is_none() {
        std::future::pending().await
    }
}
