//! A host that pulls from a catalog: `imgtool` makes it, nginx serves it.

mod chunked;
mod cold;
mod faults;
mod full;
mod kills;
mod many;
mod registry;
mod server;
mod store;
mod sync;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use imgtool_tests::{Outcome, World, repository};
use serde_json::Value;

/// Bytes of the image that all versions have in common; they do not compress.
const COMMON_BYTES: usize = 12 << 20;
/// Bytes that a version adds.
const OWN_BYTES: usize = 1 << 20;

/// A catalog in a directory: images `t` 1 and 2, and 3, which was withdrawn, and their kernel.
struct Depot {
    world: World,
}

/// Bytes that look like chance.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

impl Depot {
    /// An empty one.
    fn new() -> Depot {
        let depot = Depot { world: World::new() };
        depot.imgtool(&["key", "new", "me", "--no-passphrase"]);
        depot.imgtool(&["catalog", "init", &depot.address(), "--key", "me"]);
        depot
    }

    /// The one that all tests read.
    fn shared() -> &'static Depot {
        static SHARED: OnceLock<Depot> = OnceLock::new();
        SHARED.get_or_init(|| {
            let depot = Depot::new();
            for version in ["1", "2", "3"] {
                depot.publish(version);
            }
            depot.yank("t:3");
            depot
        })
    }

    fn imgtool(&self, args: &[&str]) -> Outcome {
        let mut command = self.world.command(imgtool_tests::program("imgtool"));
        command.args(args).env("IMGTOOL_KEYS", self.world.path("keys"));
        command.env("IMGTOOL_STATE", self.world.path("state"));
        imgtool_tests::finish(command).ok()
    }

    fn yank(&self, what: &str) {
        self.imgtool(&["catalog", "yank", &self.address(), what, "--reason", "it leaks"]);
    }

    fn publish(&self, version: &str) {
        self.publish_as(version, &[]);
    }

    fn publish_as(&self, version: &str, more: &[&str]) {
        let world = &self.world;
        world.write("tree/common/a", noise(COMMON_BYTES / 2, 1));
        world.write("tree/common/b", noise(COMMON_BYTES / 2, 2));
        world.write(
            "tree/own",
            noise(OWN_BYTES, 2 + version.replace('.', "").parse::<u64>().unwrap()),
        );
        world.run("tar", ["-cf", "root.tar", "--owner=0", "--group=0", "-C", "tree", "."]).ok();
        let recipe =
            format!("name = \"t\"\nversion = \"{version}\"\n[source]\ntarball = \"root.tar\"\n");
        world.write("t.toml", recipe);
        let configs = repository().join("kernel-configs");
        let configs = configs.to_str().unwrap();
        let build = ["build", "-r", "t.toml", "--kernel-configs", configs, "--output", "out"];
        self.imgtool(&build);
        let bundles = world.files("out");
        let bundles: Vec<String> = bundles.iter().map(|file| format!("out/{file}")).collect();
        let mut publish = vec!["publish", "--to"];
        let address = self.address();
        publish.push(&address);
        publish.push("--untested");
        publish.extend(more);
        publish.extend(bundles.iter().map(String::as_str));
        self.imgtool(&publish);
    }

    fn dir(&self) -> PathBuf {
        self.world.path("depot")
    }

    fn address(&self) -> String {
        format!("file:{}", self.dir().display())
    }

    /// The packed file of version `version`.
    fn bundle(&self, version: &str) -> PathBuf {
        self.world.path(format!("out/t-{version}-{}.tar.zst", std::env::consts::ARCH))
    }

    /// A host that follows this catalog at `addresses`.
    fn host(&self, addresses: &[&str]) -> Host {
        let world = World::new();
        std::fs::create_dir_all(world.path("config/imgrun")).unwrap();
        std::fs::copy(self.world.path("root.json"), world.path("config/imgrun/root.json")).unwrap();
        let host = Host { world };
        host.follow(addresses);
        host
    }
}

/// A machine with a store and a list of catalogs.
struct Host {
    world: World,
}

impl Host {
    fn follow(&self, addresses: &[&str]) {
        let text = format!(
            "[[catalog]]\nname = \"house\"\nroot = \"root.json\"\ndepots = {addresses:?}\n"
        );
        self.world.write("config/imgrun/catalogs.toml", text);
    }

    fn imgrun(&self, args: &[&str]) -> Outcome {
        self.world.imgrun(args)
    }

    /// What a verb prints with `--json`.
    fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        serde_json::from_slice(&self.imgrun(&args).ok().stdout).unwrap()
    }

    fn pull(&self, what: &str) -> Value {
        self.json(&["pull", what])
    }

    /// Every bundle that can be seen, and each byte of it, is right.
    #[track_caller]
    fn verify(&self) {
        self.imgrun(&["verify"]).ok();
    }

    /// The titles of all bundles.
    fn titles(&self) -> Vec<String> {
        let list = self.json(&["list"]);
        let title = |b: &Value| {
            format!("{}:{}", b["name"].as_str().unwrap(), b["version"].as_str().unwrap())
        };
        list.as_array().unwrap().iter().map(title).collect()
    }

    /// The directory of a bundle.
    fn bundle(&self, name: &str) -> PathBuf {
        PathBuf::from(self.json(&["inspect", name])["dir"].as_str().unwrap())
    }

    /// The root file system of version `version` is what was packed.
    #[track_caller]
    fn holds(&self, depot: &Depot, version: &str) {
        let packed = depot.bundle(version);
        let script = format!(
            "zstd -dcq {} | tar xO rootfs.ext4 | cmp - {}",
            packed.display(),
            self.bundle(&format!("t:{version}")).join("rootfs.ext4").display()
        );
        self.world.run("sh", ["-c", &script]).ok();
    }

    /// Nothing of a pull is left over.
    #[track_caller]
    fn is_tidy(&self) {
        let left = self.world.files("imgrun/staging");
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Bytes fetched, over all bundles of a pull.
fn fetched(pulled: &Value) -> u64 {
    let all = pulled.as_array().unwrap();
    all.iter().map(|bundle| bundle["fetched_bytes"].as_u64().unwrap()).sum()
}

fn saved(pulled: &Value) -> u64 {
    let all = pulled.as_array().unwrap();
    all.iter().map(|bundle| bundle["saved_bytes"].as_u64().unwrap()).sum()
}

fn length(path: &Path) -> u64 {
    path.metadata().unwrap().len()
}

/// Kills a pull of `t` once some of its root file system is written; returns where that is.
fn killed_midway(host: &Host) -> PathBuf {
    let mut command = host.world.command(imgtool_tests::program("imgrun"));
    let mut child = command.args(["-q", "pull", "t@1", "--limit-rate", "6M"]).spawn().unwrap();
    let began = Instant::now();
    let draft = loop {
        let files = host.world.files("imgrun/staging");
        let draft = files.iter().find(|f| f.ends_with("rootfs.ext4"));
        let draft = draft.map(|draft| host.world.path("imgrun/staging").join(draft));
        let written = |draft: &PathBuf| draft.metadata().map_or(0, |m| m.blocks() * 512);
        if let Some(draft) = draft.filter(|draft| written(draft) > 4 << 20) {
            break draft;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it does not come that far");
        std::thread::sleep(Duration::from_millis(10));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    draft
}
