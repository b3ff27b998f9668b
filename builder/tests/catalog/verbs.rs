//! The verbs, as a person uses them.

use std::fs;

use crate::world::World;

#[test]
fn from_a_key_to_a_pruned_catalog() {
    let world = World::new();
    let store = world.store("s");
    world.init(&store);
    let kernel = world.kernel("linux", "6.1");
    let image = world.image("debian", "12", &kernel);
    let (kernel, image) = (kernel.to_str().unwrap(), image.to_str().unwrap());

    world.imgtool(["publish", image, kernel, "--to", &store]).fails(3, "it was not tested");
    world.imgtool(["publish", image, "--to", &store, "--untested"]).fails(3, "needs the kernel");
    let publish = ["publish", image, kernel, "--to", &store, "--untested"];
    let plan = world.imgtool(publish.iter().chain(&["--dry-run", "--json"])).ok().json();
    assert_eq!(plan["bundles"][0]["action"], "upload");
    assert_eq!(fs::read_dir(world.path("s/targets")).unwrap().count(), 1, "the empty index only");
    assert!(world.imgtool(publish).ok().text().contains("uploaded"));
    let again = world.imgtool(publish.iter().chain(&["--json"])).ok().json();
    assert_eq!(again["bundles"][0]["action"], "nothing");
    assert_eq!(again["targets"], 2);

    let shown = world.imgtool(["catalog", "show", &store, "--json"]).ok().json();
    assert_eq!(shown["bundles"][0]["name"], "debian");
    assert_eq!(shown["bundles"][0]["kernel"]["name"], "linux");
    world.imgtool(["catalog", "verify", &store, "--deep"]).ok();

    let yank = ["catalog", "yank", &store, "debian:12", "--reason", "CVE-2026-1"];
    assert!(world.imgtool(yank).ok().text().contains("yanked: CVE-2026-1"));
    world.imgtool(["catalog", "yank", &store, "debian:13", "--reason", "x"]).fails(2, "no such");
    world.imgtool(["catalog", "verify", &store, "--deep"]).ok();
    world.imgtool(["catalog", "yank", &store, "debian:12", "--undo"]).ok();
    let shown = world.imgtool(["catalog", "show", &store, "--json"]).ok().json();
    assert!(shown["bundles"][0].get("yanked").is_none());

    // A newer image on the same kernel: the kernel stays, whatever --keep says of kernels.
    let newer = world.image("debian", "13", std::path::Path::new(kernel));
    let second = world.kernel("linux", "6.6");
    let (newer, second) = (newer.to_str().unwrap(), second.to_str().unwrap());
    world.imgtool(["catalog", "add", &store, newer, second, "--untested"]).ok();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let prune = ["catalog", "prune", &store, "--keep", "1", "--unused-for", "0s"];
    let plan = world.imgtool(prune.iter().chain(&["--dry-run", "--json"])).ok().json();
    let pruned = world.imgtool(prune.iter().chain(&["--json"])).ok().json();
    assert_eq!(plan["bundles"], pruned["bundles"]);
    assert_eq!(pruned["bundles"].as_array().unwrap().len(), 1);
    assert_eq!(pruned["bundles"][0]["version"], "12");
    let shown = world.imgtool(["catalog", "show", &store, "--json"]).ok().json();
    assert_eq!(shown["bundles"].as_array().unwrap().len(), 3);
    world.imgtool(["catalog", "verify", &store, "--deep"]).ok();
    let metadata = fs::read_dir(world.path("s/metadata")).unwrap().count();
    assert_eq!(metadata, 5, "one of each, and timestamp.json");
    world.imgtool(publish).ok();
    world.imgtool(["catalog", "verify", &store, "--deep"]).ok();
}

/// The catalog.json at the top of the repository is, byte for byte, what publishing nothing writes.
#[test]
fn an_empty_catalog_is_the_one_at_the_top() {
    let world = World::new();
    let store = world.store("s");
    world.init(&store);
    let files: Vec<_> = fs::read_dir(world.path("s/targets")).unwrap().flatten().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(files[0].file_name().to_str().unwrap().ends_with(".catalog.json"));
    let top = concat!(env!("CARGO_MANIFEST_DIR"), "/../catalog.json");
    assert_eq!(fs::read(files[0].path()).unwrap(), fs::read(top).unwrap());
}

