//! Starts a command: pipes or a terminal, user, directory, environment.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command as Program, Stdio};

use agent::{Exec, Fault, FaultCode, Terminal, WINDOW_BYTES};
use rustix::fs::{Mode, OFlags, fchown};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::accounts::{self, Account};
use crate::sys;

const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The kernel's own default is 64 KiB.
const STDOUT_PIPE_BYTES: usize = WINDOW_BYTES as usize;

/// Our ends of a running command's streams; none of them blocks.
pub(crate) struct Ends {
    pub(crate) pid: u32,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    /// A terminal has only one output.
    pub(crate) stderr: Option<OwnedFd>,
}

/// Errors between fork and exec come back as a number; the step is put above the error's bits.
const STEP_SHIFT: i32 = 16;
const STEP_SESSION: i32 = 1;
const STEP_USER: i32 = 2;
const STEP_CWD: i32 = 3;

/// Starts `exec`.
pub(crate) fn start(exec: &Exec) -> Result<Ends, Fault> {
    let account = accounts::find(exec.user.as_deref())
        .ok_or_else(|| fault(FaultCode::NoSuchUser, "no such user", exec.user.as_deref()))?;
    let program = &exec.argv[0];
    let mut command = Program::new(OsStr::from_bytes(program));
    command.args(exec.argv[1..].iter().map(|arg| OsStr::from_bytes(arg)));
    command.env_clear().envs(
        environment(exec, &account)
            .iter()
            .map(|(k, v)| (OsStr::from_bytes(k), OsStr::from_bytes(v))),
    );
    let ends = match exec.terminal {
        Some(size) => attach_terminal(&mut command, size, &account),
        None => attach_pipes(&mut command, exec.stdin, &account),
    };
    let mut ends = ends.map_err(|e| spawn_fault(exec, &e.into()))?;
    let cwd = exec.cwd.clone().map(CString::new).transpose().ok().flatten();
    let home = CString::new(account.home.clone()).unwrap_or_default();
    let (has_terminal, is_unit) = (exec.terminal.is_some(), std::process::id() != 1);
    sys::before_exec(&mut command, move || {
        enter_session(has_terminal, is_unit).map_err(|e| step(STEP_SESSION, e))?;
        become_user(&account).map_err(|e| step(STEP_USER, e))?;
        match &cwd {
            Some(cwd) => rustix::process::chdir(cwd).map_err(|e| step(STEP_CWD, e)),
            // An account whose home is missing still can run things.
            None => rustix::process::chdir(&home)
                .or_else(|_| rustix::process::chdir(c"/"))
                .map_err(|e| step(STEP_CWD, e)),
        }
    });
    // The `Child` is dropped: children are reaped all in one place.
    ends.pid = command.spawn().map_err(|e| spawn_fault(exec, &e))?.id();
    Ok(ends)
}

fn environment(exec: &Exec, account: &Account) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut env = BTreeMap::new();
    if !exec.clear_env {
        env.insert(b"PATH".to_vec(), DEFAULT_PATH.to_vec());
        env.insert(b"HOME".to_vec(), account.home.clone());
        env.insert(b"USER".to_vec(), account.name.clone());
        env.insert(b"LOGNAME".to_vec(), account.name.clone());
    }
    for entry in &exec.env {
        if let Some(at) = entry.iter().position(|&b| b == b'=') {
            env.insert(entry[..at].to_vec(), entry[at + 1..].to_vec());
        }
    }
    env
}

