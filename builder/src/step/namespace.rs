//! Commands of a recipe in name spaces of this machine: no emulation, where we may make them.
//!
//! ```text
//! imgtool build ─ Tool ─> imgtool namespace outer ─> unshare(1) ─> imgtool namespace inner ─> command
//!                         writes the new space's ids               mounts, enters, waits, packs
//! ```
//! The image so far is unpacked beside a directory that takes what is written, and overlayfs stacks
//! them. What was written becomes an ext4 disk as a machine would have left it, so that one reader
//! (`upper.rs`) makes layers of both.
//!
//! This is for recipes that one trusts. The command is root in a user name space, whose ids are the
//! host's own: it has no rights over the host's devices, mounts, processes and network settings, and
//! sees none of its files; but to the host's kernel it is a process of user 0, and a command that is
//! out for harm finds more of it than in a machine. That is why machines are the default.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use imgrun::{Stage, Tool};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::mount::{mount, mount_bind, mount_change, mount_remount, unmount};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::{Class, Error, Result};

use super::{todisk, unpack};

/// The kernel may take this long to make the name spaces.
const SPACES_TIME_MAX: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(2);
/// The ids of the user name space: those of any image.
const IDS: u32 = 65_536;
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const DEV_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
];

/// What is to be run, told to the inner process on its standard input.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) argv: Vec<String>,
    /// `NAME=value` each, all of it.
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
    pub(super) ids: (u32, u32),
    pub(super) hostname: String,
    /// `/etc/resolv.conf`, where the network is used.
    pub(super) resolv_conf: Option<String>,
    pub(super) secrets: Vec<(String, Vec<u8>)>,
    /// The command is killed after this time.
    pub(super) timeout: Duration,
    /// Holds `lower`, the unpacked image, and empty `upper`, `work` and `root`.
    directory: PathBuf,
}

/// How the command ended, told on standard output.
#[derive(Serialize, Deserialize)]
pub(super) struct Ending {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) timed_out: bool,
}

/// Runs `order` on the tree in `image`; returns how it ended and the disk with what it wrote.
/// `said` sees each line of its output.
pub(super) fn run(
    image: &Path,
    mut order: Order,
    network: bool,
    scratch: &Path,
    stage: &Stage,
    mut said: impl FnMut(&str) + Send,
) -> Result<(Ending, File)> {
    check()?;
    let work = tempfile::Builder::new()
        .prefix(".imgtool-")
        .tempdir_in(scratch)
        .map_err(|e| Error::io(scratch.display(), e))?;
    // `imgtool cache prune` leaves what is locked.
    let _in_use = lock(work.path()).map_err(|e| Error::io(work.path().display(), e))?;
    order.directory = work.path().to_path_buf();
    for name in ["lower", "upper", "work", "root"] {
        let path = work.path().join(name);
        fs::create_dir(&path).map_err(|e| Error::io(path.display(), e))?;
    }
    unpack::tree(image, &work.path().join("lower"))?;
    let text = serde_json::to_vec(&order).map_err(|e| Error::bug("an order").because(e))?;
    let (reader, mut writer) = std::io::pipe().map_err(|e| Error::io("a pipe", e))?;
    let exe = std::env::current_exe().map_err(|e| Error::io("our own program", e))?;
    let tool = Tool::new(&exe)
        .args(["namespace", "outer", if network { "network" } else { "alone" }])
        .stdin(reader)
        .fails_as(Class::Host)
        .timeout(order.timeout + SPACES_TIME_MAX)
        .on_stderr_line(|line| {
            stage.add(1);
            said(line);
        });
    let output = std::thread::scope(|scope| {
        // The pipe holds less than an order may have.
        scope.spawn(move || writer.write_all(&text));
        tool.run()
    })?;
    // A command is root in its space and could write there, too: it says of itself only what its exit
    // code could have said.
    let ending = serde_json::from_slice(&output.stdout)
        .map_err(|e| Error::guest("the command disturbed what it is run by").because(e))?;
    let disk = tempfile::tempfile_in(scratch).map_err(|e| Error::io(scratch.display(), e))?;
    Ok((ending, todisk::write(&work.path().join("upper"), disk)?))
}

/// Held until the file is dropped.
fn lock(directory: &Path) -> std::io::Result<File> {
    let file = File::open(directory)?;
    file.lock_shared()?;
    Ok(file)
}