/// x86_64 today, aarch64 an hour later from another machine.
#[test]
fn architectures_of_one_version_are_merged() {
    let world = World::new();
    let store = world.store("s");
    world.init(&store);
    for arch in ["x86_64", "aarch64"] {
        let bundle = world.kernel_for("linux", "6.1", arch);
        let state = world.path(arch);
        let mut command = world.command();
        command.env("IMGTOOL_STATE", state).env("IMGTOOL_ROOT", world.path("root.json"));
        command.args(["publish", bundle.to_str().unwrap(), "--to", &store, "--untested"]);
        crate::world::finish(&mut command).ok();
    }
    let shown = world.imgtool(["catalog", "show", &store, "--json"]).ok().json();
    let arches: Vec<_> = shown["bundles"].as_array().unwrap().iter().map(|b| &b["arch"]).collect();
    assert_eq!(arches, ["x86_64", "aarch64"]);
}

#[test]
fn thresholds_and_roles_of_their_own() {
    let world = World::new();
    let store = world.store("s");
    for name in ["anna", "ben", "release", "ci"] {
        world.imgtool(["key", "new", name, "--no-passphrase"]).ok();
    }
    let init = [
        "catalog",
        "init",
        &store,
        "--role-key",
        "root=anna",
        "--role-key",
        "root=ben",
        "--threshold",
        "root=2",
        "--role-key",
        "targets=release",
        "--key",
        "ci",
    ];
    world.imgtool(init).ok();
    let listed = world.imgtool(["key", "list", &store]).ok().text();
    assert!(listed.contains("root: 2 of 2 keys have to sign"), "{listed}");
    let kernel = world.kernel("linux", "6.1");
    let publish = ["publish", kernel.to_str().unwrap(), "--to", &store, "--untested"];
    world.imgtool(publish).ok();

    // The cron's machine has the online key only, in its environment.
    let pem = fs::read_to_string(world.path("keys/ci.pem")).unwrap();
    let cron = |args: &[&str]| {
        let mut command = world.command();
        command.env("IMGTOOL_KEYS", world.path("none")).env("IMGTOOL_SIGNING_KEYS", &pem);
        crate::world::finish(command.args(args))
    };
    let refreshed = cron(&["catalog", "refresh", &store, "--json"]).ok().json();
    assert_eq!(refreshed["timestamp"], 3);
    let other = world.kernel("linux", "6.2");
    cron(&["publish", other.to_str().unwrap(), "--to", &store, "--untested"])
        .fails(4, "the role targets needs 1 keys to sign, 0 of them are at hand");
    cron(&["key", "expire", &store, "release"]).fails(2, "there is no key");

    // A lost laptop: its key goes, another comes.
    world.imgtool(["key", "new", "release-2", "--no-passphrase"]).ok();
    let rotate = ["key", "rotate", &store, "--role", "targets", "--old", "release"];
    world.imgtool(rotate.iter().chain(&["--new", "release-2"])).ok();
    world.imgtool(["key", "expire", &store, "anna"]).fails(2, "would need 2 signatures");
    world.imgtool(["catalog", "verify", &store]).ok();
    world.imgtool(publish).ok();
}

/// The private half of an online key is gone, its backup, too: the root keys give the role another
/// one. Nobody has to be told but the root.
#[test]
fn a_lost_key_is_rotated_out_by_the_root() {
    for lost in ["targets", "snapshot", "timestamp"] {
        let world = World::new();
        let store = world.store("s");
        for name in ["root", "targets", "snapshot", "timestamp"] {
            world.imgtool(["key", "new", name, "--no-passphrase"]).ok();
        }
        let roles =
            ["root", "targets", "snapshot", "timestamp"].map(|role| format!("{role}={role}"));
        let roles = roles.iter().flat_map(|role| ["--role-key", role]);
        world.imgtool(["catalog", "init", &store].into_iter().chain(roles)).ok();
        let kernel = world.kernel("linux", "6.1");
        let publish = ["publish", kernel.to_str().unwrap(), "--to", &store, "--untested"];
        world.imgtool(publish).ok();
        let reader = |words: &[&str]| {
            let mut command = world.command();
            command.env("IMGTOOL_STATE", world.path("reader"));
            command.env("IMGTOOL_ROOT", world.path("root.json"));
            crate::world::finish(command.args(words)).ok()
        };
        reader(&["catalog", "verify", &store, "--deep"]);

        for half in ["pem", "json"] {
            fs::remove_file(world.path(&format!("keys/{lost}.{half}"))).unwrap();
        }
        let newer = world.kernel("linux", "6.2");
        let publish = ["publish", newer.to_str().unwrap(), "--to", &store, "--untested"];
        let missing = format!("the role {lost} needs 1 keys to sign, 0 of them are at hand");
        world.imgtool(publish).fails(4, &missing);
        world.imgtool(["key", "new", "found", "--no-passphrase"]).ok();
        // It is named by its id: its file is gone.
        let listed = world.imgtool(["key", "list", &store, "--json"]).ok().json();
        let keys = listed["keys"].as_array().unwrap();
        let id = keys.iter().find(|key| key["here"] == false).unwrap()["id"].as_str().unwrap();
        let rotate = ["key", "rotate", &store, "--role", lost, "--old", id, "--new", "found"];
        world.imgtool(rotate).ok();
        world.imgtool(publish).ok();
        reader(&["catalog", "verify", &store, "--deep"]);
        let shown = reader(&["catalog", "show", &store, "--json"]).json();
        assert_eq!(shown["bundles"].as_array().unwrap().len(), 2, "{lost}");
    }
}

