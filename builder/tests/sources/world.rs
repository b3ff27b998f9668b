//! Images in a directory of their own, and registries that serve them.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bundle::{Arch, Digest};
use imgrun::Progress;
use imgtool::cache::Cache;
use imgtool::oci::{self, Access, Credentials, Reference};
use imgtool::source::Resolved;
use imgtool::{Error, Result};

const PACKAGES: &str = "apt-get install skopeo umoci docker-registry mmdebstrap";
/// A registry has this long to take its first connection.
const REGISTRY_START_MAX: Duration = Duration::from_secs(30);

/// Who may use a registry with log-ins, and the bcrypt hash of the password.
pub(crate) const USER: &str = "me";
pub(crate) const PASSWORD: &str = "s3cret:pw";
const HTPASSWD: &str = "me:$2b$05$yGVmREdiq64JF4s5s5orauJB1riunXwRY.5gAZ5iac9CkPcocilCC\n";

/// The size of the file in the second layer: it does not compress.
pub(crate) const BIG_BYTES: usize = 6 << 20;

pub(crate) struct World {
    dir: tempfile::TempDir,
}

/// Runs a program and returns what it says; it has to be there and to succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}; {PACKAGES}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{said}", output.status);
    output.stdout
}

impl World {
    /// With an image of two layers in `layout`, under the tag `1`: made by umoci.
    pub(crate) fn new() -> World {
        let world = World { dir: tempfile::tempdir().unwrap() };
        let tree = world.path("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/hello"), "hello\n").unwrap();
        std::os::unix::fs::symlink("hello", tree.join("etc/link")).unwrap();
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        fs::write(world.path("big"), noise.take(BIG_BYTES).collect::<Vec<_>>()).unwrap();
        let layout = world.text("layout");
        let image = format!("{layout}:1");
        run("umoci", &["init", "--layout", &layout]);
        run("umoci", &["new", "--image", &image]);
        run("umoci", &["insert", "--rootless", "--image", &image, &world.text("tree"), "/tree"]);
        run("umoci", &["insert", "--rootless", "--image", &image, &world.text("big"), "/big"]);
        let env = ["--config.env=A=1", "--config.cmd=/bin/sh", "--config.user=me:you"];
        let config = ["config", "--image", &image, "--config.workingdir=/w"];
        run("umoci", &[&config[..], &env[..]].concat());
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    /// `from` and `to` as skopeo names places.
    pub(crate) fn copy(&self, from: &str, to: &str, options: &[&str]) {
        // Without a policy of its own skopeo looks for one in /etc.
        let copy = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"];
        run("skopeo", &[&copy[..], &["--dest-tls-verify=false"], options, &[from, to]].concat());
    }

    /// A registry over `storage`: with the image `app:1` in it, open to all or to [`USER`].
    pub(crate) fn registry(&self, storage: &str, login: bool) -> Registry {
        let registry = self.empty_registry(storage, login);
        let to = format!("docker://127.0.0.1:{}/app:1", registry.port);
        let user = format!("{USER}:{PASSWORD}");
        let options = if login { vec!["--dest-creds", &user] } else { vec![] };
        self.copy(&format!("oci:{}:1", self.text("layout")), &to, &options);
        registry
    }

