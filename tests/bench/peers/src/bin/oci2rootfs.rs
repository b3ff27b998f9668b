//! `oci2rootfs OUT BYTES LAYOUT`: an OCI layout into an ext4 image by the crate oci2rootfs, with the
//! decoders that it brings.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let source = oci2rootfs::OciLayoutSource::open(&arguments[2])?
        .platform(oci2rootfs::Platform::new("linux", "amd64"));
    oci2rootfs::Converter::new(&arguments[0]).size(arguments[1].parse()?).convert(source)?;
    Ok(())
}
