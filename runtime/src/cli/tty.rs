//! The terminal, while a guest has it.

use std::io::IsTerminal;

use imgrun::{Error, Result, Terminal};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Standard input's terminal in raw mode: every key goes to the guest. Restored when dropped.
#[derive(Debug)]
pub(super) struct RawTerminal {
    before: Termios,
}

/// Refuses to go on without a terminal on standard input.
pub(super) fn require() -> Result<()> {
    if std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Error::usage("-t: standard input is not a terminal").hint("leave -t away"))
}

impl RawTerminal {
    pub(super) fn enter() -> Result<Self> {
        let failed = |e| Error::host("the terminal").because(std::io::Error::from(e));
        let before = tcgetattr(rustix::stdio::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(RawTerminal { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to restore.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The terminal's size; the classic one where it does not say.
pub(super) fn size() -> Terminal {
    match tcgetwinsize(rustix::stdio::stdin()) {
        Ok(size) if size.ws_row > 0 => Terminal { rows: size.ws_row, cols: size.ws_col },
        _ => Terminal { rows: 24, cols: 80 },
    }
}
