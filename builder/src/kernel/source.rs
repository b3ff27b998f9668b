//! Obtains a kernel's sources and checks them against their pin, before anything is done with them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bundle::{Digest, HashingReader, HashingWriter, Name, Version};
use imgrun::{Class, Progress, Tool, Unit, interrupt};
use reqwest::Url;
use tempfile::NamedTempFile;

use super::config::{Place, Signature, Source};
use super::download::download;
use super::signature::Keys;
use crate::{Error, Result};

/// Compressed sources are at most this large.
const SOURCE_BYTES_MAX: u64 = 1 << 30;
/// A mirror that takes longer than this for 140 MB is not one.
const DOWNLOAD_TIME_MAX: Duration = Duration::from_secs(3600);

/// A detached signature is at most this long.
const SIGNATURE_BYTES_MAX: u64 = 1 << 16;

const COPY_BYTES: usize = 1 << 20;

/// A file with exactly the sources that are pinned: from `cache`, from where Debian's package puts
/// them, or from a mirror or server (and then in `cache`).
///
/// # Errors
/// [`Class::Trust`] where the only candidate has another digest or its signature is none of the
/// signers'; [`Class::Input`] where the file is missing or no mirror has the package's version;
/// [`Class::Network`].
pub(super) fn obtain(
    source: &Source,
    cache: &Path,
    offline: bool,
    progress: &Progress,
) -> Result<PathBuf> {
    match &source.place {
        Place::File(path) => {
            let found = digest_of(path, progress)?;
            if found == source.digest {
                return Ok(path.clone());
            }
            Err(mismatch(&path.display().to_string(), source, found))
        }
        Place::Debian { package, version } => {
            let cached = cached_path(source, cache);
            if is_cached(source, &cached, progress)? {
                return Ok(cached);
            }
            let installed = PathBuf::from(format!("/usr/src/{package}.tar.xz"));
            if installed.exists() {
                if digest_of(&installed, progress)? == source.digest {
                    return Ok(installed);
                }
                let title = source.title();
                progress.note(format!("{} is not {title}: downloading that", installed.display()));
            }
            if offline {
                return Err(not_here(source));
            }
            download_package(source, package, version, &cached, progress)?;
            Ok(cached)
        }
        Place::Url { url, signature } => {
            // What is wrong with the keys is said before anything is fetched.
            let signed = match signature {
                Some(signature) => Some((signature, Keys::read(signature)?)),
                None => None,
            };
            let server = Server { source, url, cache, offline, progress };
            server.obtain(signed.as_ref().map(|(signature, keys)| (*signature, keys)))
        }
    }
}

fn cached_path(source: &Source, cache: &Path) -> PathBuf {
    cache.join(format!("{}.tar.xz", source.digest.hex()))
}

/// Whether the sources are in the cache. Damaged ones are removed.
fn is_cached(source: &Source, cached: &Path, progress: &Progress) -> Result<bool> {
    if !cached.exists() {
        return Ok(false);
    }
    if digest_of(cached, progress)? == source.digest {
        return Ok(true);
    }
    progress.note(format!("{} is damaged: fetching it again", cached.display()));
    fs::remove_file(cached).map_err(|e| Error::io(cached.display(), e))?;
    Ok(false)
}

fn not_here(source: &Source) -> Error {
    let title = source.title();
    Error::network(format!("offline: the sources {title} are not here"))
        .hint("build the kernel once without --offline")
}

/// Sources on a server, with or without a signature beside them.
struct Server<'a> {
    source: &'a Source,
    url: &'a Url,
    cache: &'a Path,
    offline: bool,
    progress: &'a Progress,
}

