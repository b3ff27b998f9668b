//! Machines with a name, which stay until they are removed.
//!
//! ```text
//! <home>/kept/<name>/machine.json   what it is to be; written once, whole from the beginning
//! <home>/kept/<name>/lock           held by its supervisor for as long as it runs
//! <home>/kept/<name>/socket         0600: the agent's protocol, passed on (guest/relay.rs)
//! <home>/kept/<name>/control      0600: what is for the supervisor itself (control.rs)
//! <home>/kept/<name>/upper.ext4     what it has written
//! <home>/kept/<name>/output[.old]   what its command writes
//! <home>/kept/<name>/console[.old]  what its kernel says
//! <home>/kept/<name>/end.json       how it ended last, if it ended by itself
//! ```
//! No process id is kept: whether a machine runs is asked of the lock, and who runs it of the
//! socket. A supervisor that is killed takes its VMM along and leaves a machine that is stopped.

pub(crate) mod control;
mod intent;
mod usage;

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::{UnixListener, UnixStream};

use self::intent::SCHEMA;
use crate::disk;
use crate::lease::{Lease, is_still};
use crate::{Class, Error, Guest, Hold, Hostname, Progress, Result, Spec, Store, Stored};

pub(crate) use intent::now_unix_s;
pub use intent::{Begin, Command, End, Intent};
pub use usage::Usage;

/// `machine.json` is at most this long: a command's arguments and environment are 64 KiB.
const INTENT_BYTES_MAX: u64 = 1 << 20;
/// A supervisor answers a greeting at once; one that does not in this time is stuck.
const GREET_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether a machine has ended.
const LOOK: Duration = Duration::from_millis(20);
/// A lock that is taken so often in a row belongs to who runs the machine.
const TRIES: usize = 10;

const INTENT: &str = "machine.json";
const LOCK: &str = "lock";
const SOCKET: &str = "socket";
const CONTROL: &str = "control";
const END: &str = "end.json";

/// A machine with a name.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its name.
    pub name: Hostname,
    /// What it is to be.
    pub intent: Intent,
    dir: PathBuf,
    /// What is to go is put there by one rename first.
    staging: PathBuf,
}

/// The right to run a kept machine: nobody else has it.
#[derive(Debug)]
pub struct Turn {
    lock: File,
}

impl Turn {
    /// As a child's standard input, which then has the right: the lock is the open file's.
    pub fn into_stdio(self) -> Stdio {
        self.lock.into()
    }
}

/// Those of `found` that could be read; `progress` hears of the others.
pub(crate) fn readable<T>(found: Vec<Result<Option<T>>>, progress: &Progress) -> Vec<T> {
    let mut all = Vec::new();
    for one in found {
        match one {
            Ok(one) => all.extend(one),
            Err(e) => {
                let hint = e.hint_text().map(|h| format!(" ({h})")).unwrap_or_default();
                progress.note(format!("left out: {e}{hint}"));
            }
        }
    }
    all
}

