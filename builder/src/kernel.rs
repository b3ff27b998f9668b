//! Guest kernels: pinned sources and readable fragments in, a kernel bundle out.
//!
//! ```text
//! kernel-configs/<name>.toml           name, version, pinned sources, fragments: [`config`]
//! kernel-configs/fragments/*.config    Kconfig lines by purpose: [`fragment`]
//!
//! <cache>/kernel/<key>/                a finished kernel: its bundle, and the bundle's digest
//! <cache>/kernel/<name>-<arch>.lock    held while one is built
//! <cache>/kernel/<name>-<arch>.work/   sources and objects, removed at the end
//! <cache>/kernel/.gone-*/              what is being removed
//! <cache>/kernel/<name>-<arch>.log     what make said last time it failed
//! <cache>/kernel/<name>-<arch>.count   how many files it compiled, for the progress bar
//! <cache>/sources/<sha256>.tar.xz      sources that were downloaded
//! <cache>/sources/<sha256>.tar.sign    the signature that they were found to have
//! ```
//!
//! The key is a digest of everything that the bytes depend on, so a kernel that was built is
//! found again in milliseconds and is never mistaken for another.

mod build;
mod config;
mod download;
mod edit;
mod entry;
mod fragment;
mod import;
mod list;
pub mod needs;
mod options;
mod signature;
mod source;
#[cfg(test)]
mod tests;
mod toolchain;
mod tree;
mod vmlinuz;

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bundle::{Arch, Digest, Hasher, Name, Version};
use imgrun::{Progress, Tool, interrupt};

use crate::cache::Cache;
use crate::pack::digest_of;
use crate::{Error, Result};
use build::{Build, Patch};
use config::{CONFIG_BYTES_MAX, Config};
use entry::Entry;
use fragment::Request;
use toolchain::Toolchain;

pub use edit::{EDITOR, Edited, edit, write_fragment};
pub use fragment::Wanted;
pub use import::{Naming, import};
pub use list::{Listed, Part, Shown, State, Stored, list, show, show_bundle};
pub use options::{Change, Options};

/// Changes with anything in this module that changes a kernel's bytes.
const PROCEDURE: u32 = 2;
/// A directory that is being removed, as [`cache::Inventory`](crate::cache::Inventory) knows them.
const GONE_PREFIX: &str = ".gone-";
/// Between two looks whether another process is done.
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// A kernel bundle in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltKernel {
    /// The bundle, `<name>-<version>-<arch>.tar.zst`. The cache's: to be read only.
    pub bundle_path: PathBuf,
    /// The digest of the packed file, by which an image names its kernel.
    pub digest: Digest,
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// The machine it is for.
    pub arch: Arch,
}

/// The configuration of kernel `name` in `config_dir`.
///
/// # Errors
/// [`Class::Usage`](crate::Class::Usage) where there is none; the hint lists those there are.
pub fn find_config(config_dir: &Path, name: &str) -> Result<PathBuf> {
    let name: Name = name.parse().map_err(|e: bundle::Error| Error::usage(e.to_string()))?;
    let path = config_dir.join(format!("{name}.toml"));
    if path.is_file() {
        return Ok(path);
    }
    let known = names(config_dir)?;
    Err(Error::usage(format!("there is no kernel {name} in {}", config_dir.display()))
        .hint(format!("there are: {}", known.join(", "))))
}

/// The names of the kernels that `config_dir` configures, sorted.
fn names(config_dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(config_dir).map_err(|e| Error::io(config_dir.display(), e))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".toml")?.to_string()))
        .collect();
    names.sort();
    Ok(names)
}

/// Builds the kernel that the file `config` describes, or finds it in `cache`, which then holds it.
/// `offline` downloads no sources.
///
/// # Errors
/// Each before time is spent where it can be: a mistake in the configuration or a fragment and
/// missing programs at once, other sources than the pinned ones before they are unpacked, options
/// that did not come out before anything is compiled. Nothing is left behind but, after a failed
/// compilation, its log.
pub fn build(
    config: &Path,
    arch: Arch,
    offline: bool,
    cache: &Cache,
    progress: &Progress,
) -> Result<BuiltKernel> {
    let job = Job::new(config, arch, offline, cache, progress)?;
    let entry = job.entry();
    if let Some(kernel) = entry.find(cache) {
        return Ok(kernel);
    }
    let _lock = job.lock()?;
    if let Some(kernel) = entry.find(cache) {
        return Ok(kernel);
    }
    let source = job.source()?;
    let work = Work::new(job.file("work"))?;
    let built = job.build(&work).run(&source, progress)?;
    let objects = built.objects;
    let kernel = entry.publish(&job.inputs, &job.toolchain, built, progress)?;
    entry.hold(cache)?;
    // Neither is needed any more, nor missed.
    let _ = fs::write(job.file("count"), format!("{objects}\n"));
    let _ = fs::remove_file(job.file("log"));
    Ok(kernel)
}

