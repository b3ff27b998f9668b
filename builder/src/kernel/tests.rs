//! The whole line on sources of a few bytes: real tar, xz, make, gcc and strip, a makefile that
//! knows the four targets that we call.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use imgrun::{Class, Event, Tool};

use super::*;

const MAKEFILE: &str = r#"
kernelversion:
	@echo 6.1.2
allnoconfig:
	grep -v CONFIG_GONE $(KCONFIG_ALLCONFIG) > $(O)/.config
bzImage Image:
	@echo "  CC      main.o"
	@test ! -e broken || { echo "main.c:1: it is broken" >&2; exit 1; }
	@sleep $$(cat pause)
	@$(CC) $(KCFLAGS) -DSTAMP="\"$$KBUILD_BUILD_TIMESTAMP $$KBUILD_BUILD_USER$(LOCALVERSION)\"" \
	  -g -nostdlib -static -o $(O)/vmlinux $(CURDIR)/main.c
	@mkdir -p $(O)/arch/x86/boot $(O)/arch/arm64/boot
	@cp $(O)/vmlinux $(O)/arch/x86/boot/bzImage
	@cp $(O)/vmlinux $(O)/arch/arm64/boot/Image
"#;
const MAIN: &str = "const char stamp[] = STAMP __FILE__; void _start(void) {}\n";

/// A directory with sources, a configuration for them and a cache.
struct World(tempfile::TempDir);

impl World {
    fn new(extra: &[(&str, &str)]) -> World {
        let world = World(tempfile::tempdir().unwrap());
        let tree = world.path("tree/k-6.1.2");
        fs::create_dir_all(&tree).unwrap();
        fs::create_dir_all(world.path("configs/fragments")).unwrap();
        let files = [("Makefile", MAKEFILE), ("main.c", MAIN), ("pause", "0")];
        for (name, text) in files.iter().chain(extra) {
            fs::write(tree.join(name), text).unwrap();
        }
        Tool::new("tar")
            .args(["--create", "--xz", "--mtime=@1000000000", "--sort=name", "--owner=0"])
            .args(["--group=0", "--mode=0644", "--file", "../configs/k.tar.xz"])
            .args(["k-6.1.2/Makefile", "k-6.1.2/main.c", "k-6.1.2/pause"])
            .args(extra.iter().map(|(name, _)| format!("k-6.1.2/{name}")))
            .dir(world.path("tree"))
            .run()
            .unwrap();
        let digest = Digest::of(fs::read(world.path("configs/k.tar.xz")).unwrap());
        world.write("configs/fragments/base.config", "CONFIG_A=y\n# CONFIG_B is not set\n");
        world.write(
            "configs/k.toml",
            &format!(
                "name = \"k\"\nversion = \"6.1.2\"\n[source]\nfile = \"k.tar.xz\"\n\
                 sha256 = \"{}\"\n[arch.{}]\nfragments = [\"base\"]\n",
                digest.hex(),
                Arch::host()
            ),
        );
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn build(&self) -> Result<BuiltKernel> {
        self.build_saying(&Progress::silent())
    }

    fn build_saying(&self, progress: &Progress) -> Result<BuiltKernel> {
        let cache = Cache::open(&self.path("cache"))?;
        build(&self.path("configs/k.toml"), Arch::host(), false, &cache, progress)
    }

    /// What is in the cache's directory of kernels, but for the lock. What is being removed has half
    /// a minute to go.
    fn left(&self) -> Vec<String> {
        let patience = std::time::Instant::now();
        while !gone(&self.path("cache/kernel")).is_empty() {
            assert!(patience.elapsed() < Duration::from_secs(30), "it is not removed");
            std::thread::sleep(Duration::from_millis(10));
        }
        let entries = fs::read_dir(self.path("cache/kernel")).unwrap().flatten();
        let names = entries.map(|e| e.file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|n| !n.ends_with(".lock")).collect();
        names.sort();
        names
    }

    fn file(&self, suffix: &str) -> String {
        format!("k-{}.{suffix}", Arch::host())
    }
}

#[test]
fn a_kernel_is_built_once_and_found_again() {
    let world = World::new(&[]);
    let kernel = world.build().unwrap();
    let bytes = fs::read(&kernel.bundle_path).unwrap();
    assert_eq!(Digest::of(&bytes), kernel.digest);
    assert_eq!(world.left().len(), 2, "the entry and the count: {:?}", world.left());
    let listed = Tool::new("tar").args(["--zstd", "-tf"]).arg(&kernel.bundle_path).run().unwrap();
    let boot = match Arch::host() {
        Arch::X86_64 => "vmlinux\nbzImage",
        Arch::Aarch64 => "Image",
    };
    let files = format!("manifest.json\n{boot}\nconfig\nbuild.json\n");
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), files);

    // Nothing is built the second time: the sources are not even looked at.
    fs::remove_file(world.path("configs/k.tar.xz")).unwrap();
    assert_eq!(world.build().unwrap(), kernel);

    let copy = kernel.copy_to(&world.path("out/deep")).unwrap();
    assert_eq!(copy.file_name().unwrap(), &*format!("k-6.1.2-{}.tar.zst", Arch::host()));
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o444, 0o444);
    assert_eq!(fs::read(copy).unwrap(), bytes);
}

