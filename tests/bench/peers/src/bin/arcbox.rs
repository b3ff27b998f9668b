//! `arcbox OUT BYTES LAYER...`: layers from the bottom up into an ext4 image by arcbox-ext4, with
//! the same decoders as everyone here, on a thread of their own.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let bytes = arguments[1].parse()?;
    let mut formatter = arcbox_ext4::Formatter::new(Path::new(&arguments[0]), 4096, bytes)?;
    for layer in &arguments[2..] {
        formatter.unpack_tar(peers::Layer::open(layer)?)?;
    }
    formatter.close()?;
    Ok(())
}