/// The whole configuration (`.config`) of the kernel that the file `config` describes: that of the
/// one in the cache, or what Kconfig makes of it now. Nothing is compiled.
///
/// # Errors
/// As [`build`].
pub fn configuration(
    config: &Path,
    arch: Arch,
    offline: bool,
    cache: &Cache,
    progress: &Progress,
) -> Result<String> {
    let job = Job::new(config, arch, offline, cache, progress)?;
    if let Some(kernel) = job.entry().find(cache) {
        return options::of_bundle(&kernel.bundle_path);
    }
    let _lock = job.lock()?;
    let source = job.source()?;
    let work = Work::new(job.file("work"))?;
    job.build(&work).configuration(&source, progress)
}

/// One kernel, and what it takes to build it.
struct Job<'a> {
    inputs: Inputs,
    toolchain: Toolchain,
    kernels: PathBuf,
    sources: PathBuf,
    title: String,
    offline: bool,
    cache: &'a Cache,
    progress: &'a Progress,
}

impl<'a> Job<'a> {
    fn new(
        config: &Path,
        arch: Arch,
        offline: bool,
        cache: &'a Cache,
        progress: &'a Progress,
    ) -> Result<Job<'a>> {
        let inputs = Inputs::read(config, arch)?;
        let toolchain = Toolchain::find(arch, !inputs.patches.is_empty())?;
        let (kernels, sources) = (directory(cache), cache.dir().join("sources"));
        for dir in [&kernels, &sources] {
            fs::create_dir_all(dir).map_err(|e| Error::io(dir.display(), e))?;
        }
        let title = format!("kernel {} {} for {arch}", inputs.config.name, inputs.config.version);
        Ok(Job { inputs, toolchain, kernels, sources, title, offline, cache, progress })
    }

    fn entry(&self) -> Entry {
        Entry::of(&self.kernels, &self.inputs, &self.toolchain)
    }

    fn file(&self, suffix: &str) -> PathBuf {
        let Inputs { config, arch, .. } = &self.inputs;
        self.kernels.join(format!("{}-{arch}.{suffix}", config.name))
    }

    fn lock(&self) -> Result<File> {
        lock(&self.file("lock"), &self.title, self.progress)
    }

    fn source(&self) -> Result<PathBuf> {
        let pinned = &self.inputs.config.source;
        let source = source::obtain(pinned, &self.sources, self.offline, self.progress)?;
        if source.starts_with(&self.sources) {
            self.cache.hold(&source)?;
        }
        Ok(source)
    }

    /// In the directory `work`, while the lock is held.
    fn build(&self, work: &Work) -> Build<'_> {
        let count = fs::read_to_string(self.file("count")).ok();
        Build {
            arch: self.inputs.arch,
            title: self.inputs.config.source.title(),
            version: self.inputs.config.version.as_str(),
            request: &self.inputs.request,
            patches: &self.inputs.patches,
            toolchain: &self.toolchain,
            dir: work.0.clone(),
            log: self.file("log"),
            objects: count.and_then(|text| text.trim().parse().ok()),
        }
    }
}

/// Where a cache keeps its kernels.
fn directory(cache: &Cache) -> PathBuf {
    cache.dir().join("kernel")
}

impl BuiltKernel {
    /// Puts a copy of the bundle into the directory `dir`, under its own name.
    ///
    /// # Errors
    /// Where `dir` can not be made or written to.
    pub fn copy_to(&self, dir: &Path) -> Result<PathBuf> {
        let failed = |e| Error::io(dir.display(), e);
        fs::create_dir_all(dir).map_err(failed)?;
        let path = dir.join(self.bundle_path.file_name().unwrap_or_default());
        let mut from =
            File::open(&self.bundle_path).map_err(|e| Error::io(self.bundle_path.display(), e))?;
        // Copied before, most often.
        if File::open(&path).is_ok_and(|there| digest_of(&there).is_ok_and(|d| d == self.digest)) {
            return Ok(path);
        }
        let mut partial = entry::partial_file(dir)?;
        std::io::copy(&mut from, &mut partial).map_err(failed)?;
        partial.as_file().sync_all().map_err(failed)?;
        partial.persist(&path).map_err(|e| Error::io(path.display(), e.error))?;
        Ok(path)
    }
}

