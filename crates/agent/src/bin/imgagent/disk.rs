//! Finds a block device: a virtio disk by the serial that the host gave it, or a partition by its name.

use std::fs;
use std::path::PathBuf;

/// virtio-blk serials have this many bytes at most; a longer one is cut by the VMM.
const SERIAL_BYTES_MAX: usize = 20;

/// The device node that has this name, or of the disk with this serial, or, where there is none, of
/// the partition with this name.
pub(crate) fn find(serial: &str) -> Result<PathBuf, String> {
    if serial.starts_with("/dev/") {
        return Ok(PathBuf::from(serial));
    }
    let wanted = &serial.as_bytes()[..serial.len().min(SERIAL_BYTES_MAX)];
    let mut seen = Vec::new();
    let entries = fs::read_dir("/sys/block").map_err(|e| format!("cannot list disks: {e}"))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        seen.push(name.to_string_lossy().into_owned());
        // Only virtio-blk has this file.
        if let Ok(found) = fs::read(entry.path().join("serial"))
            && found.trim_ascii() == wanted
        {
            return Ok(PathBuf::from("/dev").join(name));
        }
    }
    if let Some(device) = partition(serial) {
        return Ok(device);
    }
    seen.sort();
    Err(format!("no disk or partition is called {serial}; the disks are {}", seen.join(" ")))
}

/// Partitions have names where the table is a GPT.
fn partition(name: &str) -> Option<PathBuf> {
    fs::read_dir("/sys/class/block").ok()?.flatten().find_map(|entry| {
        let event = fs::read_to_string(entry.path().join("uevent")).ok()?;
        let found = event.lines().any(|line| line.strip_prefix("PARTNAME=") == Some(name));
        found.then(|| PathBuf::from("/dev").join(entry.file_name()))
    })
}
