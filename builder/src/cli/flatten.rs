//! `imgtool flatten`: layers to a bare ext4 image, without agent, kernel or bundle.

use std::path::{Path, PathBuf};

use bundle::Arch;
use imgrun::{Progress, Result};
use imgtool::cache::Cache;
use imgtool::image::{Image, Layout};
use imgtool::recipe::parse_size;
use imgtool::{Error, oci, source};

use super::access::Access;

/// Flatten an image's layers into a bare ext4 file system.
///
/// Exactly what the layers say and nothing more: owners, modes, times, links, devices, attributes.
#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A registry reference, oci-layout:DIR[:TAG], oci-archive:FILE, docker-archive:FILE,
    /// tarball:FILE, or - for a tar on standard input.
    source: String,
    /// The image file to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// The machine to choose from an image that is for several.
    #[arg(long, default_value_t = Arch::host())]
    arch: Arch,
    /// The file system's size, as in 4GiB; what the content needs by default.
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
    /// Free space to leave where the size is computed, as in 64MiB.
    #[arg(long, value_parser = parse_size, conflicts_with = "size")]
    reserve: Option<u64>,
    /// The file system's label.
    #[arg(long, default_value = "")]
    label: String,
    /// Date nothing later than so many seconds after 1970.
    #[arg(long, env = "SOURCE_DATE_EPOCH")]
    epoch: Option<u64>,
    #[command(flatten)]
    access: Access,
}

const HELP: &str = "\
Examples:
  imgtool flatten debian:12 -o root.ext4
  imgtool flatten oci-layout:build/oci:v1 -o root.ext4 --size 4GiB
  imgtool flatten tarball:rootfs.tar.zst -o root.ext4
  docker export web | imgtool flatten - -o root.ext4";

impl Args {
    /// Flattens and prints the image's path.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        // Until the end: what is used of it is not pruned, and standard input is spooled there.
        let cache = Cache::of_user()?;
        let (found, _spool) = match self.source.as_str() {
            "-" => {
                let spooled = source::spool(&std::io::stdin(), &cache, progress)?;
                (spooled.source, Some(spooled.draft))
            }
            name => match name.strip_prefix("tarball:") {
                Some(file) => (source::tarball(Path::new(file), progress)?, None),
                None => {
                    let reference = name.parse().map_err(Error::usage)?;
                    let access = self.access.open()?;
                    let found = oci::resolve(&reference, self.arch, &access, &cache, progress)?;
                    (found, None)
                }
            },
        };
        let layout = Layout {
            layers: found.layers,
            epoch: self.epoch,
            size_bytes: self.size,
            reserve_bytes: self.reserve.unwrap_or(0),
            label: self.label,
            ..Layout::default()
        };
        let parent = self.output.parent().filter(|p| !p.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new("."));
        let image = Image::flatten(&layout, directory, progress)?;
        let (bytes, inodes, seams) = (image.bytes, image.inodes, image.seams.clone());
        image.keep(&self.output)?;
        if json {
            super::print(serde_json::json!({
                "path": self.output, "bytes": bytes, "inodes": inodes, "seams": seams,
                "source": found.digest,
            }));
        } else {
            super::print(self.output.display());
        }
        Ok(())
    }
}
