//! `imgtool kernel import`.

use std::path::PathBuf;

use bundle::{Name, Version};
use imgrun::{Progress, Result};
use imgtool::cache::Cache;
use imgtool::kernel::{self, Naming};

/// Take a kernel that somebody else built, as a bundle, and print its path.
///
/// From a Debian package (linux-image-*.deb), from a file (vmlinuz, bzImage, vmlinux, Image), or
/// from a directory that holds one of these and perhaps config, initrd, modules.tar and
/// metadata.json with name and version. What is compressed is unpacked.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The package, file or directory.
    from: PathBuf,
    /// Its name; that of the package or in metadata.json by default.
    #[arg(long)]
    name: Option<Name>,
    /// Its version; that of the package, in metadata.json or in the kernel by default.
    #[arg(long)]
    version: Option<Version>,
    /// Put a copy of the bundle into this directory.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let naming = Naming { name: self.name, version: self.version };
        let imported = kernel::import(&self.from, &naming, &Cache::of_user()?, progress)?;
        super::print_kernel(&imported, self.output.as_deref(), json, progress)
    }
}
