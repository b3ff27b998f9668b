//! The built program against files that are wrong: an error of one line, and nothing left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bundle::{Arch, Boot, Digest, FileEntry, Init, Kind, Manifest, Reference, SCHEMA, pack};

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        World { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn imgrun(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgrun"));
        command.args(args).env("IMGRUN_HOME", self.path("home")).current_dir(self.dir.path());
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs it, expects this exit code and these words in a last line (before the hint).
    fn fails(&self, args: &[&str], code: i32, words: &str) {
        let output = self.imgrun(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        let errors: Vec<_> = stderr.lines().filter(|l| l.starts_with("imgrun: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(words), "{args:?}: {stderr}");
        for parent in ["staging", "machines"] {
            let left = fs::read_dir(self.path("home").join(parent)).unwrap().count();
            assert_eq!(left, 0, "{args:?} left something in {parent}");
        }
    }

    fn bundles(&self) -> usize {
        fs::read_dir(self.path("home/bundles")).unwrap().count()
    }

    /// Packs an image of zeros and data; returns the packed bytes.
    fn image(&self, arch: Arch) -> Vec<u8> {
        let mut content = vec![0; 1 << 20];
        content[300_000..300_010].fill(7);
        let manifest = Manifest {
            schema: SCHEMA,
            kind: Kind::Image,
            name: "zeros".parse().unwrap(),
            version: "1".parse().unwrap(),
            arch,
            files: vec![FileEntry {
                name: "rootfs.ext4".into(),
                digest: Digest::of(&content),
                size: content.len() as u64,
            }],
            boot: Some(Boot { init: Init::Agent, cmdline: vec![] }),
            kernel: Some(Reference {
                name: "k".parse().unwrap(),
                version: "6.1".parse().unwrap(),
                digest: Digest::of(b"k"),
            }),
            agent: None,
            sources: vec![],
            recipe: Digest::of(b"r"),
            tool: "test".into(),
        };
        pack(&manifest, [&content[..]], Vec::new(), 1, 1, |_| {}).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> &Path {
        fs::write(self.path(name), bytes).unwrap();
        self.dir.path()
    }
}

#[test]
fn a_bundle_comes_in_once_and_goes() {
    let world = World::new();
    world.write("z.tar.zst", &world.image(Arch::host()));
    let first = world.imgrun(&["import", "z.tar.zst"]);
    assert!(first.status.success());
    let root = fs::read_dir(world.path("home/bundles")).unwrap().next().unwrap().unwrap();
    let content = fs::read(root.path().join("rootfs.ext4")).unwrap();
    assert_eq!((content.len(), content[300_000]), (1 << 20, 7));
    let again = String::from_utf8(world.imgrun(&["import", "z.tar.zst"]).stdout).unwrap();
    assert!(again.contains("(was there)"), "{again}");
    let list = world.imgrun(&["list", "--json"]).stdout;
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list[0]["name"], "zeros");
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert!(world.imgrun(&["rm", "zeros:1"]).status.success());
    assert_eq!(world.bundles(), 0);
    world.fails(&["rm", "zeros"], 3, "no bundle named \"zeros\"");
}

#[test]
fn what_is_not_a_whole_bundle_leaves_nothing() {
    let world = World::new();
    let good = world.image(Arch::host());
    world.write("rubbish", b"rubbish");
    world.write("empty", b"");
    world.write("cut", &good[..good.len() - 20]);
    let mut longer = good.clone();
    longer.extend_from_slice(&good);
    world.write("longer", &longer);
    for bad in ["rubbish", "empty", "cut", "longer"] {
        world.fails(&["import", bad], 3, "not a valid bundle");
    }
    world.fails(&["import", "missing"], 3, "missing: No such file");
    world.fails(&["import", "."], 3, "not a regular file");
    assert_eq!(world.bundles(), 0);
}

#[test]
fn a_run_that_can_not_begin_is_125() {
    let world = World::new();
    world.write("z.tar.zst", &world.image(Arch::host()));
    let other = Arch::ALL.into_iter().find(|a| *a != Arch::host()).unwrap();
    world.write("other.tar.zst", &world.image(other));
    world.fails(&["run", "nothing"], 125, "no bundle named");
    world.fails(&["run", "other.tar.zst"], 125, "do not run on");
    world.fails(&["run", "./z.tar.zst"], 125, "the kernel of zeros:1, k-6.1-");
    world.write("k-6.1-x86_64.tar.zst", b"another kernel");
    if Arch::host() == Arch::X86_64 {
        world.fails(&["run", "./z.tar.zst"], 125, "k-6.1-x86_64.tar.zst: expected sha256:");
    }
    world.fails(&["run", "--kernel", "z.tar.zst", "zeros:1"], 125, "is not a kernel");
    world.fails(&["run", "-t", "zeros"], 125, "not a terminal");
    let json = world.imgrun(&["run", "--json", "nothing"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&json["code"], &json["error"]["class"]), (&125.into(), &"input".into()));
}

#[test]
fn what_the_killed_left_is_swept() {
    let world = World::new();
    for parent in ["staging", "machines"] {
        let dead = world.path("home").join(parent).join("imgrun-Dead00000000");
        fs::create_dir_all(&dead).unwrap();
        fs::write(dead.join("upper.ext4"), b"x").unwrap();
    }
    assert!(world.imgrun(&["list"]).status.success());
    for parent in ["staging", "machines"] {
        assert_eq!(fs::read_dir(world.path("home").join(parent)).unwrap().count(), 0);
    }
}

#[test]
fn a_home_that_holds_other_things_keeps_them() {
    let world = World::new();
    for parent in ["staging", "machines"] {
        let theirs = world.path("home").join(parent).join("theirs");
        fs::create_dir_all(&theirs).unwrap();
        fs::write(theirs.join("thesis"), b"x").unwrap();
    }
    assert!(world.imgrun(&["list"]).status.success());
    for parent in ["staging", "machines"] {
        assert!(world.path("home").join(parent).join("theirs/thesis").exists());
    }
}

/// A stopped process may keep a lock for ever.
#[test]
fn nobody_waits_for_a_lock() {
    let world = World::new();
    let mut locks = Vec::new();
    for parent in ["staging", "machines", "bundles"] {
        let parent = world.path("home").join(parent);
        fs::create_dir_all(&parent).unwrap();
        let lock = fs::File::open(parent).unwrap();
        lock.lock().unwrap();
        locks.push(lock);
    }
    world.write("z.tar.zst", &world.image(Arch::host()));
    let mut command = Command::new("timeout");
    command.args(["10", env!("CARGO_BIN_EXE_imgrun"), "import", "z.tar.zst"]);
    command.env("IMGRUN_HOME", world.path("home")).current_dir(world.dir.path());
    assert!(command.status().unwrap().success());
}