#[test]
fn the_same_inputs_elsewhere_give_the_same_bytes() {
    let (one, two) = (World::new(&[]), World::new(&[]));
    assert_eq!(one.build().unwrap().digest, two.build().unwrap().digest);
}

#[test]
fn every_input_is_in_the_key() {
    let world = World::new(&[]);
    let first = world.build().unwrap();
    world.write("configs/fragments/base.config", "CONFIG_A=y\nCONFIG_C=y\n");
    let second = world.build().unwrap();
    assert_ne!(first.bundle_path, second.bundle_path);
    assert_ne!(first.digest, second.digest);
}

const PATCH: &str = "--- a/main.c\n+++ b/main.c\n@@ -1 +1 @@\n\
    -const char stamp[] = STAMP __FILE__; void _start(void) {}\n\
    +const char stamp[] = \"patched\"; void _start(void) {}\n";

#[test]
fn patches_are_applied_or_named() {
    let world = World::new(&[]);
    let plain = world.build().unwrap();
    let text = fs::read_to_string(world.path("configs/k.toml")).unwrap();
    world.write("configs/k.toml", &format!("patches = [\"p/one.patch\"]\n{text}"));
    let error = world.build().unwrap_err();
    assert!(error.to_string().contains("configs/p/one.patch: No such file"), "{error}");
    fs::create_dir(world.path("configs/p")).unwrap();
    world.write("configs/p/one.patch", PATCH);
    let patched = world.build().unwrap();
    assert_ne!(patched.bundle_path, plain.bundle_path);
    let unpack = |kernel: &BuiltKernel| {
        let boot = Arch::host().kernel_file();
        let tar = Tool::new("tar").args(["--zstd", "-xOf"]).arg(&kernel.bundle_path);
        String::from_utf8_lossy(&tar.arg(boot).run().unwrap().stdout).into_owned()
    };
    assert!(unpack(&patched).contains("patched") && !unpack(&plain).contains("patched"));

    // A line that is not there: neither fuzz nor a guess.
    world.write("configs/p/one.patch", &PATCH.replace("-const char stamp", "-const char stamps"));
    let error = world.build().unwrap_err();
    assert_eq!(error.class(), Class::Input, "{error}");
    assert!(error.to_string().starts_with("patch one.patch does not apply: "), "{error}");
    assert!(error.to_string().contains("Hunk #1 FAILED"), "{error}");
    assert_eq!(world.left().len(), 3, "two kernels and the count: {:?}", world.left());
}