impl Kept {
    /// Makes a machine, with the right to run it.
    ///
    /// # Errors
    /// `Usage` where there is one of that name.
    pub fn create(store: &Store, name: &Hostname, intent: Intent) -> Result<(Self, Turn)> {
        let parent = store.kept();
        let failed = |e| Error::io(parent.display(), e);
        DirBuilder::new().recursive(true).mode(0o700).create(&parent).map_err(failed)?;
        // Made elsewhere and put there by one rename: what has a name is whole.
        let draft = Lease::create(&store.staging())?;
        let text = serde_json::to_vec_pretty(&intent)
            .map_err(|e| Error::input("what the machine is to be").because(e))?;
        let write = |file: &str, bytes: &[u8]| {
            let path = draft.path().join(file);
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write(INTENT, &text).and_then(|()| write(LOCK, b"")).map_err(failed)?;
        // Nobody sweeps it between its appearance and its start.
        let lock = File::open(draft.path().join(LOCK)).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let dir = parent.join(name.to_string());
        match fs::rename(draft.path(), &dir) {
            Ok(()) => {}
            Err(e)
                if matches!(e.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) =>
            {
                return Err(Error::usage(format!("there is a machine {name} already"))
                    .hint("imgrun ps -a lists all; imgrun rm removes one"));
            }
            Err(e) => return Err(Error::io(dir.display(), e)),
        }
        let staging = store.staging();
        Ok((Kept { name: name.clone(), intent, dir, staging }, Turn { lock }))
    }

    /// As [`Kept::create`], named after `image` with the first number that is free.
    ///
    /// # Errors
    /// `Host` where it can not be written.
    pub fn create_numbered(store: &Store, image: &str, intent: Intent) -> Result<(Self, Turn)> {
        let stem = Hostname::from_name(image);
        let mut number = 1u32;
        loop {
            let name = stem.numbered(number);
            if !store.kept().join(name.to_string()).exists() {
                match Self::create(store, &name, intent.clone()) {
                    Err(e) if e.class() == Class::Usage => {}
                    done => return done,
                }
            }
            number += 1;
        }
    }

    /// The machine of that name, if there is one.
    ///
    /// # Errors
    /// `Input` where what it is to be can not be read.
    pub fn find(store: &Store, name: &str) -> Result<Option<Self>> {
        let Ok(name) = name.parse::<Hostname>() else { return Ok(None) };
        let dir = store.kept().join(name.to_string());
        let path = dir.join(INTENT);
        let read = || -> std::io::Result<_> {
            let mut text = Vec::new();
            File::open(&path)?.take(INTENT_BYTES_MAX).read_to_end(&mut text)?;
            Ok(text)
        };
        let text = match read() {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path.display(), e)),
        };
        let intent: Intent = serde_json::from_slice(&text).map_err(|e| {
            let hint = format!("a newer imgrun made it, or it is damaged: imgrun rm {name}");
            Error::input(path.display().to_string()).because(e).hint(hint)
        })?;
        if intent.schema != SCHEMA {
            let other = format!("{}: schema {}", path.display(), intent.schema);
            return Err(Error::input(other).hint("a newer imgrun made this machine"));
        }
        Ok(Some(Kept { name, intent, dir, staging: store.staging() }))
    }

    /// As [`Kept::find`], where there must be one.
    pub fn get(store: &Store, name: &str) -> Result<Self> {
        Self::find(store, name)?.ok_or_else(|| {
            Error::usage(format!("there is no machine {name}")).hint("imgrun ps -a lists them")
        })
    }

    /// Every machine, by name. The bundles that they name must stay.
    ///
    /// # Errors
    /// Where one can not be read.
    pub fn all(store: &Store) -> Result<Vec<Self>> {
        let all = Self::each(store)?.into_iter().filter_map(Result::transpose);
        all.collect()
    }

    /// As [`Kept::all`], for who can do without those that can not be read: `progress` hears of
    /// them.
    ///
    /// # Errors
    /// Where the store can not be read.
    pub fn readable(store: &Store, progress: &Progress) -> Result<Vec<Self>> {
        Ok(readable(Self::each(store)?, progress))
    }

    /// What [`Kept::find`] says of every name, in order.
    fn each(store: &Store) -> Result<Vec<Result<Option<Self>>>> {
        let parent = store.kept();
        let entries = match fs::read_dir(&parent) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(parent.display(), e)),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names.collect();
        names.sort();
        Ok(names.iter().map(|name| Self::find(store, name)).collect())
    }

    /// The machine to boot, with the right to its image: as [`Intent::spec`].
    pub(crate) fn spec(&self, store: &Store) -> Result<(Spec, Hold)> {
        self.intent.spec(store, &self.name)
    }

    /// Whether it needs this bundle to start.
    pub(crate) fn names(&self, stored: &Stored) -> bool {
        self.intent.names(stored)
    }

    /// The disk with what it has written.
    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper.ext4")
    }

    /// What that disk takes of ours, bytes.
    pub fn written_bytes(&self) -> u64 {
        const BLOCK_BYTES: u64 = 512;
        self.upper().metadata().map_or(0, |m| m.blocks() * BLOCK_BYTES)
    }

    /// What its command has written.
    pub fn output(&self) -> PathBuf {
        self.dir.join("output")
    }

    /// What its kernel has said.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console")
    }

    /// Takes the right to run it; `None` where it runs, or is being removed.
    ///
    /// # Errors
    /// `Host` where the lock can not be opened.
    pub fn take_turn(&self) -> Result<Option<Turn>> {
        Self::take_turn_in(&self.dir)
    }

    fn take_turn_in(dir: &Path) -> Result<Option<Turn>> {
        let path = dir.join(LOCK);
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path.display(), e)),
        };
        match lock.try_lock() {
            Ok(()) => Ok(is_still(&path, &lock).then_some(Turn { lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::io(path.display(), e)),
        }
    }

    /// As [`Kept::take_turn`], for a child whose parent passed the right on as standard input.
    ///
    /// # Errors
    /// `Usage` where it did not.
    pub fn inherited_turn(&self) -> Result<Turn> {
        let lock = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
        let lock = File::from(lock.map_err(|e| Error::host("standard input").because(e))?);
        if is_still(&self.dir.join(LOCK), &lock) && lock.try_lock().is_ok() {
            return Ok(Turn { lock });
        }
        Err(Error::usage(format!("standard input is not the lock of {}", self.name)))
    }

    /// As [`Kept::take_turn`]; who only looks whether it runs has the lock for an instant, too.
    ///
    /// # Errors
    /// `Usage` where it runs.
    pub async fn turn(&self) -> Result<Turn> {
        for _ in 0..TRIES {
            if let Some(turn) = self.take_turn()? {
                return Ok(turn);
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(Error::usage(format!("{} runs", self.name)))
    }

    /// Whether it runs.
    pub fn is_running(&self) -> Result<bool> {
        Ok(self.dir.join(LOCK).exists() && self.take_turn()?.is_none())
    }

    /// Waits until it does not run any more.
    pub async fn stopped(&self) -> Result<()> {
        while self.is_running()? {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// How it ended, if it did so by itself.
    pub fn end(&self) -> Option<End> {
        serde_json::from_slice(&fs::read(self.dir.join(END)).ok()?).ok()
    }

    /// Notes how it ended, or that it is starting again.
    pub(crate) fn set_end(&self, end: Option<&End>) -> Result<()> {
        let path = self.dir.join(END);
        let failed = |e| Error::io(path.display(), e);
        let Some(end) = end else {
            return match fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(failed(e)),
                _ => Ok(()),
            };
        };
        let text = serde_json::to_vec(end).unwrap_or_default();
        let mut draft = tempfile::NamedTempFile::new_in(&self.dir).map_err(failed)?;
        draft.write_all(&text).map_err(failed)?;
        draft.persist(&path).map(drop).map_err(|e| failed(e.error))
    }

    /// Removes it and all it has written.
    ///
    /// # Errors
    /// `Usage` where it runs.
    pub async fn remove(self) -> Result<()> {
        let turn = self.turn().await;
        self.remove_own(turn.map_err(|e| e.hint("imgrun stop ends it; rm --force does both"))?)
    }

    /// Removes machines that were to go when they end, and whose supervisor was killed before; and
    /// those that can never begin.
    pub(crate) fn sweep(store: &Store) -> Result<()> {
        // One that can not be read must not keep anybody from the store.
        let all = Self::each(store)?.into_iter().flatten().flatten();
        for kept in all {
            if kept.is_litter()
                && let Some(turn) = kept.take_turn()?
            {
                kept.remove_own(turn)?;
            }
        }
        Ok(())
    }

    /// Whether nobody wants it, unless it runs or is being started.
    fn is_litter(&self) -> bool {
        let has_disk = self.upper().exists();
        // Without a disk it was never started.
        let was_started = has_disk || disk::draft(&self.upper()).exists();
        // Where it was to begin is gone with who was forking. A snapshot with a name is somebody's
        // to remove, and a machine that was to begin there says so when it is started.
        let begin = self.intent.begin.as_ref().map(|begin| &begin.snapshot);
        let is_draft = |from: &&PathBuf| from.starts_with(&self.staging);
        let lost = !has_disk && begin.filter(is_draft).is_some_and(|from| !from.exists());
        self.intent.remove && was_started || lost
    }

    /// As [`Kept::remove`], for who has the right to run it.
    pub(crate) fn remove_own(&self, turn: Turn) -> Result<()> {
        Self::remove_dir(&self.dir, &self.staging, turn)
    }

    /// Removes the machine `name`, which can not be read.
    ///
    /// # Errors
    /// `Usage` where it runs.
    pub fn remove_damaged(store: &Store, name: &str) -> Result<()> {
        let dir = store.kept().join(name.parse::<Hostname>()?.to_string());
        let turn = Self::take_turn_in(&dir)?;
        let turn = turn.ok_or_else(|| Error::usage(format!("{name} runs")))?;
        Self::remove_dir(&dir, &store.staging(), turn)
    }

    /// Renamed first, so that a crash half-way leaves no half machine that has its name.
    fn remove_dir(dir: &Path, staging: &Path, _turn: Turn) -> Result<()> {
        let lease = Lease::create(staging)?;
        let away = lease.path().join("removed");
        fs::rename(dir, away).map_err(|e| Error::io(dir.display(), e))
    }

    /// Listens for who speaks to the agent, and for who speaks to the supervisor; only this user can
    /// connect.
    pub(crate) fn listen(&self) -> Result<[UnixListener; 2]> {
        Ok([self.listen_at(SOCKET)?, self.listen_at(CONTROL)?])
    }

    fn listen_at(&self, name: &str) -> Result<UnixListener> {
        let path = self.dir.join(name);
        let failed = |e| Error::io(path.display(), e);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        // The directory is 0700, so the moment before the mode is set gives nothing away.
        let listener = self.in_dir(name, |path| UnixListener::bind(path)).map_err(failed)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .map_err(failed)?;
        Ok(listener)
    }

    /// Connects to its supervisor.
    ///
    /// # Errors
    /// `Usage` where it does not run.
    async fn connect(&self, name: &str) -> Result<UnixStream> {
        let address = File::open(&self.dir).map_err(|e| Error::io(self.dir.display(), e))?;
        let path = format!("/proc/self/fd/{}/{name}", address.as_raw_fd());
        UnixStream::connect(path).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                Error::usage(format!("{} does not run", self.name))
                    .hint(format!("imgrun start {}", self.name))
            }
            _ => Error::io(self.dir.join(name).display(), e),
        })
    }

    /// A session with its agent, through its supervisor. Others have theirs at the same time.
    ///
    /// # Errors
    /// `Usage` where it does not run; `Host` where its supervisor does not answer.
    pub async fn guest(&self) -> Result<Guest> {
        let stream = self.connect(SOCKET).await?;
        let silent = |_| Error::host(format!("{}: its supervisor does not answer", self.name));
        tokio::time::timeout(GREET_MAX, Guest::greet(stream)).await.map_err(silent)?
    }

    /// The supervisor's process id, as its socket says it, and a connection: while that is open, the
    /// number is nobody else's.
    async fn supervisor(&self) -> Result<(Pid, UnixStream)> {
        let failed = |e| Error::host(format!("the supervisor of {}", self.name)).because(e);
        let stream = self.connect(SOCKET).await?;
        let pid = stream.peer_cred().map_err(failed)?.pid().and_then(Pid::from_raw);
        Ok((pid.ok_or_else(|| failed(ErrorKind::NotFound.into()))?, stream))
    }

    /// Signals its supervisor: SIGTERM shuts the machine down, SIGKILL ends it at once.
    ///
    /// # Errors
    /// `Usage` where it does not run.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        let failed =
            |e: std::io::Error| Error::host(format!("signalling {}", self.name)).because(e);
        let (pid, stream) = self.supervisor().await?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| failed(e.into()))?;
        // The number was its own when the descriptor was opened: the connection is still open.
        match stream.try_read(&mut [0]) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            _ => return Err(failed(ErrorKind::ConnectionReset.into())),
        }
        pidfd_send_signal(&pidfd, signal).map_err(|e| failed(e.into()))
    }

    /// A path in the directory that is short enough for a socket, wherever the directory is.
    fn in_dir<T>(
        &self,
        name: &str,
        work: impl FnOnce(&Path) -> std::io::Result<T>,
    ) -> std::io::Result<T> {
        let dir = File::open(&self.dir)?;
        work(&PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())))
    }
}

/// Where the part of a log is that came before.
pub fn old_log(path: &Path) -> PathBuf {
    crate::log::old(path)
}
