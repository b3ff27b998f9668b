//! QEMU's control: QMP (docs/interop/qmp-spec.txt of QEMU), JSON objects, one a line.
//!
//! A VMM that a guest has taken over may say anything here: lines are bounded, every answer is
//! waited for with a limit, and what is not understood is an error.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;

use crate::{Error, Result};

/// Every command is answered at once; a host that is busy takes longer.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// The state of a machine whose memory is in it, too, is written and read in this time.
const STATE_MAX: Duration = Duration::from_secs(300);
/// How often it is looked whether a state is written or read. It takes 2 ms.
const LOOK: Duration = Duration::from_millis(1);
/// A line is at most this long.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes read at a time.
const READ_BYTES: usize = 16 << 10;
/// No machine runs meanwhile, so the copy may take all that the host has; the default is 128 MiB/s.
const BANDWIDTH_BYTES_S: u64 = 1 << 40;
/// What the VMM calls the file that it gets from us.
const STATE: &str = "state";

/// A connection to QEMU's monitor. Nothing is said before the first command. A command whose future
/// was dropped has been executed or not; the next one is answered all the same.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: UnixStream,
    input: Vec<u8>,
    last_id: u64,
    version: Option<String>,
    ready: bool,
}

impl Monitor {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Monitor { stream, input: Vec::new(), last_id: 0, version: None, ready: false }
    }

    /// Waits until QEMU is there; its version, as it says it.
    pub(crate) async fn version(&mut self) -> Result<String> {
        let greet = async {
            if self.version.is_none() {
                let greeting = self.line().await?;
                let version = version(&greeting).ok_or_else(|| broken("no greeting"))?;
                self.version = Some(version);
            }
            if !self.ready {
                self.talk("qmp_capabilities", Value::Null, None).await?;
                self.ready = true;
            }
            Ok(self.version.clone().unwrap_or_default())
        };
        tokio::time::timeout(ANSWER_MAX, greet).await.map_err(|_| silent("its greeting"))?
    }

    /// Stops the processors, and with them all that the machine does.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.ask("stop", Value::Null, None).await.map(drop)
    }

    /// Lets them go on.
    pub(crate) async fn go_on(&mut self) -> Result<()> {
        self.ask("cont", Value::Null, None).await.map(drop)
    }

    /// Lets [`Monitor::save`] go as fast as it can.
    pub(crate) async fn unbridle(&mut self) -> Result<()> {
        self.version().await?;
        let bandwidth = json!({ "max-bandwidth": BANDWIDTH_BYTES_S });
        self.ask("migrate-set-parameters", bandwidth, None).await.map(drop)
    }

    /// Hands over the file that [`Monitor::save`] writes or [`Monitor::load`] reads. Memory that
    /// others share is no part of the state.
    pub(crate) async fn take_file(&mut self, state: BorrowedFd<'_>) -> Result<()> {
        self.version().await?;
        let shared = json!([{ "capability": "x-ignore-shared", "state": true }]);
        self.ask("migrate-set-capabilities", json!({ "capabilities": shared }), None).await?;
        self.ask("getfd", json!({ "fdname": STATE }), Some(state)).await.map(drop)
    }

    /// Writes the state of a stopped machine's devices and processors.
    pub(crate) async fn save(&mut self) -> Result<()> {
        self.ask("migrate", json!({ "uri": format!("fd:{STATE}") }), None).await?;
        self.finished("saving the machine's state").await
    }

    /// Reads a state into a machine that was started to wait for one.
    pub(crate) async fn load(&mut self) -> Result<()> {
        self.ask("migrate-incoming", json!({ "uri": format!("fd:{STATE}") }), None).await?;
        self.finished("loading the machine's state").await
    }

    async fn finished(&mut self, what: &str) -> Result<()> {
        let look = async {
            loop {
                let answer = self.ask("query-migrate", Value::Null, None).await?;
                match answer["status"].as_str() {
                    Some("completed") => return Ok(()),
                    Some("failed" | "cancelled") => {
                        let why = answer["error-desc"].as_str().unwrap_or("the VMM refused");
                        let why = crate::console::printable(why.as_bytes());
                        return Err(Error::host(format!("{what}: {why}")));
                    }
                    _ => tokio::time::sleep(LOOK).await,
                }
            }
        };
        tokio::time::timeout(STATE_MAX, look).await.map_err(|_| silent(what))?
    }

    /// Executes a command and waits for its answer.
    async fn ask(
        &mut self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Value> {
        let answer = tokio::time::timeout(ANSWER_MAX, self.talk(command, arguments, fd)).await;
        answer.map_err(|_| silent(command))?
    }

    async fn talk(
        &mut self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        // QEMU takes a request byte by byte, 10 us each and more on a busy host.
        let request = match arguments.is_null() {
            true => json!({ "execute": command, "id": id }),
            false => json!({ "execute": command, "arguments": arguments, "id": id }),
        };
        self.send(request.to_string().as_bytes(), fd).await?;
        loop {
            let mut line = self.line().await?;
            // Events, and the answer to a command that was given up.
            if line["id"].as_u64() != Some(id) {
                continue;
            }
            if let Some(why) = line["error"]["desc"].as_str() {
                let why = crate::console::printable(why.as_bytes());
                return Err(Error::host(format!("the VMM refused {command}: {why}")));
            }
            return Ok(line["return"].take());
        }
    }

    /// Sends one request, which is far smaller than what a socket takes.
    async fn send(&mut self, request: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let stream = &self.stream;
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
            if !fds.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            }
            let request = [IoSlice::new(request)];
            Ok(sendmsg(stream.as_fd(), &request, &mut ancillary, SendFlags::NOSIGNAL)?)
        };
        let sent = self.stream.async_io(Interest::WRITABLE, send).await.map_err(lost)?;
        if sent == request.len() { Ok(()) } else { Err(broken("it takes no request")) }
    }

    /// The next line.
    async fn line(&mut self) -> Result<Value> {
        loop {
            if let Some(end) = self.input.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|_| broken("no JSON"));
            }
            if self.input.len() > LINE_BYTES_MAX {
                return Err(broken("a line without an end"));
            }
            let mut buffer = vec![0; READ_BYTES];
            match self.stream.read(&mut buffer).await.map_err(lost)? {
                0 => return Err(Error::host("the VMM ended")),
                n => self.input.extend_from_slice(&buffer[..n]),
            }
        }
    }
}

