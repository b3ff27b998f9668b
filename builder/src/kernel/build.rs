//! Compiles a kernel: sources out of their archive, a configuration that came out as asked for,
//! the files to boot, all in one directory that is removed at the end.
//!
//! The result depends on the sources, the configuration and the tools, and on nothing else: time,
//! user and host are fixed, paths are mapped away, and none of our environment is passed on but
//! where programs are found and where ccache keeps its files. ccache is not told to make paths
//! relative: what it then compiles has other file names in it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use bundle::Arch;
use imgrun::{Class, Progress, Tool, Unit, tool};

use super::fragment::Request;
use super::toolchain::{self, Toolchain};
use super::tree::{Part, Tree};
use crate::{Error, Result};

/// Compiling about 1,400 files.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(4 * 3600);
/// Everything else.
const STEP_TIME_MAX: Duration = Duration::from_secs(600);
/// Of our environment these are passed on.
const ENVIRONMENT: &[&str] = &["PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "CCACHE_DIR"];

/// A change of the sources.
#[derive(Clone, Debug)]
pub(super) struct Patch {
    /// Its file's name.
    pub(super) name: String,
    pub(super) text: String,
}

/// What is to be compiled, and where.
#[derive(Debug)]
pub(super) struct Build<'a> {
    pub(super) arch: Arch,
    /// The sources, as people say it.
    pub(super) title: String,
    /// As `make kernelversion` must say it.
    pub(super) version: &'a str,
    pub(super) request: &'a Request,
    pub(super) patches: &'a [Patch],
    pub(super) toolchain: &'a Toolchain,
    /// Empty, and nobody else's.
    pub(super) dir: PathBuf,
    /// Where all that make says goes.
    pub(super) log: PathBuf,
    /// How many files an earlier build compiled.
    pub(super) objects: Option<u64>,
}

/// What a build leaves.
#[derive(Debug)]
pub(super) struct Built {
    /// What boots: names in the bundle, in its order, and files in the build's directory.
    pub(super) boot: Vec<(&'static str, PathBuf)>,
    /// Its `.config`.
    pub(super) config: String,
    /// How many files were compiled.
    pub(super) objects: u64,
}

/// As the kernel's makefiles call it.
fn kernel_arch(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64",
        Arch::Aarch64 => "arm64",
    }
}

/// What `make` is to make, and where it puts it below its output directory.
fn image(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::X86_64 => ("bzImage", "arch/x86/boot/bzImage"),
        Arch::Aarch64 => ("Image", "arch/arm64/boot/Image"),
    }
}

