//! Finds and opens the virtio-serial port to the host.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent::PORT_NAME;
use rustix::fs::{Mode, OFlags};

/// The kernel learns a port's name from the host some time after the device; there is no event
/// for that which needs no netlink, so it is looked for this often,
const RETRY: Duration = Duration::from_millis(2);
/// and for this long.
const RETRY_MAX: Duration = Duration::from_secs(20);

/// Opens the port, waiting for it if need be.
pub(crate) fn open() -> Result<OwnedFd, String> {
    let began = Instant::now();
    loop {
        let why = match find() {
            Some(path) => {
                let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
                match rustix::fs::open(&path, flags, Mode::empty()) {
                    Ok(fd) => return Ok(fd),
                    Err(e) => format!("cannot open {}: {e}", path.display()),
                }
            }
            None => format!("there is no virtio-serial port named {PORT_NAME}"),
        };
        if began.elapsed() > RETRY_MAX {
            return Err(why);
        }
        std::thread::sleep(RETRY);
    }
}

fn find() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|entry| {
        let name = fs::read(entry.path().join("name")).ok()?;
        (name.trim_ascii() == PORT_NAME.as_bytes())
            .then(|| PathBuf::from("/dev").join(entry.file_name()))
    })
}
