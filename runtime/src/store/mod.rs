//! The local store: bundles that were imported, opened up and ready to boot.
//!
//! ```text
//! <home>/bundles/<hex digest of the packed file>/manifest.json, rootfs.ext4, … | vmlinux, config, …
//! <home>/bundles/<hex digest of the packed file>/frames   its frame table: what every piece must be
//! <home>/bundles/<hex digest of the packed file>/origin   which manifest it had, where it came from
//! <home>/staging/pull-<hex digest>/  a pull under way, or one that was killed: see claim
//! <home>/catalogs/<name>/            what this host has seen of a catalog: see tuf
//! <home>/staging/imgrun-<random>/    an import under way; locked by its process, renamed when whole
//! <home>/machines/imgrun-<random>/   a running machine's disks; locked by its process
//! <home>/layers/                     layers of container images: see [`crate::cache`]
//! <home>/kept/<name>/                a machine with a name: see [`crate::kept`]
//! <home>/snapshots/<name>/           a machine as it was: see [`crate::Snapshot`]
//! ```
//! There is no index file that could disagree with the directories: a name is found by reading
//! the manifests (a few hundred microseconds for a dozen bundles). Under `bundles/` everything is
//! whole, because an import is one rename; files are read-only and shared by all machines.

mod claim;
mod directory;
mod draft;
mod export;
mod gc;
mod import;
mod kernel;
mod origin;
mod pieces;
mod sparse;
mod verify;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bundle::{Arch, Digest, Kind, MANIFEST_BYTES_MAX, Manifest};

use crate::container;
use crate::kept::Kept;
use crate::lease::Lease;
use crate::{Error, Progress, Result};

pub(crate) use claim::{Claim, lock};
pub use directory::KernelNaming;
pub(crate) use draft::Draft;
pub use gc::{Garbage, Hold, KEEP_DEFAULT};
pub use import::Imported;
pub(crate) use import::threads;
pub(crate) use kernel::no_default;
pub use kernel::{KERNEL_DEFAULT, Kernel};
pub use origin::Container;
pub(crate) use origin::Origin;
pub(crate) use pieces::Place;
pub use verify::Damage;

/// Hex digits of a digest that are enough to name a bundle.
const DIGEST_PREFIX_MIN: usize = 12;

const MANIFEST: &str = "manifest.json";
const FRAMES: &str = "frames";
const ORIGIN: &str = "origin";

/// The local store under one home directory. Any number of processes may use it at once.
#[derive(Clone, Debug)]
pub struct Store {
    home: PathBuf,
}

/// A bundle in the store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The digest of the packed file it came from: its identity.
    pub digest: Digest,
    /// What it says of itself.
    pub manifest: Manifest,
    /// When it was imported.
    pub imported: SystemTime,
    dir: PathBuf,
}

impl Stored {
    /// Where one of the files of [`Kind::files`] lies.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The directory that holds them.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The addresses of the depots that it was pulled from; none where it was a file.
    pub fn depots(&self) -> Vec<String> {
        Origin::read(&self.dir.join(ORIGIN)).map(|origin| origin.depots).unwrap_or_default()
    }

    /// What it was made of, where this host made it of a container image.
    pub fn container(&self) -> Option<Container> {
        Origin::read(&self.dir.join(ORIGIN))?.container
    }

    /// `name:version`, as people name it.
    pub fn title(&self) -> String {
        format!("{}:{}", self.manifest.name, self.manifest.version)
    }
}