#[test]
fn damage_in_the_cache_is_repaired() {
    let world = World::new(&[]);
    let kernel = world.build().unwrap();
    fs::write(&kernel.bundle_path, "damaged").unwrap();
    assert_eq!(world.build().unwrap(), kernel);
    assert_eq!(Digest::of(fs::read(&kernel.bundle_path).unwrap()), kernel.digest);
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_left() {
    type Break = fn(&World);
    let cases: [(Break, Class, &str); 5] = [
        (
            |w| w.write("configs/fragments/base.config", "CONFIG_A=y\nCONFIG_GONE=y\n"),
            Class::Input,
            "base.config:2: CONFIG_GONE=y was asked for, but it is not set",
        ),
        (
            |w| w.write("configs/fragments/base.config", "CONFIG_A=\n"),
            Class::Input,
            "base.config:1: a value is",
        ),
        (
            |w| {
                let text = fs::read_to_string(w.path("configs/k.toml")).unwrap();
                w.write("configs/k.toml", &text.replace("6.1.2", "6.1.3"));
            },
            Class::Input,
            "these are the sources of kernel 6.1.2, the configuration says 6.1.3",
        ),
        (
            |w| fs::remove_file(w.path("configs/fragments/base.config")).unwrap(),
            Class::Input,
            "base.config",
        ),
        (
            |w| {
                let mut bytes = fs::read(w.path("configs/k.tar.xz")).unwrap();
                bytes[20] ^= 1;
                fs::write(w.path("configs/k.tar.xz"), bytes).unwrap();
            },
            Class::Trust,
            "k.tar.xz has the digest sha256:",
        ),
    ];
    for (make_wrong, class, wanted) in cases {
        let world = World::new(&[]);
        fs::create_dir_all(world.path("cache/kernel")).unwrap();
        make_wrong(&world);
        let error = world.build().unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
        assert_eq!(world.left(), [""; 0], "{error}");
    }
}

#[test]
fn a_failed_compilation_shows_its_end_and_keeps_its_log() {
    let world = World::new(&[("broken", "")]);
    let error = world.build().unwrap_err();
    assert!(error.to_string().contains("main.c:1: it is broken"), "{error}");
    let log = world.path("cache/kernel").join(world.file("log"));
    assert_eq!(error.hint_text(), Some(&*format!("the whole log is {}", log.display())));
    assert!(fs::read_to_string(log).unwrap().contains("  CC      main.o\n"));
    assert_eq!(world.left(), [world.file("log")]);
}

#[test]
fn what_a_killed_build_left_is_no_obstacle() {
    let world = World::new(&[]);
    let work = world.path("cache/kernel").join(world.file("work"));
    fs::create_dir_all(work.join("source/deep")).unwrap();
    let grave = world.path("cache/kernel/.gone-1");
    fs::create_dir_all(grave.join("deep")).unwrap();
    world.build().unwrap();
    assert!(!work.exists());
    assert_eq!(world.left().len(), 2, "the entry and the count: {:?}", world.left());
}

#[test]
fn a_second_builder_waits_and_takes_the_result() {
    let world = World::new(&[("pause", "1")]);
    let said = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&said);
    let progress = Progress::new(move |event| {
        if let Event::Begin { title: text, .. } | Event::Note { text } = event {
            keep.lock().unwrap().push(text);
        }
    });
    let build = || world.build_saying(&progress);
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(build);
        (build().unwrap(), other.join().unwrap().unwrap())
    });
    assert_eq!(one, two);
    let said = said.lock().unwrap();
    let count = |what: &str| said.iter().filter(|text| text.starts_with(what)).count();
    assert_eq!(count("compile"), 1, "{said:?}");
    assert_eq!(count("another process builds kernel k 6.1.2"), 1, "{said:?}");
}

#[test]
fn an_unknown_kernel_is_answered_with_those_there_are() {
    let world = World::new(&[]);
    let dir = world.path("configs");
    assert_eq!(find_config(&dir, "k").unwrap(), dir.join("k.toml"));
    let error = find_config(&dir, "kk").unwrap_err();
    assert_eq!((error.class(), error.hint_text()), (Class::Usage, Some("there are: k")));
    assert_eq!(find_config(&dir, "../k").unwrap_err().class(), Class::Usage);
}

#[test]
fn our_own_configurations_are_good() {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-configs");
    for name in ["generic-6.1", "generic-6.12", "micro-6.1", "micro-6.12", "upstream-6.12"] {
        let config = find_config(&ours, name).unwrap();
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let inputs = Inputs::read(&config, arch).unwrap();
            let least = if name.starts_with("generic") { 200 } else { 100 };
            assert!(inputs.request.len() > least, "{name} {arch}");
        }
    }
}