impl Order {
    pub(super) fn new(argv: Vec<String>, env: Vec<String>, cwd: String) -> Order {
        Order {
            argv,
            env,
            cwd,
            ids: (0, 0),
            hostname: String::new(),
            resolv_conf: None,
            secrets: Vec::new(),
            timeout: Duration::ZERO,
            directory: PathBuf::new(),
        }
    }
}

/// Whether we may make the name spaces here.
fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(
            Error::host("steps in name spaces need root").hint("--executor=machine needs none")
        );
    }
    imgrun::tool::require(&["setpriv", "unshare"])
}

/// The outer process: starts the inner one in new name spaces and gives them their ids. Returns the
/// exit code to end with.
///
/// # Errors
/// Where the kernel does not allow it.
pub fn outer(network: bool) -> Result<u8> {
    let exe = std::env::current_exe().map_err(|e| Error::io("our own program", e))?;
    // Nothing of it outlives us: what runs dies with `unshare`, and that with this process.
    let mut unshare = Command::new("setpriv");
    unshare.args(["--pdeathsig", "KILL", "unshare"]);
    unshare.args(["--user", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts"]);
    if !network {
        unshare.arg("--net");
    }
    // A program that is started before its space has ids has no rights there; the one that this
    // shell turns into once it was told so has.
    unshare.args(["sh", "-c", "read -r _ && exec \"$0\" namespace inner"]).arg(exe);
    unshare.stdin(Stdio::piped());
    let about = |e| Error::io("unshare", e);
    let mut child = unshare.spawn().map_err(about)?;
    let ours = fs::read_link("/proc/self/ns/user").map_err(about)?;
    let theirs = format!("/proc/{}/ns/user", child.id());
    let began = Instant::now();
    while fs::read_link(&theirs).map_err(about)? == ours {
        if began.elapsed() > SPACES_TIME_MAX || child.try_wait().map_err(about)?.is_some() {
            let _ = child.kill();
            return Err(Error::host("no user name space could be made"));
        }
        std::thread::sleep(LOOK);
    }
    for map in ["uid_map", "gid_map"] {
        let path = format!("/proc/{}/{map}", child.id());
        fs::write(&path, format!("0 0 {IDS}")).map_err(|e| Error::io(path, e))?;
    }
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(b"\n").map_err(about)?;
        std::io::copy(&mut std::io::stdin(), &mut stdin).map_err(about)?;
    }
    let status = child.wait().map_err(about)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// The inner process: reads its order, makes the root, runs the command, says how it ended as the
/// text that is returned.
///
/// # Errors
/// Where something can not be mounted or the command can not be started.
pub fn inner() -> Result<String> {
    // The kernel forgot what `--kill-child` had asked for, when this program got its rights.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| Error::host("the signal of our parent's end").because(e))?;
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).map_err(|e| Error::io("standard input", e))?;
    let order: Order =
        serde_json::from_slice(&text).map_err(|e| Error::bug("an order").because(e))?;
    enter(&order).map_err(|(what, e)| Error::host(format!("name space: {what}")).because(e))?;
    let mut command = Command::new(&order.argv[0]);
    command.args(&order.argv[1..]).env_clear().current_dir(&order.cwd).stdin(Stdio::null());
    command.envs(order.env.iter().filter_map(|entry| entry.split_once('=')));
    // Standard output is for how it ended.
    command.stdout(std::io::stderr());
    if order.ids != (0, 0) {
        command.uid(order.ids.0).gid(order.ids.1);
    }
    let about = |e| Error::io(&order.argv[0], e);
    let mut child = command.spawn().map_err(about)?;
    let began = Instant::now();
    let mut timed_out = false;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(about)? {
            break status;
        }
        if began.elapsed() > order.timeout && !timed_out {
            timed_out = true;
            child.kill().map_err(about)?;
        }
        std::thread::sleep(LOOK);
    };
    // Whatever the command left behind ends with this process, the first of its space.
    let ending = Ending { code: status.code(), signal: status.signal(), timed_out };
    serde_json::to_string(&ending).map_err(|e| Error::bug("an ending").because(e))
}

