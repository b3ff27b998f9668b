//! Any bytes as a bundle, and as the manifest and the frame table of one.
#![no_main]

use std::io::Cursor;

use bundle::{Error, Form, Outline};

fn unpack(bytes: &[u8]) {
    let Ok(json) = bundle::read_manifest(&mut &bytes[..]) else { return };
    let Ok(outline) = Outline::read(json, &mut Cursor::new(bytes)) else { return };
    assemble(&outline, bytes);
}

fn assemble(outline: &Outline, bytes: &[u8]) {
    let fetch = |index: usize, _: Form, buffer: &mut Vec<u8>| {
        let piece = &outline.pieces()[index];
        let at = piece.packed_at as usize;
        let frame = bytes.get(at..at + piece.frame.packed_bytes() as usize);
        buffer.extend_from_slice(frame.unwrap_or_default());
        Ok(Form::Packed)
    };
    // Hashing holes takes time in which nothing is found.
    if outline.manifest().files.iter().map(|file| file.size).sum::<u64>() < 64 << 20 {
        let _ = outline.assemble(2, fetch, |_, _| Ok::<(), Error>(()));
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    unpack(bytes);
    // Digests and frames around the bytes are more than a fuzzer guesses: the table's own are put
    // into the manifest.
    let Some(at) = bytes.windows(8).position(|word| word == b"imgframe") else { return };
    let (json, table) = bytes.split_at(at);
    let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(json) else { return };
    json["frames"] = serde_json::json!({
        "digest": bundle::Digest::of(table).to_string(), "size": table.len(),
    });
    if let Ok(outline) = Outline::new(json.to_string().into_bytes(), table) {
        assemble(&outline, table);
    }
});