impl Build<'_> {
    /// Does it all. `source` is a `.tar.xz` that was verified.
    ///
    /// # Errors
    /// [`Class::Input`](crate::Class::Input) where an option did not come out or the sources are
    /// of another version, [`Class::Host`](crate::Class::Host) where a program fails.
    pub(super) fn run(&self, source: &Path, progress: &Progress) -> Result<Built> {
        let tree = self.prepare(source, progress)?;
        let config = self.configure(&tree, progress)?;
        tree.complete(source, &config, &self.title, progress)?;
        let objects = self.compile(&tree, progress)?;
        let boot = self.boot_files()?;
        Ok(Built { boot, config, objects })
    }

    /// Only the configuration.
    ///
    /// # Errors
    /// As [`Build::run`].
    pub(super) fn configuration(&self, source: &Path, progress: &Progress) -> Result<String> {
        let tree = self.prepare(source, progress)?;
        self.configure(&tree, progress)
    }

    /// The sources, ready to be configured.
    pub(super) fn prepare(&self, source: &Path, progress: &Progress) -> Result<Tree> {
        let tree = self.unpack(source, progress)?;
        self.check_version(&tree)?;
        Ok(tree)
    }

    fn unpack(&self, source: &Path, progress: &Progress) -> Result<Tree> {
        let build = self.dir.join("build");
        fs::create_dir(&build).map_err(|e| Error::io(build.display(), e))?;
        let part = match self.patches {
            [] => Part::Core(self.arch),
            _ => Part::All,
        };
        let tree = Tree::unpack(source, part, &self.dir.join("source"), &self.title, progress)?;
        for Patch { name, text } in self.patches {
            let file = self.dir.join("patch");
            fs::write(&file, text).map_err(|e| Error::io(file.display(), e))?;
            tree.patch(name, &file)?;
        }
        Ok(tree)
    }

    /// What make made, as the bundle is to hold it: on x86_64 also an uncompressed and stripped
    /// `vmlinux`, which a PVH boot starts without unpacking anything.
    fn boot_files(&self) -> Result<Vec<(&'static str, PathBuf)>> {
        let build = self.dir.join("build");
        let (name, path) = image(self.arch);
        let mut files = vec![(name, build.join(path))];
        if self.arch == Arch::X86_64 {
            let stripped = self.dir.join("vmlinux");
            Tool::new(format!("{}strip", self.toolchain.prefix))
                .arg("-o")
                .args([&stripped, &build.join("vmlinux")])
                .timeout(STEP_TIME_MAX)
                .run()?;
            files.insert(0, ("vmlinux", stripped));
        }
        Ok(files)
    }

    fn check_version(&self, tree: &Tree) -> Result<()> {
        let output =
            self.make(tree, "kernelversion")?.arg("--silent").timeout(STEP_TIME_MAX).run()?;
        let found = String::from_utf8_lossy(&output.stdout).trim().to_string();
        if found == self.version {
            return Ok(());
        }
        let wanted = self.version;
        Err(Error::input(format!(
            "these are the sources of kernel {found}, the configuration says {wanted}"
        )))
    }

    /// Everything that a person is asked about is off unless a fragment says otherwise; what
    /// remains is what the architecture itself or a chosen option selects.
    pub(super) fn configure(&self, tree: &Tree, progress: &Progress) -> Result<String> {
        let stage = progress.stage("configure", Unit::Items, None);
        let config = self.all_no_config(tree, &self.request.merged())?;
        self.request.check(&config)?;
        toolchain::check_compressor(&config)?;
        stage.finish(format!("{} options as asked for", self.request.len()));
        Ok(config)
    }

    /// What Kconfig makes of the options `requested`.
    pub(super) fn all_no_config(&self, tree: &Tree, requested: &str) -> Result<String> {
        let file = self.dir.join("requested.config");
        fs::write(&file, requested).map_err(|e| Error::io(file.display(), e))?;
        let mut all_config = std::ffi::OsString::from("KCONFIG_ALLCONFIG=");
        all_config.push(&file);
        self.make(tree, "allnoconfig")?.arg(all_config).timeout(STEP_TIME_MAX).run()?;
        let path = self.config_path();
        fs::read_to_string(&path).map_err(|e| Error::io(path.display(), e))
    }

    /// Where Kconfig keeps its result.
    pub(super) fn config_path(&self) -> PathBuf {
        self.dir.join("build/.config")
    }

    fn compile(&self, tree: &Tree, progress: &Progress) -> Result<u64> {
        let log = File::create(&self.log).map_err(|e| Error::io(self.log.display(), e))?;
        let (log, objects) = (Mutex::new(log), Mutex::new(0));
        let stage = progress.stage("compile", Unit::Items, self.objects);
        let keep = |line: &str| {
            // A log that can not be written is no reason to fail.
            let _ = writeln!(log.lock().unwrap_or_else(|p| p.into_inner()), "{line}");
        };
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let ccache = if tool::find("ccache").is_some() { "ccache " } else { "" };
        self.make(tree, image(self.arch).0)?
            .arg(format!("-j{jobs}"))
            .arg(format!("CC={ccache}{}gcc", self.toolchain.prefix))
            .timeout(COMPILE_TIME_MAX)
            .on_stderr_line(keep)
            .on_stdout_line(|line| {
                keep(line);
                if line.starts_with("  CC ") || line.starts_with("  AS ") {
                    *objects.lock().unwrap_or_else(|p| p.into_inner()) += 1;
                    stage.add(1);
                }
            })
            .run()
            .map_err(|e| self.with_log(e))?;
        let objects = objects.into_inner().unwrap_or_else(|p| p.into_inner());
        stage.finish(format!("{objects} files"));
        Ok(objects)
    }

    /// The log stays where it can tell something.
    fn with_log(&self, error: Error) -> Error {
        if error.class() == Class::Interrupted {
            let _ = fs::remove_file(&self.log);
            return error;
        }
        error.hint(format!("the whole log is {}", self.log.display()))
    }

    /// `make` as every step calls it.
    pub(super) fn make(&self, tree: &Tree, target: &str) -> Result<Tool<'static>> {
        let (source, build) = (&tree.dir, &self.dir.join("build"));
        let maps = [(source, "."), (build, ".")]
            .map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()));
        let (epoch, timestamp) = (tree.epoch.to_string(), timestamp(tree.epoch)?);
        Ok(Tool::new("make")
            .only_env(ENVIRONMENT)
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("SOURCE_DATE_EPOCH", epoch)
            .env("KBUILD_BUILD_TIMESTAMP", timestamp)
            .env("KBUILD_BUILD_USER", "imgtool")
            .env("KBUILD_BUILD_HOST", "imgtool")
            .env("KBUILD_BUILD_VERSION", "1")
            .dir(source)
            .arg(format!("O={}", build.display()))
            .arg(format!("ARCH={}", kernel_arch(self.arch)))
            .arg(format!("CROSS_COMPILE={}", self.toolchain.prefix))
            .arg(format!("KCFLAGS={}", maps.join(" ")))
            .arg(format!("KAFLAGS={}", maps.join(" ")))
            // No "+" for sources that are not in git, nothing from files or the environment.
            .arg("LOCALVERSION=")
            // Kconfig asks for these and writes their versions down; the kernel is not built
            // with them.
            .args(["PAHOLE=none", "RUSTC=none", "BINDGEN=none"])
            .arg(target))
    }
}

/// The time that the kernel says it was built at, as `uname -v` shows it.
fn timestamp(epoch: i64) -> Result<String> {
    let output = Tool::new("date")
        .args(["-u", "-d", &format!("@{epoch}"), "+%a %b %e %H:%M:%S UTC %Y"])
        .env("LC_ALL", "C")
        .run()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}
