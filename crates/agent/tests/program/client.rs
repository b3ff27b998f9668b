//! The smallest possible host.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command};
use std::time::Duration;

use agent::*;

/// Nothing here takes longer, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Client {
    pub(crate) agent: Child,
    pub(crate) stream: UnixStream,
    from: FromAgent,
    nonce: [u8; NONCE_BYTES],
    heard: VecDeque<AgentEvent>,
    _dir: tempfile::TempDir,
}

/// All that came back from one command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Result {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit: Exit,
}

pub(crate) fn sh(script: &str) -> Exec {
    exec(&["sh", "-c", script])
}

pub(crate) fn exec(argv: &[&str]) -> Exec {
    Exec { argv: argv.iter().map(|a| a.as_bytes().to_vec()).collect(), ..Exec::default() }
}

pub(crate) fn code(code: u8) -> Exit {
    Exit { status: Status::Code(code), timed_out: false }
}

impl Client {
    /// A started agent, not greeted yet.
    pub(crate) fn connect() -> Client {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let agent = Command::new(env!("CARGO_BIN_EXE_imgagent"))
            .args(["serve", "--socket"])
            .arg(&path)
            .spawn()
            .expect("the agent starts");
        let (stream, _) = listener.accept().expect("the agent connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        let (nonce, heard) = ([0; NONCE_BYTES], VecDeque::new());
        Client { agent, stream, from: FromAgent::new(nonce), nonce, heard, _dir: dir }
    }

    /// A started agent with a session.
    pub(crate) fn start() -> Client {
        let mut client = Client::connect();
        client.greet();
        client
    }

    /// Begins a session with the next nonce.
    pub(crate) fn greet(&mut self) -> Ack {
        self.nonce[0] += 1;
        self.from = FromAgent::new(self.nonce);
        self.heard.clear();
        self.write(&Hello::new(self.nonce, 0).encode());
        match self.event() {
            AgentEvent::Ack(ack) => ack,
            other => panic!("{other:?} instead of an ACK"),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the agent reads");
    }

    pub(crate) fn send(&mut self, channel: u32, message: Message) {
        let mut bytes = Vec::new();
        message.encode(channel, &mut bytes).expect("encodes");
        self.write(&bytes);
    }

    fn event(&mut self) -> AgentEvent {
        loop {
            if let Some(event) = self.heard.pop_front() {
                return event;
            }
            let mut buffer = [0; 65536];
            let n = self.stream.read(&mut buffer).expect("the agent answers in time");
            assert!(n > 0, "the agent hung up");
            let mut input = &buffer[..n];
            while !input.is_empty() {
                self.heard.extend(self.from.feed(&mut input).expect("valid frames"));
            }
        }
    }

    pub(crate) fn next(&mut self) -> (u32, Message) {
        match self.event() {
            AgentEvent::Frame(frame) => (frame.channel, Message::decode(frame).expect("valid")),
            AgentEvent::Ack(ack) => panic!("greeted twice: {ack:?}"),
        }
    }

    /// Starts a command; its process id.
    pub(crate) fn begin(&mut self, channel: u32, exec: Exec) -> i32 {
        self.send(channel, Message::Exec(exec));
        match self.next() {
            (c, Message::Started { pid }) if c == channel => pid as i32,
            other => panic!("{other:?} instead of STARTED"),
        }
    }

    /// Waits for the end of a command, giving all the credit it wants.
    pub(crate) fn finish(&mut self, channel: u32) -> Result {
        let (mut out, mut ended) = ([Vec::new(), Vec::new()], [false, false]);
        loop {
            let (from, message) = self.next();
            assert_eq!(from, channel, "{message:?}");
            match message {
                Message::Data(stream, bytes) => {
                    let at = usize::from(stream == Stream::Stderr);
                    assert!(!ended[at], "data after the end of {stream:?}");
                    ended[at] = bytes.is_empty();
                    if !bytes.is_empty() {
                        let bytes = bytes.len() as u32;
                        self.send(channel, Message::Credit { stream, bytes });
                    }
                    out[at].extend_from_slice(&bytes);
                }
                Message::Credit { .. } => {}
                Message::Exit(exit) => {
                    assert!(ended[0], "EXIT before the end of the output");
                    let [stdout, stderr] = out;
                    return Result { stdout, stderr, exit };
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn run(&mut self, exec: Exec) -> Result {
        self.begin(1, exec);
        self.finish(1)
    }

    pub(crate) fn refused(&mut self, exec: Exec) -> FaultCode {
        self.send(1, Message::Exec(exec));
        match self.next() {
            (1, Message::Error(fault)) => fault.code,
            other => panic!("{other:?} instead of an error"),
        }
    }

    /// The agent still answers.
    pub(crate) fn ping(&mut self) {
        self.send(0, Message::Ping { token: 77 });
        assert_eq!(self.next(), (0, Message::Pong { token: 77 }));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let _ = self.agent.wait();
    }
}

/// Whether the process runs still.
pub(crate) fn is_alive(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.contains(") Z "),
        Err(_) => false,
    }
}

/// Waits until the process is gone.
pub(crate) fn expect_gone(pid: i32) {
    let began = std::time::Instant::now();
    while is_alive(pid) {
        assert!(began.elapsed() < PATIENCE, "{pid} is still alive");
        std::thread::sleep(Duration::from_millis(5));
    }
}
