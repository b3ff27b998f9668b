//! A bundle's root file system in other forms, for other tools.
//!
//! | form | is | for |
//! |---|---|---|
//! | `ext4` | the image as it is | any VMM with `-kernel` |
//! | `raw` | a GPT disk that UEFI firmware boots | VMMs and clouds that want disks |
//! | `qcow2` | the same, as qemu-img writes it | QEMU, libvirt |
//! | `oci` | an OCI image of one layer, as an archive | registries, container engines |
//! | `squashfs` | the tree, compressed | a root that is only read, and small |
//! | `cpio` | the tree as an initramfs | a kernel without any disk |
//!
//! Equal bundles give equal bytes. A disk holds its kernel joined to systemd's boot stub, so there
//! the version of the stub on this host counts, too.

mod cpio;
mod disk;
mod esp;
mod oci;
mod squashfs;
mod tar;
mod tree;
mod uki;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bundle::{Digest, Kind, ROOTFS};
use imgrun::{Cancel, Progress, Store, Stored, Unit, interrupt};
use tempfile::NamedTempFile;

use crate::image::publish;
use crate::pack::digest_of;
use crate::{Error, Result};

/// Images are copied in pieces of this many bytes; pieces of zeros become holes.
const PIECE_BYTES: usize = 64 << 10;

/// What a disk has for what is written, unless told otherwise: 1 GiB.
pub const DISK_UPPER_BYTES: u64 = 1 << 30;

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The image as it is.
    Ext4,
    /// A disk with a partition table.
    Raw,
    /// The same as QEMU's own format.
    Qcow2,
    /// An OCI image archive.
    Oci,
    /// An initramfs.
    Cpio,
    /// A compressed file system that is only read.
    Squashfs,
}

/// How a disk starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// By UEFI firmware: the disk has a partition for it with the kernel.
    Uefi {
        /// A kernel's bundle other than the one that the image names, which is looked for beside
        /// the image.
        kernel: Option<PathBuf>,
        /// The size of the partition that takes what is written; it is sparse.
        upper_bytes: u64,
    },
    /// By a VMM that brings a kernel: the root is the disk's only partition.
    None,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Where it is.
    pub path: PathBuf,
    /// Its digest; it also is in `<path>.sha256`.
    pub digest: Digest,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Form {
    /// How files of this form end.
    pub fn ending(self) -> &'static str {
        match self {
            Form::Ext4 => "ext4",
            Form::Raw => "raw",
            Form::Qcow2 => "qcow2",
            Form::Oci => "oci.tar",
            Form::Cpio => "cpio",
            Form::Squashfs => "squashfs",
        }
    }
}

/// Makes the `form` of the image bundle `file`, which is verified, as `out` with a sidecar
/// `<out>.sha256` for `sha256sum -c`. `boot` is for disks.
///
/// # Errors
/// Where the bundle is damaged or no image, a disk's kernel is not there or can not be started by
/// UEFI, or `out` can not be written; what was there is then still whole.
pub fn export(
    file: &Path,
    form: Form,
    boot: &Boot,
    out: &Path,
    progress: &Progress,
) -> Result<Exported> {
    let directory = parent(out);
    let work = tempfile::Builder::new()
        .prefix(".imgtool-")
        .tempdir_in(directory)
        .map_err(|e| Error::io(directory.display(), e))?;
    let store = Store::open(work.path())?;
    let stored = store.import(file, progress, &Cancel::new())?.bundle;
    if stored.manifest.kind != Kind::Image {
        return Err(Error::input(format!("{}: it is a kernel, not an image", file.display())));
    }
    let start = match form {
        Form::Raw | Form::Qcow2 => disk::start(&store, &stored, boot, parent(file), progress)?,
        Form::Ext4 | Form::Oci | Form::Cpio | Form::Squashfs => None,
    };
    let stage = progress.stage(format!("export {}", form.ending()), Unit::Bytes, None);
    let image = stored.path(ROOTFS);
    let mut draft = tempfile::Builder::new()
        .prefix(".imgtool-")
        .tempfile_in(directory)
        .map_err(|e| Error::io(directory.display(), e))?;
    fill(form, &stored, &image, start.as_ref(), &mut draft).map_err(|e| e.within(out.display()))?;
    let about = |e| Error::io(out.display(), e);
    let bytes = draft.as_file().metadata().map_err(about)?.len();
    let digest = digest_of(draft.as_file()).map_err(about)?;
    finish(draft, out, &digest)?;
    stage.finish(format!("{}, {digest}", Unit::Bytes.amount(bytes)));
    Ok(Exported { path: out.to_path_buf(), digest, bytes })
}

