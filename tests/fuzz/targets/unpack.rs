//! Any bytes as a bundle, and as the tar inside one.
#![no_main]

fn unpack(bytes: &[u8]) {
    let Ok(mut contents) = bundle::unpack(bytes) else { return };
    while contents.upcoming().is_some() {
        if contents.copy_next(&mut std::io::sink()).is_err() {
            return;
        }
    }
    let _ = contents.finish();
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    unpack(bytes);
    // One raw zstd frame: else the fuzzer would have to learn to compress.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    let pieces = bytes.chunks(128 << 10);
    let count = pieces.len();
    for (i, piece) in pieces.enumerate() {
        let header = (piece.len() as u32) << 3 | u32::from(i + 1 == count);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(piece);
    }
    unpack(&frame);
});
