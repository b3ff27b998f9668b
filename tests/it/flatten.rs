//! `imgtool flatten`: what a layered image becomes, judged by a program that reads the layers itself.

use imgtool_tests::{World, repository};

/// An OCI layout of two layers, the upper one with a whiteout, made by umoci.
fn layout(world: &World) {
    world.write("lower/etc/one", "1\n");
    world.write("lower/etc/two", "2\n");
    world.write("lower/bin/su", "#!/bin/true\n");
    world.run("chmod", ["4755", "lower/bin/su"]).ok();
    world.run("ln", ["-s", "one", "lower/etc/link"]).ok();
    world.run("tar", ["-czf", "lower.tar.gz", "--owner=0", "--group=0", "-C", "lower", "."]).ok();
    world.write("upper/etc/one", "new\n");
    world.write("upper/etc/.wh.two", "");
    world.run("tar", ["-czf", "upper.tar.gz", "--owner=7", "--group=8", "-C", "upper", "."]).ok();
    world.run("umoci", ["init", "--layout", "oci"]).ok();
    world.run("umoci", ["new", "--image", "oci:v1"]).ok();
    for layer in ["lower.tar.gz", "upper.tar.gz"] {
        let unpacked = layer.trim_end_matches(".gz");
        world.run("sh", ["-c", &format!("gzip -dc {layer} > {unpacked}")]).ok();
        world.run("umoci", ["raw", "add-layer", "--image", "oci:v1", unpacked]).ok();
    }
}

#[test]
fn a_layout_becomes_what_its_layers_say() {
    let world = World::new();
    layout(&world);
    world.imgtool(["flatten", "oci-layout:oci:v1", "-o", "root.ext4", "--label", "hello"]).ok();
    world.run("e2fsck", ["-fn", "root.ext4"]).ok();
    std::fs::create_dir(world.path("mounted")).unwrap();
    world.run("mount", ["-o", "ro,loop", "root.ext4", "mounted"]).ok();
    let judge = repository().join("tests/judge/tree.py").display().to_string();
    let judged = world.run("python3", [&judge, "mounted", "lower.tar", "upper.tar"]);
    world.run("umount", ["mounted"]).ok();
    judged.ok();

    // The same through an archive and a plain tarball's door: the same layers, the same bytes.
    world.run("skopeo", ["copy", "-q", "oci:oci:v1", "oci-archive:oci.tar:v1"]).ok();
    let archive = ["flatten", "oci-archive:oci.tar:v1", "-o", "again.ext4", "--label", "hello"];
    world.imgtool(archive).ok();
    world.run("cmp", ["root.ext4", "again.ext4"]).ok();
    world.imgtool(["flatten", "tarball:lower.tar.gz", "-o", "lower.ext4", "--size", "8MiB"]).ok();
    assert_eq!(world.path("lower.ext4").metadata().unwrap().len(), 8 << 20);
    world.run("e2fsck", ["-fn", "lower.ext4"]).ok();
}

#[test]
fn what_can_not_be_flattened_leaves_nothing() {
    let world = World::new();
    layout(&world);
    let fails = |args: &[&str], code, words: &str| {
        let mut all = vec!["flatten"];
        all.extend(args);
        all.extend(["-o", "root.ext4"]);
        world.imgtool(all).fails(code, words);
        assert!(!world.files("").iter().any(|f| f.contains("ext4")), "{:?}", world.files(""));
    };
    fails(&["oci-layout:oci:nonesuch"], 3, "nonesuch");
    fails(&["oci-layout:nowhere"], 3, "nowhere");
    fails(&["tarball:nowhere.tar"], 3, "nowhere.tar");
    fails(&["Upper/Case:x"], 2, "Upper/Case");
    fails(&["oci-layout:oci:v1", "--size", "16KiB"], 3, "at least");

    // One flipped byte in a blob is another digest.
    let blobs = world.files("oci/blobs/sha256");
    let largest = blobs
        .iter()
        .max_by_key(|b| world.path(format!("oci/blobs/sha256/{b}")).metadata().unwrap().len())
        .unwrap();
    let path = world.path(format!("oci/blobs/sha256/{largest}"));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    fails(&["oci-layout:oci:v1"], 4, "expected sha256:");
}
