//! A world with machines that have a name.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use imgtool_tests::{Outcome, World, built_kernel};
use serde_json::Value;

use crate::image;

/// A world with the image in it, whose machines end with it.
pub(crate) struct Machines {
    pub(crate) world: World,
}

impl Machines {
    pub(crate) fn new() -> Self {
        let world = World::new();
        for file in [built_kernel("micro-6.1"), image("debian-micro")] {
            world.imgrun(["import", "-q", &file.display().to_string()]).ok();
        }
        Machines { world }
    }

    pub(crate) fn imgrun(&self, line: &str) -> Outcome {
        self.world.imgrun(line.split_whitespace())
    }

    /// Runs a shell's script in a machine.
    pub(crate) fn sh(&self, name: &str, script: &str) -> Outcome {
        self.world.imgrun(["exec", "-q", name, "--", "sh", "-c", script])
    }

    pub(crate) fn ps(&self) -> Vec<Value> {
        let text = self.imgrun("ps -a --json").ok().text();
        serde_json::from_str(&text).expect("JSON")
    }

    /// Processes that have this world's path on their command line: VMMs.
    pub(crate) fn vmms(&self) -> Vec<String> {
        let home = self.world.path("imgrun").display().to_string();
        let found = self.world.run("pgrep", ["-f", &format!("qemu.*{home}")]);
        found.text().lines().map(str::to_string).collect()
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.world.path(format!("imgrun/kept/{name}"))
    }

    /// The supervisor of a machine, if there is one: the machine's lock is its standard input.
    pub(crate) fn supervisor(&self, name: &str) -> Option<String> {
        let lock = self.directory(name).join("lock");
        std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let stdin = std::fs::read_link(entry.path().join("fd/0")).ok()?;
            (stdin == lock).then(|| entry.file_name().to_string_lossy().into_owned())
        })
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let names: Vec<String> = std::fs::read_dir(self.world.path("imgrun/kept"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        for name in names {
            self.imgrun(&format!("rm -f {name}"));
        }
    }
}

/// Waits for `done`.
pub(crate) fn within(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < limit, "{what}: not in {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
