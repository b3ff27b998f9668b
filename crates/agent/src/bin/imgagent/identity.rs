//! What a copy of a machine must have of its own before anybody uses it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use agent::Restore;
use rustix::fs::{Mode, OFlags};

use crate::{clock, network, sys};

const MACHINE_ID: &str = "/etc/machine-id";
/// D-Bus has a copy of its own on some systems; on most it is a link to the other.
const DBUS_MACHINE_ID: &str = "/var/lib/dbus/machine-id";

/// Becomes the machine that the host wants.
pub(crate) fn assume(restore: &Restore) -> Result<(), String> {
    // First of all: until then every copy draws the same random numbers.
    sys::reseed(&restore.seed).map_err(|e| format!("cannot reseed the random generator: {e}"))?;
    clock::set(restore.wall_clock_unix_ns)?;
    name_host(&restore.hostname)?;
    let id: String = restore.machine_id.iter().map(|byte| format!("{byte:02x}")).collect();
    write_machine_id(&id).map_err(|e| format!("cannot write {MACHINE_ID}: {e}"))?;
    match &restore.mac {
        Some(mac) => network::set_mac(mac),
        None => Ok(()),
    }
}

/// Sets the host name, and writes it down for who reads it there.
pub(crate) fn name_host(name: &str) -> Result<(), String> {
    rustix::system::sethostname(name.as_bytes())
        .map_err(|e| format!("cannot set hostname: {e}"))?;
    // systemd would go back to the image's. An image may have anything there, a symlink to
    // nowhere or a FIFO, say, and runs all the same.
    if let Err(e) = write_etc(Path::new("/etc/hostname"), name) {
        crate::console::say(&format!("cannot write /etc/hostname: {e}"));
    }
    Ok(())
}

/// Whatever reads it finds the new one; an image without `/etc` has nobody who does.
fn write_machine_id(id: &str) -> io::Result<()> {
    if fs::symlink_metadata(DBUS_MACHINE_ID).is_ok_and(|m| m.is_file()) {
        write_etc(Path::new(DBUS_MACHINE_ID), id)?;
    }
    write_etc(Path::new(MACHINE_ID), id)
}

/// In place: it may be mounted over.
fn write_etc(path: &Path, line: &str) -> io::Result<()> {
    if !path.parent().is_some_and(Path::is_dir) {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::from(0o644))?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    file.set_len(0)?;
    file.write_all(format!("{line}\n").as_bytes())
}