impl Store {
    /// Opens the store in `home`, making it where it is missing, and removes what processes that
    /// were killed left behind.
    pub fn open(home: impl Into<PathBuf>) -> Result<Self> {
        let home = home.into();
        // Machines remember paths in it, and are started from anywhere.
        let home = std::path::absolute(&home).map_err(|e| Error::io(home.display(), e))?;
        let store = Store { home };
        for dir in [store.bundles(), store.staging(), store.machines()] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|e| Error::io(dir.display(), e).hint(HOME_HINT))?;
        }
        Lease::sweep(&store.staging())?;
        Lease::sweep(&store.machines())?;
        Kept::sweep(&store)?;
        Ok(store)
    }

    /// `$IMGRUN_HOME`, else `$XDG_DATA_HOME/imgrun`, else `~/.local/share/imgrun`.
    pub fn default_home() -> Result<PathBuf> {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        var("IMGRUN_HOME")
            .or_else(|| var("XDG_DATA_HOME").map(|d| d.join("imgrun")))
            .or_else(|| var("HOME").map(|d| d.join(".local/share/imgrun")))
            .ok_or_else(|| Error::host("no HOME in the environment").hint(HOME_HINT))
    }

    /// Every bundle, by name, then version, then digest. What somebody damaged is left out, with a
    /// note to `progress`: it must not keep anybody from the others.
    ///
    /// # Errors
    /// Where the store can not be read.
    pub fn list(&self, progress: &Progress) -> Result<Vec<Stored>> {
        let mut all = Vec::new();
        for digest in self.digests()? {
            match self.by_digest(digest) {
                Ok(stored) => all.extend(stored),
                Err(e) => {
                    let hint = e.hint_text().map(|h| format!(" ({h})")).unwrap_or_default();
                    progress.note(format!("left out: {e}{hint}"));
                }
            }
        }
        let key = |s: &Stored| {
            (s.manifest.name.clone(), s.manifest.version.clone(), s.manifest.arch, s.digest)
        };
        all.sort_by_cached_key(key);
        Ok(all)
    }

    /// The digests of all bundles, damaged ones too, in no order.
    ///
    /// # Errors
    /// Where the store can not be read.
    pub fn digests(&self) -> Result<Vec<Digest>> {
        let bundles = self.bundles();
        let failed = |e| Error::io(bundles.display(), e);
        let mut digests = Vec::new();
        for entry in fs::read_dir(&bundles).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let digest = name.to_str().map(|hex| format!("sha256:{hex}").parse::<Digest>());
            digests.extend(digest.and_then(std::result::Result::ok));
        }
        Ok(digests)
    }

    /// The damaged bundle that `reference` names, which must be digits of its digest: it has
    /// nothing else to be named by.
    pub fn damaged(&self, reference: &str) -> Result<Option<Digest>> {
        let mut named = self.digests()?;
        named.retain(|digest| is_digest(*digest, reference));
        Ok(named.into_iter().find(|digest| self.by_digest(*digest).is_err()))
    }

    /// The bundle with exactly this digest, if it is here.
    pub fn by_digest(&self, digest: Digest) -> Result<Option<Stored>> {
        let dir = self.bundles().join(digest.hex());
        let path = dir.join(MANIFEST);
        let damaged = |e: String| {
            Error::input(format!("{}: {e}", path.display()))
                .hint(format!("imgrun verify --repair; or remove it: imgrun rm {}", digest.hex()))
        };
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io(path.display(), e)),
            Err(_) if dir.exists() => return Err(damaged("missing".into())),
            Err(_) => return Ok(None),
        };
        if metadata.len() > MANIFEST_BYTES_MAX {
            return Err(damaged("too long for a manifest".into()));
        }
        let json = fs::read(&path).map_err(|e| Error::io(path.display(), e))?;
        let manifest = Manifest::parse(&json).map_err(|e| damaged(e.to_string()))?;
        let imported = metadata.modified().map_err(|e| Error::io(path.display(), e))?;
        Ok(Some(Stored { digest, manifest, imported, dir }))
    }

    /// The bundle of `kind` that `reference` names: `name`, `name:version`, a digest or at least
    /// twelve of its first hex digits, or the container image that it was made of. Where several fit, one for this machine's
    /// architecture is preferred, then the one imported last.
    pub fn find(&self, reference: &str, kind: Option<Kind>, progress: &Progress) -> Result<Stored> {
        let all = self.list(progress)?;
        let wanted = |s: &&Stored| kind.is_none_or(|k| s.manifest.kind == k);
        let image = container::told(reference).and_then(Result::ok).map(|image| image.to_string());
        let fits = all.iter().filter(wanted).filter(|s| match &image {
            Some(image) => s.container().is_some_and(|container| container.reference == *image),
            None => names(s, reference),
        });
        let best = fits.max_by_key(|s| (s.manifest.arch == Arch::host(), s.imported, s.digest));
        best.cloned().ok_or_else(|| self.not_found(reference, &all))
    }

    fn not_found(&self, reference: &str, all: &[Stored]) -> Error {
        let error = Error::input(format!("no bundle named {reference:?} is here"));
        if Path::new(reference).exists() {
            return error.hint(format!("a file is named with its path: ./{reference}"));
        }
        let images = all.iter().filter(|s| s.manifest.kind == Kind::Image);
        let mut titles: Vec<String> = images.map(Stored::title).collect();
        titles.dedup();
        titles.truncate(LISTED_MAX);
        error.hint(match titles.as_slice() {
            [] => FRESH_HINT.to_string(),
            titles => format!("images here: {}", titles.join(", ")),
        })
    }

    /// Removes a bundle, whole or damaged. Machines that run from it keep its open files until
    /// they end.
    pub fn remove(&self, digest: Digest) -> Result<()> {
        // Renamed first, so that a crash half-way leaves no half bundle under its name.
        let lease = Lease::create(&self.staging())?;
        let (dir, away) = (self.bundles().join(digest.hex()), lease.path().join("removed"));
        fs::rename(&dir, away).map_err(|e| Error::io(dir.display(), e))
    }

    /// The directory it lives in.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Where machines keep their disks: beside the bundles and not under `$XDG_RUNTIME_DIR`, which
    /// is memory.
    pub fn machines(&self) -> PathBuf {
        self.home.join("machines")
    }

    /// Layers of container images that were fetched, and may be wanted again.
    pub(crate) fn layers(&self) -> PathBuf {
        self.home.join(LAYERS)
    }

    fn bundles(&self) -> PathBuf {
        self.home.join("bundles")
    }

    /// Where machines with a name are: see [`crate::kept`].
    pub(crate) fn kept(&self) -> PathBuf {
        self.home.join("kept")
    }

    /// Where snapshots are: see [`crate::Snapshot`].
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.home.join("snapshots")
    }

    /// Where disks are that machines share: see [`crate::volume`].
    pub(crate) fn volumes(&self) -> PathBuf {
        self.home.join("volumes")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.home.join("staging")
    }
}

/// Where layers of container images are, as a cache of blobs.
const LAYERS: &str = "layers";

const HOME_HINT: &str = "IMGRUN_HOME names the directory in which bundles and machines are kept";

/// Where nothing is, all ways to something.
const FRESH_HINT: &str = "imgrun import FILE; imgrun pull NAME --from DEPOT --root FILE (its help says \
    how catalogs are listed); or a container image, named in full: docker.io/library/debian";

/// Names in the hint of an error, at most.
const LISTED_MAX: usize = 8;

fn names(stored: &Stored, reference: &str) -> bool {
    let manifest = &stored.manifest;
    manifest.name.as_str() == reference
        || stored.title() == reference
        || is_digest(stored.digest, reference)
}

fn is_digest(digest: Digest, reference: &str) -> bool {
    let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
    hex.len() >= DIGEST_PREFIX_MIN && digest.hex().starts_with(hex)
}
