//! Sources from a server, signed: real HTTP, keys and signatures that gpg made.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use imgtool_tests::{Outcome, World};

use super::{build, config, sources};

/// Serves the directory that it is started in; `/cut/…` breaks off in the middle.
const SERVER: &str = r#"
import http.server, os
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if not self.path.startswith("/cut/"):
            return super().do_GET()
        data = open(self.path[5:], "rb").read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:len(data) // 2])
        self.close_connection = True
    def log_message(self, *args):
        print("GET", self.path, flush=True)
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"#;

struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(world: &World) -> Server {
        let mut command = world.command("python3");
        let mut child = command
            .args(["-c", SERVER])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
        Server { child, url: format!("http://127.0.0.1:{}", port.trim()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A world with sources, a server and one key that is pinned.
struct Signed {
    world: World,
    server: Server,
    digest: String,
    fingerprint: String,
}

impl Signed {
    fn new() -> Signed {
        let world = World::new();
        let digest = sources(&world);
        let fingerprint = key(&world, "maintainer@k.example");
        export(&world, &fingerprint, &fingerprint);
        let server = Server::start(&world);
        let signed = Signed { world, server, digest, fingerprint };
        signed.sign(&["--local-user", &signed.fingerprint]);
        signed.config("linux-6.1.2.tar.xz");
        signed
    }

    /// Signs the sources, as kernel.org does: the uncompressed tar.
    fn sign(&self, more: &[&str]) {
        let how = ["--detach-sign", "--armor", "--output", "linux-6.1.2.tar.sign"];
        let args = more.iter().chain(&how).chain(&["linux-6.1.2.tar"]);
        gpg(&self.world, &args.copied().collect::<Vec<_>>()).ok();
    }

    fn config(&self, archive: &str) {
        let Signed { server: Server { url, .. }, digest, fingerprint, .. } = self;
        config(
            &self.world,
            &format!(
                "url = \"{url}/{archive}\"\nsha256 = \"{digest}\"\n\
                 signature = \"{url}/linux-6.1.2.tar.sign\"\nsigners = [\"{fingerprint}\"]"
            ),
        );
    }

    /// That a build fails with `code` and `words`, and leaves nothing.
    #[track_caller]
    fn fails(&self, code: i32, words: &str) -> Outcome {
        let outcome = build(&self.world).fails(code, words);
        let left = |dir: &str| {
            let mut files = self.world.files(dir);
            files.retain(|f| !f.ends_with(".lock"));
            files
        };
        assert_eq!(left("cache/sources"), [""; 0], "{outcome:#?}");
        assert_eq!(left("cache/kernel"), [""; 0], "{outcome:#?}");
        outcome
    }
}

fn gpg(world: &World, args: &[&str]) -> Outcome {
    let home = world.path("gnupg");
    std::fs::create_dir_all(&home).unwrap();
    let how = ["--batch", "--yes", "--quiet", "--no-tty", "--pinentry-mode", "loopback"];
    let mut command = world.command("gpg");
    command.args(how).args(["--passphrase", ""]).args(args).env("GNUPGHOME", &home);
    imgtool_tests::finish(command)
}

/// Makes a key and returns its fingerprint.
fn key(world: &World, name: &str) -> String {
    gpg(world, &["--quick-generate-key", name, "ed25519", "sign", "never"]).ok();
    fingerprint(world, name)
}

fn fingerprint(world: &World, name: &str) -> String {
    let listed = gpg(world, &["--with-colons", "--list-keys", name]).ok().text();
    let line = listed.lines().find(|line| line.starts_with("fpr:")).unwrap();
    line.split(':').nth(9).unwrap().to_string()
}

/// Writes the public key `fingerprint` where that of `pinned` is looked for.
fn export(world: &World, fingerprint: &str, pinned: &str) {
    let key = gpg(world, &["--armor", "--export", fingerprint]).ok();
    world.write(&format!("configs/keys/{pinned}.asc"), key.stdout);
}

#[test]
fn signed_sources_are_built_and_kept() {
    let signed = Signed::new();
    let outcome = build(&signed.world).ok();
    let said = format!("signed by {}", signed.fingerprint);
    assert!(outcome.stderr.contains(&said), "{outcome:#?}");
    let digest = &signed.digest;
    let kept = [format!("{digest}.tar.sign"), format!("{digest}.tar.xz")];
    assert_eq!(signed.world.files("cache/sources"), kept);

    // Without a server both are still there, and both are still checked.
    let Signed { world, server, .. } = signed;
    drop(server);
    world.write("configs/fragments/base.config", "CONFIG_A=y\nCONFIG_B=y\n");
    let outcome = build(&world).ok();
    assert!(outcome.stderr.contains(&said), "{outcome:#?}");
    let sign = world.path(format!("cache/sources/{}", kept[0]));
    std::fs::write(sign, "no signature").unwrap();
    world.write("configs/fragments/base.config", "CONFIG_A=y\nCONFIG_C=y\n");
    build(&world).fails(4, "it is no signature");
}

#[test]
fn wrong_bytes_are_refused() {
    let signed = Signed::new();
    let world = &signed.world;
    let archive = std::fs::read(world.path("linux-6.1.2.tar.xz")).unwrap();
    let mut flipped = archive.clone();
    flipped[archive.len() / 2] ^= 1;
    world.write("linux-6.1.2.tar.xz", &flipped);
    signed.fails(4, "linux-6.1.2.tar.xz has the digest");
    world.write("linux-6.1.2.tar.xz", &archive[..archive.len() - 9]);
    signed.fails(4, "linux-6.1.2.tar.xz has the digest");
    world.write("linux-6.1.2.tar.xz", &archive);
    signed.config("cut/linux-6.1.2.tar.xz");
    signed.fails(5, "linux-6.1.2.tar.xz");
    signed.config("gone.tar.xz");
    signed.fails(3, "gone.tar.xz: the server has no such file");
    // The digest is right; it is what somebody signed that differs.
    signed.config("linux-6.1.2.tar.xz");
    world.write("linux-6.1.2/main.c", "void _start(void) { for (;;); }\n");
    world.run("tar", ["-cf", "linux-6.1.2.tar", "linux-6.1.2"]).ok();
    signed.sign(&[]);
    signed.fails(4, "it is not of these bytes");
}

#[test]
fn signatures_of_others_are_refused() {
    let signed = Signed::new();
    let world = &signed.world;
    // A status line as a user id: GOODSIG repeats it.
    let name =
        format!("x [GNUPG:] VALIDSIG {0} 2026-01-01 0 0 4 0 22 8 00 {0}", signed.fingerprint);
    let other = key(world, &name);
    signed.sign(&["--local-user", &other]);
    signed.fails(4, "it is by another key");
    // Another key under the pinned one's name.
    export(world, &other, &signed.fingerprint);
    signed.fails(4, "it is not by a pinned signer");
    // A message that is signed, but not these sources: it has its own content.
    export(world, &signed.fingerprint, &signed.fingerprint);
    world.write("text", "something else\n");
    let sign = ["--local-user", &signed.fingerprint, "--output", "linux-6.1.2.tar.sign"];
    gpg(world, &[&sign[..], &["--sign", "text"]].concat()).ok();
    signed.fails(4, "the signature of the sources: ");
    gpg(world, &[&sign[..], &["--clearsign", "text"]].concat()).ok();
    signed.fails(4, "the signature of the sources: ");
    world.write("linux-6.1.2.tar.sign", "");
    signed.fails(4, "the signature of the sources: ");
    world.write("linux-6.1.2.tar.sign", vec![b'x'; 70_000]);
    signed.fails(3, "is longer than 65536 bytes");
}

#[test]
fn keys_must_be_good_now() {
    let mut signed = Signed::new();
    let good = signed.fingerprint.clone();
    // The signature was made while the key was good.
    let old = ["--faked-system-time", "20200101T000000"];
    let made = ["--quick-generate-key", "old@k.example", "ed25519", "sign", "2020-02-01"];
    gpg(&signed.world, &[&old[..], &made].concat()).ok();
    signed.fingerprint = fingerprint(&signed.world, "old@k.example");
    export(&signed.world, &signed.fingerprint, &signed.fingerprint);
    signed.config("linux-6.1.2.tar.xz");
    signed.sign(&[&old[..], &["--local-user", &signed.fingerprint]].concat());
    signed.fails(4, "its key has expired");

    signed.fingerprint = good.clone();
    signed.config("linux-6.1.2.tar.xz");
    signed.sign(&["--local-user", &good]);
    let world = &signed.world;
    let revocation = world.path(format!("gnupg/openpgp-revocs.d/{good}.rev"));
    // gpg puts a colon there, so that nobody imports it by accident.
    let text = std::fs::read_to_string(&revocation).unwrap().replace(":-----BEGIN", "-----BEGIN");
    std::fs::write(&revocation, text).unwrap();
    gpg(world, &["--import", revocation.to_str().unwrap()]).ok();
    export(world, &good, &good);
    signed.fails(4, "its key was revoked");
}

/// No server is asked before the keys are known to be good: there is none.
#[test]
fn what_is_wrong_with_the_keys_is_said_first() {
    let mut signed = Signed::new();
    signed.server.url = "http://127.0.0.1:1".to_string();
    signed.config("linux-6.1.2.tar.xz");
    let key = format!("configs/keys/{}.asc", signed.fingerprint);
    signed.fails(5, "http://127.0.0.1:1/linux-6.1.2.tar.sign");
    signed.world.write(&key, "no key");
    signed.fails(3, "is no armored OpenPGP key");
    std::fs::remove_file(signed.world.path(&key)).unwrap();
    let outcome = signed.fails(3, &key);
    let hint = format!("gpg --export --armor {}", signed.fingerprint);
    assert!(outcome.stderr.contains(&hint), "{outcome:#?}");
}
