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
