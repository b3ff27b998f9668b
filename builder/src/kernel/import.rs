//! Kernels that others built: from a directory, a Debian package or a `vmlinuz`, as bundles.
//!
//! ```text
//! linux-image-*.deb    boot/vmlinuz-*, boot/config-*
//! a directory          vmlinux, vmlinuz, bzImage or Image; beside it, if there:
//!                      config, initrd, modules.tar,
//!                      metadata.json: {"name": …, "version": …}, more as it likes
//! a file               a vmlinuz, bzImage, vmlinux or Image
//! ```
//!
//! The same bytes give the same bundle. Our own kernels need neither initrd nor modules; a
//! distribution's may, and what is given goes along, for those who boot it with them.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bundle::{Arch, Digest, Hasher, HashingReader, Name, Source, Version};
use imgrun::{Class, Progress, Tool};
use serde::{Deserialize, Serialize};

use super::config::CONFIG_BYTES_MAX;
use super::entry::{self, Content, Entry};
use super::vmlinuz::{self, VMLINUZ_BYTES_MAX};
use super::{BuiltKernel, PROCEDURE, directory};
use crate::cache::Cache;
use crate::{Error, Result};

/// Unpacking a package.
const UNPACK_TIME_MAX: Duration = Duration::from_secs(600);
/// Files in a directory that hold the kernel; the first that is there counts.
const KERNEL_NAMES: &[&str] = &["vmlinux", "vmlinuz", "bzImage", "Image"];
/// Files that go along as they are.
const COMPANIONS: &[&str] = &["initrd", "modules.tar"];

/// What a person says of a kernel, where it does not say it itself.
#[derive(Clone, Debug, Default)]
pub struct Naming {
    /// Its name.
    pub name: Option<Name>,
    /// Its version.
    pub version: Option<Version>,
}

/// What was found in one of the three forms.
struct Found {
    /// What it was taken from, and its digest.
    source: Source,
    kernel: Vec<u8>,
    config: Option<String>,
    /// Files that go along.
    more: Vec<(&'static str, PathBuf)>,
    metadata: Metadata,
}

/// `metadata.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Metadata {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(flatten)]
    more: serde_json::Map<String, serde_json::Value>,
}

/// `build.json` of an imported kernel.
#[derive(Serialize)]
struct ImportInfo<'a> {
    imported_from: &'a str,
    digest: Digest,
    /// As `uname -r` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<&'a str>,
    metadata: &'a Metadata,
}

/// Takes the kernel in `from` into `cache`, as a bundle.
///
/// # Errors
/// [`Class::Input`] where there is no kernel in it or its name is not known.
pub fn import(
    from: &Path,
    naming: &Naming,
    cache: &Cache,
    progress: &Progress,
) -> Result<BuiltKernel> {
    let kernels = directory(cache);
    fs::create_dir_all(&kernels).map_err(|e| Error::io(kernels.display(), e))?;
    let work = tempfile::Builder::new()
        .prefix(".import-")
        .tempdir_in(&kernels)
        .map_err(|e| Error::io(kernels.display(), e))?;
    let about = |e: Error| e.within(from.display());
    let metadata = fs::metadata(from).map_err(|e| Error::io(from.display(), e))?;
    let found = if metadata.is_dir() {
        in_directory(from)?
    } else if from.extension().is_some_and(|extension| extension == "deb") {
        in_package(from)?
    } else {
        in_file(from)?
    };
    let unpacked = vmlinuz::unpack(&found.kernel, work.path()).map_err(about)?;
    let release = vmlinuz::release(&unpacked.bytes);
    let (name, version) = names(naming, &found, release).map_err(about)?;

    let mut key = Hasher::new();
    key.field("imgtool kernel import");
    key.field(PROCEDURE.to_le_bytes());
    key.field(env!("CARGO_PKG_VERSION"));
    key.field(found.source.name.as_bytes());
    key.field(found.source.digest.as_bytes());
    key.field(name.as_str());
    key.field(version.as_str());
    let entry = Entry::new(&kernels, key.finish(), name, version, unpacked.arch);
    if let Some(kernel) = entry.find(cache) {
        return Ok(kernel);
    }
    let info = ImportInfo {
        imported_from: &found.source.name,
        digest: found.source.digest,
        release,
        metadata: &found.metadata,
    };
    let content = Content {
        info: entry::json(&info)?,
        boot: boot_files(&found, unpacked.arch, &unpacked.bytes, work.path())?,
        config: found.config,
        recipe: found.source.digest,
        source: found.source,
    };
    let kernel = entry.put(&content, progress)?;
    entry.hold(cache)?;
    Ok(kernel)
}

/// What boots, as files in the bundle's order. On x86_64 a bzImage goes along as it came.
fn boot_files(
    found: &Found,
    arch: Arch,
    kernel: &[u8],
    work: &Path,
) -> Result<Vec<(&'static str, PathBuf)>> {
    let write = |name: &'static str, bytes: &[u8]| {
        let path = work.join(name);
        let written = File::create_new(&path).and_then(|mut file| file.write_all(bytes));
        written.map_err(|e| Error::io(path.display(), e))?;
        Ok::<_, Error>((name, path))
    };
    let mut files = vec![write(arch.kernel_file(), kernel)?];
    if arch == Arch::X86_64 && found.kernel != kernel {
        files.push(write("bzImage", &found.kernel)?);
    }
    files.extend(found.more.iter().cloned());
    Ok(files)
}

