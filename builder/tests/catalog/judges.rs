//! Other people's programs read what we write.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::servers::{Server, judges};
use crate::world::{World, finish};

fn python_tuf(world: &World, url: &str, scratch: &str) -> crate::world::Outcome {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/catalog/judge.py");
    let mut command = Command::new(judges().join("python/bin/python"));
    command.arg(script).arg(url).arg(world.path("root.json")).arg(world.path(scratch));
    finish(&mut command)
}

/// python-tuf reads the catalog over http, through a rotation of every role's keys, and gets every
/// bundle; it refuses what we refuse.
#[test]
fn python_tuf_reads_the_catalog() {
    let world = World::new();
    let store = world.store("s");
    world.init(&store);
    let server = Server::web(&world.path("s"));
    let url = format!("http://127.0.0.1:{}", server.port);
    let kernel = world.kernel("linux", "6.1+a~b");
    let image = world.image("debian", "12", &kernel);
    let (kernel, image) = (kernel.to_str().unwrap(), image.to_str().unwrap());
    world.imgtool(["publish", kernel, image, "--to", &store, "--untested"]).ok();
    let read = python_tuf(&world, &url, "judge").ok().json();
    let paths = ["catalog.json", "debian-12-x86_64.tar.zst", "linux-6.1+a~b-x86_64.tar.zst"];
    assert_eq!(read["paths"], serde_json::json!(paths));
    let index: Value =
        serde_json::from_slice(&fs::read(world.path("judge/targets/catalog.json")).unwrap())
            .unwrap();
    assert_eq!(index["schema"], 1);
    assert_eq!(index["bundles"][0]["name"], "debian");

    for role in ["targets", "snapshot", "timestamp", "root"] {
        let name = format!("new-{role}");
        world.imgtool(["key", "new", &name, "--no-passphrase"]).ok();
        let rotate = ["key", "rotate", &store, "--role", role, "--old", "me", "--new", &name];
        world.imgtool(rotate).ok();
        python_tuf(&world, &url, "judge").ok();
    }
    python_tuf(&world, &url, "fresh").ok();
    // And our own client by way of the web server, from the first root on.
    let mut reader = world.command();
    reader.env("IMGTOOL_STATE", world.path("reader")).env("IMGTOOL_ROOT", world.path("root.json"));
    finish(reader.args(["catalog", "verify", "--deep", &url])).ok();

    let timestamp = world.path("s/metadata/timestamp.json");
    let text = fs::read_to_string(&timestamp).unwrap();
    fs::write(&timestamp, text.replace("\"version\": ", "\"version\": 1")).unwrap();
    let refused = python_tuf(&world, &url, "judge");
    assert!(!refused.output.status.success());
    let mut reader = world.command();
    reader.env("IMGTOOL_STATE", world.path("reader"));
    finish(reader.args(["catalog", "verify", &url])).fails(4, "valid signatures");
}

/// Our keys are ordinary files: python's cryptography opens them with the passphrase.
#[test]
fn other_programs_open_our_keys() {
    let world = World::new();
    let mut new = world.command();
    let id = finish(new.args(["key", "new", "me"]).env("IMGTOOL_KEY_PASSPHRASE", "geheim")).ok();
    let script = "import sys, json\n\
        from cryptography.hazmat.primitives.serialization import load_pem_private_key as load\n\
        from securesystemslib.signer import CryptoSigner\n\
        key = load(open(sys.argv[1], 'rb').read(), b'geheim')\n\
        public = CryptoSigner(key).public_key.to_dict()\n\
        listed = json.load(open(sys.argv[2]))\n\
        assert public == listed, (public, listed)\n\
        print(CryptoSigner(key).public_key.keyid)";
    let mut python = Command::new(judges().join("python/bin/python"));
    python.args(["-c", script]).args([world.path("keys/me.pem"), world.path("keys/me.json")]);
    assert_eq!(finish(&mut python).ok().text(), id.text());
}

/// What is published to a registry, skopeo copies as it is, byte for byte.
#[test]
fn skopeo_copies_a_bundle_from_a_registry() {
    let world = World::new();
    let server = Server::registry(&world.path("registry"));
    let place = format!("127.0.0.1:{}/team/images", server.port);
    let store = format!("oci://{place}");
    let imgtool = |args: &[&str]| {
        // No log-ins of the user who runs this.
        let home = world.path("home");
        finish(world.command().args(args).env("HOME", &home).env("XDG_RUNTIME_DIR", &home))
    };
    imgtool(&["key", "new", "me", "--no-passphrase"]).ok();
    let init = ["catalog", "init", &store, "--key", "me"];
    imgtool(&init).fails(6, "several publishers can not share this store");
    imgtool(&[&init[..], &["--single-writer"]].concat()).ok();
    let bundles = ["x86_64", "aarch64"].map(|arch| world.kernel_for("linux", "6.1+a", arch));
    for bundle in bundles.iter().chain(&bundles) {
        let publish = ["publish", bundle.to_str().unwrap(), "--to", &store, "--untested"];
        imgtool(&[&publish[..], &["--single-writer"]].concat()).ok();
    }
    imgtool(&["catalog", "verify", &store, "--deep"]).ok();
    for (tag, arch, bundle) in [
        ("linux-6.1_a", "amd64", &bundles[0]),
        ("linux-6.1_a", "arm64", &bundles[1]),
        ("linux", "amd64", &bundles[0]),
    ] {
        let to = world.path(&format!("{tag}-{arch}"));
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "--override-arch", arch, "--override-os", "linux"]);
        skopeo.args(["copy", "--quiet", "--src-tls-verify=false"]);
        skopeo.arg(format!("docker://{place}:{tag}")).arg(format!("dir:{}", to.display()));
        finish(&mut skopeo).ok();
        let bytes = fs::read(bundle).unwrap();
        let digest = bundle::Digest::of(&bytes).hex();
        assert!(fs::read(to.join(digest)).unwrap() == bytes);
    }
    let yank = ["catalog", "yank", &store, "linux:6.1+a", "--reason", "x", "--single-writer"];
    imgtool(&yank).ok();
    let prune = ["catalog", "prune", &store, "--yanked", "--unused-for", "0s", "--single-writer"];
    imgtool(&prune).ok();
    let shown = imgtool(&["catalog", "show", &store, "--json"]).ok().json();
    assert_eq!(shown["bundles"], serde_json::json!([]));
    imgtool(&["catalog", "verify", &store]).ok();
}
