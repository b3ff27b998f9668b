//! What two versions of a bundle have otherwise: packages, files, kernel, size.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bundle::{Arch, Database, Digest, Frame, Kind, Manifest, Outline, Piece, ROOTFS, Reference};
use imgrun::{Progress, Unit, interrupt};
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::inspect::{self, Difference};
use crate::kernel::{self, Options};
use crate::pack::digest_of;
use crate::trial::Document;
use crate::{Error, Result};

/// Two bundles side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The old one.
    pub old: Side,
    /// The new one.
    pub new: Side,
    /// Packages that are not the same in both, by name.
    pub packages: Vec<PackageChange>,
    /// Options of the kernels' configurations; `None` where a kernel is not at hand.
    pub config: Option<Vec<kernel::Change>>,
    /// Bytes of the new packed file that a host with the old one has to fetch.
    pub update_bytes: u64,
}

/// One of two bundles.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// `name`, of the bundle.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its machine.
    pub arch: Arch,
    /// The packed file's length.
    pub packed_bytes: u64,
    /// The length of what is in it.
    pub raw_bytes: u64,
    /// How many packages its manifest names.
    pub packages: usize,
    /// The kernel that it was built to run on.
    pub kernel: Option<Reference>,
    /// How it booted, where the result of its tests lies beside it.
    pub boot: Option<BootTime>,
}

/// How an image booted when it was tested, as its result says; nobody's signature is checked.
#[derive(Clone, Debug, Serialize)]
pub struct BootTime {
    /// From the start of the VMM to the agent's first answer, in milliseconds.
    pub ms: u64,
    /// How the guest was executed: times compare only where that is the same.
    pub accel: String,
}

/// A package that came, went or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackageChange {
    /// Its package manager.
    pub database: Database,
    /// Its name.
    pub name: String,
    /// Its versions in the old bundle: none, one, or one for each architecture.
    pub from: Vec<String>,
    /// Those in the new one.
    pub to: Vec<String>,
}

/// A packed file that was opened.
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    file: File,
    outline: Outline,
}

impl Opened {
    /// Opens the packed file `path`.
    ///
    /// # Errors
    /// Where it is no bundle.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::io(path.display(), e))?;
        let outline =
            Outline::open(&mut file).map_err(|e| Error::from(e).within(path.display()))?;
        Ok(Opened { path: path.to_path_buf(), file, outline })
    }

    fn manifest(&self) -> &Manifest {
        self.outline.manifest()
    }

    fn side(&self) -> Result<Side> {
        let manifest = self.manifest();
        Ok(Side {
            name: manifest.name.to_string(),
            version: manifest.version.to_string(),
            arch: manifest.arch,
            packed_bytes: self.outline.packed_bytes(),
            raw_bytes: manifest.files.iter().map(|file| file.size).sum(),
            packages: manifest.packages.len(),
            kernel: manifest.kernel.clone(),
            boot: self.boot()?,
        })
    }

    /// From the result beside it, where that is of these bytes.
    fn boot(&self) -> Result<Option<BootTime>> {
        let Some(document) = Document::beside(&self.path)? else { return Ok(None) };
        let digest = digest_of(&self.file).map_err(|e| Error::io(self.path.display(), e))?;
        let result = Some(document.claim()).filter(|result| result.bundle == digest);
        Ok(result.map(|r| BootTime { ms: r.boot_ms, accel: r.accel.clone() }))
    }

    /// The raw digests of its frames.
    fn frames(&self) -> HashSet<Digest> {
        let data = self.outline.pieces().iter().filter_map(|piece| match piece.frame {
            Frame::Data { raw, .. } => Some(raw),
            Frame::Zero { .. } => None,
        });
        data.collect()
    }

    /// The kernel's configuration: a kernel's own, an image's where its kernel lies beside it.
    fn options(&self) -> Result<Option<Options>> {
        let Some(kernel) = &self.manifest().kernel else {
            return Options::of_file(&self.path).map(Some);
        };
        let name = format!("{}-{}-{}.tar.zst", kernel.name, kernel.version, self.manifest().arch);
        let path = self.path.with_file_name(name);
        if path.exists() { Options::of_file(&path).map(Some) } else { Ok(None) }
    }

    /// Its root file system, unpacked and checked.
    fn rootfs(&self, progress: &Progress) -> Result<NamedTempFile> {
        let failed = |e| Error::io("a temporary file", e);
        let about = self.path.display().to_string();
        let draft = NamedTempFile::new().map_err(failed)?;
        let file = self.manifest().file(ROOTFS);
        let size = file.ok_or_else(|| Error::input(format!("{about}: it is no image")))?.size;
        draft.as_file().set_len(size).map_err(failed)?;
        let stage = progress.stage(format!("unpack {about}"), Unit::Bytes, Some(size));
        let read = |buffer: &mut [u8], at: u64| {
            self.file.read_exact_at(buffer, at).map_err(|e| Error::io(&about, e))
        };
        let put = |piece: &Piece, raw: &[u8]| {
            interrupt::check()?;
            stage.add(piece.frame.raw_bytes());
            match self.manifest().files[piece.file].name == ROOTFS {
                true => draft.as_file().write_all_at(raw, piece.raw_at).map_err(failed),
                false => Ok(()),
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        self.outline.unpack(threads, read, put)?;
        stage.finish(Unit::Bytes.amount(size));
        Ok(draft)
    }
}

/// Compares what the manifests, frame tables and kernels say.
///
/// # Errors
/// Where the two are of different kinds, or a kernel or a test's result beside them can not be read.
pub fn compare(old: &Opened, new: &Opened) -> Result<Comparison> {
    let (kind, other) = (old.manifest().kind, new.manifest().kind);
    if kind != other {
        let name = |kind| if kind == Kind::Image { "an image" } else { "a kernel" };
        return Err(Error::usage(format!(
            "{} and {} have little in common",
            name(kind),
            name(other)
        )));
    }
    let config = match (old.options()?, new.options()?) {
        (Some(old), Some(new)) => Some(old.changes(&new)),
        _ => None,
    };
    let known = old.frames();
    let missing = new.outline.missing(|raw| known.contains(raw)).into_iter();
    let frame = |index: usize| new.outline.pieces()[index].frame;
    Ok(Comparison {
        old: old.side()?,
        new: new.side()?,
        packages: packages(old.manifest(), new.manifest()),
        config,
        update_bytes: missing.map(|index| frame(index).packed_bytes()).sum(),
    })
}

/// Compares the root file systems and calls `tell` as [`inspect::diff`] does.
///
/// # Errors
/// Where a bundle is no image or damaged.
pub fn compare_files(
    old: &Opened,
    new: &Opened,
    progress: &Progress,
    tell: &mut dyn FnMut(Difference) -> Result<bool>,
) -> Result<()> {
    let (old, new) = (old.rootfs(progress)?, new.rootfs(progress)?);
    inspect::diff(old.path(), new.path(), &[], tell)
}

fn packages(old: &Manifest, new: &Manifest) -> Vec<PackageChange> {
    let mut versions: BTreeMap<(Database, &str), [Vec<String>; 2]> = BTreeMap::new();
    for (side, manifest) in [old, new].into_iter().enumerate() {
        for package in &manifest.packages {
            let entry = versions.entry((package.database, &package.name)).or_default();
            entry[side].push(package.version.clone());
        }
    }
    let changed = versions.into_iter().filter(|(_, [from, to])| from != to);
    let change = |((database, name), [from, to]): ((Database, &str), [Vec<String>; 2])| {
        PackageChange { database, name: name.to_string(), from, to }
    };
    changed.map(change).collect()
}
