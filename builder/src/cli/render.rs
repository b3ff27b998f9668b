//! `imgtool render`: texts that tell other programs to run a bundle.

use std::fs::File;
use std::path::PathBuf;

use bundle::Manifest;
use imgrun::{MEMORY_MIB_DEFAULT, Progress, Result};
use imgtool::Error;
use imgtool::render::{KINDS, Wishes, render};

/// Print a text that tells another program to run a bundle: a Firecracker configuration, a systemd
/// unit, a Nomad job. What it names is named by digest.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// What to print.
    #[arg(value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(KINDS))]
    kind: String,
    /// The bundle.
    bundle: PathBuf,
    /// Where the opened files are: rootfs.ext4, and vmlinux of its kernel's bundle.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/machines")]
    dir: String,
    /// Where imgrun is on the host.
    #[arg(long, value_name = "FILE", default_value = "/usr/local/bin/imgrun")]
    imgrun: String,
    /// Virtual processors.
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory, MiB.
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB_DEFAULT)]
    memory: u32,
    /// The command that the machine runs, after `--`.
    #[arg(last = true, default_values = ["sleep", "infinity"])]
    command: Vec<String>,
}

impl Args {
    /// Prints it.
    pub(crate) fn run(self, _progress: &Progress) -> Result<()> {
        let about = |e| Error::io(self.bundle.display(), e);
        let mut file = File::open(&self.bundle).map_err(about)?;
        let manifest = Manifest::of_packed(&mut file)
            .map_err(|e| Error::from(e).within(self.bundle.display()))?;
        let digest = imgtool::pack::digest_of(&file).map_err(about)?;
        let wishes = Wishes {
            dir: self.dir,
            imgrun: self.imgrun,
            cpus: self.cpus,
            memory_mib: self.memory,
            command: self.command,
        };
        super::print(render(&self.kind, &manifest, &digest, &wishes)?.trim_end());
        Ok(())
    }
}
