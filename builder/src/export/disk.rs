//! A disk with a partition table (UEFI specification, "GUID Partition Table"). Its first partition is
//! the root. A disk that firmware can start has two more: the second, which lies before the root, is
//! the EFI system partition; the third, the last, takes what is written. As in every machine of ours
//! the root itself is read-only, and the agent stacks the other over it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Seek;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use bundle::{Arch, Hasher};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{EFI, LINUX_FS, LINUX_ROOT_ARM_64, LINUX_ROOT_X64, Type};
use imgrun::{Cancel, Progress, Store, Stored, Tool};
use uuid::Uuid;

use super::esp::{self, ESP_BYTES};
use super::{Boot, copy_sparse, uki};
use crate::{Error, Result};

const SECTOR_BYTES: u64 = 512;
/// Where the first partition begins, and what is left free behind the last: 1 MiB, as everybody has
/// it.
const MARGIN_BYTES: u64 = 1 << 20;
/// The partition that takes what is written; the agent knows it by this name.
const UPPER: &str = "upper";
/// qemu-img takes this long at most.
const CONVERT_TIME_MAX: Duration = Duration::from_secs(3600);

/// What makes a disk start by itself.
pub(super) struct Start {
    /// What firmware starts.
    program: Vec<u8>,
    /// The size of the partition that takes what is written.
    upper_bytes: u64,
}

/// Writes the disk of `image`.
pub(super) fn write(
    stored: &Stored,
    image: &mut File,
    start: Option<&Start>,
    out: &mut File,
) -> Result<()> {
    let about = |e: std::io::Error| Error::io("the disk", e);
    let arch = stored.manifest.arch;
    let root_type = match arch {
        Arch::X86_64 => LINUX_ROOT_X64,
        Arch::Aarch64 => LINUX_ROOT_ARM_64,
    };
    let mut partitions = BTreeMap::new();
    let mut at = MARGIN_BYTES;
    let mut add = |number: u32, name: &str, kind: Type, bytes: u64| {
        let begin = at;
        partitions.insert(number, partition(stored, name, kind, begin, bytes));
        at += bytes.next_multiple_of(MARGIN_BYTES);
        begin
    };
    if let Some(start) = start {
        let serial = uuid(stored, "fat").as_fields().0;
        let first = (MARGIN_BYTES / SECTOR_BYTES) as u32;
        let mut esp = esp::make(arch, &start.program, serial, first)?;
        copy_sparse(&mut esp, out, add(2, "esp", EFI, ESP_BYTES))?;
    }
    let bytes = image.metadata().map_err(about)?.len();
    copy_sparse(image, out, add(1, "root", root_type, bytes))?;
    if let Some(start) = start {
        let mut upper = upper(stored, start.upper_bytes)?;
        copy_sparse(&mut upper, out, add(3, UPPER, LINUX_FS, start.upper_bytes))?;
    }
    let total = at + MARGIN_BYTES;
    out.set_len(total).map_err(about)?;
    table(out, total, uuid(stored, "disk"), partitions)
}

/// The empty file system that takes what is written; the file ends where its last table does.
fn upper(stored: &Stored, bytes: u64) -> Result<File> {
    let failed = |e: ext4::Error| Error::usage("the partition for what is written").because(e);
    let about = |e| Error::io("a temporary file", e);
    let options = ext4::Options {
        size_bytes: Some(bytes),
        uuid: uuid(stored, "upper file system").into_bytes(),
        label: UPPER.to_string(),
        journal: true,
        ..ext4::Options::default()
    };
    let writer = ext4::Writer::new(tempfile::tempfile().map_err(about)?, options);
    let tree = ext4::Tree::new(ext4::Meta::with_mode(0o755));
    let (mut file, _) = writer.map_err(failed)?.finish(&tree).map_err(failed)?;
    file.rewind().map_err(about)?;
    Ok(file)
}

