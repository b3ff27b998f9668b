//! What a supervisor does for clients beside passing on what they say to the agent: one request a
//! connection, one line of JSON each way, on `<home>/kept/<name>/control`, which is 0600.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{CONTROL, Kept};
use crate::{Class, Error, Machine, Result, guest};

/// A line is at most this long: a path and an error are in it.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// A client says what it wants at once.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// After the host could not let one in.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client wants.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Save the machine into this directory.
    Save { into: PathBuf },
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Saved(Saved),
    Failed { class: String, message: String, hint: Option<String> },
}

/// A machine that was saved, and what its copies must know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) pause_us: u64,
    pub(crate) vmm: String,
    pub(crate) cpu: String,
    pub(crate) protocol: u16,
    pub(crate) command: Option<guest::Kept>,
}

impl Kept {
    /// Has its supervisor save it into the directory `into`: see [`crate::Snapshot::take`].
    pub(crate) async fn save(&self, into: &Path) -> Result<Saved> {
        let broken = || Error::host(format!("the supervisor of {} ended", self.name));
        let mut stream = self.connect(CONTROL).await?;
        let request = Request::Save { into: into.to_path_buf() };
        say(&mut stream, &request).await.map_err(|e| broken().because(e))?;
        let answer = line(stream).await.map_err(|e| broken().because(e))?;
        match serde_json::from_str(&answer).map_err(|_| broken())? {
            Answer::Saved(saved) => Ok(saved),
            Answer::Failed { class, message, hint } => {
                let e = Error::new(Class::from_name(&class).unwrap_or(Class::Bug), message);
                Err(match hint {
                    Some(hint) => e.hint(hint),
                    None => e,
                })
            }
        }
    }
}

/// Does what clients want, one after the other, for as long as it is awaited. `command` is the
/// machine's own.
pub(crate) async fn serve(
    machine: &Machine,
    listener: &UnixListener,
    cpu: &str,
    command: Option<guest::Kept>,
) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let request = tokio::time::timeout(REQUEST_MAX, line(&mut stream)).await;
        let Some(request) = request.ok().and_then(|line| serde_json::from_str(&line.ok()?).ok())
        else {
            continue;
        };
        let Request::Save { into } = request;
        let answer = match machine.save(&into).await {
            Ok(saved) => Answer::Saved(Saved {
                pause_us: u64::try_from(saved.pause.as_micros()).unwrap_or(u64::MAX),
                vmm: saved.vmm,
                cpu: cpu.to_string(),
                protocol: machine.guest().ack().protocol,
                command,
            }),
            Err(e) => Answer::Failed {
                class: e.class().name().to_string(),
                message: e.to_string(),
                hint: e.hint_text().map(str::to_string),
            },
        };
        // Who does not listen any more has given up.
        let _ = tokio::time::timeout(REQUEST_MAX, say(&mut stream, &answer)).await;
    }
}

async fn say(stream: &mut UnixStream, what: &impl Serialize) -> std::io::Result<()> {
    let line = serde_json::to_string(what)? + "\n";
    stream.write_all(line.as_bytes()).await
}

async fn line(stream: impl tokio::io::AsyncRead + Unpin) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    Ok(line)
}
