//! Finds a virtio block device by the serial that the host gave it.

use std::fs;
use std::path::PathBuf;

/// virtio-blk serials have this many bytes at most; a longer one is cut by the VMM.
const SERIAL_BYTES_MAX: usize = 20;

/// The device node of the disk with this serial, or that has this name.
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
    seen.sort();
    Err(format!("no disk has the serial {serial}; there are {}", seen.join(" ")))
}
