//! What listens in a guest.

use agent::listening::Listener;
use agent::{Exec, GUEST_PATH, Status};

use super::Guest;
use crate::{Error, Result, printable};

/// What the agent says is at most this long: some 20,000 sockets.
const SAID_BYTES_MAX: usize = 1 << 20;

impl Guest {
    /// The sockets that wait for connections in the guest, with the processes that have them open,
    /// in the order of protocol and address. It is what the guest says.
    ///
    /// # Errors
    /// `Guest` where its agent does not know how, or what it says is none of ours.
    pub async fn listeners(&self) -> Result<Vec<Listener>> {
        let argv = [GUEST_PATH, "ports"].map(|word| word.as_bytes().to_vec()).to_vec();
        let exec = Exec { argv, cwd: Some(b"/".to_vec()), ..Exec::default() };
        let done = self.run(exec, SAID_BYTES_MAX).await.map_err(|not_run| not_run.error)?;
        if done.exit.status != Status::Code(0) {
            let said = printable(&done.stderr);
            let line = said.lines().last().unwrap_or("it says nothing");
            let line = line.strip_prefix("imgagent: ").unwrap_or(line);
            let e = Error::guest(format!("asking the guest for its ports: {line}"));
            return Err(match line.starts_with("usage: ") {
                true => e.hint("its agent does not know yet: build the image again"),
                false => e,
            });
        }
        let text = String::from_utf8_lossy(&done.stdout);
        text.lines().map(|line| Ok(line.parse::<Listener>()?)).collect()
    }
}
