//! A directory with keys, bundles and stores, and the programs that work on them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bundle::{Blob, Content, Digest, Manifest, Packing};
use imgrun::Progress;
use imgrun::catalog::Catalog;
use imgrun::depot::Directory;
use imgrun::tuf::{Clock, Memory, Role};
use imgtool::publish::{Draft, Options, Owners, Publisher};
use imgtool::sign::{Ask, Keys, SigningKey};
use imgtool::{Error, Result};
use serde_json::{Value, json};

/// Keys of tests have no passphrase.
pub(crate) const NO_PASSPHRASE: &Ask<'static> = &|_| Ok(String::new());

pub(crate) struct World {
    dir: tempfile::TempDir,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) output: Output,
}

impl Outcome {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).trim_end().to_string()
    }

    pub(crate) fn errors(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).to_string()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        let status = self.output.status;
        assert!(status.success(), "{status}: {}\n{}", self.text(), self.errors());
        self
    }

    /// It ended with `code` and said `words`.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &str) -> Self {
        let errors = self.errors();
        assert_eq!(self.output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(words), "no {words:?} in {errors}");
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.output.stdout).unwrap()
    }
}

impl World {
    pub(crate) fn new() -> Self {
        World { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The address of the directory `name` as a store.
    pub(crate) fn store(&self, name: &str) -> String {
        format!("file:{}", self.path(name).display())
    }

    /// `imgtool`, not started yet: with this world's keys, memory and nothing else.
    pub(crate) fn command(&self) -> Command {
        self.wrapped(env!("CARGO_BIN_EXE_imgtool"), &[])
    }

    /// The same under another program.
    pub(crate) fn wrapped(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env("IMGTOOL_KEYS", self.path("keys"))
            .env("IMGTOOL_STATE", self.path("state"))
            .env("IMGTOOL_CACHE", self.path("cache"))
            .env("IMGTOOL_KEY_PASSPHRASE", "")
            .env_remove("IMGTOOL_ROOT")
            .env_remove("IMGTOOL_SIGNING_KEYS")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn imgtool<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        finish(self.command().args(args))
    }

    /// A key for all roles and an empty catalog in `store`.
    pub(crate) fn init(&self, store: &str) {
        self.imgtool(["key", "new", "me", "--no-passphrase"]).ok();
        self.imgtool(["catalog", "init", store, "--key", "me"]).ok();
    }

    /// A kernel's bundle: the smallest kind there is.
    pub(crate) fn kernel(&self, name: &str, version: &str) -> PathBuf {
        self.kernel_for(name, version, "x86_64")
    }

    pub(crate) fn kernel_for(&self, name: &str, version: &str, arch: &str) -> PathBuf {
        let manifest = json!({
            "schema": bundle::SCHEMA, "kind": "kernel", "name": name, "version": version,
            "arch": arch, "files": [], "frames": Blob::of([]), "sources": [],
            "recipe": Digest::of(name), "tool": "tests",
        });
        let kernel = if arch == "aarch64" { "Image" } else { "vmlinux" };
        self.pack(manifest, &[kernel, "config", "build.json"])
    }

    /// An image's, for the kernel in `kernel`.
    pub(crate) fn image(&self, name: &str, version: &str, kernel: &Path) -> PathBuf {
        let rootfs = format!("rootfs.ext4 of {name} {version} x86_64\n");
        self.image_of(name, version, kernel, rootfs.as_bytes())
    }

    /// One with this root file system.
    pub(crate) fn image_of(
        &self,
        name: &str,
        version: &str,
        kernel: &Path,
        rootfs: &[u8],
    ) -> PathBuf {
        let kernel = Draft::read(kernel).unwrap().entry;
        let manifest = json!({
            "schema": bundle::SCHEMA, "kind": "image", "name": name, "version": version,
            "arch": "x86_64", "files": [], "frames": Blob::of([]), "sources": [],
            "recipe": Digest::of(name), "tool": "tests", "boot": { "init": "agent" },
            "kernel": { "name": kernel.name, "version": kernel.version, "digest": kernel.digest },
        });
        self.pack_of(manifest, &[("rootfs.ext4", rootfs), ("sbom.spdx.json", b"{}\n")])
    }

    fn pack(&self, manifest: Value, files: &[&str]) -> PathBuf {
        let text = |file: &&str| {
            let of = |key: &str| manifest[key].as_str().unwrap().to_string();
            format!("{file} of {} {} {}\n", of("name"), of("version"), of("arch"))
        };
        let texts: Vec<String> = files.iter().map(text).collect();
        let files = files.iter().zip(&texts).map(|(file, text)| (*file, text.as_bytes()));
        self.pack_of(manifest.clone(), &files.collect::<Vec<_>>())
    }

    fn pack_of(&self, manifest: Value, files: &[(&str, &[u8])]) -> PathBuf {
        let manifest: Manifest = serde_json::from_value(manifest).unwrap();
        fs::create_dir_all(self.path("bundles")).unwrap();
        let path = self.path("bundles").join(manifest.file_name());
        let file = fs::File::create(&path).unwrap();
        let files = files.iter();
        let contents = files.map(|(file, bytes)| Content::new(*file, *bytes, bytes.len() as u64));
        let contents = contents.collect();
        let packing = Packing { level: 1, average_bytes: 256 << 10, threads: 1 };
        bundle::pack(manifest, contents, file, &packing, |_| {}).unwrap();
        path
    }
}

#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Outcome {
    Outcome { output: command.output().unwrap_or_else(|e| panic!("{command:?}: {e}")) }
}

/// A catalog in a directory whose owner has all its keys at hand, and a reader that remembers.
pub(crate) struct Repository {
    pub(crate) world: World,
    pub(crate) depot: Directory,
    pub(crate) keys: Keys,
    owner: Memory,
    /// What the reader remembers.
    pub(crate) reader: Memory,
}

impl Repository {
    /// With a key for each role, called as the role is, and `threshold` signatures for targets.
    pub(crate) fn new() -> Self {
        Self::with(&|_| {})
    }

