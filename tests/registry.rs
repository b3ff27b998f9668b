//! Debian's docker-registry, and a container image to put into it.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::World;

/// A registry has this long to take its first connection.
const START_MAX: Duration = Duration::from_secs(120);
/// Another program may take a port that was free before the registry does.
const PORTS_MAX: usize = 10;

/// The header by which a registry of ours is known.
const MARK: &str = "X-World";

/// The programs that the image has, all of them busybox.
const PROGRAMS: [&str; 5] = ["sh", "cat", "id", "echo", "uname"];

/// A running registry over the directory `registry` of a world.
pub struct Registry {
    child: Child,
    /// On 127.0.0.1.
    pub port: u16,
}

impl Registry {
    /// Starts one.
    pub fn start(world: &World) -> Registry {
        (0..PORTS_MAX).find_map(|_| Self::try_start(world)).expect("docker-registry starts")
    }

    fn try_start(world: &World) -> Option<Registry> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n  headers:\n    {MARK}: [\"{}\"]\n",
            world.path("registry").display(),
            world.path("").display()
        );
        let config = world.write("registry.yml", config);
        let mut command = world.command("docker-registry");
        command.arg("serve").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        let mut registry = Registry { child: command.spawn().expect("docker-registry"), port };
        let mark = world.path("").display().to_string();
        let began = Instant::now();
        loop {
            if registry.child.try_wait().unwrap().is_some() {
                return None;
            }
            // Who answers otherwise has taken the port; then ours ends.
            if answer(port).is_some_and(|answer| answer.contains(&*mark)) {
                return Some(registry);
            }
            assert!(began.elapsed() < START_MAX, "docker-registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `image` in it is called.
    pub fn name(&self, image: &str) -> String {
        format!("127.0.0.1:{}/{image}", self.port)
    }

    /// Puts the image `layout` of `world` (see [`busybox`]) into it as `image`.
    pub fn push(&self, world: &World, layout: &str, image: &str) {
        let to = format!("docker://{}", self.name(image));
        let copy = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        world.run("skopeo", [&copy[..], &[&format!("oci:{layout}:1"), &to]].concat()).ok();
    }

    /// The file in which it keeps a blob.
    pub fn blob(&self, world: &World, hex: &str) -> PathBuf {
        let blobs = "registry/docker/registry/v2/blobs/sha256";
        world.path(blobs).join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is answered to a first request.
fn answer(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(START_MAX)).ok()?;
    write!(stream, "GET /v2/ HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Makes an image in the OCI layout `layout`, with the tag `1`: Debian's static busybox as it is, an
/// account `me`, and a configuration that says `said`.
pub fn busybox(world: &World, layout: &str, said: &str) {
    let tree = world.path("tree");
    for directory in ["bin", "etc", "srv"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("apt-get install busybox-static");
    for program in PROGRAMS {
        let link = tree.join("bin").join(program);
        if !link.exists() {
            std::os::unix::fs::symlink("busybox", link).unwrap();
        }
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nme:x:7:8::/srv:/bin/sh\n").unwrap();
    fs::write(tree.join("etc/group"), "root:x:0:\nme:x:8:\n").unwrap();
    fs::write(tree.join("etc/said"), said).unwrap();
    world.run("tar", ["--owner=0", "--group=0", "-Ctree", "-cflayer.tar", "."]).ok();
    let image = format!("{layout}:1");
    world.run("umoci", ["init", "--layout", layout]).ok();
    world.run("umoci", ["new", "--image", &image]).ok();
    world.run("umoci", ["raw", "add-layer", "--image", &image, "layer.tar"]).ok();
    let command = format!("--config.cmd=echo {said}; id -un; pwd; echo $A $B");
    let config = ["config", "--image", &image, "--config.user=me", "--config.workingdir=/srv"];
    let env = ["--config.env=PATH=/bin", "--config.env=A=image", "--config.env=B=image"];
    let run = ["--config.entrypoint=/bin/sh", "--config.entrypoint=-c", &command];
    world.run("umoci", [&config[..], &env, &run].concat()).ok();
}

/// The largest file among the blobs of a layout: the layer.
pub fn layer(layout: &Path) -> PathBuf {
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let blobs = blobs.map(|entry| entry.unwrap().path());
    blobs.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}