/// `7.2.22 (Debian 1:7.2+dfsg-7)`
fn version(greeting: &Value) -> Option<String> {
    const TEXT_CHARS_MAX: usize = 200;
    let version = &greeting["QMP"]["version"];
    let number = |part: &str| version["qemu"][part].as_u64();
    let package = version["package"].as_str().unwrap_or_default();
    let package = crate::console::printable(package.as_bytes());
    let text =
        format!("{}.{}.{} ({package})", number("major")?, number("minor")?, number("micro")?);
    Some(text.chars().take(TEXT_CHARS_MAX).collect())
}

fn lost(e: std::io::Error) -> Error {
    Error::host("the connection to the VMM").because(e)
}

fn broken(what: &str) -> Error {
    Error::host(format!("the VMM's monitor: {what}"))
}

fn silent(what: &str) -> Error {
    Error::host(format!("the VMM does not answer: {what}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},
        "package": "Debian\u001b"}, "capabilities": []}}"#;

    /// What a monitor makes of a VMM that says `lines` and hangs up.
    async fn said(lines: &str) -> Result<String> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(lines.as_bytes()).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut monitor = Monitor::new(ours);
        monitor.version().await?;
        monitor.stop().await.map(|()| monitor.version.unwrap_or_default())
    }

    #[tokio::test]
    async fn what_is_no_answer_is_passed_over_or_refused() {
        let greeting = GREETING.replace('\n', "");
        let right = format!(
            "{greeting}\n{{\"return\": {{}}, \"id\": 1}}\n{{\"event\": \"STOP\"}}\n\
             {{\"return\": {{}}, \"id\": 1}}\n{{\"return\": {{}}, \"id\": 2}}\n"
        );
        assert_eq!(said(&right).await.unwrap(), "7.2.22 (Debian\u{fffd})");
        let refused = "{\"id\": 2, \"error\": {\"class\": \"x\", \"desc\": \"no\\nway\"}}\n";
        let refused = right.replace("{\"return\": {}, \"id\": 2}\n", refused);
        assert!(said(&refused).await.unwrap_err().to_string().contains("refused stop: no"));
        for wrong in ["", "hello\n", "{}\n", &greeting, &format!("{greeting}\n[]\n")] {
            assert!(said(wrong).await.is_err(), "{wrong}");
        }
    }
}