    /// A registry over `storage`, with what is there already.
    pub(crate) fn empty_registry(&self, storage: &str, login: bool) -> Registry {
        let port = free_port();
        let htpasswd = self.path("htpasswd");
        fs::write(&htpasswd, HTPASSWD).unwrap();
        let auth =
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", htpasswd.display());
        let config = self.path(&format!("registry-{port}.yml"));
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n{}",
            self.path(storage).display(),
            if login { &auth } else { "" }
        );
        fs::write(&config, text).unwrap();
        Registry::start(&config, port)
    }

    /// An empty registry that speaks https.
    pub(crate) fn https_registry(&self, storage: &str, certificate: &str, key: &str) -> Registry {
        let port = free_port();
        let config = self.path(&format!("registry-{port}.yml"));
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n  tls:\n    certificate: {certificate}\n    \
             key: {key}\n",
            self.path(storage).display(),
        );
        fs::write(&config, text).unwrap();
        Registry::start(&config, port)
    }

    pub(crate) fn cache(&self, name: &str) -> Cache {
        Cache::open(&self.path(name)).unwrap()
    }

    /// Pulls `reference` into the cache `cache`, as a stranger.
    pub(crate) fn pull(&self, reference: &str, cache: &str) -> Result<Resolved> {
        self.pull_as(reference, cache, &Credentials::none())
    }

    pub(crate) fn pull_as(
        &self,
        reference: &str,
        cache: &str,
        credentials: &Credentials,
    ) -> Result<Resolved> {
        let access = Access { credentials: credentials.clone(), ..Access::default() };
        self.pull_by(reference, cache, &access, &Progress::silent())
    }

    pub(crate) fn pull_by(
        &self,
        reference: &str,
        cache: &str,
        access: &Access,
        progress: &Progress,
    ) -> Result<Resolved> {
        let reference: Reference = reference.parse().map_err(Error::usage)?;
        oci::resolve(&reference, Arch::X86_64, access, &self.cache(cache), progress)
    }

    /// A file of log-ins for `place`.
    pub(crate) fn credentials(&self, place: &str, user: &str, password: &str) -> Credentials {
        let file = self.path("auth.json");
        let json = serde_json::json!({
            "auths": { place: { "username": user, "password": password } }
        });
        fs::write(&file, json.to_string()).unwrap();
        Credentials::read(&file).unwrap()
    }

    /// What skopeo says of an image: its digest and its layers' digests.
    pub(crate) fn judge(&self, image: &str) -> (Digest, Vec<Digest>) {
        let json = run("skopeo", &["inspect", "--tls-verify=false", image]);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let layers = json["Layers"].as_array().unwrap();
        let digest = |value: &serde_json::Value| value.as_str().unwrap().parse().unwrap();
        (digest(&json["Digest"]), layers.iter().map(digest).collect())
    }

    /// The digests of an image's decompressed layers, as skopeo sees them.
    pub(crate) fn contents(&self, image: &str) -> Vec<Digest> {
        let json = run("skopeo", &["inspect", "--config", "--tls-verify=false", image]);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let ids = json["rootfs"]["diff_ids"].as_array().unwrap();
        ids.iter().map(|id| id.as_str().unwrap().parse().unwrap()).collect()
    }

    /// The files under the blobs of a cache, drafts included.
    pub(crate) fn blobs(&self, cache: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(cache).join("blobs/sha256")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Every blob in a cache is what its name says.
    pub(crate) fn assert_cache_is_right(&self, cache: &str) {
        for name in self.blobs(cache) {
            let content = fs::read(self.path(cache).join("blobs/sha256").join(&name)).unwrap();
            assert_eq!(Digest::of(content).hex(), name);
        }
    }
}

/// The digests of the decompressed layers, read through our own readers.
pub(crate) fn read_all(resolved: &Resolved) -> Result<Vec<Digest>> {
    let read = |layer: &imgtool::source::Layer| {
        let mut reader = bundle::HashingReader::new(layer.decompressed()?);
        std::io::copy(&mut reader, &mut std::io::sink())
            .map_err(|e| imgtool::source::into_error("a layer", e))?;
        Ok(reader.finish().0)
    };
    resolved.layers.iter().map(read).collect()
}

/// A running docker-registry.
pub(crate) struct Registry {
    child: Child,
    pub(crate) port: u16,
}

impl Registry {
    fn start(config: &Path, port: u16) -> Registry {
        let child = Command::new("docker-registry")
            .args(["serve".as_ref(), config.as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|e| panic!("docker-registry: {e}; {PACKAGES}"));
        let mut registry = Registry { child, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(registry.child.try_wait().unwrap().is_none(), "docker-registry has ended");
            assert!(began.elapsed() < REGISTRY_START_MAX, "docker-registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// Stores a manifest of ours under a tag.
    pub(crate) fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, json: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = json.len();
        write!(
            stream,
            "PUT /v2/{repository}/manifests/{tag} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\
             Content-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n\
             {json}",
            self.port
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
