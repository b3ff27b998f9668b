//! PID 1: from the kernel's bare root to a machine that serves.

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::cmdline::{self, Init, Words};
use crate::serve::{Server, Setting};
use crate::volume::Volume;
use crate::{console, identity, network, overlay, port, power};

const NO_FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const SYSTEMD: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
const DEV_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Boots and serves. Whatever fails ends the machine: the host must see an end, not a hang.
pub(crate) fn run() -> ! {
    let Err(why) = start();
    console::say(&why);
    power::fail()
}

fn start() -> Result<Infallible, String> {
    raise_limits()?;
    for (what, path) in [("proc", "/proc"), ("sysfs", "/sys")] {
        mount_at(what, path, NO_FLAGS, c"")?;
    }
    mount_at("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755")?;
    mount_at("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")?;
    let words = cmdline::read()?;
    let upper =
        overlay::enter(words.upper.as_deref(), words.plain_upper, &["/proc", "/sys", "/dev"])?;
    words.volumes.iter().try_for_each(Volume::mount)?;
    name_host(&words)?;
    if let Some(network) = &words.network {
        network::configure(network)?;
    }
    match words.init {
        Init::Agent => serve(upper, words.vsock, words.volumes),
        Init::Systemd => exec_systemd(),
    }
}

fn serve(upper: OwnedFd, vsock: bool, volumes: Vec<Volume>) -> Result<Infallible, String> {
    let tmp = MountFlags::NOSUID | MountFlags::NODEV;
    mount_at("devpts", "/dev/pts", MountFlags::NOSUID, c"mode=0620,gid=5,ptmxmode=0666")?;
    mount_at("tmpfs", "/dev/shm", tmp, c"mode=1777")?;
    mount_at("tmpfs", "/run", tmp, c"mode=0755")?;
    mount_at("tmpfs", "/tmp", tmp, c"mode=1777")?;
    mount_at("cgroup2", "/sys/fs/cgroup", NO_FLAGS, c"")?;
    for (target, link) in DEV_LINKS {
        // Some kernels and images have them already.
        let _ = std::os::unix::fs::symlink(target, link);
    }
    network::loopback_up()?;
    let port = port::open(vsock)?;
    let server = Server::new(port, Setting::Init).map_err(|e| format!("cannot serve: {e}"))?;
    server.keep_disks(upper, volumes).run().map_err(|e| format!("serving: {e}"))?;
    Err("the host's port is gone".into())
}

/// systemd mounts the rest as it likes it, and starts this program as a unit.
fn exec_systemd() -> Result<Infallible, String> {
    let Some(path) = SYSTEMD.into_iter().find(|path| Path::new(path).exists()) else {
        return Err("imgtool.init=systemd, but this image has no systemd".into());
    };
    Err(format!("cannot execute {path}: {}", Command::new(path).arg0("/sbin/init").exec()))
}

fn name_host(words: &Words) -> Result<(), String> {
    words.hostname.as_deref().map_or(Ok(()), identity::name_host)
}

/// What commands may raise their own limit of open files to. The kernel's default is 4,096, which
/// databases find too few; the soft limit stays, as some programs close all that they may have.
const OPEN_FILES: Rlimit = Rlimit { current: Some(1024), maximum: Some(524_288) };

fn raise_limits() -> Result<(), String> {
    setrlimit(Resource::Nofile, OPEN_FILES)
        .map_err(|e| format!("cannot raise the limit of open files: {e}"))
}

/// Mounts a file system of the kernel's own, unless it is there already.
fn mount_at(what: &str, path: &str, flags: MountFlags, options: &CStr) -> Result<(), String> {
    if !Path::new(path).is_dir() {
        fs::create_dir(path).map_err(|e| format!("cannot create {path}: {e}"))?;
    }
    match mount(what, path, what, flags, options) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(e) => Err(format!("cannot mount {what} on {path}: {e}")),
    }
}
