//! Finds and opens the way to the host: a virtio-serial port, or a vsock port to be connected to.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent::{PORT_NAME, VSOCK_PORT};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::sys::VsockAddress;

/// The kernel learns a port's name from the host some time after the device; there is no event
/// for that which needs no netlink, so it is looked for this often,
const RETRY: Duration = Duration::from_millis(2);
/// and for this long.
const RETRY_MAX: Duration = Duration::from_secs(20);

/// The stream to the host.
pub(crate) struct Port {
    /// The stream itself, which never blocks.
    pub(crate) stream: OwnedFd,
    /// Where the host connects anew once the stream has ended; a virtio-serial port never ends.
    pub(crate) listener: Option<Listener>,
}

/// A vsock port that the host connects to.
pub(crate) struct Listener(OwnedFd);

impl Listener {
    fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &VsockAddress::any(VSOCK_PORT))?;
        rustix::net::listen(&socket, 1)?;
        Ok(Listener(socket))
    }

    /// Waits until the host has connected.
    pub(crate) fn accept(&self) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            match rustix::net::accept_with(&self.0, flags) {
                Ok(stream) => return Ok(stream),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Opens the stream, waiting for it if need be.
pub(crate) fn open(vsock: bool) -> Result<Port, String> {
    if !vsock {
        return Ok(Port { stream: open_serial()?, listener: None });
    }
    let listener = Listener::new().map_err(|e| format!("vsock port {VSOCK_PORT}: {e}"))?;
    let stream = listener.accept().map_err(|e| format!("vsock port {VSOCK_PORT}: {e}"))?;
    Ok(Port { stream, listener: Some(listener) })
}

fn open_serial() -> Result<OwnedFd, String> {
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
