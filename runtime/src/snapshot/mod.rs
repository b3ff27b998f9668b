//! Machines as they were at an instant, to go on from there as often as one likes.
//!
//! ```text
//! <home>/snapshots/<name>/snapshot.json         what it is of and what it needs (about.rs)
//! <home>/snapshots/<name>/snapshot.json.sha256  its digest
//! <home>/snapshots/<name>/memory                the guest's memory, mapped by every copy
//! <home>/snapshots/<name>/state                 processors and devices, as the VMM writes them
//! <home>/snapshots/<name>/upper.ext4            the disk: each copy has a copy of its own
//! ```
//! It is put together in a staging area and gets its name by one rename. A copy maps `memory` and
//! keeps its own changes to itself, so nobody ever writes to that file; removing the snapshot
//! leaves running copies what they have mapped. The image and the kernel are in the store, and
//! stay there as long as a snapshot names them.

mod about;
mod seal;

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::{PROTOCOL_MAX, PROTOCOL_MIN};

use self::seal::Seal;
use crate::disk::sync_directory_of;
use crate::kept::{Begin, Intent, Kept, now_unix_s, readable};
use crate::lease::Lease;
use crate::machine::{MEMORY, Origin, STATE, UPPER, blocking};
use crate::{
    Accel, Class, Error, Forward, Hostname, Machine, Progress, Result, Spec, Store, Stored, Upper,
    vmm,
};

pub use about::About;

/// What a saved machine consists of, `snapshot.json` excepted.
const FILES: [&str; 3] = [MEMORY, STATE, UPPER];

/// A machine as it was.
#[derive(Debug)]
pub struct Snapshot {
    /// Its name; that of the machine where it has none of its own.
    pub name: String,
    /// What it is of.
    pub about: About,
    dir: PathBuf,
    /// It goes when this is dropped, or this process is killed.
    _lease: Option<Lease>,
}

impl Snapshot {
    /// Saves `kept`, which runs and goes on, under `name`.
    ///
    /// # Errors
    /// `Usage` where there is one of that name, or the machine does not run; else as the machine,
    /// its supervisor and the disk have them.
    pub async fn take(store: &Store, kept: &Kept, name: &Hostname) -> Result<Self> {
        let parent = store.snapshots();
        let dir = parent.join(name.to_string());
        let failed = |e| Error::io(parent.display(), e);
        DirBuilder::new().recursive(true).mode(0o700).create(&parent).map_err(failed)?;
        if dir.exists() {
            return Err(exists(name));
        }
        let draft = Self::take_draft(store, kept).await?;
        let from = draft.dir.clone();
        let to = dir.clone();
        blocking(move || {
            for file in fs::read_dir(&from).map_err(|e| Error::io(from.display(), e))?.flatten() {
                let sync = File::open(file.path()).and_then(|file| file.sync_all());
                sync.map_err(|e| Error::io(file.path().display(), e))?;
            }
            match fs::rename(&from, &to) {
                Ok(()) => sync_directory_of(&to),
                Err(e) => Err(Error::io(to.display(), e)),
            }
        })
        .await
        .map_err(|e| if dir.exists() { exists(name) } else { e })?;
        Ok(Snapshot { name: name.to_string(), about: draft.about, dir, _lease: None })
    }

    /// As [`Snapshot::take`], under the machine's name and the first number that is free.
    ///
    /// # Errors
    /// As [`Snapshot::take`].
    pub async fn take_numbered(store: &Store, kept: &Kept) -> Result<Self> {
        let mut number = 1u32;
        loop {
            let name = kept.name.numbered(number);
            if !store.snapshots().join(name.to_string()).exists() {
                return Self::take(store, kept, &name).await;
            }
            number += 1;
        }
    }

