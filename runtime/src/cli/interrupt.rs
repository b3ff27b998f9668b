//! Ctrl-C and its kin, as something to await.

use imgrun::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask us to stop. From the moment they are listened to, they no longer kill us.
#[derive(Debug)]
pub(super) struct Interrupts {
    int: Signal,
    term: Signal,
    hup: Signal,
    last: i32,
}

impl Interrupts {
    pub(super) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|e| Error::host("signal handlers").because(e));
        Ok(Interrupts {
            int: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
            hup: listen(SignalKind::hangup())?,
            last: SignalKind::interrupt().as_raw_value(),
        })
    }

    /// Waits for the next one; its number.
    pub(super) async fn next(&mut self) -> u8 {
        let kind = tokio::select! {
            _ = self.int.recv() => SignalKind::interrupt(),
            _ = self.term.recv() => SignalKind::terminate(),
            _ = self.hup.recv() => SignalKind::hangup(),
        };
        self.last = kind.as_raw_value();
        self.last as u8
    }

    /// What a shell says of a program that the last one ended.
    pub(super) fn exit_code(&self) -> i32 {
        128 + self.last
    }
}