/// All that a person wrote about one kernel.
struct Inputs {
    config: Config,
    config_digest: Digest,
    arch: Arch,
    /// Name and digest of each fragment.
    fragments: Vec<(Name, Digest)>,
    request: Request,
    patches: Vec<Patch>,
}

impl Inputs {
    fn read(path: &Path, arch: Arch) -> Result<Inputs> {
        let text = read_text(path)?;
        let config = Config::parse(path, &text)?;
        let dir = path.parent().unwrap_or(Path::new("")).join("fragments");
        let (mut fragments, mut request) = (Vec::new(), Request::default());
        for name in config.fragments_for(arch)? {
            let path = dir.join(format!("{name}.config"));
            let text = read_text(&path)?;
            request.add(&path.display().to_string(), &text)?;
            fragments.push((name.clone(), Digest::of(&text)));
        }
        let patches = config.patches.iter().map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok(Patch { name, text: read_text(path)? })
        });
        let patches = patches.collect::<Result<_>>()?;
        Ok(Inputs { config, config_digest: Digest::of(&text), arch, fragments, request, patches })
    }

    fn key(&self, toolchain: &Toolchain) -> Digest {
        let mut key = Hasher::new();
        key.field("imgtool kernel");
        key.field(PROCEDURE.to_le_bytes());
        // The manifest names it.
        key.field(env!("CARGO_PKG_VERSION"));
        key.field(bundle::SCHEMA.to_le_bytes());
        key.field(self.arch.name());
        key.field(self.config_digest.as_bytes());
        key.field(self.config.source.digest.as_bytes());
        for (name, digest) in &self.fragments {
            key.field(name.as_str());
            key.field(digest.as_bytes());
        }
        for Patch { name, text } in &self.patches {
            key.field("patch");
            key.field(name);
            key.field(Digest::of(text).as_bytes());
        }
        key.field(&toolchain.prefix);
        key.field(&toolchain.compiler);
        key.field(&toolchain.linker);
        key.finish()
    }
}

fn read_text(path: &Path) -> Result<String> {
    let failed = |e| Error::io(path.display(), e);
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        let path = path.display();
        return Err(Error::input(format!("{path} is longer than {CONFIG_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Waits until nobody else builds this kernel. Held until the result is dropped.
fn lock(path: &Path, title: &str, progress: &Progress) -> Result<File> {
    let failed = |e| Error::io(path.display(), e);
    let file = File::create(path).map_err(failed)?;
    let mut said = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
            Err(TryLockError::WouldBlock) => {}
        }
        if !said {
            progress.note(format!("another process builds {title}: waiting for it"));
            said = true;
        }
        interrupt::check()?;
        std::thread::sleep(LOCK_WAIT);
    }
}

/// A directory that is empty at first and gone afterwards. One that a killed process left under
/// the same name goes first: whoever holds the lock is its only user.
///
/// It loses its name at once, but on a busy disk tens of thousands of files take a minute to go: a
/// program that outlives us removes them, and nobody waits for it. Should it be killed, too, the
/// next build or `imgtool cache prune` takes what it left.
struct Work(PathBuf);

impl Work {
    fn new(path: PathBuf) -> Result<Work> {
        let path = std::path::absolute(&path).map_err(|e| Error::io(path.display(), e))?;
        for old in gone(path.parent().unwrap_or(Path::new("."))) {
            remove(&old);
        }
        discard(&path).map_err(|e| Error::io(path.display(), e))?;
        fs::create_dir(&path).map_err(|e| Error::io(path.display(), e))?;
        Ok(Work(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = discard(&self.0);
    }
}

/// Takes the name from the directory `path`, if it is there, and has it removed.
fn discard(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let grave = tempfile::Builder::new().prefix(GONE_PREFIX).tempdir_in(parent)?.keep();
    // A directory may take the name of an empty one.
    match fs::rename(path, &grave) {
        Ok(()) => remove(&grave),
        Err(e) => {
            fs::remove_dir(&grave)?;
            if e.kind() != std::io::ErrorKind::NotFound {
                return Err(e);
            }
        }
    }
    Ok(())
}

fn remove(grave: &Path) {
    let removing = Tool::new("rm").args(["-r", "-f", "--"]).arg(grave).detach();
    if removing.is_err() {
        let _ = fs::remove_dir_all(grave);
    }
}

/// The directories in `dir` that are to be removed.
fn gone(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let named = entries.filter(|e| e.file_name().to_string_lossy().starts_with(GONE_PREFIX));
    named.map(|e| e.path()).collect()
}
