//! Real servers on loopback: `tests/setup tests` installs them.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server has this long to take its first connection; the machine may be busy.
const START_MAX: Duration = Duration::from_secs(60);

/// What tests/setup put there.
pub(crate) fn judges() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/judges")
}

/// A server, killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    fn start(port: u16, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = command.spawn();
        let child = spawned.unwrap_or_else(|e| panic!("{command:?}: {e}: run tests/setup tests"));
        let mut server = Server { child, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < START_MAX, "{command:?} does not start");
            assert_eq!(server.child.try_wait().unwrap(), None, "{command:?} ended");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Files of a directory.
    pub(crate) fn web(dir: &Path) -> Self {
        let port = free_port();
        let mut command = Command::new("python3");
        command.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]).arg(dir);
        Self::start(port, command.arg(port.to_string()))
    }

    /// A bucket server that keeps its promises.
    pub(crate) fn moto() -> Self {
        Self::moto_with(&[])
    }

    /// One that looks before it writes: of several writers at once more than one is told that it won.
    pub(crate) fn racy() -> Self {
        Self::moto_with(&["--racy"])
    }

    fn moto_with(args: &[&str]) -> Self {
        let port = free_port();
        let mut command = Command::new(judges().join("python/bin/python"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/judge/moto"));
        Self::start(port, command.arg(port.to_string()).args(args))
    }

    /// One that ignores conditions, and overwrites.
    pub(crate) fn s3rver(dir: &Path) -> Self {
        let port = free_port();
        fs::create_dir_all(dir).unwrap();
        let mut command = Command::new(judges().join("node/node_modules/.bin/s3rver"));
        command.arg("-d").arg(dir).args(["-a", "127.0.0.1", "-p", &port.to_string()]);
        Self::start(port, &mut command)
    }

    /// A whole Ceph for its object gateway, with its state in `dir`.
    pub(crate) fn ceph(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let (port, monitor) = (free_port(), free_port());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/judge/ceph");
        let mut command = Command::new(script);
        command.arg(dir).args([port.to_string(), monitor.to_string(), LOGIN[0].1.to_string()]);
        let mut server = Self::start(port, &mut command);
        let began = Instant::now();
        while !dir.join("ready").exists() {
            assert!(began.elapsed() < 2 * START_MAX, "Ceph makes no user");
            assert_eq!(server.child.try_wait().unwrap(), None, "Ceph ended");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Debian's registry, over `dir`.
    pub(crate) fn registry(dir: &Path) -> Self {
        let port = free_port();
        fs::create_dir_all(dir).unwrap();
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  delete:\n    enabled: true\n  \
             filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            dir.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        Self::start(port, command.arg("serve").arg(&config))
    }

    /// A bucket's address there.
    pub(crate) fn bucket(&self, bucket: &str) -> String {
        format!("s3://{bucket}/catalog?endpoint=http://127.0.0.1:{}&region=us-east-1", self.port)
    }

    /// Makes a bucket.
    pub(crate) fn make_bucket(&self, name: &str) {
        self.python("s3.create_bucket(Bucket=sys.argv[2])", name);
    }

    /// Another client's call: boto3's, with `argument` as `sys.argv[2]`.
    pub(crate) fn python(&self, call: &str, argument: &str) {
        let script = format!(
            "import boto3, sys\ns3 = boto3.client('s3', endpoint_url=sys.argv[1], \
             region_name='us-east-1')\n{call}"
        );
        let mut command = Command::new(judges().join("python/bin/python"));
        command.args(["-c", &script, &format!("http://127.0.0.1:{}", self.port), argument]);
        let output = command.envs(LOGIN).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What s3rver wants and Ceph is told; moto takes any.
pub(crate) const LOGIN: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "S3RVER"), ("AWS_SECRET_ACCESS_KEY", "S3RVER")];
