//! Container images out of a registry, run as they are.

use imgtool_tests::registry::{Registry, busybox};
use imgtool_tests::{World, built_kernel};

#[test]
fn a_container_image_becomes_a_machine() {
    let world = World::new();
    busybox(&world, "layout", "first");
    let registry = Registry::start(&world);
    registry.push(&world, "layout", "app:1");
    world.imgrun(["import".as_ref(), built_kernel("generic-6.1").as_os_str()]).ok();
    let image = registry.name("app:1");
    // The image's command, user, directory and variables; flags go before them.
    let outcome = world.imgrun(["run", &image]).ok();
    assert_eq!(outcome.text(), "first\nme\n/srv\nimage image");
    assert_eq!(outcome.stderr.matches("is not here: pulling it").count(), 1, "{outcome:#?}");
    // What its tag means by now plays no part, nor does a registry that is gone.
    busybox(&world, "newer", "second");
    registry.push(&world, "newer", "app:1");
    let pulled = world.imgrun(["pull", "--json", &registry.name("app:1")]).ok();
    drop(registry);
    let outcome = world.imgrun(["run", "-e", "A=mine", "-u", "root", "-w", "/", &image]).ok();
    assert_eq!(outcome.text(), "second\nroot\n/\nmine image");
    assert!(!outcome.stderr.contains("not here"), "{outcome:#?}");
    // A command is run without the entrypoint; the first one is here still, as a bundle.
    let list = world.imgrun(["list", "--json"]).ok();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let pulled: serde_json::Value = serde_json::from_slice(&pulled.stdout).unwrap();
    let new = &pulled[0]["digest"];
    let images = list.as_array().unwrap().iter().filter(|b| b["kind"] == "image");
    let old = images.map(|b| &b["digest"]).find(|digest| *digest != new).unwrap();
    let old = old.as_str().unwrap();
    let outcome = world.imgrun(["run", "--network", "none", old, "--", "cat", "/etc/said"]).ok();
    assert_eq!(outcome.text(), "first");
}