#[test]
fn wrong_uses_say_what_is_wrong() {
    let world = World::new();
    let store = world.store("s");
    world.imgtool(["catalog", "show", &store]).fails(4, "no root of trust");
    world.imgtool(["catalog", "init", &store]).fails(2, "the role root has no key");
    world.imgtool(["catalog", "init", &store, "--key", "me"]).fails(2, "there is no key \"me\"");
    world.init(&store);
    world.imgtool(["key", "new", "me", "--no-passphrase"]).fails(2, "never overwritten");
    world.imgtool(["key", "new", "../me"]).fails(2, "is not valid");
    world.imgtool(["key", "new", "you", "--no-passphrase"]).ok();
    world.imgtool(["catalog", "init", &store, "--key", "you"]).fails(2, "there is a catalog");
    world.imgtool(["catalog", "init", &store, "--key", "me"]).ok();
    let text = world.path("text");
    fs::write(&text, "no bundle").unwrap();
    let text = text.to_str().unwrap();
    world.imgtool(["publish", text, "--to", &store]).fails(3, "text");
    world.imgtool(["publish", text, "--to", "ftp://x"]).fails(3, "text");
    let kernel = world.kernel("linux", "6.1");
    let kernel = kernel.to_str().unwrap();
    world.imgtool(["publish", kernel, "--to", "ftp://x", "--untested"]).fails(2, "no address");
    let web = ["publish", kernel, "--to", "http://127.0.0.1:1/", "--untested"];
    world.imgtool(web).fails(2, "can only be read");
}

#[test]
fn what_ran_out_or_broke_can_be_mended() {
    let world = World::new();
    let store = world.store("s");
    world.imgtool(["key", "new", "me", "--no-passphrase"]).ok();
    let init = ["catalog", "init", &store, "--key", "me", "--lifetime", "root=3s"];
    world.imgtool(init.iter().chain(&["--lifetime", "timestamp=3s"])).ok();
    std::thread::sleep(std::time::Duration::from_secs(4));
    world.imgtool(["catalog", "verify", &store]).fails(4, "root metadata expired at");
    let refreshed = world.imgtool(["catalog", "refresh", &store, "--json"]).ok().json();
    assert_eq!(refreshed["timestamp"], 3, "before and after the root");

    let store = world.store("t");
    world.imgtool(["catalog", "init", &store, "--key", "me"]).ok();
    let kernel = world.kernel("linux", "6.1");
    let publish = ["publish", kernel.to_str().unwrap(), "--to", &store, "--untested"];
    let timestamp = world.path("t/metadata/timestamp.json");
    for damaged in [Some("{}"), None] {
        match damaged {
            Some(text) => fs::write(&timestamp, text).unwrap(),
            None => fs::remove_file(&timestamp).unwrap(),
        }
        world.imgtool(publish).fails(4, "timestamp.json");
        world.imgtool(["catalog", "refresh", &store]).fails(4, "timestamp.json");
        world.imgtool(["catalog", "refresh", &store, "--repair"]).ok();
        world.imgtool(["catalog", "verify", &store]).ok();
    }
    world.imgtool(publish).ok();
}