type Failed = (&'static str, rustix::io::Errno);

/// Stacks the root, mounts what programs expect in it, and makes it the only one there is.
fn enter(order: &Order) -> Result<(), Failed> {
    let io = |what: &'static str| {
        move |e: std::io::Error| {
            (what, rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO))
        }
    };
    let at = |what: &'static str| move |e: rustix::io::Errno| (what, e);
    let root = order.directory.join("root");
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(at("mounts of our own"))?;
    // From there, because `,` and `:` in a path would mean something else to overlayfs. With attributes
    // of users there are no redirects; and nobody needs the files after a crash.
    rustix::process::chdir(&order.directory).map_err(at("the working directory"))?;
    let options = c"lowerdir=lower,upperdir=upper,workdir=work,userxattr,index=off,volatile";
    mount("overlay", "root", "overlay", MountFlags::empty(), options).map_err(at("overlayfs"))?;
    // A link of the image leads to what the host has there.
    for name in ["proc", "dev", "run", "tmp"] {
        let found = fs::symlink_metadata(root.join(name)).map_err(io("a mount point"))?;
        if !found.is_dir() {
            return Err(("the image's /proc, /dev, /run or /tmp", rustix::io::Errno::NOTDIR));
        }
    }
    let quiet = MountFlags::NOSUID | MountFlags::NODEV;
    mount("proc", root.join("proc"), "proc", quiet, None).map_err(at("/proc"))?;
    guard_proc(&root.join("proc")).map_err(at("/proc"))?;
    for (path, mode) in [("dev", c"mode=0755"), ("run", c"mode=0755"), ("tmp", c"mode=1777")] {
        mount("tmpfs", root.join(path), "tmpfs", MountFlags::NOSUID, mode)
            .map_err(at("a tmpfs"))?;
    }
    for name in DEVICES {
        let path = root.join("dev").join(name);
        File::create(&path).map_err(io("/dev"))?;
        mount_bind(Path::new("/dev").join(name), &path).map_err(at("a device"))?;
    }
    for name in ["dev/pts", "dev/shm"] {
        fs::create_dir(root.join(name)).map_err(io("/dev"))?;
    }
    let pts = c"newinstance,ptmxmode=0666,mode=0620";
    mount("devpts", root.join("dev/pts"), "devpts", MountFlags::NOSUID, pts)
        .map_err(at("/dev/pts"))?;
    mount("tmpfs", root.join("dev/shm"), "tmpfs", quiet, c"mode=1777").map_err(at("/dev/shm"))?;
    for (target, link) in DEV_LINKS.into_iter().chain([("pts/ptmx", "dev/ptmx")]) {
        symlink(target, root.join(link)).map_err(io("/dev"))?;
    }
    rustix::system::sethostname(order.hostname.as_bytes()).map_err(at("the host's name"))?;
    rustix::process::chdir(&root).map_err(at("the root"))?;
    rustix::process::pivot_root(".", ".").map_err(at("the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(at("the old root"))?;
    rustix::process::chdir("/").map_err(at("the root"))?;
    // Not before: from here on the image's links lead into the image.
    fill(order).map_err(io("/etc and /run"))
}

/// Keeps accidents from the host's kernel: its settings are read-only, its trigger is gone. `/sys` is
/// not there at all.
fn guard_proc(proc: &Path) -> rustix::io::Result<()> {
    let settings = proc.join("sys");
    mount_bind(&settings, &settings)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(&settings, flags, c"")?;
    match mount_bind("/dev/null", proc.join("sysrq-trigger")) {
        // A kernel without one.
        Err(rustix::io::Errno::NOENT) => Ok(()),
        done => done,
    }
}

/// What a machine's agent writes at boot, too: the name, who answers names; and secrets.
fn fill(order: &Order) -> std::io::Result<()> {
    let put = |name: &str, text: &str| {
        // In place of whatever is there: a link into a `/run` that is empty, often.
        let mut new = tempfile::Builder::new().prefix(".imgtool-").tempfile_in("/etc")?;
        new.write_all(text.as_bytes())?;
        new.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        new.persist(Path::new("/etc").join(name)).map(drop).map_err(|e| e.error)
    };
    if Path::new("/etc").is_dir() {
        put("hostname", &format!("{}\n", order.hostname))?;
        if let Some(text) = &order.resolv_conf {
            put("resolv.conf", text)?;
        }
    }
    let secrets = Path::new("/run/secrets");
    for (name, value) in &order.secrets {
        fs::create_dir_all(secrets)?;
        fs::write(secrets.join(name), value)?;
        fs::set_permissions(secrets.join(name), fs::Permissions::from_mode(0o444))?;
    }
    Ok(())
}
