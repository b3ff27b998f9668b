//! Container images that can not be run, and what is left of them: nothing.

use std::net::TcpListener;
use std::process::Stdio;

use imgtool_tests::World;
use imgtool_tests::registry::{Registry, busybox, layer};

/// Nothing of a bundle is in the store, and no byte of a wrong layer.
#[track_caller]
fn assert_nothing_is_left(world: &World) {
    let left = world.files("imgrun");
    assert!(left.iter().all(|file| file.starts_with("layers/")), "{left:?}");
    for file in left.iter().filter(|file| file.starts_with("layers/blobs/")) {
        let sum = world.run("sha256sum", [world.path("imgrun").join(file)]).ok().text();
        assert!(file.ends_with(sum.split(' ').next().unwrap()), "{file} has {sum}");
    }
    let staging = std::fs::read_dir(world.path("imgrun/staging")).unwrap();
    assert_eq!(staging.count(), 0);
}

#[test]
fn what_a_registry_has_wrong_is_an_error() {
    let world = World::new();
    busybox(&world, "layout", "one");
    let registry = Registry::start(&world);
    registry.push(&world, "layout", "app:1");
    let image = registry.name("app:1");
    let pull = |args: &[&str]| world.imgrun([&["pull"], args].concat());
    pull(&[&registry.name("app:2")]).fails(3, "there is no such image (404)");
    pull(&[&registry.name("other")]).fails(3, "there is no such image (404)");
    pull(&["--arch", "aarch64", &image]).fails(3, "linux/arm64 is wanted");
    pull(&["--limit-rate", "1M", &image]).fails(2, "are for bundles");
    assert_eq!(pull(&["docker://A"]).code, Some(2));
    // Before anything is pulled.
    let outcome = world.imgrun(["run", &image]).fails(125, "no kernel generic-6.1 for");
    assert!(outcome.stderr.contains("hint: import one"), "{outcome:#?}");
    let file = layer(&world.path("layout"));
    let blob = registry.blob(&world, file.file_name().unwrap().to_str().unwrap());
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    pull(&[&image]).fails(4, "layer 1 (sha256:");
    assert_nothing_is_left(&world);
}

#[test]
fn what_is_wrong_on_disk_is_an_error() {
    let world = World::new();
    busybox(&world, "layout", "one");
    let first = world.imgrun(["pull", "oci-layout:layout:1"]).ok().text();
    assert!(first.starts_with("oci-layout:1 sha256:") && first.ends_with(" (made)"), "{first}");
    let again = world.imgrun(["pull", "oci-layout:layout:1"]).ok().text();
    assert_eq!(again, first.replace("(made)", "(was there)"));
    // By its own name it is found from anywhere, and removed.
    let full = format!("oci-layout:{}:1", world.path("layout").display());
    assert!(world.imgrun(["inspect", &full]).ok().text().contains("oci-layout:1"));
    world.imgrun(["rm", &full]).ok();
    let layer = layer(&world.path("layout"));
    let length = layer.metadata().unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&layer).unwrap().set_len(length - 100).unwrap();
    world.imgrun(["pull", "oci-layout:layout:1"]).fails(3, "truncated");
    world.imgrun(["pull", "oci-layout:layout:2"]).fails(3, "layout:2");
    world.imgrun(["run", "library/alpine"]).fails(125, "library/alpine: No such file");
    let outcome = world.imgrun(["run", "debian"]).fails(125, "no catalog is configured");
    assert!(outcome.stderr.contains("docker.io/library/debian"), "{outcome:#?}");
    assert_nothing_is_left(&world);
}

/// Whoever publishes a bad version moves the tag back.
#[test]
fn a_tag_that_goes_back_means_what_it_did() {
    let world = World::new();
    busybox(&world, "layout", "one");
    busybox(&world, "newer", "two");
    let registry = Registry::start(&world);
    let image = registry.name("app:1");
    let pull = |layout: &str| {
        registry.push(&world, layout, "app:1");
        let text = world.imgrun(["pull", "--json", &image]).ok().text();
        let pulled: serde_json::Value = serde_json::from_str(&text).unwrap();
        let text = world.imgrun(["inspect", "--json", &image]).ok().text();
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["digest"], pulled[0]["digest"], "{layout}: {found}");
        pulled[0]["digest"].to_string()
    };
    let first = pull("layout");
    assert_ne!(pull("newer"), first);
    assert_eq!(pull("layout"), first);
}

/// Ctrl-C while a registry keeps silent.
#[test]
fn an_interrupt_leaves_nothing() {
    let world = World::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/app:1", silent.local_addr().unwrap());
    let mut command = world.interruptible("imgrun");
    command.args(["pull", &image]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let _connection = silent.accept().unwrap();
    world.run("kill", ["-INT", &child.id().to_string()]).ok();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_nothing_is_left(&world);
}
