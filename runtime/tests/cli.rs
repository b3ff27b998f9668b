//! The built program against files that are wrong: an error of one line, and nothing left behind.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use bundle::{
    Arch, Blob, Boot, Content, Digest, Init, Kind, Manifest, Packing, ROOTFS, Reference, SBOM,
    SCHEMA, pack,
};

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
        command.env("XDG_CONFIG_HOME", self.path("config")).env_remove("IMGRUN_CATALOGS");
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
            files: vec![],
            frames: Blob::of([]),
            boot: Some(Boot { init: Init::Agent, cmdline: vec![], config: None }),
            kernel: Some(Reference {
                name: "k".parse().unwrap(),
                version: "6.1".parse().unwrap(),
                digest: Digest::of(b"k"),
            }),
            agent: None,
            sources: vec![],
            recipe: Digest::of(b"r"),
            lock: None,
            packages: vec![],
            tool: "test".into(),
            tests: Vec::new(),
        };
        let files = [(ROOTFS, &content[..]), (SBOM, b"{}\n")];
        let files = files.map(|(name, file)| Content::new(name, file, file.len() as u64));
        let packing = Packing { level: 1, average_bytes: 64 << 10, threads: 1 };
        let out = Cursor::new(Vec::new());
        let (out, _) = pack(manifest, files.into(), out, &packing, |_| {}).unwrap();
        out.into_inner()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> &Path {
        fs::write(self.path(name), bytes).unwrap();
        self.dir.path()
    }
}

#[test]
fn a_machine_that_can_not_be_read_keeps_nobody_from_the_others() {
    let world = World::new();
    let machine = world.path("home/kept/bad");
    fs::create_dir_all(&machine).unwrap();
    fs::write(machine.join("lock"), b"").unwrap();
    fs::write(machine.join("machine.json"), b"{").unwrap();
    assert_eq!(world.imgrun(&["list"]).status.code(), Some(0));
    let ps = world.imgrun(&["ps", "--all"]);
    let noted = String::from_utf8(ps.stderr).unwrap();
    assert_eq!(ps.status.code(), Some(0), "{noted}");
    assert!(noted.contains("bad/machine.json") && noted.contains("imgrun rm bad"), "{noted}");
    // What it needs is not known.
    world.fails(&["gc"], 3, "bad/machine.json");
    assert_eq!(world.imgrun(&["rm", "bad"]).stdout, b"bad\n");
    assert!(!machine.exists());
    assert_eq!(world.imgrun(&["gc"]).status.code(), Some(0));
}

#[test]
fn an_error_can_not_act_on_a_terminal() {
    let stderr = World::new().imgrun(&["import", "\x1b[31mred"]).stderr;
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(
        stderr.starts_with("imgrun: \u{fffd}[31mred: ") && stderr.ends_with('\n'),
        "{stderr:?}"
    );
    assert!(!stderr.contains('\x1b'), "{stderr:?}");
}

