//! The wire, byte by byte. A change here breaks every agent that lies in a published bundle.

use agent::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `expected` may have spaces between its fields.
#[track_caller]
fn check(channel: u32, message: Message, expected: &str) {
    let mut bytes = Vec::new();
    message.encode(channel, &mut bytes).expect("encodes");
    assert_eq!(hex(&bytes), expected.replace(' ', ""), "{message:?}");
    let mut input = &bytes[..];
    let frame = Decoder::new().feed(&mut input).expect("a frame").expect("whole");
    assert!(input.is_empty());
    assert_eq!(frame.channel, channel);
    assert_eq!(Message::decode(frame).expect("decodes"), message);
}

#[test]
fn control() {
    let token = 0x0102_0304_0506_0708;
    check(0, Message::Ping { token }, "0d000000 00000000 03 00  01 08000000 0807060504030201");
    check(0, Message::Pong { token }, "0d000000 00000000 04 00  01 08000000 0807060504030201");
    check(0, Message::Shutdown(Shutdown::PowerOff), "06000000 00000000 05 00  01 01000000 01");
    check(0, Message::Shutdown(Shutdown::Reboot), "06000000 00000000 05 00  01 01000000 02");
    let restore = Restore {
        wall_clock_unix_ns: 3,
        seed: [0xaa; SEED_BYTES],
        hostname: "h".into(),
        machine_id: [0xbb; MACHINE_ID_BYTES],
        mac: Some([1, 2, 3, 4, 5, 6]),
    };
    let seed = "aa".repeat(SEED_BYTES);
    let expected = format!(
        "78000000 00000000 07 00  01 08000000 0300000000000000  02 40000000 {seed}  \
         03 01000000 68  04 10000000 {}  05 06000000 010203040506",
        "bb".repeat(MACHINE_ID_BYTES)
    );
    check(0, Message::Restore(restore), &expected);
    let restored = Restored { kept: true, failure: Some("no".into()) };
    let expected = "0d000000 00000000 08 00  01 01000000 01  02 02000000 6e6f";
    check(0, Message::Restored(restored), expected);
    let codes = [
        FaultCode::NotFound,
        FaultCode::NotExecutable,
        FaultCode::NoSuchUser,
        FaultCode::NoSuchCwd,
        FaultCode::TooMany,
        FaultCode::BadRequest,
        FaultCode::Unsupported,
        FaultCode::Failed,
        FaultCode::Other(9),
    ];
    for (i, code) in codes.into_iter().enumerate() {
        let fault = Fault { code, text: "no".into() };
        let expected =
            format!("0e000000 07000000 06 00  01 02000000 {:02x}00  02 02000000 6e6f", i + 1);
        check(7, Message::Error(fault), &expected);
    }
}

#[test]
fn commands() {
    let exec = Exec {
        argv: vec![b"ls".to_vec(), b"\xff".to_vec()],
        env: vec![b"A=b".to_vec()],
        clear_env: true,
        cwd: Some(b"/".to_vec()),
        user: Some(b"0".to_vec()),
        terminal: Some(Terminal { rows: 24, cols: 300 }),
        stdin: true,
        timeout_ms: Some(1500),
    };
    check(
        0x0a0b_0c0d,
        Message::Exec(exec),
        "43000000 0d0c0b0a 10 00  01 02000000 6c73  01 01000000 ff  02 03000000 413d62 \
         03 01000000 01  04 01000000 2f  05 01000000 30  06 04000000 18002c01 \
         07 01000000 01  08 08000000 dc05000000000000",
    );
    let plain = Exec { argv: vec![b"ls".to_vec()], ..Exec::default() };
    check(1, Message::Exec(plain), "07000000 01000000 10 00  01 02000000 6c73");
    check(1, Message::Started { pid: 300 }, "09000000 01000000 11 00  01 04000000 2c010000");
    check(1, Message::Data(Stream::Stdin, vec![0, 255]), "02000000 01000000 12 00  00ff");
    check(1, Message::Data(Stream::Stdout, vec![]), "00000000 01000000 13 00");
    check(1, Message::Data(Stream::Stderr, b"x".to_vec()), "01000000 01000000 14 00  78");
    for (stream, number) in [(Stream::Stdin, 12), (Stream::Stdout, 13), (Stream::Stderr, 14)] {
        let expected =
            format!("0f000000 01000000 15 00  01 01000000 {number}  02 04000000 00000100");
        check(1, Message::Credit { stream, bytes: 65536 }, &expected);
    }
    check(1, Message::Signal { signo: 15 }, "06000000 01000000 16 00  01 01000000 0f");
    let size = Terminal { rows: 1, cols: 2 };
    check(1, Message::Resize(size), "09000000 01000000 17 00  01 04000000 01000200");
    let exit = Exit { status: Status::Code(255), timed_out: false };
    check(1, Message::Exit(exit), "06000000 01000000 18 00  01 01000000 ff");
    let exit = Exit { status: Status::Signal(9), timed_out: true };
    check(1, Message::Exit(exit), "0c000000 01000000 18 00  02 01000000 09  03 01000000 01");
}

