//! A kernel's source tree: what of an archive is unpacked, and when.
//!
//! An archive has 84,000 files and 1.3 GB, most of which no build of ours reads. Makefiles and
//! Kconfig files are always unpacked, so the configuration comes out as with all of it. Of the rest
//! these are left out: what never goes into a kernel for this architecture ([`UNUSED`], other
//! architectures), and large families of drivers ([`FAMILIES`]) until the configuration is known
//! to use none of them. A file that is missed nevertheless stops `make` with its name: nothing is
//! ever silently built without it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufReader, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use bundle::Arch;
use imgrun::{Progress, Tool, Unit, interrupt};

use crate::{Error, Result};

/// Unpacking 1.3 GB.
const UNPACK_TIME_MAX: Duration = Duration::from_secs(1800);
/// One patch.
const PATCH_TIME_MAX: Duration = Duration::from_secs(60);
/// A Kconfig file is at most this long.
const KCONFIG_BYTES_MAX: u64 = 1 << 20;
const READ_BYTES: usize = 1 << 20;

/// Files that are never left out, by how their names begin.
const ALWAYS: &[&str] = &["Kconfig", "Makefile", "Kbuild"];
/// What no kernel is made of.
const UNUSED: &[&str] = &["Documentation", "tools/perf", "tools/testing", "tools/power"];
/// Families of drivers that a virtual machine seldom has: half of all bytes. Their options are
/// defined in the Kconfig files below them.
const FAMILIES: &[&str] = &[
    "drivers/gpu",
    "drivers/infiniband",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/staging",
    "sound",
];

/// What of `arch/` a kernel for `arch` is made of.
fn arch_parts(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86_64 => &["arch/x86"],
        // Xen's files and a program of the 32-bit vDSO are shared with arm; the list of system
        // calls is compared with that of x86.
        Arch::Aarch64 => &[
            "arch/arm64",
            "arch/arm/xen",
            "arch/arm/vdso",
            "arch/arm/include",
            "arch/x86/entry/syscalls",
        ],
    }
}

/// Which files of an archive are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of them: a patch may touch any.
    All,
    /// Those that every kernel for an architecture may need.
    Core(Arch),
    /// Some of [`FAMILIES`].
    Families(Vec<&'static str>),
}

impl Part {
    /// Whether it has the file `path`, which is relative to the top of the tree.
    fn has(&self, path: &Path) -> bool {
        let below = |dirs: &[&str]| dirs.iter().any(|dir| path.starts_with(dir));
        match self {
            Part::All => true,
            Part::Families(dirs) => below(dirs),
            Part::Core(arch) => {
                let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
                let elsewhere = path.starts_with("arch")
                    && path.components().count() > 2
                    && !below(arch_parts(*arch));
                ALWAYS.iter().any(|prefix| name.starts_with(prefix))
                    || !(below(UNUSED) || below(FAMILIES) || elsewhere)
            }
        }
    }
}

/// An unpacked source tree.
#[derive(Debug)]
pub(super) struct Tree {
    /// Its top.
    pub(super) dir: PathBuf,
    /// The time of its topmost makefile, in seconds since 1970: that of the sources.
    pub(super) epoch: i64,
}

impl Tree {
    /// Unpacks `part` of `archive`, a verified `.tar.xz` with one directory in it, into the new
    /// directory `dir`. `title` is what people call it.
    ///
    /// # Errors
    /// [`Class::Input`](crate::Class::Input) where it is no such archive.
    pub(super) fn unpack(
        archive: &Path,
        part: Part,
        dir: &Path,
        title: &str,
        progress: &Progress,
    ) -> Result<Tree> {
        fs::create_dir(dir).map_err(|e| Error::io(dir.display(), e))?;
        add(archive, part, dir, title, progress)?;
        let makefile = dir.join("Makefile");
        let found = fs::metadata(&makefile).map_err(|_| {
            let archive = archive.display();
            Error::input(format!("{archive} holds no kernel: it has no Makefile at its top"))
        })?;
        Ok(Tree { dir: dir.to_path_buf(), epoch: found.mtime() })
    }

    /// Applies `patch`, which is called `name`. It must fit exactly.
    ///
    /// # Errors
    /// [`Class::Input`](crate::Class::Input) where it does not.
    pub(super) fn patch(&self, name: &str, patch: &Path) -> Result<()> {
        Tool::new("patch")
            .args(["--strip=1", "--forward", "--batch", "--fuzz=0", "--no-backup-if-mismatch"])
            .arg("--input")
            .arg(patch)
            .dir(&self.dir)
            .env("LC_ALL", "C")
            .timeout(PATCH_TIME_MAX)
            .fails_as(crate::Class::Input)
            .run()
            .map_err(|e| e.within(format!("patch {name} does not apply")))?;
        Ok(())
    }

    /// Adds the families of drivers that were left out although `config` uses some of them.
    ///
    /// # Errors
    /// As [`Tree::unpack`].
    pub(super) fn complete(
        &self,
        archive: &Path,
        config: &str,
        title: &str,
        progress: &Progress,
    ) -> Result<()> {
        let enabled: BTreeSet<&str> = config
            .lines()
            .filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('='))
            .map(|(name, _)| name)
            .collect();
        let mut used = Vec::new();
        for family in FAMILIES {
            if defines(&self.dir.join(family), &enabled)? {
                used.push(*family);
            }
        }
        match used.is_empty() {
            true => Ok(()),
            false => add(archive, Part::Families(used), &self.dir, title, progress),
        }
    }
}

