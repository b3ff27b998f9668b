//! `imgtool export`: a bundle's root file system in other forms.

use std::path::PathBuf;

use clap::ValueEnum;
use imgrun::{Progress, Result};
use imgtool::export::{self, Boot, DISK_UPPER_BYTES, Form};
use imgtool::recipe::parse_size;

/// Make a disk, an OCI image, an initramfs or a squashfs of an image bundle.
///
/// Beside it goes FILE.sha256, as `sha256sum -c` reads it. A disk boots by UEFI firmware: partition 1 is the root, 2 holds the kernel, 3 takes what is written. The root itself stays as it is.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The bundle.
    #[arg(value_name = "BUNDLE")]
    file: PathBuf,
    /// What to make of it.
    #[arg(long = "as", value_name = "FORM")]
    form: FormArg,
    /// How a disk starts.
    #[arg(long, value_name = "HOW", default_value = "uefi")]
    boot: BootArg,
    /// The kernel's bundle for --boot uefi; the one that the image names, from beside it, by default.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The size of a disk's partition for what is written, with a unit; 1GiB by default.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    upper_size: Option<u64>,
    /// Where it goes; the bundle's name with the form's ending by default.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormArg {
    /// The file system as it is.
    Ext4,
    /// A disk with a GPT partition table.
    Raw,
    /// The same in QEMU's format.
    Qcow2,
    /// An OCI image archive.
    Oci,
    /// An initramfs.
    Cpio,
    /// A compressed file system that is only read.
    Squashfs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BootArg {
    /// By UEFI firmware, with the kernel on the disk.
    Uefi,
    /// By a VMM that brings the kernel (QEMU's -kernel), with root=/dev/vda1: the root is all there is.
    None,
}

impl Args {
    /// Makes it and prints its path.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let form = match self.form {
            FormArg::Ext4 => Form::Ext4,
            FormArg::Raw => Form::Raw,
            FormArg::Qcow2 => Form::Qcow2,
            FormArg::Oci => Form::Oci,
            FormArg::Cpio => Form::Cpio,
            FormArg::Squashfs => Form::Squashfs,
        };
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let name = name.strip_suffix(".tar.zst").unwrap_or(&name);
        let out = self.output.unwrap_or_else(|| format!("{name}.{}", form.ending()).into());
        let boot = match self.boot {
            BootArg::Uefi => Boot::Uefi {
                kernel: self.kernel,
                upper_bytes: self.upper_size.unwrap_or(DISK_UPPER_BYTES),
            },
            BootArg::None => Boot::None,
        };
        let made = export::export(&self.file, form, &boot, &out, progress)?;
        match json {
            true => super::print(serde_json::json!({
                "path": made.path, "digest": made.digest, "bytes": made.bytes,
            })),
            false => super::print(made.path.display()),
        }
        Ok(())
    }
}
