//! A host on which nothing is, and the name of an image.

use imgtool_tests::registry::Registry;
use imgtool_tests::{World, built_kernel, finish, program};

use crate::image_arg;

/// A catalog at `address` with one image and its kernel, and a host that follows it; `more` is said
/// to who writes there.
fn follow(world: &World, address: &str, more: &[&str], name: &str, kernel: &str) {
    let image = image_arg(name);
    let kernel = built_kernel(kernel).display().to_string();
    for args in [
        &["key", "new", "me", "--no-passphrase"][..],
        &[&["catalog", "init", address, "--key", "me"], more].concat(),
        &[&["publish", &image, &kernel, "--to", address, "--untested"], more].concat(),
    ] {
        let mut command = world.command(program("imgtool"));
        command.args(args).env("IMGTOOL_KEYS", world.path("keys"));
        command.env("IMGTOOL_STATE", world.path("state"));
        finish(command).ok();
    }
    let root = std::fs::read(world.path("root.json")).unwrap();
    world.write("config/imgrun/root.json", root);
    let catalogs =
        format!("[[catalog]]\nname = \"own\"\nroot = \"root.json\"\ndepots = [{address:?}]\n");
    world.write("config/imgrun/catalogs.toml", catalogs);
}

#[test]
fn an_image_that_is_not_here_is_pulled_and_boots() {
    let world = World::new();
    let address = format!("file:{}", world.path("depot").display());
    follow(&world, &address, &[], "debian-micro", "micro-6.1");
    let run = ["run", "debian-micro", "--", "uname", "-r"];
    let first = world.imgrun(run).ok();
    assert_eq!(first.text(), "6.1.192");
    let said = first.stderr.lines().filter(|l| l.contains("is not here")).count();
    assert_eq!(said, 1, "{}", first.stderr);
    // Then it is here, whatever becomes of the catalog.
    std::fs::rename(world.path("depot"), world.path("gone")).unwrap();
    let second = world.imgrun(run).ok();
    assert_eq!(second.text(), "6.1.192");
    assert!(!second.stderr.contains("not here"), "{}", second.stderr);
}

#[test]
fn a_catalog_in_a_registry_does_as_well() {
    let world = World::new();
    let registry = Registry::start(&world);
    let address = format!("oci://{}", registry.name("images"));
    follow(&world, &address, &["--single-writer"], "debian-micro", "micro-6.1");
    let first = world.imgrun(["run", "debian-micro", "--", "uname", "-r"]).ok();
    assert_eq!(first.text(), "6.1.192");
    let inspected = world.imgrun(["inspect", "debian-micro"]).ok().text();
    assert!(inspected.contains(&address), "{inspected}");
}