fn attach_pipes(command: &mut Program, stdin: bool, account: &Account) -> rustix::io::Result<Ends> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    let pipe = || {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // So that the user can open /dev/stdout and the like.
        fchown(&reader, Some(uid), Some(gid))?;
        Ok::<_, Errno>((reader, writer))
    };
    let (stdout, theirs) = pipe()?;
    command.stdout(Stdio::from(theirs));
    let (stderr, theirs) = pipe()?;
    command.stderr(Stdio::from(theirs));
    let stdin = if stdin {
        let (theirs, stdin) = pipe()?;
        command.stdin(Stdio::from(theirs));
        Some(stdin)
    } else {
        command.stdin(Stdio::null());
        None
    };
    // Fewer switches between the command and us; without it things only are slower.
    let _ = rustix::pipe::fcntl_setpipe_size(&stdout, STDOUT_PIPE_BYTES);
    for ours in [Some(&stdout), Some(&stderr), stdin.as_ref()].into_iter().flatten() {
        rustix::io::ioctl_fionbio(ours, true)?;
    }
    Ok(Ends { pid: 0, stdin, stdout, stderr: Some(stderr) })
}

fn attach_terminal(
    command: &mut Program,
    size: Terminal,
    account: &Account,
) -> rustix::io::Result<Ends> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&ours)?;
    rustix::pty::unlockpt(&ours)?;
    resize(&ours, size)?;
    let path = rustix::pty::ptsname(&ours, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(&path, flags, Mode::empty())?;
    if account.uid != 0 {
        fchown(&theirs, Some(Uid::from_raw(account.uid)), None)?;
    }
    command.stdin(Stdio::from(rustix::io::fcntl_dupfd_cloexec(&theirs, 0)?));
    command.stdout(Stdio::from(rustix::io::fcntl_dupfd_cloexec(&theirs, 0)?));
    command.stderr(Stdio::from(theirs));
    rustix::io::ioctl_fionbio(&ours, true)?;
    let stdin = rustix::io::fcntl_dupfd_cloexec(&ours, 0)?;
    Ok(Ends { pid: 0, stdin: Some(stdin), stdout: ours, stderr: None })
}

/// Sets a terminal's size.
pub(crate) fn resize(terminal: &OwnedFd, size: Terminal) -> rustix::io::Result<()> {
    let Terminal { rows, cols } = size;
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 })
}

fn enter_session(has_terminal: bool, is_unit: bool) -> rustix::io::Result<()> {
    if is_unit {
        // As a unit this program is spared by the OOM killer; what it runs is not.
        let _ = fs::write("/proc/self/oom_score_adj", "0");
    }
    rustix::process::setsid()?;
    if has_terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    Ok(())
}

fn become_user(account: &Account) -> rustix::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        // On a developer's machine, as that developer.
        return if account.uid == 0 { Ok(()) } else { Err(Errno::PERM) };
    }
    let groups: Vec<Gid> = account.groups.iter().map(|&g| Gid::from_raw(g)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn step(step: i32, errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(step << STEP_SHIFT | errno.raw_os_error())
}

fn spawn_fault(exec: &Exec, error: &io::Error) -> Fault {
    let raw = error.raw_os_error().unwrap_or_default();
    let errno = io::Error::from_raw_os_error(raw & ((1 << STEP_SHIFT) - 1));
    let program = exec.argv.first().map(Vec::as_slice);
    match (raw >> STEP_SHIFT, Errno::from_raw_os_error(raw & ((1 << STEP_SHIFT) - 1))) {
        (STEP_CWD, _) => fault(FaultCode::NoSuchCwd, &errno.to_string(), exec.cwd.as_deref()),
        (STEP_USER, _) => fault(FaultCode::NoSuchUser, &errno.to_string(), exec.user.as_deref()),
        (STEP_SESSION, _) => fault(FaultCode::Failed, &errno.to_string(), program),
        (_, Errno::NOENT | Errno::NOTDIR) => fault(FaultCode::NotFound, "not found", program),
        (_, Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::NOSPC) => {
            fault(FaultCode::TooMany, &errno.to_string(), program)
        }
        (_, Errno::INVAL | Errno::IO) => fault(FaultCode::Failed, &errno.to_string(), program),
        _ => fault(FaultCode::NotExecutable, &errno.to_string(), program),
    }
}

fn fault(code: FaultCode, why: &str, what: Option<&[u8]>) -> Fault {
    let what = String::from_utf8_lossy(what.unwrap_or(b"?")).into_owned();
    Fault { code, text: format!("{what}: {why}") }
}