/// Whether a Kconfig file below `dir` defines one of `options`.
fn defines(dir: &Path, options: &BTreeSet<&str>) -> Result<bool> {
    let failed = |e| Error::io(dir.display(), e);
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_type().map_err(failed)?.is_dir() {
            if defines(&path, options)? {
                return Ok(true);
            }
        } else if entry.file_name().to_string_lossy().starts_with("Kconfig") {
            let mut text = Vec::new();
            let file = fs::File::open(&path).map_err(failed)?;
            file.take(KCONFIG_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
            if String::from_utf8_lossy(&text)
                .lines()
                .filter_map(defined)
                .any(|o| options.contains(o))
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The option that a line of a Kconfig file defines.
fn defined(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    matches!(words.next()?, "config" | "menuconfig").then_some(words.next()?)
}

fn add(archive: &Path, part: Part, dir: &Path, title: &str, progress: &Progress) -> Result<()> {
    let what = match &part {
        Part::Families(dirs) => format!("unpack {} of {title}", dirs.join(", ")),
        Part::All | Part::Core(_) => format!("unpack {title}"),
    };
    let stage = progress.stage(what, Unit::Items, None);
    let mut files = 0;
    Tool::new("xz")
        // Several threads where the archive was made in several blocks.
        .args(["--decompress", "--stdout", "--threads=0"])
        .arg(archive)
        .timeout(UNPACK_TIME_MAX)
        .fails_as(crate::Class::Input)
        .stream(|tar| {
            let broken = |e| Error::io(archive.display(), e);
            let mut tar = tar::Archive::new(BufReader::with_capacity(READ_BYTES, tar));
            for entry in tar.entries().map_err(broken)? {
                interrupt::check()?;
                let mut entry = entry.map_err(broken)?;
                let path = below_top(&entry.path().map_err(broken)?);
                let Some(path) = path.filter(|path| part.has(path)) else { continue };
                put(&mut entry, &dir.join(&path)).map_err(|e| {
                    Error::io(format!("{}: {}", archive.display(), path.display()), e)
                })?;
                files += 1;
                stage.add(1);
            }
            Ok(())
        })?;
    stage.finish(format!("{files} files"));
    Ok(())
}

/// A member's path below the archive's one directory; `None` for that itself, for paths that leave
/// it, and for what is no member of a tree (global headers).
fn below_top(path: &Path) -> Option<PathBuf> {
    let mut parts = path.components().filter(|part| *part != Component::CurDir);
    parts.next()?;
    let rest: PathBuf = parts.clone().collect();
    let plain = parts.all(|part| matches!(part, Component::Normal(_)));
    (plain && !rest.as_os_str().is_empty()).then_some(rest)
}

/// Unpacks one file, directory or link with its mode and time; other kinds are skipped. The
/// sources were verified: their links are trusted.
fn put(entry: &mut tar::Entry<'_, impl Read>, path: &Path) -> std::io::Result<()> {
    let kind = entry.header().entry_type();
    if kind.is_dir() {
        return fs::create_dir_all(path);
    }
    if !(kind.is_file() || kind.is_symlink()) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    entry.unpack(path).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_may_need_is_unpacked() {
        let core = |arch: Arch, path: &str| Part::Core(arch).has(Path::new(path));
        let both = |path: &str| {
            let (x86, arm) = (core(Arch::X86_64, path), core(Arch::Aarch64, path));
            assert_eq!(x86, arm, "{path}");
            x86
        };
        for path in [
            "Makefile",
            "arch/Kconfig",
            "arch/x86/entry/syscalls/syscall_32.tbl",
            "arch/mips/Kconfig",
            "Documentation/Kconfig",
            "sound/soc/Makefile",
            "include/sound/core.h",
            "drivers/net/virtio_net.c",
            "drivers/gpu/drm/amd/Kconfig.debug",
            "tools/objtool/check.c",
        ] {
            assert!(both(path), "{path}");
        }
        for path in [
            "Documentation/a.rst",
            "arch/mips/a.c",
            "sound/a.c",
            "drivers/gpu/drm/a.c",
            "tools/perf/a.c",
        ] {
            assert!(!both(path), "{path}");
            assert!(Part::All.has(Path::new(path)));
        }
        assert!(core(Arch::X86_64, "arch/x86/a.c") && !core(Arch::X86_64, "arch/arm/xen/a.c"));
        assert!(core(Arch::Aarch64, "arch/arm64/a.c") && core(Arch::Aarch64, "arch/arm/xen/a.c"));
        assert!(!core(Arch::Aarch64, "arch/x86/a.c") && !core(Arch::Aarch64, "arch/arm/a.c"));
        let family = Part::Families(vec!["sound"]);
        assert!(family.has(Path::new("sound/a.c")) && !family.has(Path::new("soundx/a.c")));
    }

    #[test]
    fn paths_are_below_the_top() {
        let cases = [
            ("linux-6.1/Makefile", Some("Makefile")),
            ("./linux-6.1/a/b", Some("a/b")),
            ("linux-6.1/", None),
            ("linux-6.1/../../etc/passwd", None),
            ("pax_global_header", None),
        ];
        for (path, wanted) in cases {
            assert_eq!(below_top(Path::new(path)).as_deref(), wanted.map(Path::new), "{path}");
        }
        assert_eq!(below_top(Path::new("/etc/passwd")).as_deref(), Some(Path::new("etc/passwd")));
    }

    #[test]
    fn options_are_found_where_they_are_defined() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("deep")).unwrap();
        let text = "menuconfig SOUND\n\tbool\nif SOUND\n\tconfig  SND_X\nendif\n";
        fs::write(dir.path().join("deep/Kconfig.x"), text).unwrap();
        let has = |option| defines(dir.path(), &BTreeSet::from([option])).unwrap();
        assert!(has("SOUND") && has("SND_X"));
        assert!(!has("bool") && !has("SND"));
        assert!(!defines(&dir.path().join("gone"), &BTreeSet::from(["SOUND"])).unwrap());
    }
}
