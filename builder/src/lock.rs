//! `NAME.lock` beside `NAME.toml`: what a recipe's inputs turned out to be, so that a build
//! elsewhere and later has the same or none.
//!
//! ```toml
//! version = 1
//! [x86_64]
//! source = { name = "docker.io/library/alpine:3.21", digest = "sha256:…" }
//! kernel = { name = "generic-6.1 6.1.192", digest = "sha256:…" }
//! packages = ["apk curl 8.11.1-r0 x86_64", …]
//! step = [{ name = "step 1 (packages curl)", digest = "sha256:…" }]
//! ```
//! A tag is pulled by the digest that is in the lock. Everything else is made as always and
//! compared: what a `run` fetched and what an archive of packages has by now can not be asked for
//! by digest, but it can be refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bundle::{Arch, Database, Digest, Package};
use serde::{Deserialize, Serialize};

use crate::oci::Reference;
use crate::recipe::{Recipe, Source};
use crate::{Error, Result};

/// The version of the file's format.
const VERSION: u32 = 1;
/// A lock is at most this many bytes long.
const LOCK_BYTES_MAX: u64 = 16 << 20;
const HEAD: &str = "# What the recipe's inputs turned out to be: written by `imgtool lock`, held to \
                    by `imgtool build --locked`.\n";

/// A lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    version: u32,
    /// By architecture.
    #[serde(flatten)]
    arches: BTreeMap<String, Locked>,
}

/// What is locked for one architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    /// The source.
    pub source: Pin,
    /// The kernel.
    pub kernel: Pin,
    /// The packages in the finished image: database, name, version, architecture.
    #[serde(default)]
    pub packages: Vec<String>,
    /// The layers of the stages, in order.
    #[serde(default)]
    pub step: Vec<Pin>,
}

/// Something and its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// What it is, for people.
    pub name: String,
    /// What it must be.
    pub digest: Digest,
}

impl Pin {
    /// A pin.
    pub fn new(name: impl Into<String>, digest: Digest) -> Pin {
        Pin { name: name.into(), digest }
    }
}

impl Lock {
    /// One that says nothing.
    pub fn empty() -> Lock {
        Lock { version: VERSION, arches: BTreeMap::new() }
    }

    /// Where the lock of the recipe in `file` is.
    pub fn path(file: &Path) -> PathBuf {
        file.with_extension("lock")
    }

    /// Reads the lock of the recipe in `file`, with the digest of its text; `None` where there is
    /// none.
    ///
    /// # Errors
    /// Where it can not be read or is none.
    pub fn read(file: &Path) -> Result<Option<(Lock, Digest)>> {
        let path = Lock::path(file);
        let about = |e| Error::io(path.display(), e);
        match path.metadata() {
            Ok(found) if found.len() > LOCK_BYTES_MAX => {
                let size = found.len();
                let why = format!("{size} bytes are no lock ({LOCK_BYTES_MAX} at most)");
                return Err(Error::input(format!("{}: {why}", path.display())));
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(about(e)),
        }
        let text = std::fs::read_to_string(&path).map_err(about)?;
        let lock: Lock = toml::from_str(&text).map_err(|e| {
            let why = e.message().to_string();
            Error::input(format!("{}: {why}", path.display())).hint("imgtool lock writes it anew")
        })?;
        if lock.version != VERSION {
            let version = lock.version;
            return Err(Error::input(format!("{}: version {version} of locks", path.display()))
                .hint("this imgtool knows version 1 only"));
        }
        Ok(Some((lock, Digest::of(&text))))
    }

    /// Writes it for the recipe in `file`.
    ///
    /// # Errors
    /// Where it can not be written; an older one is then still whole.
    pub fn write(&self, file: &Path) -> Result<PathBuf> {
        use std::io::Write;
        let path = Lock::path(file);
        let text = toml::to_string_pretty(self).map_err(|e| Error::bug("a lock").because(e))?;
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let mut draft = tempfile::Builder::new()
            .prefix(".imgtool-")
            .tempfile_in(directory)
            .map_err(|e| Error::io(directory.display(), e))?;
        let written =
            draft.write_all(HEAD.as_bytes()).and_then(|()| draft.write_all(text.as_bytes()));
        written.map_err(|e| Error::io(path.display(), e))?;
        crate::image::publish(draft, &path)?;
        Ok(path)
    }

    /// What is locked for `arch`.
    pub fn of(&self, arch: Arch) -> Option<&Locked> {
        self.arches.get(arch.name())
    }

    /// Locks `arch`.
    pub fn set(&mut self, arch: Arch, locked: Locked) {
        self.arches.insert(arch.name().to_string(), locked);
    }
}

impl Locked {
    /// The recipe with its tag pinned.
    pub fn pin(&self, recipe: &Recipe) -> Recipe {
        let mut recipe = recipe.clone();
        if let Source::Oci(Reference::Registry(reference)) = &mut recipe.source {
            reference.digest = Some(self.source.digest);
        }
        recipe
    }

