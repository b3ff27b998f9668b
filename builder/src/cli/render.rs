//! `imgtool render`: texts that tell other programs to run a bundle.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bundle::{Digest, Manifest};
use imgrun::{MEMORY_MIB_DEFAULT, Progress, Result};
use imgtool::Error;
use imgtool::render::{Disk, KINDS, Login, Wishes, render, seed};

/// What is no text: a disk for cloud-init.
const SEED: &str = "cloud-init";

/// Print a text that tells another program to run a bundle: a Firecracker configuration, a systemd
/// unit, a Nomad job, a Kubernetes deployment, a Lima template. What it names is named by digest.
///
/// `cloud-init` is no text but a seed disk (NoCloud), which goes to --output.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imgtool render systemd debian-12-x86_64.tar.zst -- sshd -D
  imgtool render lima debian-12-x86_64.tar.zst --disk debian-12-x86_64.qcow2 >debian.yaml
  imgtool render cloud-init debian-12-x86_64.tar.zst --ssh-key ~/.ssh/id_ed25519.pub -o seed.iso")]
pub(crate) struct Args {
    /// What to print.
    #[arg(value_name = "KIND", value_parser = kinds())]
    kind: String,
    /// The bundle.
    bundle: PathBuf,
    /// Where the opened files are: rootfs.ext4, and vmlinux of its kernel's bundle.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/machines")]
    dir: String,
    /// Where imgrun is on the host, or in the container.
    #[arg(long, value_name = "FILE", default_value = "/usr/local/bin/imgrun")]
    imgrun: String,
    /// Virtual processors.
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory, MiB.
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB_DEFAULT)]
    memory: u32,
    /// For kubernetes: the container image that holds imgrun and QEMU, NAME@sha256:DIGEST.
    #[arg(long, value_name = "IMAGE")]
    container: Option<String>,
    /// For lima: the exported disk, whose digest is taken.
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// For lima: where the disk will be fetched from; the file itself by default.
    #[arg(long, value_name = "URL", requires = "disk")]
    location: Option<String>,
    /// For cloud-init: the machine's name; the bundle's by default.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// For cloud-init: who comes in.
    #[arg(long, value_name = "NAME", default_value = "agent")]
    user: String,
    /// For cloud-init: a file of public keys, more than once.
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// Where a seed goes.
    #[arg(long, short, value_name = "FILE", required_if_eq("kind", SEED))]
    output: Option<PathBuf>,
    /// The command that the machine runs, after `--`.
    #[arg(last = true, default_values = ["sleep", "infinity"])]
    command: Vec<String>,
}

fn kinds() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(KINDS.into_iter().chain([SEED]))
}

impl Args {
    /// Prints it, or writes it.
    pub(crate) fn run(self, _progress: &Progress) -> Result<()> {
        let about = |e| Error::io(self.bundle.display(), e);
        let mut file = File::open(&self.bundle).map_err(about)?;
        let manifest = Manifest::of_packed(&mut file)
            .map_err(|e| Error::from(e).within(self.bundle.display()))?;
        let digest = imgtool::pack::digest_of(&file).map_err(about)?;
        if let (SEED, Some(out)) = (self.kind.as_str(), &self.output) {
            let keys = self.ssh_key.iter().map(|path| keys(path)).collect::<Result<Vec<_>>>()?;
            let login = Login { hostname: self.hostname, user: self.user, keys: keys.concat() };
            seed(&manifest, &digest, &login, out)?;
            super::print(out.display());
            return Ok(());
        }
        if self.output.is_some() {
            return Err(Error::usage("--output is for cloud-init; texts are printed"));
        }
        let wishes = Wishes {
            dir: self.dir,
            imgrun: self.imgrun,
            cpus: self.cpus,
            memory_mib: self.memory,
            command: self.command,
            disk: self.disk.map(|path| disk(&path, self.location)).transpose()?,
            container: self.container,
        };
        super::print(render(&self.kind, &manifest, &digest, &wishes)?.trim_end());
        Ok(())
    }
}

/// The lines of a file of public keys.
fn keys(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path.display(), e))?;
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_string).collect())
}

fn disk(path: &Path, location: Option<String>) -> Result<Disk> {
    let about = |e| Error::io(path.display(), e);
    let file = File::open(path).map_err(about)?;
    let digest: Digest = imgtool::pack::digest_of(&file).map_err(about)?;
    let location = match location {
        Some(location) => location,
        None => path.canonicalize().map_err(about)?.display().to_string(),
    };
    Ok(Disk { location, digest })
}