fn parent(file: &Path) -> &Path {
    file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn fill(
    form: Form,
    stored: &Stored,
    image: &Path,
    start: Option<&disk::Start>,
    draft: &mut NamedTempFile,
) -> Result<()> {
    let open = || File::open(image).map_err(|e| Error::io(image.display(), e));
    match form {
        Form::Ext4 => copy_sparse(&mut open()?, draft.as_file_mut(), 0),
        Form::Raw => disk::write(stored, &mut open()?, start, draft.as_file_mut()),
        Form::Qcow2 => {
            let directory = image.parent().unwrap_or(Path::new("."));
            let mut raw = tempfile::tempfile_in(directory.join("../.."))
                .map_err(|e| Error::io("a temporary file", e))?;
            disk::write(stored, &mut open()?, start, &mut raw)?;
            disk::convert(&raw, draft.path())
        }
        Form::Oci => oci::write(stored, open()?, draft.as_file_mut()),
        Form::Cpio => cpio::write(open()?, draft.as_file_mut()),
        Form::Squashfs => {
            let directory = tempfile::Builder::new()
                .prefix(".imgtool-")
                .tempdir_in(parent(draft.path()))
                .map_err(|e| Error::io("a temporary directory", e))?;
            let made = directory.path().join("squashfs");
            squashfs::write(open()?, &made)?;
            let mut made = File::open(&made).map_err(|e| Error::io(made.display(), e))?;
            copy_sparse(&mut made, draft.as_file_mut(), 0)
        }
    }
}

/// Gives `draft` its name, and writes its sidecar. The sidecar of what was there goes first: one that
/// is there is right, whenever we are killed.
fn finish(draft: NamedTempFile, out: &Path, digest: &Digest) -> Result<()> {
    let mut name = out.as_os_str().to_os_string();
    name.push(".sha256");
    let path = PathBuf::from(name);
    let about = |e| Error::io(path.display(), e);
    let base = out.file_name().unwrap_or_default().to_string_lossy();
    let mut sidecar =
        tempfile::Builder::new().prefix(".imgtool-").tempfile_in(parent(out)).map_err(about)?;
    writeln!(sidecar, "{}  {base}", digest.hex()).map_err(about)?;
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(about(e)),
        _ => File::open(parent(out)).and_then(|dir| dir.sync_all()).map_err(about)?,
    }
    publish(draft, out)?;
    publish(sidecar, &path)
}

/// Copies `from` to `at` in `to`, holes for zeros.
fn copy_sparse(from: &mut File, to: &mut File, at: u64) -> Result<()> {
    let about = |e: io::Error| Error::io("copy the image", e);
    let mut piece = vec![0; PIECE_BYTES];
    let mut position = at;
    loop {
        interrupt::check()?;
        let n = from.read(&mut piece).map_err(about)?;
        if n == 0 {
            break;
        }
        if piece[..n].iter().any(|&byte| byte != 0) {
            to.seek(SeekFrom::Start(position))
                .and_then(|_| to.write_all(&piece[..n]))
                .map_err(about)?;
        }
        position += n as u64;
    }
    let length = to.metadata().map_err(about)?.len().max(position);
    to.set_len(length).map_err(about)
}
