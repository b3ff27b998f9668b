//! Guests that lie: each gets an error, none gets memory or time.

use std::time::Duration;

use agent::{
    Ack, Exit, FromHost, HostEvent, InitKind, Message, PROTOCOL_MAX, PROTOCOL_MIN, Stream,
    WINDOW_BYTES,
};
use imgrun::{Class, Exec, Guest, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Answers the greeting as an agent does (or says another protocol), then sends `bytes` and, if
/// `close`, ends the stream.
async fn impostor(mut stream: UnixStream, protocol: u16, bytes: Vec<u8>, close: bool) {
    let mut wire = FromHost::new();
    let mut buffer = vec![0; 65536];
    let hello = loop {
        let n = stream.read(&mut buffer).await.unwrap();
        let mut input = &buffer[..n];
        if let Ok(Some(HostEvent::Hello(hello))) = wire.feed(&mut input) {
            break hello;
        }
    };
    // What a session before left behind, and an answer to somebody else.
    let ack = |nonce| Ack {
        nonce,
        protocol,
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        version: "evil \x1b[2J".to_string(),
        init: InitKind::Agent,
        restores: false,
    };
    let mut sent = b"\xF5imgA rubbish".to_vec();
    sent.extend(ack([9; 16]).encode());
    sent.extend(ack(hello.nonce).encode());
    stream.write_all(&sent).await.unwrap();
    // Only now is there a channel 1 to lie about.
    let _ = stream.read(&mut buffer).await;
    let _ = stream.write_all(&bytes).await;
    if !close {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
}

fn frames(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        message.encode(1, &mut out).unwrap();
    }
    out
}

/// What becomes of one command whose guest sends `bytes`: the error, or its status.
async fn outcome(bytes: Vec<u8>, close: bool) -> Result<Status, String> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let liar = tokio::spawn(impostor(theirs, PROTOCOL_MAX, bytes, close));
    let session = async {
        let guest = Guest::greet(ours).await.map_err(|e| e.to_string())?;
        let exec = Exec { argv: vec![b"true".to_vec()], ..Exec::default() };
        let running = guest.exec(exec).await.map_err(|e| e.error.to_string())?;
        let exit = running.wait().await.map_err(|e| {
            assert_eq!(e.class(), Class::Guest);
            e.to_string()
        })?;
        Ok(exit.status)
    };
    let outcome = tokio::time::timeout(Duration::from_secs(20), session).await;
    liar.abort();
    outcome.expect("the session hangs")
}

const STARTED: Message = Message::Started { pid: 7 };

fn exit() -> Message {
    Message::Exit(Exit { status: Status::Code(0), timed_out: false })
}

fn data(bytes: usize) -> Message {
    Message::Data(Stream::Stdout, vec![0; bytes])
}

#[tokio::test]
async fn an_honest_guest_is_believed() {
    assert_eq!(outcome(frames(&[STARTED, data(5), exit()]), false).await, Ok(Status::Code(0)));
}

#[tokio::test]
async fn more_than_the_window_ends_the_session() {
    let mut lies = vec![STARTED];
    lies.extend((0..=WINDOW_BYTES / 65536).map(|_| data(65536)));
    let e = outcome(frames(&lies), false).await.unwrap_err();
    assert!(e.contains("more data than the window allows"), "{e}");
}

#[tokio::test]
async fn every_lie_is_an_error_that_names_it() {
    let oversize = [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 19, 0].to_vec();
    let not_open = {
        let mut out = Vec::new();
        data(1).encode(77, &mut out).unwrap();
        out
    };
    let resize = Message::Resize(agent::Terminal { rows: 1, cols: 1 });
    let lies = [
        (oversize, "frame of 4294967295 bytes"),
        (not_open, "a frame on channel 77, not open"),
        (frames(&[exit()]), "an unexpected EXIT"),
        (frames(&[data(1)]), "an unexpected data frame"),
        (frames(&[STARTED, STARTED]), "an unexpected STARTED"),
        (frames(&[STARTED, Message::Data(Stream::Stdin, vec![1])]), "an unexpected data frame"),
        (frames(&[STARTED, Message::Data(Stream::Stdout, vec![]), data(1)]), "after the end"),
        (frames(&[STARTED, Message::Credit { stream: Stream::Stdout, bytes: 1 }]), "CREDIT"),
        (frames(&[STARTED, resize]), "RESIZE"),
        (vec![0, 0, 0, 0, 1, 0, 0, 0, 99, 0], "frame of unknown type 99"),
        (vec![0, 0, 0, 0, 1, 0, 0, 0, 19, 8], "unknown flags"),
    ];
    for (bytes, expected) in lies {
        let e = outcome(bytes, false).await.unwrap_err();
        assert!(e.contains(expected), "{expected}: {e}");
    }
}

#[tokio::test]
async fn a_stream_that_ends_half_way_is_an_error() {
    for bytes in [vec![], frames(&[STARTED]), frames(&[STARTED, data(100)])[..30].to_vec()] {
        let e = outcome(bytes, true).await.unwrap_err();
        assert!(e.contains("the machine ended"), "{e}");
    }
}

#[tokio::test]
async fn an_agent_of_another_time_is_named() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let liar = tokio::spawn(impostor(theirs, 0, vec![], false));
    let e = Guest::greet(ours).await.unwrap_err().to_string();
    assert!(e.contains("speaks the protocols") && !e.contains('\x1b'), "{e}");
    liar.abort();
}

#[tokio::test]
async fn an_agent_that_never_starts_the_command_is_given_up() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let liar = tokio::spawn(impostor(theirs, PROTOCOL_MAX, vec![], false));
    let guest = Guest::greet(ours).await.unwrap();
    tokio::time::pause();
    let exec = guest.exec(Exec { argv: vec![b"true".to_vec()], ..Exec::default() });
    let not_run = tokio::time::timeout(Duration::from_secs(60), exec).await.expect("it hangs");
    let e = not_run.unwrap_err().error;
    assert_eq!(e.class(), Class::Guest);
    assert!(e.to_string().contains("did not start the command in 30 s"), "{e}");
    liar.abort();
}
