//! Disks with a name, which machines mount and which stay when those go.
//!
//! ```text
//! <home>/volumes/<name>.ext4      ext4 with a journal, sparse; locked by who has it attached
//! ```
//! The lock (flock(2)) is exclusive for who may write and shared for who only reads, so a volume is
//! never attached writable twice, and never changes under a reader. It goes with the process that
//! runs the machine; a VMM that outlives that for an instant has QEMU's own lock on the file.

use std::fmt;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::lease::{Lease, is_still};
use crate::{Error, Hostname, Result, Store, disk};

/// Volumes of a machine, at most: what a microvm has places for.
pub const VOLUMES_MAX: usize = 3;
/// Room in a volume that is made on demand, bytes. Sparse: it costs what is used.
pub const VOLUME_BYTES_DEFAULT: u64 = 8 << 30;
const EXTENSION: &str = "ext4";
const HIDDEN: [&str; 6] = ["proc", "sys", "dev", "run", "tmp", "usr/lib/imgtool"];

/// A volume of a machine's: `NAME:/path`, or `NAME:/path:ro`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Which.
    pub name: Hostname,
    /// Where it is mounted in the guest; made where it is missing.
    pub at: String,
    /// It can be read only, and others may have it at the same time.
    pub read_only: bool,
}

impl FromStr for Mount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::usage(format!("volume {text:?}: {why}"));
        let mut parts = text.split(':');
        let (name, at, mode) = (parts.next(), parts.next(), parts.next());
        let (Some(name), Some(at), None) = (name, at, parts.next()) else {
            return Err(wrong("NAME:/path or NAME:/path:ro"));
        };
        let name = name.parse().map_err(|_| wrong("a name is letters, digits and inner -"))?;
        let read_only = match mode {
            None | Some("rw") => false,
            Some("ro") => true,
            Some(_) => return Err(wrong("what follows the path is ro or nothing")),
        };
        let inner = at.strip_prefix('/').ok_or_else(|| wrong("its path begins with /"))?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.+@/".contains(c);
        let is_part = |part: &str| !matches!(part, "" | "." | "..");
        if !inner.chars().all(is_plain) || !inner.split('/').all(is_part) {
            return Err(wrong("letters, digits and -_.+@ between single slashes are allowed"));
        }
        if HIDDEN.iter().any(|dir| Path::new(inner).starts_with(dir)) {
            return Err(wrong("that place is the system's own"));
        }
        Ok(Mount { name, at: at.to_string(), read_only })
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.name, self.at, if self.read_only { ":ro" } else { "" })
    }
}

/// A volume where it is to be, in a machine that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Where in the guest, and how.
    pub mount: Mount,
    /// The disk.
    pub file: PathBuf,
}

impl Attachment {
    /// `mount`, with the disk that `store` has or will have for it.
    pub fn new(store: &Store, mount: Mount) -> Self {
        let file = path(store, &mount.name);
        Attachment { mount, file }
    }

    /// Takes the right to it, for as long as what is returned lives. Makes it where it is to be
    /// written and there is none.
    ///
    /// # Errors
    /// `Usage` where somebody else has it, or it is to be read and there is none.
    pub(crate) fn take(&self) -> Result<File> {
        let Attachment { mount: Mount { name, read_only, .. }, file } = self;
        loop {
            let lock = match File::open(file) {
                Ok(lock) => lock,
                Err(e) if e.kind() == ErrorKind::NotFound && !read_only => {
                    create(file, VOLUME_BYTES_DEFAULT)?;
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::NotFound => return Err(no_volume(name)),
                Err(e) => return Err(Error::io(file.display(), e)),
            };
            let locked = if *read_only { lock.try_lock_shared() } else { lock.try_lock() };
            match locked {
                // Else it was removed meanwhile.
                Ok(()) if is_still(file, &lock) => return Ok(lock),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(in_use(name)),
                Err(TryLockError::Error(e)) => return Err(Error::io(file.display(), e)),
            }
        }
    }
}

/// A volume that is there.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its name.
    pub name: Hostname,
    path: PathBuf,
}

impl Volume {
    /// Makes a volume with room for `bytes`.
    ///
    /// # Errors
    /// `Usage` where there is one of that name.
    pub fn create(store: &Store, name: &Hostname, bytes: u64) -> Result<Self> {
        let path = path(store, name);
        match create(&path, bytes)? {
            true => Ok(Volume { name: name.clone(), path }),
            false => Err(Error::usage(format!("there is a volume {name} already"))),
        }
    }

