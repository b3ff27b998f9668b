//! A disk with a partition table (UEFI specification, "GUID Partition Table"): one partition, the
//! root.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use bundle::{Arch, Hasher};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{LINUX_ROOT_ARM_64, LINUX_ROOT_X64};
use imgrun::{Stored, Tool};
use uuid::Uuid;

use super::copy_sparse;
use crate::{Error, Result};

const SECTOR_BYTES: u64 = 512;
/// Where the partition begins, and what is left free behind it: 1 MiB, as everybody has it.
const MARGIN_BYTES: u64 = 1 << 20;
/// qemu-img takes this long at most.
const CONVERT_TIME_MAX: Duration = Duration::from_secs(3600);

/// Writes the disk.
pub(super) fn write(stored: &Stored, image: &mut File, out: &mut File) -> Result<()> {
    let about = |e: std::io::Error| Error::io("the disk", e);
    let image_bytes = image.metadata().map_err(about)?.len();
    let total = 2 * MARGIN_BYTES + image_bytes.next_multiple_of(MARGIN_BYTES);
    out.set_len(total).map_err(about)?;
    let sectors = u32::try_from(total / SECTOR_BYTES - 1).unwrap_or(u32::MAX);
    let wrong = |e: &dyn std::fmt::Display| Error::bug(format!("the partition table: {e}"));
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(out).map_err(|e| wrong(&e))?;
    let first_lba = MARGIN_BYTES / SECTOR_BYTES;
    let root = Partition {
        part_type_guid: match stored.manifest.arch {
            Arch::X86_64 => LINUX_ROOT_X64,
            Arch::Aarch64 => LINUX_ROOT_ARM_64,
        },
        part_guid: uuid(stored, "root"),
        first_lba,
        last_lba: first_lba + image_bytes.div_ceil(SECTOR_BYTES) - 1,
        flags: 0,
        name: "root".to_string(),
    };
    let mut disk = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(&mut *out, Some(uuid(stored, "disk")))
        .map_err(|e| wrong(&e))?;
    disk.update_partitions(BTreeMap::from([(1, root)])).map_err(|e| wrong(&e))?;
    disk.write().map_err(|e| wrong(&e))?;
    copy_sparse(image, out, MARGIN_BYTES)?;
    out.set_len(total).map_err(about)
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
