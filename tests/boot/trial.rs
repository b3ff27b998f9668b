//! `imgtool test`: images that are what their recipes say, and one that is not.

use std::fs;

use imgtool_tests::{Outcome, World, program, repository};

use crate::image;

fn imgtool(world: &World, args: &[&str]) -> Outcome {
    let mut command = world.command(program("imgtool"));
    command.env("IMGTOOL_KEYS", world.path("keys")).env("IMGTOOL_STATE", world.path("state"));
    command.args(args);
    imgtool_tests::finish(command)
}

/// The bundle at `path` in this world; what lies beside it, too.
fn link(world: &World, path: &std::path::Path) -> String {
    let name = path.file_name().unwrap();
    fs::create_dir_all(world.path("out")).unwrap();
    let there = world.path("out").join(name);
    std::os::unix::fs::symlink(path, &there).unwrap();
    there.display().to_string()
}

#[test]
fn what_passes_its_tests_can_be_published() {
    let world = World::new();
    let image = link(&world, &image("debian-minimal"));
    let kernel = repository().join("target/images");
    let kernel = fs::read_dir(kernel).unwrap().flatten().map(|entry| entry.path());
    let mut kernel = kernel.filter(|path| path.to_string_lossy().contains("/generic-6.1-"));
    let kernel = link(&world, &kernel.find(|p| p.extension().is_some_and(|e| e == "zst")).unwrap());
    imgtool(&world, &["test", &image]).fails(2, "no key to sign");
    imgtool(&world, &["key", "new", "me", "--no-passphrase"]).ok();
    imgtool(&world, &["test", &kernel]).fails(2, "it is a kernel");
    let outcome = imgtool(&world, &["test", &image]).ok();
    let text = outcome.text();
    assert!(text.contains("\npassed  packages can be installed"), "{outcome:#?}");
    assert!(!text.contains("FAILED"), "{outcome:#?}");

    let store = format!("file:{}", world.path("store").display());
    imgtool(&world, &["catalog", "init", &store, "--key", "me"]).ok();
    imgtool(&world, &["publish", &image, &kernel, "--to", &store]).ok();
    let shown = imgtool(&world, &["catalog", "show", &store, "--json"]).ok().text();
    assert_eq!(shown.matches("\"tested\":true").count(), 2, "{shown}");
    assert_eq!(world.files("imgrun/machines"), [""; 0]);
}

#[test]
fn what_fails_a_test_is_said_and_not_published() {
    let world = World::new();
    let recipe = fs::read_to_string(repository().join("recipes/debian-minimal.toml")).unwrap();
    let recipe =
        recipe.split("[[test]]").next().unwrap().replace("\"debian-minimal\"", "\"faulty\"");
    let test = |more: &str| format!("[[test]]\n{more}\n");
    let recipe = [
        recipe,
        test("name = \"exit\"\ncommand = [\"sh\", \"-c\", \"echo why >&2; exit 3\"]"),
        test("name = \"wanted\"\ncommand = [\"false\"]\nexit = 1"),
        test("name = \"equals\"\ncommand = [\"printf\", 'a\\033b']\nequals = \"b\""),
        test("name = \"no program\"\ncommand = [\"/no/such\"]"),
        test("name = \"late\"\ncommand = [\"sleep\", \"1000\"]\ntimeout = \"1s\""),
        test("name = \"much\"\ncommand = [\"yes\"]\ntimeout = \"1h\""),
    ];
    let recipe = world.write("faulty.toml", recipe.concat()).display().to_string();
    let configs = repository().join("kernel-configs").display().to_string();
    let build = ["build", "--recipe", &recipe, "--kernel-configs", &configs, "--output", "out"];
    let image = imgtool(&world, &build).ok().text();
    imgtool(&world, &["key", "new", "me", "--no-passphrase"]).ok();
    let outcome = imgtool(&world, &["test", &image]);
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    let text = outcome.text();
    for line in [
        "FAILED  exit: it ended with 3 instead of 0: \"why\"",
        "passed  wanted: ",
        "FAILED  equals: it wrote \"a\\u{1b}b\" instead of \"b\"",
        "FAILED  no program: ",
        "FAILED  late: it did not end in 1 s",
        "FAILED  much: it wrote more than 1048576 bytes",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    let store = format!("file:{}", world.path("store").display());
    imgtool(&world, &["catalog", "init", &store, "--key", "me"]).ok();
    imgtool(&world, &["publish", &image, "--to", &store]).fails(3, "it failed: exit, equals");

    // A result speaks for the last try only.
    let broken = imgtool(&world, &["test", &image, "--memory", "1"]);
    broken.fails(2, "1 MiB of memory");
    imgtool(&world, &["publish", &image, "--to", &store]).fails(3, "it was not tested");
}

/// The runtime knows nothing of pieces, and does not have to.
#[test]
fn what_is_published_in_pieces_is_pulled_and_runs() {
    let world = World::new();
    let images = image("debian-minimal").parent().unwrap().to_path_buf();
    let files =
        fs::read_dir(images).unwrap().flatten().map(|entry| entry.path().display().to_string());
    let wanted = |path: &String| {
        let ours = path.contains("/generic-6.1-") || path.contains("/debian-minimal-");
        ours && path.ends_with(".tar.zst")
    };
    let bundles: Vec<String> = files.filter(wanted).collect();
    let store = format!("file:{}", world.path("store").display());
    imgtool(&world, &["key", "new", "me", "--no-passphrase"]).ok();
    imgtool(&world, &["catalog", "init", &store, "--key", "me"]).ok();
    let mut publish = vec!["publish", "--to", &store, "--chunked", "--untested"];
    publish.extend(bundles.iter().map(String::as_str));
    imgtool(&world, &publish).ok();
    let kept = world.files("store/targets");
    assert!(!kept.iter().any(|file| file.ends_with(".tar.zst")), "{kept:?}");
    world.imgrun(["pull", "debian-minimal", "--from", &store, "--root", "root.json"]).ok();
    let text = world.imgrun(["run", "-q", "debian-minimal", "--", "echo", "whole"]).ok().text();
    assert_eq!(text, "whole");
}