    /// As [`Snapshot::take`], without a name: it goes with the value.
    ///
    /// # Errors
    /// As [`Snapshot::take`].
    pub async fn take_draft(store: &Store, kept: &Kept) -> Result<Self> {
        let lease = Lease::create(&store.staging())?;
        // A directory in it: the lease's own is locked, and is removed under its name only.
        let dir = lease.path().join("snapshot");
        let failed = |e| Error::io(lease.path().display(), e);
        DirBuilder::new().mode(0o700).create(&dir).map_err(failed)?;
        let saved = kept.save(&dir).await?;
        let (intent, from) = (kept.intent.clone(), dir.clone());
        let accel = intent.accel()?;
        let machine = kept.name.to_string();
        let about = blocking(move || {
            let [memory, state, upper] = FILES.map(|file| Seal::of(&from.join(file)));
            let about = About {
                schema: about::SCHEMA,
                machine,
                taken_unix_s: now_unix_s(),
                pause_us: saved.pause_us,
                vmm: saved.vmm,
                cpu: saved.cpu,
                processor: about::processor(accel)?,
                protocol: saved.protocol,
                command: saved.command,
                kernel: Seal::of(&intent.kernel)?,
                memory: memory?,
                state: state?,
                upper: upper?,
                intent,
            };
            about.write(&from)?;
            Ok(about)
        })
        .await?;
        Ok(Snapshot { name: kept.name.to_string(), about, dir, _lease: Some(lease) })
    }

    /// The snapshot of that name.
    ///
    /// # Errors
    /// `Usage` where there is none; `Input` where it can not be read.
    pub fn get(store: &Store, name: &str) -> Result<Self> {
        let missing = || {
            Error::usage(format!("there is no snapshot {name}"))
                .hint("imgrun snapshot ls lists them")
        };
        let checked = name.parse::<Hostname>().map_err(|_| missing())?;
        let dir = store.snapshots().join(checked.to_string());
        Self::open(&dir)?.ok_or_else(missing)
    }

