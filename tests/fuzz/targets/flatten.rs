//! Any bytes as a layer, and as two: an error or an image, never a panic.
#![no_main]

use std::io::Cursor;

use imgtool::rootfs::Flatten;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (low, high) = bytes.split_at(bytes.len() / 1024 * 512);
    for layers in [&[bytes][..], &[high, low]] {
        let out = Cursor::new(Vec::new());
        let Ok(mut writer) = ext4::Writer::new(out, ext4::Options::default()) else { return };
        let mut flatten = Flatten::new(&mut writer, None);
        if layers.iter().any(|layer| flatten.layer("layer", || Ok(*layer)).is_err()) {
            continue;
        }
        if let Ok(tree) = flatten.finish() {
            let _ = writer.finish(&tree);
        }
    }
});
