//! What the tests share: the built programs, a directory to play in, and what came of a run.

pub mod registry;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A program that cargo built beside this test.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let path = test.ancestors().nth(2).expect("target/<profile>/deps/").join(name);
    assert!(path.exists(), "{} is not built: run tests/run, or cargo build", path.display());
    path
}

/// The top of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository")
}

/// This machine's kernel of that name, which `tests/run` has built.
pub fn built_kernel(name: &str) -> PathBuf {
    let dir = repository().join("target/images");
    let (start, end) = (format!("{name}-"), format!("-{}.tar.zst", std::env::consts::ARCH));
    let is_wanted = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.starts_with(&start) && file.ends_with(&end)
    };
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut found = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_wanted);
    found.next().unwrap_or_else(|| panic!("{name} is not built: run tests/run"))
}

/// Where imgtool keeps what it has made, as its own rules say.
pub fn cache_directory() -> String {
    let variable = |name| std::env::var(name).ok();
    variable("IMGTOOL_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|d| format!("{d}/imgtool")))
        .unwrap_or_else(|| format!("{}/.cache/imgtool", variable("HOME").expect("HOME")))
}

/// Copies the finished kernels of one cache to another's `to`; what is being built stays.
pub fn copy_kernels(world: &World, from: &str, to: &str) {
    let find = "mkdir -p \"$2\" && find \"$1\" -maxdepth 1 -regextype posix-extended \
                -regex '.*/[0-9a-f]{64}' -exec cp -r -t \"$2\" {} +";
    world.run("sh", ["-c", find, "copy", from, to]).ok();
}

/// A directory of its own for one test, and the programs run in it.
pub struct World {
    directory: TempDir,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, as text.
    pub stderr: String,
    /// What was run.
    pub command: String,
}

impl World {
    /// An empty world.
    pub fn new() -> Self {
        World { directory: TempDir::new().expect("a temporary directory") }
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// Runs `imgtool`.
    pub fn imgtool<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        self.run(program("imgtool"), args)
    }

    /// Runs `imgrun`, with a store of this world's own.
    pub fn imgrun<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        let mut command = self.command(program("imgrun"));
        command.args(args);
        finish(command)
    }

    /// Runs any program here.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Outcome {
        let mut command = self.command(program);
        command.args(args);
        finish(command)
    }

    /// A program to run here, not started yet.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .current_dir(self.directory.path())
            .env("IMGRUN_HOME", self.path("imgrun"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env_remove("IMGRUN_CATALOGS")
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .stdin(Stdio::null());
        command
    }

    /// One of our programs to run here, as a terminal would start it: no signal is ignored, whatever
    /// this test was started with.
    pub fn interruptible(&self, name: &str) -> Command {
        let mut command = self.command("env");
        command.arg("--default-signal").arg(program(name));
        command
    }

    /// Every file below `name`, hidden ones too, as relative paths.
    pub fn files(&self, name: &str) -> Vec<String> {
        let root = self.path(name);
        let mut files = Vec::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    directories.push(entry.path());
                } else {
                    let path = entry.path();
                    let inside = path.strip_prefix(&root).unwrap_or(&path);
                    files.push(inside.display().to_string());
                }
            }
        }
        files.sort();
        files
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `command` to its end.
pub fn finish(mut command: Command) -> Outcome {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    Outcome {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        command: format!("{command:?}"),
    }
}

impl Outcome {
    /// Standard output as text, without the last newline.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_string()
    }

    /// Fails with everything there is to see unless it ended with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Fails unless it ended with `code` and one error line that has `words` in it.
    #[track_caller]
    pub fn fails(self, code: i32, words: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let error = self.stderr.lines().find(|l| l.starts_with("img") && l.contains(": "));
        assert!(error.is_some_and(|l| l.contains(words)), "no {words:?} in {self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }
}