#[test]
fn a_bundle_comes_in_once_and_goes() {
    let world = World::new();
    world.write("z.tar.zst", &world.image(Arch::host()));
    let first = world.imgrun(&["import", "z.tar.zst"]);
    assert!(first.status.success());
    let root = fs::read_dir(world.path("home/bundles")).unwrap().next().unwrap().unwrap();
    for dir in ["bundles", "staging", "machines"] {
        let mode = fs::metadata(world.path("home").join(dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{dir}");
    }
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

/// The store is named by another path than that in the machine's file, as after a move, and the
/// machine is made when it is settled already what is to go.
#[test]
fn what_a_machine_names_stays() {
    let world = World::new();
    let store = imgrun::Store::open(world.path("home")).unwrap();
    let (progress, cancel) = (imgrun::Progress::silent(), imgrun::Cancel::new());
    let file = world.path("image");
    fs::write(&file, world.image(Arch::X86_64)).unwrap();
    let image = store.import(&file, &progress, &cancel).unwrap().bundle;
    for (name, image_digest, kernel) in [
        ("boots", image.digest.to_string(), "k/vmlinux".into()),
        ("calls", Digest::of(b"x").to_string(), format!("old/bundles/{}/k", image.digest.hex())),
    ] {
        let garbage = store.garbage(0, &progress).unwrap();
        assert_eq!(garbage.bundles.len(), 1);
        let machine = world.path("home/kept").join(name);
        fs::create_dir_all(&machine).unwrap();
        let intent = serde_json::json!({
            "schema": 1, "image": image_digest, "image_title": "i", "kernel": kernel,
            "kernel_title": "k", "accel": "tcg", "cpus": 1, "memory_mib": 64, "upper_bytes": 1,
            "hostname": null, "network": "none", "command": null, "remove": false,
            "created_unix_s": 0,
        });
        fs::write(machine.join("machine.json"), intent.to_string()).unwrap();
        assert_eq!(store.collect(garbage).unwrap().bundles.len(), 0, "{name}");
        assert_eq!(store.garbage(0, &progress).unwrap().bundles.len(), 0, "{name}");
        fs::remove_dir_all(&machine).unwrap();
    }
    assert_eq!(store.collect(store.garbage(0, &progress).unwrap()).unwrap().bundles.len(), 1);
}

#[test]
fn a_kernels_directory_becomes_a_bundle() {
    let world = World::new();
    fs::create_dir(world.path("k")).unwrap();
    world.fails(&["import", "k", "--name", "k", "--version", "6.1"], 3, "there is no ");
    let kernel = Arch::host().kernel_file();
    world.write(&format!("k/{kernel}-6.1"), b"\x7fELF and so on");
    world.write("k/initrd.img-6.1", b"early");
    world.write("k/notes.txt", b"nobody's");
    world.fails(&["import", "k"], 3, "nothing says its name");
    world.fails(&["import", "k", "k", "--name", "k"], 2, "for one kernel's directory");
    world.write("k/metadata.json", br#"{"name": "own", "version": "6.1-me"}"#);
    assert!(world.imgrun(&["import", "k"]).status.success());
    let again = String::from_utf8(world.imgrun(&["import", "k"]).stdout).unwrap();
    assert!(again.starts_with("own:6.1-me sha256:") && again.contains("was there"), "{again}");
    let told = world.imgrun(&["inspect", "own", "--json"]).stdout;
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    let dir = Path::new(told["dir"].as_str().unwrap());
    assert_eq!(fs::read(dir.join("initrd")).unwrap(), b"early");
    assert_eq!(fs::read(dir.join(kernel)).unwrap(), b"\x7fELF and so on");
    assert!(world.imgrun(&["verify"]).status.success());
    world.write("k/initrd.img-6.2", b"another");
    world.fails(&["import", "k"], 3, "several files are called initrd-");
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
    world.fails(&["import", "."], 3, "nothing says its name");
    assert_eq!(world.bundles(), 0);
}

#[test]
fn a_snapshot_that_can_not_be_read_says_what_to_do() {
    let world = World::new();
    assert_eq!(world.imgrun(&["list"]).status.code(), Some(0));
    let snapshot = world.path("home/snapshots/bad");
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("snapshot.json"), b"{}").unwrap();
    // What it needs is not known.
    world.fails(&["gc"], 3, "bad/snapshot.json: damaged");
    let stderr = String::from_utf8(world.imgrun(&["gc"]).stderr).unwrap();
    assert!(stderr.contains("hint: imgrun snapshot rm"), "{stderr}");
    assert_eq!(world.imgrun(&["snapshot", "rm", "bad"]).stdout, b"bad\n");
    assert_eq!(world.imgrun(&["gc"]).status.code(), Some(0));
}

/// A snapshot has all of that already: nothing that is asked for is passed over.
#[test]
fn what_a_snapshot_decides_is_not_asked_for() {
    let world = World::new();
    for (flag, value) in [("--vmm", "qemu"), ("--cpus", "2"), ("--network", "user")] {
        let run = world.imgrun(&["run", "--from", "s", flag, value, "--", "true"]);
        let stderr = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(2), "{flag}: {stderr}");
        assert!(stderr.contains("cannot be used with") && stderr.contains(flag), "{stderr}");
    }
}

#[test]
fn a_run_that_can_not_begin_is_125() {
    let world = World::new();
    world.write("z.tar.zst", &world.image(Arch::host()));
    let other = Arch::ALL.into_iter().find(|a| *a != Arch::host()).unwrap();
    world.write("other.tar.zst", &world.image(other));
    world.fails(&["run", "nothing"], 125, "no bundle named");
    // It would be emulated.
    world.fails(&["run", "other.tar.zst"], 125, &format!("k-6.1-{other}.tar.zst"));
    world.fails(&["run", "./z.tar.zst"], 125, "the kernel of zeros:1, k-6.1-");
    world.write("k-6.1-x86_64.tar.zst", b"another kernel");
    if Arch::host() == Arch::X86_64 {
        world.fails(&["run", "./z.tar.zst"], 125, "k-6.1-x86_64.tar.zst: expected sha256:");
    }
    world.fails(&["run", "--kernel", "z.tar.zst", "zeros:1"], 125, "is not a kernel");
    world.fails(&["run", "-t", "zeros"], 125, "not a terminal");
    // Before anything is looked for, let alone booted.
    world.fails(&["run", "nothing", "--", "echo", &"a".repeat(70_000)], 125, "64 KiB");
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

#[test]
fn a_damaged_bundle_harms_no_other_and_can_be_removed() {
    let world = World::new();
    world.write("z.tar.zst", &world.image(Arch::host()));
    assert!(world.imgrun(&["import", "z.tar.zst"]).status.success());
    let dir = |digit: &str| world.path("home/bundles").join(digit.repeat(64));
    fs::create_dir(dir("a")).unwrap();
    fs::create_dir(dir("b")).unwrap();
    fs::write(dir("b").join("manifest.json"), b"{").unwrap();
    let list = world.imgrun(&["list", "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 1);
    let notes = String::from_utf8(list.stderr).unwrap();
    assert_eq!(notes.matches("left out: ").count(), 2, "{notes}");
    assert!(notes.contains(&format!("imgrun rm {}", "a".repeat(64))), "{notes}");
    for digit in ["a", "b"] {
        assert!(world.imgrun(&["rm", &digit.repeat(12)]).status.success());
        assert!(!dir(digit).exists());
    }
    assert!(world.imgrun(&["rm", "zeros"]).status.success());
}

/// Starts an import that takes many seconds, in a shell that has said `before`.
fn long_import(world: &World, before: &str) -> std::process::Child {
    let file = fs::File::create(world.path("long.tar.zst")).unwrap();
    file.set_len(1 << 40).unwrap();
    let script = format!("{before}; exec {} import long.tar.zst", env!("CARGO_BIN_EXE_imgrun"));
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("IMGRUN_HOME", world.path("home"));
    let child = command.current_dir(world.dir.path()).stderr(Stdio::null()).spawn().unwrap();
    // Once the store is there, so are the signal handlers.
    let began = Instant::now();
    while !world.path("home/machines").exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn send(child: &std::process::Child, signal: &str) {
    assert!(
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success()
    );
}

#[test]
fn a_signal_ends_an_import_unless_it_is_ignored() {
    let world = World::new();
    let mut child = long_import(&world, "trap '' HUP INT");
    send(&child, "-HUP");
    send(&child, "-INT");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(child.try_wait().unwrap(), None, "an ignored signal ended it");
    send(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let world = World::new();
    let mut child = long_import(&world, "trap - HUP INT");
    send(&child, "-HUP");
    assert_eq!(child.wait().unwrap().code(), Some(129));
}
