//! Any bytes, cut anywhere: no panic, and the next greeting is found.

use agent::*;

/// xorshift64*: the same bytes on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        // Few values, so that headers and parts of magics come up often.
        const LIKELY: &[u8] = b"\x00\x00\x00\x01\x02\x10\xF5imgHEL\xFAACK";
        (0..len)
            .map(|_| match self.below(3) {
                0 => self.next() as u8,
                _ => LIKELY[self.below(LIKELY.len())],
            })
            .collect()
    }
}

/// Feeds `bytes` in random pieces.
fn host_events(random: &mut Random, from: &mut FromHost, bytes: &[u8]) -> Vec<HostEvent> {
    let mut events = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (mut piece, after) = rest.split_at(1 + random.below(rest.len().min(40)));
        rest = after;
        while !piece.is_empty() {
            if let Ok(Some(event)) = from.feed(&mut piece) {
                if let HostEvent::Frame(frame) = &event {
                    let _ = Message::decode(frame.clone());
                }
                events.push(event);
            }
        }
    }
    events
}

fn stdin_frame(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_stdin(5, bytes, &mut out);
    out
}

#[test]
fn the_agent_finds_a_greeting_in_anything() {
    let mut random = Random(42);
    for round in 0..3000 {
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&random.bytes(NONCE_BYTES));
        let hello = Hello::new(nonce, round);
        let len = random.below(600);
        let mut stream = random.bytes(len);
        if round % 2 == 0 {
            // A session whose host died within a frame or within a greeting.
            let old = Hello::new([1; NONCE_BYTES], 0).encode();
            stream.extend_from_slice(&old);
            let broken = if round % 4 == 0 { old } else { stdin_frame(&[b'x'; 300]) };
            let cut = random.below(broken.len());
            stream.extend_from_slice(&broken[..cut]);
        }
        stream.extend_from_slice(&hello.encode());
        stream.extend_from_slice(&stdin_frame(b"after"));
        let events = host_events(&mut random, &mut FromHost::new(), &stream);
        let [.., HostEvent::Hello(last), HostEvent::Frame(frame)] = &events[..] else {
            panic!("round {round}: {events:?}");
        };
        assert_eq!((last, &frame.payload[..]), (&hello, &b"after"[..]), "round {round}");
    }
}

#[test]
fn data_that_looks_like_a_greeting_is_data() {
    let mut random = Random(7);
    for _ in 0..2000 {
        let mut data = Vec::new();
        for _ in 0..1 + random.below(4) {
            let len = random.below(20);
            data.extend_from_slice(&random.bytes(len));
            let hello = Hello::new([2; NONCE_BYTES], 1).encode();
            let cut = random.below(hello.len());
            data.extend_from_slice(&hello[..cut]);
            data.extend_from_slice(&hello);
        }
        let mut stream = Hello::new([1; NONCE_BYTES], 0).encode();
        stream.extend_from_slice(&stdin_frame(&data));
        let events = host_events(&mut random, &mut FromHost::new(), &stream);
        let mut found = Vec::new();
        for event in &events[1..] {
            match event {
                HostEvent::Frame(frame) => found.extend_from_slice(&frame.payload),
                HostEvent::Hello(_) => panic!("greeted by data"),
            }
        }
        assert!(found == data);
    }
}

#[test]
fn the_host_waits_for_its_own_nonce() {
    let mut random = Random(9);
    for round in 0..3000 {
        let ack = |nonce| Ack {
            nonce,
            protocol: 1,
            protocol_min: 1,
            protocol_max: 1,
            version: "1".into(),
            init: InitKind::Agent,
            restores: false,
        };
        let len = random.below(300);
        let mut stream = random.bytes(len);
        let stale = ack([3; NONCE_BYTES]).encode();
        let cut = random.below(stale.len() + 1);
        stream.extend_from_slice(&stale[..cut]);
        stream.extend_from_slice(&ack([4; NONCE_BYTES]).encode());
        Message::Pong { token: 1 }.encode(0, &mut stream).expect("encodes");
        let mut from = FromAgent::new([4; NONCE_BYTES]);
        let mut events = Vec::new();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (mut piece, after) = rest.split_at(1 + random.below(rest.len()));
            rest = after;
            while !piece.is_empty() {
                events.extend(from.feed(&mut piece).expect("no error"));
            }
        }
        let [AgentEvent::Ack(first), AgentEvent::Frame(pong)] = &events[..] else {
            panic!("round {round}: {events:?}");
        };
        assert_eq!((first.nonce, pong.kind), ([4; NONCE_BYTES], kind::PONG));
    }
}

#[test]
fn hostile_frames_are_errors() {
    let mut random = Random(11);
    let feed = |header: [u8; 10]| Decoder::new().feed(&mut &header[..]);
    let over = [1, 0, 1, 0, 0, 0, 0, 0, 3, 0];
    assert_eq!(feed(over), Err(ProtocolError::Oversize { len: 65537 }));
    assert_eq!(feed([255; 10]), Err(ProtocolError::Oversize { len: u32::MAX }));
    let flags = [0, 0, 0, 0, 0, 0, 0, 0, 3, 1];
    assert_eq!(feed(flags), Err(ProtocolError::UnknownFlags { flags: 1 }));
    for _ in 0..200_000 {
        let len = random.below(60);
        let payload = random.bytes(len);
        let kind = random.below(26) as u8;
        let channel = random.below(2) as u32;
        // What decodes can be encoded, and decodes to the same again.
        if let Ok(message) = Message::decode(Frame { channel, kind, payload }) {
            let mut bytes = Vec::new();
            if message.encode(channel, &mut bytes).is_ok() {
                let frame = Decoder::new().feed(&mut &bytes[..]).expect("valid").expect("whole");
                assert_eq!(Message::decode(frame), Ok(message));
            }
        }
    }
}

#[test]
fn text_of_the_other_side_cannot_drive_a_terminal() {
    let fault = Fault { code: FaultCode::Failed, text: "a\x1b[2Jb\n".into() };
    let mut bytes = Vec::new();
    Message::Error(fault).encode(0, &mut bytes).expect("encodes");
    let frame = Decoder::new().feed(&mut &bytes[..]).expect("valid").expect("whole");
    let Ok(Message::Error(fault)) = Message::decode(frame) else { panic!("no error message") };
    assert_eq!(fault.text, "a\u{fffd}[2Jb\u{fffd}");
}

#[test]
fn credit_is_counted() {
    let mut sending = Sending::default();
    let mut received = Received::default();
    assert_eq!(sending.sent(WINDOW_BYTES as usize), Ok(()));
    assert_eq!(sending.sent(1), Err(ProtocolError::Overrun));
    assert_eq!(received.arrived(WINDOW_BYTES as usize), Ok(()));
    assert_eq!(received.arrived(1), Err(ProtocolError::Overrun));
    assert_eq!(received.passed_on(1000), None);
    assert_eq!(received.passed_on(WINDOW_BYTES as usize), Some(WINDOW_BYTES));
    sending.credit(u32::MAX);
    sending.credit(u32::MAX);
    assert_eq!(sending.left(), u32::MAX as usize);
}
