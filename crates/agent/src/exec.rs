//! Running a command: what is asked, and how it ended.

use crate::{FRAME_PAYLOAD_BYTES_MAX, ProtocolError, tlv};

/// A command to run. Encoded it must fit one frame (64 KiB: arguments and environment together).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exec {
    /// The program and its arguments. A program without `/` is looked up in `PATH`.
    pub argv: Vec<Vec<u8>>,
    /// `KEY=VALUE`, on top of the default environment.
    pub env: Vec<Vec<u8>>,
    /// Start from an empty environment instead of the default one.
    pub clear_env: bool,
    /// The working directory; the user's home where there is none.
    pub cwd: Option<Vec<u8>>,
    /// `name`, `uid`, `name:group` or `uid:gid`; root where there is none.
    pub user: Option<Vec<u8>>,
    /// Give it a terminal. Its output then is all on [`crate::Stream::Stdout`].
    pub terminal: Option<Terminal>,
    /// Standard input follows in data frames; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Kill the process group after this time, milliseconds.
    pub timeout_ms: Option<u64>,
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub cols: u16,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It returned this code.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

/// The last frame of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// How it ended.
    pub status: Status,
    /// [`Exec::timeout_ms`] had passed, and it was killed for that.
    pub timed_out: bool,
}

const TAG_ARG: u8 = 1;
const TAG_ENV: u8 = 2;
const TAG_CLEAR_ENV: u8 = 3;
const TAG_CWD: u8 = 4;
const TAG_USER: u8 = 5;
const TAG_TERMINAL: u8 = 6;
const TAG_STDIN: u8 = 7;
const TAG_TIMEOUT: u8 = 8;

impl Terminal {
    pub(crate) fn to_bytes(self) -> [u8; 4] {
        let ([r0, r1], [c0, c1]) = (self.rows.to_le_bytes(), self.cols.to_le_bytes());
        [r0, r1, c0, c1]
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let [r0, r1, c0, c1] = tlv::array(bytes, "terminal size")?;
        let (rows, cols) = (u16::from_le_bytes([r0, r1]), u16::from_le_bytes([c0, c1]));
        Ok(Terminal { rows, cols })
    }
}

impl Exec {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, ProtocolError> {
        self.check()?;
        let mut out = Vec::new();
        for arg in &self.argv {
            tlv::put(&mut out, TAG_ARG, arg);
        }
        for entry in &self.env {
            tlv::put(&mut out, TAG_ENV, entry);
        }
        if self.clear_env {
            tlv::put(&mut out, TAG_CLEAR_ENV, &[1]);
        }
        if let Some(cwd) = &self.cwd {
            tlv::put(&mut out, TAG_CWD, cwd);
        }
        if let Some(user) = &self.user {
            tlv::put(&mut out, TAG_USER, user);
        }
        if let Some(terminal) = self.terminal {
            tlv::put(&mut out, TAG_TERMINAL, &terminal.to_bytes());
        }
        if self.stdin {
            tlv::put(&mut out, TAG_STDIN, &[1]);
        }
        if let Some(ms) = self.timeout_ms {
            tlv::put(&mut out, TAG_TIMEOUT, &ms.to_le_bytes());
        }
        if out.len() > FRAME_PAYLOAD_BYTES_MAX {
            let rule = "64 KiB in all at most";
            return Err(ProtocolError::Invalid { field: "arguments and environment", rule });
        }
        Ok(out)
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut exec = Exec::default();
        for field in tlv::fields(payload) {
            match field? {
                (TAG_ARG, v) => exec.argv.push(v.to_vec()),
                (TAG_ENV, v) => exec.env.push(v.to_vec()),
                (TAG_CLEAR_ENV, v) => exec.clear_env = tlv::bool(v, "clear env")?,
                (TAG_CWD, v) => exec.cwd = Some(v.to_vec()),
                (TAG_USER, v) => exec.user = Some(v.to_vec()),
                (TAG_TERMINAL, v) => exec.terminal = Some(Terminal::from_bytes(v)?),
                (TAG_STDIN, v) => exec.stdin = tlv::bool(v, "stdin")?,
                (TAG_TIMEOUT, v) => exec.timeout_ms = Some(tlv::u64(v, "timeout")?),
                _ => {}
            }
        }
        exec.check()?;
        Ok(exec)
    }

    fn check(&self) -> Result<(), ProtocolError> {
        let invalid = |field, rule| Err(ProtocolError::Invalid { field, rule });
        if self.argv.first().is_none_or(Vec::is_empty) {
            return invalid("argv", "must name a program");
        }
        let texts = [&self.argv, &self.env].into_iter().flatten();
        if texts.chain(&self.cwd).chain(&self.user).any(|text| text.contains(&0)) {
            return invalid("command", "must not contain a NUL byte");
        }
        if self.env.iter().any(|e| e.iter().position(|&b| b == b'=').is_none_or(|at| at == 0)) {
            return invalid("environment", "must be KEY=VALUE");
        }
        Ok(())
    }
}

const TAG_CODE: u8 = 1;
const TAG_SIGNAL: u8 = 2;
const TAG_TIMED_OUT: u8 = 3;

impl Exit {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self.status {
            Status::Code(code) => tlv::put(&mut out, TAG_CODE, &[code]),
            Status::Signal(signal) => tlv::put(&mut out, TAG_SIGNAL, &[signal]),
        }
        if self.timed_out {
            tlv::put(&mut out, TAG_TIMED_OUT, &[1]);
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let (mut status, mut timed_out) = (None, false);
        for field in tlv::fields(payload) {
            match field? {
                (TAG_CODE, v) => status = Some(Status::Code(tlv::u8(v, "exit code")?)),
                (TAG_SIGNAL, v) => status = Some(Status::Signal(tlv::u8(v, "exit signal")?)),
                (TAG_TIMED_OUT, v) => timed_out = tlv::bool(v, "timed out")?,
                _ => {}
            }
        }
        let status = status.ok_or(ProtocolError::Missing { field: "exit status" })?;
        Ok(Exit { status, timed_out })
    }
}
