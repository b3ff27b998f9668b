//! The writable root: overlayfs of the read-only image and an upper file system.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::mount::{MountFlags, mount, mount_move};

use crate::disk;

/// Everything is put together here; it must be a file system in memory by now.
const STAGING: &str = "/run/imgtool";
const UPPER: &str = "/run/imgtool/upper";
const UPPER_DIR: &str = "/run/imgtool/upper/upper";
const WORK_DIR: &str = "/run/imgtool/upper/work";
const NEW_ROOT: &str = "/run/imgtool/root";
const OVERLAY_OPTIONS: &str =
    "lowerdir=/,upperdir=/run/imgtool/upper/upper,workdir=/run/imgtool/upper/work";
/// Without redirect_dir a directory of the image could not be renamed.
const RENAMING: &str = ",redirect_dir=on";
/// Whatever the kernel's defaults are: each file of the upper directory is whole.
const PLAIN: &str = ",redirect_dir=off,index=off";

/// Mounts the upper file system (on the disk with this serial, or in memory) and the overlay, and
/// makes it the root; `moved` go along. What is written to a `plain` one says all by itself. Returns the upper file system's root: no path leads there
/// afterwards.
pub(crate) fn enter(serial: Option<&str>, plain: bool, moved: &[&str]) -> Result<OwnedFd, String> {
    for dir in [STAGING, UPPER, NEW_ROOT] {
        make_dir(dir)?;
    }
    mount_upper(serial)?;
    for dir in [UPPER_DIR, WORK_DIR] {
        make_dir(dir)?;
    }
    // The root directory's owner and mode come from the upper layer: take over the image's.
    let root = fs::metadata("/").map_err(|e| format!("cannot look at /: {e}"))?;
    rustix::fs::chown(UPPER_DIR, Some(Uid::from_raw(root.uid())), Some(Gid::from_raw(root.gid())))
        .map_err(|e| format!("cannot set the owner of {UPPER_DIR}: {e}"))?;
    fs::set_permissions(UPPER_DIR, fs::Permissions::from_mode(root.mode() & 0o7777))
        .map_err(|e| format!("cannot set the mode of {UPPER_DIR}: {e}"))?;
    let options = [OVERLAY_OPTIONS, if plain { PLAIN } else { RENAMING }].concat();
    let options = CString::new(options).map_err(|e| e.to_string())?;
    mount("overlay", NEW_ROOT, "overlay", MountFlags::empty(), &*options)
        .map_err(|e| format!("cannot mount the overlay root: {e}"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::open(UPPER, flags, Mode::empty())
        .map_err(|e| format!("cannot open {UPPER}: {e}"))?;
    for path in moved {
        mount_move(*path, format!("{NEW_ROOT}{path}"))
            .map_err(|e| format!("cannot move {path} to the new root: {e}"))?;
    }
    switch_root().map_err(|e| format!("cannot enter the new root: {e}"))?;
    Ok(upper)
}

fn mount_upper(serial: Option<&str>) -> Result<(), String> {
    match serial {
        Some(serial) => {
            let device = disk::find(serial)?;
            mount(&device, UPPER, "ext4", MountFlags::NOATIME, None)
                .map_err(|e| format!("cannot mount {} as upper: {e}", device.display()))
        }
        None => mount("tmpfs", UPPER, "tmpfs", MountFlags::empty(), c"mode=0755")
            .map_err(|e| format!("cannot mount a tmpfs as upper: {e}")),
    }
}

fn switch_root() -> rustix::io::Result<()> {
    rustix::process::chdir(NEW_ROOT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}

fn make_dir(path: &str) -> Result<(), String> {
    if Path::new(path).is_dir() {
        return Ok(());
    }
    fs::create_dir(path).map_err(|e| format!("cannot create {path}: {e}"))
}
