//! Only what was tested is published: which results count.

use std::fs;
use std::path::Path;

use bundle::{Check, Digest, TestResult};
use imgtool::publish::Draft;
use imgtool::sign::Keys;
use imgtool::trial::{Document, path_beside};

use crate::world::{NO_PASSPHRASE, Outcome, World};

/// What `imgtool test` would say of `image`, which booted `kernel`.
fn result(image: &Path, kernel: Digest) -> TestResult {
    let entry = Draft::read(image).unwrap().entry;
    TestResult {
        bundle: entry.digest,
        name: entry.name,
        version: entry.version,
        arch: entry.arch,
        kernel,
        accel: "tcg".into(),
        tool: "tests".into(),
        vmm: "none".into(),
        began: "2026-11-21T00:00:00Z".into(),
        boot_ms: 1234,
        checks: vec![check("it boots", true)],
    }
}

fn check(name: &str, passed: bool) -> Check {
    Check { name: name.into(), passed, ms: 1, why: String::new() }
}

fn sign(world: &World, keys: &str, key: &str, image: &Path, result: TestResult) {
    let keys = Keys::load(&world.path(keys), None, NO_PASSPHRASE).unwrap();
    let key = keys.open(keys.find(key).unwrap(), NO_PASSPHRASE).unwrap();
    Document::create(image, result, &key).unwrap();
}

fn publish(world: &World, store: &str, bundles: &[&Path], more: &[&str]) -> Outcome {
    let bundles = bundles.iter().map(|path| path.to_str().unwrap());
    let args = ["publish"].into_iter().chain(bundles).chain(["--to", store]);
    world.imgtool(args.chain(more.iter().copied()))
}

#[test]
fn a_result_counts_only_where_all_of_it_is_right() {
    let world = World::new();
    let store = world.store("s");
    world.init(&store);
    let kernel = world.kernel("linux", "6.1");
    let image = world.image("debian", "12", &kernel);
    let digest = Draft::read(&kernel).unwrap().entry.digest;
    let good = result(&image, digest);
    let both = [&*image, &*kernel];
    publish(&world, &store, &both, &[]).fails(3, "it was not tested");

    sign(&world, "keys", "me", &image, TestResult { bundle: digest, ..good.clone() });
    publish(&world, &store, &both, &[]).fails(4, "it is the result of");
    sign(&world, "keys", "me", &image, TestResult { kernel: Digest::of(b"x"), ..good.clone() });
    publish(&world, &store, &both, &[]).fails(4, "another kernel was booted");
    let checks = vec![check("one", true), check("two", false)];
    sign(&world, "keys", "me", &image, TestResult { checks, ..good.clone() });
    publish(&world, &store, &both, &[]).fails(3, "it failed: two");

    world.imgtool(["key", "new", "stranger", "--no-passphrase", "--keys", "others"]).ok();
    sign(&world, "others", "stranger", &image, good.clone());
    publish(&world, &store, &both, &[]).fails(4, "no known key");
    // A key that is known by its public half is enough.
    fs::copy(world.path("others/stranger.json"), world.path("keys/tester.json")).unwrap();
    publish(&world, &store, &both, &["--dry-run"]).ok();
    fs::remove_file(world.path("keys/tester.json")).unwrap();

    sign(&world, "keys", "me", &image, good.clone());
    let signed = fs::read_to_string(path_beside(&image)).unwrap();
    for (from, to, code, words) in [
        ("1234", "12", 4, "needs 1 valid signatures"),
        ("imgtool-test", "targets", 3, "is read"),
        ("\"schema\": 1", "\"schema\": 2", 3, "of schema 2"),
        ("\"sig\"", "\"gis\"", 3, "it is no test's result"),
        ("true", "false", 4, "needs 1 valid signatures"),
    ] {
        fs::write(path_beside(&image), signed.replacen(from, to, 1)).unwrap();
        publish(&world, &store, &both, &[]).fails(code, words);
    }
    fs::write(path_beside(&image), " ".repeat(2 << 20)).unwrap();
    publish(&world, &store, &both, &[]).fails(3, "too long");

    fs::write(path_beside(&image), signed).unwrap();
    publish(&world, &store, &both, &[]).ok();
    let shown = world.imgtool(["catalog", "show", &store, "--json"]).ok().json();
    for bundle in shown["bundles"].as_array().unwrap() {
        assert_eq!(bundle["tested"], true, "the kernel, too: {bundle}");
    }
    // The catalog remembers: another image on this kernel needs no second test of the kernel.
    fs::remove_file(path_beside(&image)).unwrap();
    publish(&world, &store, &both, &[]).ok();
}

#[test]
fn what_was_published_untested_can_be_tested_later() {
    let world = World::new();
    let store = world.store("s");
    world.init(&store);
    let kernel = world.kernel("linux", "6.1");
    let image = world.image("debian", "12", &kernel);
    let digest = Draft::read(&kernel).unwrap().entry.digest;
    let failed = TestResult { checks: vec![check("one", false)], ..result(&image, digest) };
    sign(&world, "keys", "me", &image, failed);
    let both = [&*image, &*kernel];
    publish(&world, &store, &both, &["--untested"]).ok();
    let shown = || world.imgtool(["catalog", "show", &store, "--json"]).ok().json();
    let before = shown();
    assert_eq!(before["bundles"][0]["tested"], false);

    sign(&world, "keys", "me", &image, result(&image, digest));
    let done = publish(&world, &store, &both, &["--json"]).ok().json();
    assert_eq!(done["bundles"][0]["action"], "list");
    let after = shown();
    for at in [0, 1] {
        assert_eq!(after["bundles"][at]["tested"], true);
        assert_eq!(after["bundles"][at]["published"], before["bundles"][at]["published"]);
    }
    let again = publish(&world, &store, &both, &["--json"]).ok().json();
    assert_eq!(again["bundles"][0]["action"], "nothing");
    // Nobody takes that back by publishing it once more.
    fs::remove_file(path_beside(&image)).unwrap();
    publish(&world, &store, &both, &["--untested"]).ok();
    assert_eq!(shown()["bundles"][0]["tested"], true);

    // It is no real kernel: there is no configuration in it to compare.
    fs::remove_file(&kernel).unwrap();
    let text = world.imgtool(["diff".as_ref(), image.as_os_str(), image.as_os_str()]).ok().text();
    assert!(!text.contains("boot:"), "{text}");
    sign(&world, "keys", "me", &image, result(&image, digest));
    let text = world.imgtool(["diff".as_ref(), image.as_os_str(), image.as_os_str()]).ok().text();
    assert!(text.contains("boot: 1234 ms, tcg -> 1234 ms, tcg"), "{text}");
    let diff = ["diff".as_ref(), image.as_os_str(), image.as_os_str(), "--json".as_ref()];
    let json = world.imgtool(diff).ok().json();
    assert_eq!(json["old"]["boot"]["ms"], 1234, "{json:#}");
    assert_eq!(json["new"]["boot"]["accel"], "tcg", "{json:#}");
}