/// Writes the partition tables, at both ends of the disk.
fn table(out: &mut File, total: u64, id: Uuid, partitions: BTreeMap<u32, Partition>) -> Result<()> {
    let sectors = u32::try_from(total / SECTOR_BYTES - 1).unwrap_or(u32::MAX);
    let wrong = |e: &dyn std::fmt::Display| Error::bug(format!("the partition table: {e}"));
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(out).map_err(|e| wrong(&e))?;
    let mut disk = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(&mut *out, Some(id))
        .map_err(|e| wrong(&e))?;
    disk.update_partitions(partitions).map_err(|e| wrong(&e))?;
    disk.write().map_err(|e| wrong(&e)).map(drop)
}

fn partition(stored: &Stored, name: &str, kind: Type, at: u64, bytes: u64) -> Partition {
    let first_lba = at / SECTOR_BYTES;
    Partition {
        part_type_guid: kind,
        part_guid: uuid(stored, name),
        first_lba,
        last_lba: first_lba + bytes.div_ceil(SECTOR_BYTES) - 1,
        flags: 0,
        name: name.to_string(),
    }
}

/// What makes the disk start as `boot` says: the image's kernel with the words that find the root.
pub(super) fn start(
    store: &Store,
    stored: &Stored,
    boot: &Boot,
    beside: &Path,
    progress: &Progress,
) -> Result<Option<Start>> {
    let Boot::Uefi { kernel, upper_bytes } = boot else { return Ok(None) };
    let kernel = kernel.as_deref();
    let kernel = store.kernel(stored, kernel, Some(beside), progress, &Cancel::new())?;
    let arch = stored.manifest.arch;
    let path = match arch {
        Arch::X86_64 => kernel.vmlinux.with_file_name("bzImage"),
        Arch::Aarch64 => kernel.vmlinux,
    };
    let bytes = fs::read(&path).map_err(|e| {
        Error::io(format!("{} of the kernel {}", file_name(&path), kernel.title), e)
    })?;
    let program = uki::make(arch, &bytes, &kernel.title, &cmdline(stored))?;
    Ok(Some(Start { program, upper_bytes: *upper_bytes }))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn cmdline(stored: &Stored) -> String {
    let boot = stored.manifest.boot.as_ref();
    let mut words = boot.map(|boot| boot.cmdline.clone()).unwrap_or_default();
    words.push(format!("root=PARTUUID={}", uuid(stored, "root")));
    words.push("ro rootfstype=ext4 rootwait panic=10".into());
    words.push(format!("init=/{}", crate::inject::AGENT_PATH));
    words.push(format!("imgtool.init={}", boot.map(|b| b.init).unwrap_or_default().name()));
    words.push(format!("imgtool.upper={UPPER}"));
    words.push(match stored.manifest.arch {
        Arch::X86_64 => "console=ttyS0".into(),
        Arch::Aarch64 => "console=ttyAMA0".into(),
    });
    words.join(" ")
}

/// The same for the same bundle.
fn uuid(stored: &Stored, what: &str) -> Uuid {
    let mut hasher = Hasher::new();
    hasher.field(what);
    hasher.field(stored.digest.as_bytes());
    let digest = hasher.finish();
    let mut bytes: [u8; 16] = std::array::from_fn(|i| digest.as_bytes()[i]);
    // RFC 9562: version 8 is for values that the application makes up.
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Uuid::from_bytes(bytes)
}

/// The disk `raw` as qcow2 in the file `out`.
pub(super) fn convert(raw: &File, out: &Path) -> Result<()> {
    imgrun::tool::require(&["qemu-img"])?;
    // A file without a name is read by its descriptor, which our own process lends.
    let from = format!("/proc/{}/fd/{}", std::process::id(), raw.as_raw_fd());
    Tool::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1,lazy_refcounts=off"])
        .arg(from)
        .arg(out)
        .timeout(CONVERT_TIME_MAX)
        .run()
        .map(drop)
}