    /// Fails unless `found`, which is called `what`, is what the lock has.
    ///
    /// # Errors
    /// [`crate::Class::Trust`], with both digests.
    pub fn check(&self, what: &str, pin: &Pin, found: &Digest) -> Result<()> {
        if pin.digest == *found {
            return Ok(());
        }
        let message =
            format!("{what}: the lock has {} ({}), now it is {found}", pin.digest, pin.name);
        Err(Error::trust(message)
            .hint("imgtool outdated says what moved on, imgtool lock takes it over"))
    }

    /// How this one differs from `now`, a line each: what `imgtool outdated` prints.
    pub fn differences(&self, now: &Locked) -> Vec<String> {
        let mut lines = Vec::new();
        let mut pin = |what: &str, before: &Pin, now: &Pin| {
            if before != now {
                let (old, new) = (before.digest.short(), now.digest.short());
                lines.push(match before.name == now.name {
                    true => format!("{what} {}: {old} -> {new}", now.name),
                    false => format!("{what} {} {old} -> {} {new}", before.name, now.name),
                });
            }
        };
        pin("source", &self.source, &now.source);
        pin("kernel", &self.kernel, &now.kernel);
        lines.extend(self.packages_moved(now));
        if self.step.len() != now.step.len() {
            lines.push(format!("{} stages of steps -> {}", self.step.len(), now.step.len()));
        }
        for (before, now) in self.step.iter().zip(&now.step) {
            if before.digest != now.digest {
                let (old, new) = (before.digest.short(), now.digest.short());
                lines.push(format!("the layer of {}: {old} -> {new}", now.name));
            }
        }
        lines
    }

    /// `package curl: 7.88.1-10 -> 7.88.1-11`
    pub fn packages_moved(&self, now: &Locked) -> Vec<String> {
        let by_name = |packages: &[String]| -> BTreeMap<String, String> {
            let split = |line: &String| {
                let mut words = line.split(' ');
                let (database, name) = (words.next()?, words.next()?);
                let version = words.next().unwrap_or_default();
                let arch = words.next().unwrap_or_default();
                Some((format!("{database} {name} {arch}"), version.to_string()))
            };
            packages.iter().filter_map(split).collect()
        };
        let (before, after) = (by_name(&self.packages), by_name(&now.packages));
        let mut lines = Vec::new();
        for (name, old) in &before {
            let short = name.split(' ').nth(1).unwrap_or(name);
            match after.get(name) {
                Some(new) if new != old => lines.push(format!("package {short}: {old} -> {new}")),
                Some(_) => {}
                None => lines.push(format!("package {short}: {old} -> gone")),
            }
        }
        let new = after.iter().filter(|(name, _)| !before.contains_key(*name));
        lines.extend(new.map(|(name, version)| {
            format!("package {}: new, {version}", name.split(' ').nth(1).unwrap_or(name))
        }));
        lines
    }
}

/// A package as a lock has it.
pub fn package_line(package: &Package) -> String {
    let database = match package.database {
        Database::Dpkg => "dpkg",
        Database::Apk => "apk",
        Database::Rpm => "rpm",
    };
    format!("{database} {} {} {}", package.name, package.version, package.arch).trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_comes_back_and_tells_what_moved() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.toml");
        assert!(Lock::read(&file).unwrap().is_none());
        let pin = |name: &str| Pin::new(name, Digest::of(name));
        let locked = Locked {
            source: pin("s"),
            kernel: pin("k"),
            packages: vec!["dpkg curl 1 amd64".into(), "dpkg old 1 all".into()],
            step: vec![pin("step 1")],
        };
        let mut lock = Lock::empty();
        lock.set(Arch::X86_64, locked.clone());
        let path = lock.write(&file).unwrap();
        assert_eq!(path, directory.path().join("a.lock"));
        let (read, digest) = Lock::read(&file).unwrap().unwrap();
        assert_eq!((&read, digest), (&lock, Digest::of(std::fs::read(&path).unwrap())));
        let now = Locked {
            source: Pin::new("s", Digest::of("t")),
            packages: vec!["dpkg curl 2 amd64".into(), "dpkg new 1 all".into()],
            ..locked.clone()
        };
        let lines = locked.differences(&now);
        assert!(lines[0].starts_with("source s: "), "{lines:?}");
        let moved = ["package curl: 1 -> 2", "package old: 1 -> gone", "package new: new, 1"];
        assert_eq!(lines[1..], moved);
        std::fs::write(&path, "version = 2\n").unwrap();
        assert!(Lock::read(&file).is_err());
        std::fs::write(&path, "version = 1\nx = 3\n").unwrap();
        assert!(Lock::read(&file).is_err());
    }
}
