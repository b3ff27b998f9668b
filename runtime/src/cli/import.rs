//! `imgrun import FILE…`

use std::path::PathBuf;

use bundle::{Arch, Name, Version};
use imgrun::{Error, KernelNaming, Result};

use super::{Shell, say};

/// Take bundles into the local store
///
/// A bundle that is there already is left alone. Nothing is left of an import that fails. A directory
/// holds a kernel: vmlinux, and if they are there bzImage, initrd, modules.tar and config, each
/// perhaps with a version behind its name, and metadata.json with name, version and arch.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Packed bundles: images or kernels (.tar.zst); or a kernel's directory
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The name of the kernel in a directory; metadata.json's by default
    #[arg(long)]
    name: Option<Name>,
    /// Its version
    #[arg(long)]
    version: Option<Version>,
    /// Its architecture
    #[arg(long)]
    arch: Option<Arch>,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        let naming = KernelNaming { name: self.name, version: self.version, arch: self.arch };
        let is_named = naming.name.is_some() || naming.version.is_some() || naming.arch.is_some();
        if is_named && (self.files.len() != 1 || !self.files[0].is_dir()) {
            return Err(Error::usage(
                "--name, --version and --arch are for one kernel's directory",
            ));
        }
        for file in self.files {
            let (store, naming) = (store.clone(), naming.clone());
            let imported = shell.blocking(move |progress, cancel| match file.is_dir() {
                true => store.import_kernel(&file, &naming, progress, cancel),
                false => store.import(&file, progress, cancel),
            });
            let imported = imported.await?;
            let known = if imported.new { "" } else { " (was there)" };
            say(&format!("{} {}{known}", imported.bundle.title(), imported.bundle.digest))?;
        }
        Ok(())
    }
}