impl Server<'_> {
    /// The digest is checked while they come, the signature before they get a name.
    fn obtain(&self, signed: Option<(&Signature, &Keys)>) -> Result<PathBuf> {
        let cached = cached_path(self.source, self.cache);
        let is_cached = is_cached(self.source, &cached, self.progress)?;
        // The smaller file first.
        let signed = match signed {
            Some((signature, keys)) => Some((self.signature(signature)?, keys)),
            None => None,
        };
        let archive = if is_cached { None } else { Some(self.archive()?) };
        if let Some((signature, keys)) = &signed {
            let archive = archive.as_ref().map_or(cached.as_path(), NamedTempFile::path);
            keys.check(signature.path(), archive, self.cache, self.progress).inspect_err(|_| {
                // A good one may be there by now.
                let _ = fs::remove_file(self.signature_path());
            })?;
        }
        if let Some((Fetched::New(file), _)) = signed {
            keep(file, &self.signature_path())?;
        }
        if let Some(file) = archive {
            keep(file, &cached)?;
        }
        Ok(cached)
    }

    fn signature_path(&self) -> PathBuf {
        self.cache.join(format!("{}.tar.sign", self.source.digest.hex()))
    }

    fn signature(&self, signature: &Signature) -> Result<Fetched> {
        let cached = self.signature_path();
        if cached.exists() {
            return Ok(Fetched::Cached(cached));
        }
        let mut file = self.partial()?;
        self.fetch(&signature.url, SIGNATURE_BYTES_MAX, &mut file)?;
        Ok(Fetched::New(file))
    }

    fn archive(&self) -> Result<NamedTempFile> {
        let mut out = HashingWriter::new(self.partial()?);
        self.fetch(self.url, SOURCE_BYTES_MAX, &mut out)?;
        let (file, digest, _) = out.finish();
        if digest == self.source.digest {
            return Ok(file);
        }
        Err(mismatch(self.url.as_str(), self.source, digest))
    }

    fn fetch(&self, url: &Url, bytes_max: u64, out: &mut dyn Write) -> Result<()> {
        if self.offline {
            return Err(not_here(self.source));
        }
        let stage = self.progress.stage(format!("download {url}"), Unit::Bytes, None);
        download(url, bytes_max, out, &stage)?;
        stage.finish("done");
        Ok(())
    }

    fn partial(&self) -> Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(".download-")
            .tempfile_in(self.cache)
            .map_err(|e| Error::io(self.cache.display(), e))
    }
}

/// A signature's file.
enum Fetched {
    Cached(PathBuf),
    New(NamedTempFile),
}

impl Fetched {
    fn path(&self) -> &Path {
        match self {
            Fetched::Cached(path) => path,
            Fetched::New(file) => file.path(),
        }
    }
}

/// Gives a file its name.
fn keep(file: NamedTempFile, path: &Path) -> Result<()> {
    file.as_file().sync_all().map_err(|e| Error::io(path.display(), e))?;
    file.persist(path).map_err(|e| Error::io(path.display(), e.error))?;
    Ok(())
}

fn mismatch(what: &str, source: &Source, found: Digest) -> Error {
    let wanted = source.digest;
    Error::trust(format!("{what} has the digest {found}, the configuration pins {wanted}"))
}

fn digest_of(path: &Path, progress: &Progress) -> Result<Digest> {
    let failed = |e| Error::io(path.display(), e);
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let stage = progress.stage(format!("check {}", path.display()), Unit::Bytes, Some(bytes));
    let mut reader = HashingReader::new(file.take(SOURCE_BYTES_MAX));
    copy(&mut reader, &mut std::io::sink(), |n| stage.add(n)).map_err(|e| e.within("check"))?;
    let (digest, _) = reader.finish();
    stage.finish(digest.short());
    Ok(digest)
}

/// Copies with a look for an interrupt between pieces.
fn copy(from: &mut dyn Read, to: &mut dyn Write, mut more: impl FnMut(u64)) -> Result<()> {
    let mut buf = vec![0; COPY_BYTES];
    loop {
        interrupt::check()?;
        let n = from.read(&mut buf).map_err(|e| Error::io("read sources", e))?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&buf[..n]).map_err(|e| Error::io("write sources", e))?;
        more(n as u64);
    }
}

fn download_package(
    source: &Source,
    package: &Name,
    version: &Version,
    cached: &Path,
    progress: &Progress,
) -> Result<()> {
    let cache = cached.parent().unwrap_or(Path::new("."));
    let dir = tempfile::Builder::new()
        .prefix(".download-")
        .tempdir_in(cache)
        .map_err(|e| Error::io(cache.display(), e))?;
    let stage = progress.stage(format!("download {}", source.title()), Unit::Bytes, None);
    Tool::new("apt-get")
        .args(["--quiet", "download", &format!("{package}={version}")])
        .env("LC_ALL", "C")
        .dir(dir.path())
        .timeout(DOWNLOAD_TIME_MAX)
        .fails_as(Class::Network)
        .run()
        .map_err(|e| not_downloaded(e, package, version))?;
    let entries = fs::read_dir(dir.path()).map_err(|e| Error::io(dir.path().display(), e))?;
    let deb = entries
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| Error::host("apt-get download succeeded, but left no package"))?;
    extract(&deb, package, source, cached)?;
    stage.finish("done");
    Ok(())
}