    /// The volume of that name.
    ///
    /// # Errors
    /// `Usage` where there is none.
    pub fn get(store: &Store, name: &str) -> Result<Self> {
        let name: Hostname = name.parse()?;
        let path = path(store, &name);
        if path.is_file() { Ok(Volume { name, path }) } else { Err(no_volume(&name)) }
    }

    /// Every volume, by name.
    pub fn all(store: &Store) -> Result<Vec<Self>> {
        let dir = store.volumes();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(dir.display(), e)),
        };
        let volume = |path: PathBuf| {
            let name = path.file_name()?.to_str()?.strip_suffix(".ext4")?.parse().ok()?;
            Some(Volume { name, path })
        };
        let mut all: Vec<_> = entries.flatten().filter_map(|entry| volume(entry.path())).collect();
        all.sort_by_key(|volume| volume.name.to_string());
        Ok(all)
    }

    /// The room in it, bytes.
    pub fn bytes(&self) -> u64 {
        self.path.metadata().map_or(0, |m| m.len())
    }

    /// What it takes of ours, bytes.
    pub fn written_bytes(&self) -> u64 {
        const BLOCK_BYTES: u64 = 512;
        self.path.metadata().map_or(0, |m| m.blocks() * BLOCK_BYTES)
    }

    /// Whether a machine has it.
    pub fn is_in_use(&self) -> bool {
        File::open(&self.path).is_ok_and(|file| file.try_lock().is_err())
    }

    /// Removes it and all that is in it.
    ///
    /// # Errors
    /// `Usage` where a machine has it.
    pub fn remove(self) -> Result<()> {
        let failed = |e| Error::io(self.path.display(), e);
        let lock = File::open(&self.path).map_err(failed)?;
        lock.try_lock().map_err(|_| in_use(&self.name))?;
        fs::remove_file(&self.path).map_err(failed)
    }
}

fn path(store: &Store, name: &Hostname) -> PathBuf {
    store.volumes().join(name.to_string()).with_added_extension(EXTENSION)
}

/// Makes a disk, whole under its name from the beginning; false where there is one.
fn create(path: &Path, bytes: u64) -> Result<bool> {
    let dir = path.parent().unwrap_or(path);
    let failed = |e| Error::io(dir.display(), e);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    // Beside it, and swept like any that a killed process left.
    Lease::sweep(dir)?;
    let draft = Lease::create(dir)?;
    let made = draft.path().join("volume");
    let file = disk::format(&made, bytes, "volume", true)?;
    file.sync_all().map_err(failed)?;
    match fs::hard_link(&made, path) {
        Ok(()) => disk::sync_directory_of(path).map(|()| true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io(path.display(), e)),
    }
}

fn no_volume(name: &Hostname) -> Error {
    Error::usage(format!("there is no volume {name}")).hint("imgrun volume ls lists them")
}

fn in_use(name: &Hostname) -> Error {
    Error::usage(format!("the volume {name} is in use"))
        .hint("machines that all have it as NAME:/path:ro can share it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_a_name_a_path_and_perhaps_ro() {
        for good in ["data:/srv/data", "data:/srv:ro"] {
            assert_eq!(good.parse::<Mount>().unwrap().to_string(), good);
        }
        for bad in [
            "data",
            "data:",
            "data:srv",
            "data:/",
            "data:/a/../b",
            "data:/a//b",
            "data:/proc/x",
            "data:/a b",
            "data:/a,b",
            "data:/a:rx",
            "data:/a:ro:x",
            "-:/a",
            "../x:/a",
            "data:/tmp",
        ] {
            assert!(bad.parse::<Mount>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_writes_or_many_read() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let attach = |text: &str| Attachment::new(&store, text.parse().unwrap()).take();
        assert!(attach("data:/a:ro").is_err());
        let writer = attach("data:/a").unwrap();
        let [volume] = &Volume::all(&store).unwrap()[..] else { panic!("one volume") };
        assert!(volume.is_in_use() && volume.bytes() == VOLUME_BYTES_DEFAULT);
        assert!(volume.written_bytes() < 80 << 20, "{}", volume.written_bytes());
        assert!(attach("data:/a").is_err() && attach("data:/a:ro").is_err());
        assert!(volume.clone().remove().is_err());
        drop(writer);
        let readers = [attach("data:/a:ro").unwrap(), attach("data:/b:ro").unwrap()];
        assert!(attach("data:/a").is_err());
        drop(readers);
        Volume::get(&store, "data").unwrap().remove().unwrap();
        assert!(Volume::get(&store, "data").is_err());
        assert!(Volume::create(&store, &"x".parse().unwrap(), 64 << 20).is_ok());
        assert!(Volume::create(&store, &"x".parse().unwrap(), 64 << 20).is_err());
    }
}