    /// The snapshot in the directory `dir`, if there is one.
    fn open(dir: &Path) -> Result<Option<Self>> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(about) = About::read(dir)? else { return Ok(None) };
        Ok(Some(Snapshot { name, about, dir: dir.to_path_buf(), _lease: None }))
    }

    /// Every snapshot, by name. The bundles that they name must stay.
    ///
    /// # Errors
    /// Where one can not be read.
    pub fn all(store: &Store) -> Result<Vec<Self>> {
        Self::each(store)?.into_iter().filter_map(Result::transpose).collect()
    }

    /// As [`Snapshot::all`], for who can do without those that can not be read: `progress` hears of
    /// them.
    ///
    /// # Errors
    /// Where the store can not be read.
    pub fn readable(store: &Store, progress: &Progress) -> Result<Vec<Self>> {
        Ok(readable(Self::each(store)?, progress))
    }

    fn each(store: &Store) -> Result<Vec<Result<Option<Self>>>> {
        let parent = store.snapshots();
        let entries = match fs::read_dir(&parent) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(parent.display(), e)),
        };
        let mut dirs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        dirs.sort();
        Ok(dirs.iter().map(|dir| Self::open(dir)).collect())
    }

    /// Removes the snapshot `name`, readable or not. Machines that began from it go on.
    ///
    /// # Errors
    /// `Usage` where there is none.
    pub fn remove(store: &Store, name: &str) -> Result<()> {
        let dir = store.snapshots().join(name.parse::<Hostname>()?.to_string());
        let away = Lease::create(&store.staging())?;
        // Renamed first, so that a crash half-way leaves no half snapshot under its name.
        fs::rename(&dir, away.path().join("removed")).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::usage(format!("there is no snapshot {name}")),
            _ => Error::io(dir.display(), e),
        })
    }

    /// Whether it needs this bundle.
    pub(crate) fn names(&self, stored: &Stored) -> bool {
        self.about.intent.names(stored)
    }

    /// What it takes of the host's disk, bytes.
    pub fn disk_bytes(&self) -> u64 {
        const BLOCK_BYTES: u64 = 512;
        let blocks = |file: &str| self.dir.join(file).metadata().map_or(0, |m| m.blocks());
        FILES.iter().map(|file| blocks(file) * BLOCK_BYTES).sum()
    }

    /// What a machine with a name is to be that begins from here.
    pub fn intent(&self) -> Intent {
        let begin = Begin { snapshot: self.dir.clone(), own_command: false };
        Intent {
            // Every machine has its own name, and a host's port leads to one machine only.
            hostname: None,
            forwards: Vec::new(),
            volumes: Vec::new(),
            remove: false,
            created_unix_s: now_unix_s(),
            begin: Some(begin),
            ..self.about.intent.clone()
        }
    }

    /// Makes sure that a machine can begin from here: its files are what they were, and this host
    /// is what it was saved on. The VMM's version is looked at when that runs.
    ///
    /// # Errors
    /// `Input` that says what is missing, damaged or different.
    pub fn check(&self) -> Result<()> {
        let about = &self.about;
        let files = [(MEMORY, &about.memory), (STATE, &about.state), (UPPER, &about.upper)];
        for (file, seal) in files {
            let path = self.dir.join(file);
            let gone = |why: &str| {
                Error::input(format!("snapshot {}: its {file} {why}", self.name))
                    .hint("take another: imgrun snapshot")
            };
            if !path.exists() {
                return Err(gone("is missing"));
            }
            if !seal.holds(&path)? {
                return Err(gone("is damaged"));
            }
        }
        self.check_host()
    }

    fn check_host(&self) -> Result<()> {
        let about = &self.about;
        let differs = |why: String| Error::input(format!("snapshot {}: {why}", self.name));
        let kernel = &about.intent.kernel;
        if !kernel.exists() || !about.kernel.holds(kernel)? {
            let title = &about.intent.kernel_title;
            return Err(differs(format!("its kernel {title} is not what it was")));
        }
        let accel = about.intent.accel()?;
        let here = about::processor(accel)?;
        if here != about.processor {
            let there = &about.processor;
            return Err(differs(format!("it was taken on another processor: {there}, not {here}")));
        }
        if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&about.protocol) {
            return Err(differs(format!("its agent speaks protocol {}", about.protocol)));
        }
        Ok(())
    }

    /// What a machine is started from, once all of it was checked.
    pub(crate) fn origin(&self, spec: &Spec) -> Result<Origin> {
        self.check()?;
        let cpu = vmm::cpu(spec.arch, spec.accel);
        if self.about.cpu != cpu {
            let there = &self.about.cpu;
            let why = format!("its guest sees the processor {there}, here it would be {cpu}");
            return Err(Error::input(format!("snapshot {}: {why}", self.name)));
        }
        let (vmm, command) = (self.about.vmm.clone(), self.about.command);
        Ok(Origin { dir: self.dir.clone(), vmm, command })
    }

    /// What [`Begin::snapshot`] names.
    pub(crate) fn at(begin: &Begin) -> Result<Self> {
        let gone =
            || Error::input(format!("the snapshot {} was removed", begin.snapshot.display()));
        Self::open(&begin.snapshot)?.ok_or_else(gone)
    }

    /// Starts a machine from here that goes with the value. What it was running goes on; its output
    /// is thrown away. Without a `hostname` it gets one that nobody has.
    ///
    /// # Errors
    /// As [`Machine::boot`]; `Input` where the snapshot is damaged or of another host.
    pub async fn start(
        &self,
        store: &Store,
        hostname: Option<&Hostname>,
        forwards: &[Forward],
        limit: Duration,
    ) -> Result<Machine> {
        let lease = Lease::create(&store.machines())?;
        let random = lease.path().file_name().unwrap_or_default().to_string_lossy();
        let random = random.rsplit('-').next().unwrap_or_default().to_lowercase();
        let name = match hostname {
            Some(hostname) => hostname.clone(),
            None => Hostname::from_name(&format!("{}-{random}", self.name)),
        };
        let (mut spec, hold) = self.intent().spec(store, &name)?;
        spec.forwards = forwards.to_vec();
        spec.check()?;
        let origin = self.origin(&spec)?;
        let upper = Upper { path: lease.path().join(UPPER), kept: false };
        let restored = Machine::restore(&spec, &origin, &upper, Some(lease), None, limit).await?;
        let (machine, command) = restored;
        if let Some(command) = command {
            tokio::spawn(command.ignored());
        }
        Ok(machine.holding(hold))
    }

    /// How its machines are executed.
    pub fn accel(&self) -> Result<Accel> {
        self.about.intent.accel()
    }
}

fn exists(name: &Hostname) -> Error {
    Error::new(Class::Usage, format!("there is a snapshot {name} already"))
        .hint("imgrun snapshot rm removes one")
}
