//! Any bytes as a layer, and as two and three: an error or an image, never a panic.
#![no_main]

use std::io::Cursor;

use imgrun::rootfs::{Detours, Flatten};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (low, high) = bytes.split_at(bytes.len() / 1024 * 512);
    let (middle, top) = high.split_at(high.len() / 1024 * 512);
    for layers in [&[bytes][..], &[high, low], &[top, middle, low]] {
        let mut detours = Detours::default();
        while lay(layers, &mut detours) {}
    }
});

/// Whether the layers have to be laid once more.
fn lay(layers: &[&[u8]], detours: &mut Detours) -> bool {
    let out = Cursor::new(Vec::new());
    let Ok(mut writer) = ext4::Writer::new(out, ext4::Options::default()) else { return false };
    let mut flatten = Flatten::new(&mut writer, None, detours);
    let laid = layers.iter().try_for_each(|layer| flatten.layer("layer", || Ok(*layer)));
    let shadows = flatten.take_shadows();
    let tree = laid.and_then(|()| flatten.finish());
    match detours.learn(shadows) {
        Ok(true) => return true,
        Err(_) => return false,
        Ok(false) => {}
    }
    if let Ok(tree) = tree {
        let _ = writer.finish(&tree);
    }
    false
}
