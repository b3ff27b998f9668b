//! Any bytes from a guest, in pieces of any length.
#![no_main]

use agent::FromAgent;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&piece, bytes)) = bytes.split_first() else { return };
    let mut session = FromAgent::new(Default::default());
    for mut piece in bytes.chunks(usize::from(piece).max(1)) {
        while !piece.is_empty() {
            match session.feed(&mut piece) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
