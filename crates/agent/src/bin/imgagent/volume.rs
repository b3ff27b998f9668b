//! Disks that the host attached for us to mount.

use std::fs;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::{console, disk};

/// One word `imgtool.volume=SERIAL:PATH[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    serial: String,
    path: String,
    read_only: bool,
}

impl Volume {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (serial, path) = (parts.next()?, parts.next()?);
        let read_only = match parts.next() {
            None => false,
            Some("ro") => true,
            Some(_) => return None,
        };
        let is_whole = !serial.is_empty() && path.starts_with('/') && parts.next().is_none();
        let (serial, path) = (serial.to_string(), path.to_string());
        is_whole.then_some(Volume { serial, path, read_only })
    }

    /// Mounts it; the directory is made where it is missing.
    pub(crate) fn mount(&self) -> Result<(), String> {
        let Volume { serial, path, read_only } = self;
        fs::create_dir_all(path).map_err(|e| format!("cannot create {path}: {e}"))?;
        let device = disk::find(serial)?;
        let (flags, options) = match read_only {
            // A journal that was cut short can not be played where nothing may be written.
            true => (MountFlags::NOATIME | MountFlags::RDONLY, c"noload"),
            false => (MountFlags::NOATIME, c""),
        };
        mount(&device, path, "ext4", flags, options)
            .map_err(|e| format!("cannot mount {} on {path}: {e}", device.display()))
    }

    /// At the end, when nobody uses it any more.
    pub(crate) fn unmount(&self) {
        if let Err(e) = unmount(&*self.path, UnmountFlags::empty()) {
            console::say(&format!("{} stays mounted: {e}", self.path));
        }
    }
}