#[test]
fn greetings() {
    let nonce: [u8; NONCE_BYTES] = *b"0123456789abcdef";
    let hello =
        Hello { protocol_min: 1, protocol_max: 2, nonce, wall_clock_unix_ns: 3, keep: None };
    // The checksums are zlib.crc32() of the bodies, as Python says.
    let expected = "3e000000 00000000 01 00  f5 696d67 48454c fa  3000 c3bb18ed \
         01 10000000 30313233343536373839616263646566 \
         02 02000000 0100  03 02000000 0200  04 08000000 0300000000000000";
    assert_eq!(hex(&hello.encode()), expected.replace(' ', ""));
    let event = FromHost::new().feed(&mut &hello.encode()[..]).expect("no error");
    assert_eq!(event, Some(HostEvent::Hello(hello.clone())));
    let keeps = Hello { keep: Some(7), ..hello };
    assert!(hex(&keeps.encode()).ends_with("04080000000300000000000000080400000007000000"));
    let event = FromHost::new().feed(&mut &keeps.encode()[..]).expect("no error");
    assert_eq!(event, Some(HostEvent::Hello(keeps)));

    let ack = Ack {
        nonce,
        protocol: 1,
        protocol_min: 1,
        protocol_max: 1,
        version: "v".into(),
        init: InitKind::Systemd,
        restores: false,
    };
    let expected = "44000000 00000000 02 00  f5 696d67 41434b fa  3600 ee7355bf \
         01 10000000 30313233343536373839616263646566 \
         05 02000000 0100  02 02000000 0100  03 02000000 0100  06 01000000 76  07 01000000 02";
    assert_eq!(hex(&ack.encode()), expected.replace(' ', ""));
    let event = FromAgent::new(nonce).feed(&mut &ack.encode()[..]).expect("no error");
    assert_eq!(event, Some(AgentEvent::Ack(ack.clone())));
    let restores = Ack { restores: true, ..ack };
    assert!(
        hex(&restores.encode()).ends_with("0701000000020901000000 01".replace(' ', "").as_str())
    );
    let event = FromAgent::new(nonce).feed(&mut &restores.encode()[..]).expect("no error");
    assert_eq!(event, Some(AgentEvent::Ack(restores)));
}

#[test]
fn unknown_fields_are_skipped_and_unknown_types_refused() {
    let payload = [&[99, 1, 0, 0, 0, 7][..], &[1, 1, 0, 0, 0, 9], &[98, 0, 0, 0, 0]].concat();
    let frame = Frame { channel: 4, kind: kind::SIGNAL, payload };
    assert_eq!(Message::decode(frame), Ok(Message::Signal { signo: 9 }));
    for (channel, kind) in [(0, 99), (5, 99), (0, 0), (5, 255)] {
        let frame = Frame { channel, kind, payload: vec![] };
        assert_eq!(Message::decode(frame), Err(ProtocolError::UnknownKind { kind }));
    }
    let frame = Frame { channel: 0, kind: kind::STDIN, payload: vec![] };
    assert!(matches!(Message::decode(frame), Err(ProtocolError::WrongChannel { .. })));
    let frame = Frame { channel: 1, kind: kind::PING, payload: vec![] };
    assert!(matches!(Message::decode(frame), Err(ProtocolError::WrongChannel { .. })));
}

#[test]
fn what_is_not_a_command_is_not_sent() {
    let argv = |args: &[&[u8]]| Exec {
        argv: args.iter().map(|a| a.to_vec()).collect(),
        ..Exec::default()
    };
    let env = |entry: &[u8]| Exec { env: vec![entry.to_vec()], ..argv(&[b"a"]) };
    let long = vec![b'x'; FRAME_PAYLOAD_BYTES_MAX - 4];
    let bad = [
        argv(&[]),
        argv(&[b"", b"a"]),
        argv(&[b"a\0"]),
        argv(&[&long]),
        argv(&[b"a", b"\xf5img"]),
        env(b"A"),
        env(b"=b"),
        env(b"A=\0"),
    ];
    for exec in bad {
        let result = Message::Exec(exec.clone()).encode(1, &mut Vec::new());
        assert!(matches!(result, Err(ProtocolError::Invalid { .. })), "{:?}", exec.argv.first());
    }
    let most = argv(&[&long[1..]]);
    assert!(Message::Exec(most).encode(1, &mut Vec::new()).is_ok());
}

#[test]
fn the_unit_starts_what_lies_in_the_guest() {
    let unit = include_str!("../../../templates/imgagent.service");
    assert!(unit.contains(&format!("\nExecStart={GUEST_PATH} serve\n")), "{unit}");
}