fn not_downloaded(error: Error, package: &Name, version: &Version) -> Error {
    let text = error.to_string();
    let gone = text.contains("was not found") || text.contains("Unable to locate package");
    if error.class() == Class::Network && gone {
        return Error::input(format!("no mirror of this machine has {package} {version}")).hint(
            format!(
                "apt-get update; if that does not help, `apt-cache madison {package}` lists the \
                 versions that can be pinned instead"
            ),
        );
    }
    error
}

/// Takes the one file that we want out of a package; it gets its name when its digest is right.
fn extract(deb: &Path, package: &Name, source: &Source, cached: &Path) -> Result<()> {
    let wanted = format!("usr/src/{package}.tar.xz");
    let cache = cached.parent().unwrap_or(Path::new("."));
    let partial =
        tempfile::NamedTempFile::new_in(cache).map_err(|e| Error::io(cache.display(), e))?;
    let mut out = HashingWriter::new(partial);
    let found = Tool::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stream(|stdout| {
        let broken = |e| Error::io(deb.display(), e);
        for entry in tar::Archive::new(stdout).entries().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            let path = entry.path().map_err(broken)?;
            if path.strip_prefix(".").unwrap_or(&path) == Path::new(&wanted) {
                copy(&mut entry.take(SOURCE_BYTES_MAX), &mut out, |_| ())?;
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    if !found {
        return Err(Error::input(format!("{package} holds no {wanted}")));
    }
    let (partial, digest, _) = out.finish();
    if digest != source.digest {
        return Err(mismatch(&format!("{wanted} of {}", source.title()), source, digest));
    }
    partial.as_file().sync_all().map_err(|e| Error::io(cached.display(), e))?;
    partial.persist(cached).map_err(|e| Error::io(cached.display(), e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(path: PathBuf, content: &[u8]) -> Source {
        Source { place: Place::File(path), digest: Digest::of(content) }
    }

    #[test]
    fn a_flipped_byte_is_refused_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let cache = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.tar.xz");
        fs::write(&path, b"sources").unwrap();
        let source = pinned(path.clone(), b"sources");
        let progress = Progress::silent();
        assert_eq!(obtain(&source, cache.path(), false, &progress).unwrap(), path);
        fs::write(&path, b"sourceS").unwrap();
        let error = obtain(&source, cache.path(), false, &progress).unwrap_err();
        assert_eq!(error.class(), Class::Trust);
        assert!(error.to_string().contains("k.tar.xz has the digest sha256:"), "{error}");
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
        fs::remove_file(&path).unwrap();
        let error = obtain(&source, cache.path(), false, &progress).unwrap_err();
        assert_eq!(error.class(), Class::Input);
    }

    /// A package as dpkg-deb makes it, with other content than the pin's.
    #[test]
    fn a_package_with_other_sources_is_refused_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let cache = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("usr/src")).unwrap();
        fs::create_dir_all(root.join("DEBIAN")).unwrap();
        fs::write(root.join("usr/src/k-src.tar.xz"), b"sourceS").unwrap();
        let control = "Package: k-src\nVersion: 1\nArchitecture: all\nMaintainer: a\n\
                       Description: b\n";
        fs::write(root.join("DEBIAN/control"), control).unwrap();
        let deb = dir.path().join("k.deb");
        Tool::new("dpkg-deb").arg("--build").arg(&root).arg(&deb).run().unwrap();
        let package: Name = "k-src".parse().unwrap();
        let cached = cache.path().join("cached");

        let error = extract(&deb, &package, &pinned("x".into(), b"sources"), &cached).unwrap_err();
        assert_eq!(error.class(), Class::Trust);
        let other: Name = "other".parse().unwrap();
        let error = extract(&deb, &other, &pinned("x".into(), b"sourceS"), &cached).unwrap_err();
        assert_eq!(error.to_string(), "other holds no usr/src/other.tar.xz");
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
        extract(&deb, &package, &pinned("x".into(), b"sourceS"), &cached).unwrap();
        assert_eq!(fs::read(&cached).unwrap(), b"sourceS");
    }

    #[test]
    fn a_version_that_no_mirror_has_is_said_so() {
        let (name, version) = ("bc".parse().unwrap(), "0.0-nowhere".parse().unwrap());
        let apt = "apt-get download bc=0.0: exit status: 100\n  | E: Version '0.0' for 'bc' was \
                   not found";
        let error = not_downloaded(Error::network(apt), &name, &version);
        assert_eq!(error.class(), Class::Input);
        assert!(error.hint_text().is_some_and(|h| h.contains("apt-cache madison bc")));
        let other = not_downloaded(Error::network("timeout"), &name, &version);
        assert_eq!(other.class(), Class::Network);
    }
}
