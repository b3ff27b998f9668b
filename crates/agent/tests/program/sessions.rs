//! Greetings, and hosts that do not behave.

use std::io::Read;

use crate::client::{Client, code, exec, expect_gone, is_alive, sh};
use agent::*;

#[test]
fn rubbish_before_the_greeting_is_ignored() {
    let mut client = Client::connect();
    client.write(&[0xF5; 100]);
    client.write(&Hello::new([9; NONCE_BYTES], 0).encode()[..30]);
    let ack = client.greet();
    assert_eq!((ack.protocol, ack.init), (PROTOCOL_MAX, InitKind::Systemd));
    assert_eq!(ack.version, env!("CARGO_PKG_VERSION"));
    client.ping();
}

#[test]
fn a_new_session_ends_the_commands_of_the_old() {
    let mut client = Client::start();
    let sleeping = client.begin(1, exec(&["sleep", "1000"]));
    let stubborn = client.begin(2, sh("trap '' TERM HUP; while :; do sleep 0.05; done"));
    assert!(is_alive(sleeping) && is_alive(stubborn));
    // The host dies in the middle of a frame.
    let mut frame = Vec::new();
    encode_stdin(2, &[b'x'; 5000], &mut frame);
    client.write(&frame[..2000]);
    client.greet();
    expect_gone(sleeping);
    expect_gone(stubborn);
    // The channels are free, and nothing of the old session is heard.
    client.ping();
    assert_eq!(client.run(exec(&["true"])).exit, code(0));
}

#[test]
fn output_of_the_old_session_is_not_heard_in_the_new() {
    let mut client = Client::start();
    for _ in 0..20 {
        client.send(1, Message::Exec(sh("head -c 200000 /dev/urandom")));
        client.greet();
        client.ping();
    }
}

#[test]
fn no_common_protocol_is_said_and_ends_the_session() {
    let mut client = Client::connect();
    let mut hello = Hello::new([7; NONCE_BYTES], 0);
    (hello.protocol_min, hello.protocol_max) = (PROTOCOL_MAX + 1, PROTOCOL_MAX + 5);
    client.write(&hello.encode());
    client.send(1, Message::Exec(exec(&["true"])));
    let mut from = FromAgent::new([7; NONCE_BYTES]);
    let mut bytes = vec![0; 4096];
    let n = client.stream.read(&mut bytes).expect("an answer");
    let Ok(Some(AgentEvent::Ack(ack))) = from.feed(&mut &bytes[..n]) else { panic!("no ACK") };
    assert_eq!((ack.protocol, ack.protocol_max), (0, PROTOCOL_MAX));
    client.greet();
    client.ping();
}

#[test]
fn broken_framing_ends_the_session_but_not_the_agent() {
    let mut client = Client::start();
    let pid = client.begin(1, exec(&["sleep", "1000"]));
    client.write(&[255; 10]);
    let (0, Message::Error(fault)) = client.next() else { panic!("no error") };
    assert_eq!(fault.code, FaultCode::BadRequest);
    expect_gone(pid);
    client.greet();
    client.ping();
}

#[test]
fn messages_that_make_no_sense_are_answered() {
    let mut client = Client::start();
    let frame = |channel: u32, kind: u8, payload: &[u8]| {
        let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&channel.to_le_bytes());
        bytes.extend_from_slice(&[kind, 0]);
        bytes.extend_from_slice(payload);
        bytes
    };
    let cases = [
        (frame(0, 99, b""), 0, FaultCode::Unsupported),
        (frame(5, 99, b"xyz"), 0, FaultCode::Unsupported),
        (frame(0, kind::EXEC, b""), 0, FaultCode::BadRequest),
        (frame(5, kind::EXEC, b""), 5, FaultCode::BadRequest),
        (frame(5, kind::EXEC, &[1, 255, 255, 255, 255]), 5, FaultCode::BadRequest),
        (frame(5, kind::SIGNAL, &[1, 1, 0, 0, 0, 0]), 0, FaultCode::BadRequest),
        (frame(0, kind::SHUTDOWN, &[]), 0, FaultCode::BadRequest),
        (frame(0, kind::PONG, &[1, 8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]), 0, FaultCode::BadRequest),
    ];
    for (bytes, channel, code) in cases {
        client.write(&bytes);
        let (on, Message::Error(fault)) = client.next() else { panic!("no error: {bytes:?}") };
        assert_eq!((on, fault.code), (channel, code), "{bytes:?}");
    }
    // What crossed an EXIT is not an error.
    client.write(&frame(5, kind::STDIN, b"late"));
    client.send(5, Message::Signal { signo: 9 });
    client.send(5, Message::Credit { stream: Stream::Stdout, bytes: 1 });
    client.ping();
}

#[test]
fn a_host_that_overruns_the_window_loses_the_command() {
    let mut client = Client::start();
    client.begin(1, Exec { stdin: true, ..exec(&["sleep", "1000"]) });
    // The pipe takes 64 KiB, which are credited; all the rest is too much.
    for _ in 0..6 {
        client.send(1, Message::Data(Stream::Stdin, vec![0; 65536]));
    }
    let fault = loop {
        match client.next() {
            (1, Message::Credit { .. }) => {}
            (0, Message::Error(fault)) => break fault,
            other => panic!("{other:?} instead of an error"),
        }
    };
    assert_eq!(fault.code, FaultCode::BadRequest);
    assert_eq!(client.finish(1).exit, Exit { status: Status::Signal(9), timed_out: false });
}

#[test]
fn a_shutdown_ends_the_commands() {
    let mut client = Client::start();
    let pid = client.begin(1, exec(&["sleep", "1000"]));
    client.send(0, Message::Shutdown(Shutdown::PowerOff));
    assert!(client.agent.wait().expect("waited").success());
    expect_gone(pid);
}

#[test]
fn the_agent_stays_small() {
    let mut client = Client::start();
    let result = client.run(sh("head -c 3000000 /dev/zero"));
    assert_eq!(result.stdout.len(), 3_000_000);
    let status = std::fs::read_to_string(format!("/proc/{}/status", client.agent.id()));
    let status = status.expect("a status");
    let rss = status.lines().find(|line| line.starts_with("RssAnon")).expect("RssAnon");
    let kib: u64 = rss.split_ascii_whitespace().nth(1).expect("a number").parse().expect("KiB");
    assert!(kib <= 3 * 1024, "{rss}");
}