/// A name and a version: as the person says, else as what came with it says, else as the kernel
/// itself does.
fn names(naming: &Naming, found: &Found, release: Option<&str>) -> Result<(Name, Version)> {
    let wrong = |e: bundle::Error| Error::input(e.to_string());
    let name = match (&naming.name, &found.metadata.name) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => name.parse().map_err(wrong)?,
        (None, None) => return Err(Error::usage("it does not say its name").hint("give --name")),
    };
    let version = match (&naming.version, &found.metadata.version, release) {
        (Some(version), ..) => version.clone(),
        (None, Some(version), _) => version.parse().map_err(wrong)?,
        (None, None, Some(release)) => release.parse().map_err(wrong)?,
        (None, None, None) => {
            return Err(Error::usage("it does not say its version").hint("give --version"));
        }
    };
    Ok((name, version))
}

fn in_file(path: &Path) -> Result<Found> {
    let kernel = read(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Found {
        source: Source { name, digest: Digest::of(&kernel) },
        kernel,
        config: None,
        more: Vec::new(),
        metadata: Metadata::default(),
    })
}

fn in_directory(dir: &Path) -> Result<Found> {
    let there = |name: &&&str| dir.join(name).is_file();
    let kernel_name = KERNEL_NAMES.iter().find(there).ok_or_else(|| {
        let (dir, names) = (dir.display(), KERNEL_NAMES.join(", "));
        Error::input(format!("{dir} holds no kernel: none of {names} is there"))
    })?;
    let kernel = read(&dir.join(kernel_name))?;
    let text = |name: &str| match dir.join(name) {
        path if path.is_file() => super::read_text(&path).map(Some),
        _ => Ok(None),
    };
    let (config, metadata_text) = (text("config")?, text("metadata.json")?);
    let metadata = match &metadata_text {
        Some(text) => serde_json::from_str(text).map_err(|e| {
            Error::input(dir.join("metadata.json").display().to_string()).because(e)
        })?,
        None => Metadata::default(),
    };
    let more: Vec<(&'static str, PathBuf)> =
        COMPANIONS.iter().filter(|name| there(name)).map(|name| (*name, dir.join(name))).collect();
    let mut all = Hasher::new();
    all.field(&kernel);
    all.field(config.as_deref().unwrap_or_default());
    all.field(metadata_text.as_deref().unwrap_or_default());
    for (name, path) in &more {
        all.field(name);
        let mut reader =
            HashingReader::new(File::open(path).map_err(|e| Error::io(path.display(), e))?);
        std::io::copy(&mut reader, &mut std::io::sink())
            .map_err(|e| Error::io(path.display(), e))?;
        all.field(reader.finish().0.as_bytes());
    }
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let source = Source { name, digest: all.finish() };
    Ok(Found { source, kernel, config, more, metadata })
}

/// Out of a package: the kernel, its configuration, its name and version.
fn in_package(deb: &Path) -> Result<Found> {
    let field = |field: &str| {
        let tool = Tool::new("dpkg-deb").arg("--field").arg(deb).arg(field);
        let output = tool.fails_as(Class::Input).timeout(UNPACK_TIME_MAX).run()?;
        Ok::<_, Error>(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let (package, version) = (field("Package")?, field("Version")?);
    let digest = {
        let file = File::open(deb).map_err(|e| Error::io(deb.display(), e))?;
        let mut reader = HashingReader::new(file);
        std::io::copy(&mut reader, &mut std::io::sink())
            .map_err(|e| Error::io(deb.display(), e))?;
        reader.finish().0
    };
    let (mut kernel, mut config) = (None, None);
    let tar = Tool::new("dpkg-deb").arg("--fsys-tarfile").arg(deb);
    tar.fails_as(Class::Input).timeout(UNPACK_TIME_MAX).stream(|tar| {
        let broken = |e| Error::io(deb.display(), e);
        for entry in tar::Archive::new(tar).entries().map_err(broken)? {
            imgrun::interrupt::check()?;
            let entry = entry.map_err(broken)?;
            let path = entry.path().map_err(broken)?.to_string_lossy().into_owned();
            let path = path.trim_start_matches("./");
            if !entry.header().entry_type().is_file() {
                continue;
            }
            // One package, one kernel.
            if path.starts_with("boot/vmlinuz-") && kernel.is_none() {
                kernel = Some(take(entry, VMLINUZ_BYTES_MAX, path)?);
            } else if path.starts_with("boot/config-") && config.is_none() {
                config = Some(take(entry, CONFIG_BYTES_MAX, path)?);
            }
        }
        Ok(())
    })?;
    let kernel = kernel.ok_or_else(|| {
        let deb = deb.display();
        let error = Error::input(format!("{deb}: {package} holds no boot/vmlinuz-*"));
        error
            .hint("linux-image-amd64 and its like only name the package that does: see its Depends")
    })?;
    let config = config.map(String::from_utf8).transpose();
    let config = config.map_err(|e| Error::input(deb.display().to_string()).because(e))?;
    // An epoch's colon is not for file names.
    let version = version.rsplit(':').next().unwrap_or_default().to_string();
    let title = format!("{package} {version}");
    let metadata = Metadata { name: Some(package), version: Some(version), ..Metadata::default() };
    Ok(Found { source: Source { name: title, digest }, kernel, config, more: Vec::new(), metadata })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| Error::io(path.display(), e))?;
    take(file, VMLINUZ_BYTES_MAX, &path.display().to_string())
}

fn take(from: impl Read, bytes_max: u64, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|e| Error::io(what, e))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Error::input(format!("{what} is longer than {bytes_max} bytes")));
    }
    Ok(bytes)
}
