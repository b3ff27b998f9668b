//! Any bytes from a supervisor's client, as the relay and the agent take them apart, in pieces of any
//! length; and any line about what listens, as the host does.
#![no_main]

use agent::listening::Listener;
use agent::{FromHost, HostEvent, Message};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&piece, bytes)) = bytes.split_first() else { return };
    let mut session = FromHost::new();
    for mut piece in bytes.chunks(usize::from(piece).max(1)) {
        while !piece.is_empty() {
            match session.feed(&mut piece) {
                Ok(Some(HostEvent::Frame(frame))) => {
                    let channel = frame.channel;
                    let mut passed_on = Vec::new();
                    frame.encode(channel, &mut passed_on);
                    if let Ok(message) = Message::decode(frame) {
                        // What is understood can be said, but for what would be a greeting.
                        let _ = message.encode(channel, &mut Vec::new());
                    }
                }
                Ok(Some(HostEvent::Hello(hello))) => drop(hello.choose_protocol()),
                Ok(None) => break,
                Err(_) => {}
            }
        }
    }
    if let Ok(listener) = String::from_utf8_lossy(bytes).parse::<Listener>() {
        assert_eq!(listener.to_line().parse(), Ok(listener));
    }
});
