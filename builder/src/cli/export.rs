//! `imgtool export`: a bundle's root file system in other forms.

use std::path::PathBuf;

use clap::ValueEnum;
use imgrun::{Progress, Result};
use imgtool::export::{self, Form};

/// Make a disk, an OCI image or an initramfs of an image bundle.
///
/// Beside it goes FILE.sha256, as `sha256sum -c` reads it. A disk has the root as its first
/// partition; it is booted by giving the VMM the bundle's kernel, with root=/dev/vda1.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The bundle.
    #[arg(value_name = "BUNDLE")]
    file: PathBuf,
    /// What to make of it.
    #[arg(long = "as", value_name = "FORM")]
    form: FormArg,
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
        };
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let name = name.strip_suffix(".tar.zst").unwrap_or(&name);
        let out = self.output.unwrap_or_else(|| format!("{name}.{}", form.ending()).into());
        let made = export::export(&self.file, form, &out, progress)?;
        match json {
            true => super::print(serde_json::json!({
                "path": made.path, "digest": made.digest, "bytes": made.bytes,
            })),
            false => super::print(made.path.display()),
        }
        Ok(())
    }
}