    pub(crate) fn with(edit: &dyn Fn(&mut Owners)) -> Self {
        let world = World::new();
        let none = Keys::load(&world.path("keys"), None, NO_PASSPHRASE).unwrap();
        let names = ["root", "targets", "snapshot", "timestamp", "spare", "root-2", "root-3"];
        for name in names {
            none.create(name, NO_PASSPHRASE).unwrap();
        }
        let keys = Keys::load(&world.path("keys"), None, NO_PASSPHRASE).unwrap();
        let mut owners = Owners::default();
        for role in Role::ALL {
            let key = keys.find(role.name()).unwrap().public.clone();
            owners.roles.insert(role, (vec![key], 1));
        }
        edit(&mut owners);
        let depot = Directory::new(world.path("store").to_str().unwrap()).unwrap();
        let owner = Memory::open(world.path("owner")).unwrap();
        let reader = Memory::open(world.path("reader")).unwrap();
        let repository = Repository { world, depot, keys, owner, reader };
        let root = repository.publish_by(|p| p.init(&owners)).unwrap();
        repository.reader.begin("store", &root, "root.json").unwrap();
        repository
    }

    pub(crate) fn publish_by<T>(
        &self,
        work: impl FnOnce(&Publisher<'_>) -> Result<T>,
    ) -> Result<T> {
        self.publish_with(&self.owner, work)
    }

    /// The same by who remembers something else.
    pub(crate) fn publish_with<T>(
        &self,
        memory: &Memory,
        work: impl FnOnce(&Publisher<'_>) -> Result<T>,
    ) -> Result<T> {
        let progress = Progress::silent();
        work(&Publisher::new(&self.depot, memory, &self.keys, NO_PASSPHRASE, &progress))
    }

    /// Finds out which keys are at hand now.
    pub(crate) fn reload_keys(&mut self) {
        self.keys = Keys::load(&self.world.path("keys"), None, NO_PASSPHRASE).unwrap();
    }

    /// Publishes a kernel.
    pub(crate) fn publish(&self, name: &str, version: &str) {
        let draft = Draft::read(&self.world.kernel(name, version)).unwrap();
        self.publish_by(|p| {
            p.publish(p.plan(vec![draft], Options { untested: true, chunked: false })?)
        })
        .unwrap();
    }

    /// What the reader believes now.
    pub(crate) fn read(&self) -> Result<Catalog> {
        Catalog::open(&self.depot, &self.reader, Clock::now())
    }

    pub(crate) fn key(&self, name: &str) -> SigningKey {
        self.keys.open(self.keys.find(name).unwrap(), NO_PASSPHRASE).unwrap()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.world.path("store/metadata").join(name)
    }

    /// The present bytes of all metadata.
    pub(crate) fn save(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let files = fs::read_dir(self.world.path("store/metadata")).unwrap().flatten();
        files.map(|f| (f.path(), fs::read(f.path()).unwrap())).collect()
    }

    /// Puts all metadata back to what they were: an attacker with the whole store.
    pub(crate) fn restore(&self, saved: &[(PathBuf, Vec<u8>)]) {
        let dir = self.world.path("store/metadata");
        fs::remove_dir_all(&dir).unwrap();
        fs::create_dir_all(&dir).unwrap();
        for (path, bytes) in saved {
            fs::write(path, bytes).unwrap();
        }
    }

    /// The reader refuses what is there, says `words`, and goes on believing what it knew.
    #[track_caller]
    pub(crate) fn refused(&self, words: &str) -> Error {
        let before = self.reader.load().unwrap();
        let error = self.read().expect_err("it was believed");
        assert_eq!(error.class(), imgrun::Class::Trust, "{error}");
        assert!(error.to_string().contains(words), "no {words:?} in {error}");
        let after = self.reader.load().unwrap();
        let targets = |state: Option<imgrun::tuf::State>| state.and_then(|s| s.targets);
        // A new root may have made it forget what its keys do not vouch for; never replace it.
        let after = targets(after);
        assert!(after.is_none() || after == targets(before));
        error
    }
}
