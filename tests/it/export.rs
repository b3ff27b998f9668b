//! Bundles in other forms, each judged by other people's programs.

use imgtool_tests::{World, repository};

fn bundle(world: &World) -> String {
    world.write("tree/etc/os-release", "ID=test\n");
    world.write("tree/bin/tool", "#!/bin/true\n");
    world.write("tree/big", vec![7; 3 << 20]);
    world.run("ln", ["tree/bin/tool", "tree/bin/hard"]).ok();
    world.run("ln", ["-s", "tool", "tree/bin/soft"]).ok();
    world.run("chmod", ["4755", "tree/bin/tool"]).ok();
    world.run("mkfifo", ["tree/fifo"]).ok();
    let xattr = "import os; os.setxattr('tree/etc/os-release', 'user.colour', b'red')";
    world.run("python3", ["-c", xattr]).ok();
    let args = ["-cf", "root.tar", "--xattrs", "--owner=5", "--group=6", "-C", "tree", "."];
    world.run("tar", args).ok();
    world.write("t.toml", "name = \"t\"\nversion = \"1\"\n[source]\ntarball = \"root.tar\"\n");
    let configs = repository().join("kernel-configs");
    let configs = configs.to_str().unwrap();
    world.imgtool(["build", "-r", "t.toml", "--kernel-configs", configs]).ok().text()
}

fn export(world: &World, bundle: &str, form: &str) -> String {
    let path = world.imgtool(["export", bundle, "--as", form]).ok().text();
    world.run("sha256sum", ["-c", &format!("{path}.sha256")]).ok();
    let again = world.path("again");
    world.imgtool(["export", bundle, "--as", form, "-o", again.to_str().unwrap()]).ok();
    world.run("cmp", [&path, "again"]).ok();
    path
}

#[test]
fn disks_are_right_by_the_tools_of_others() {
    let world = World::new();
    let bundle = bundle(&world);
    let ext4 = export(&world, &bundle, "ext4");
    world.run("e2fsck", ["-fn", &ext4]).ok();
    let raw = export(&world, &bundle, "raw");
    let judged = world.run("sgdisk", ["-v", &raw]).ok().text();
    assert!(judged.contains("No problems found"), "{judged}");
    world.run("sfdisk", ["--verify", &raw]).ok();
    let table = world.run("sfdisk", ["--json", &raw]).ok().text();
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let root = &table["partitiontable"]["partitions"][0];
    assert_eq!((root["name"].as_str(), root["start"].as_u64()), (Some("root"), Some(2048)));
    let cut = format!("dd if={raw} of=part bs=1M skip=1 status=none; truncate -r {ext4} part");
    world.run("sh", ["-c", &cut]).ok();
    world.run("cmp", [&ext4, "part"]).ok();
    let qcow2 = export(&world, &bundle, "qcow2");
    world.run("qemu-img", ["check", "-q", &qcow2]).ok();
    world.run("qemu-img", ["compare", "-q", &raw, &qcow2]).ok();
}

#[test]
fn an_oci_image_holds_the_same_tree_again() {
    let world = World::new();
    let bundle = bundle(&world);
    let ext4 = export(&world, &bundle, "ext4");
    let archive = export(&world, &bundle, "oci");
    let from = format!("oci-archive:{archive}:1");
    let shown = world.run("skopeo", ["inspect", &from]).ok().text();
    assert!(shown.contains("\"Os\": \"linux\""), "{shown}");
    world.run("skopeo", ["copy", "-q", &from, "oci:layout:1"]).ok();
    world.imgtool(["flatten", "oci-layout:layout:1", "-o", "flat.ext4"]).ok();
    let differ = world.imgtool(["inspect", "diff", &ext4, "flat.ext4"]);
    assert_eq!(differ.text(), "", "{differ:#?}");
}

#[test]
fn an_initramfs_is_read_by_cpio() {
    let world = World::new();
    let bundle = bundle(&world);
    let archive = export(&world, &bundle, "cpio");
    let list = world.run("sh", ["-c", &format!("cpio -itv --quiet -n < {archive}")]).ok().text();
    assert!(list.contains("usr/lib/imgtool/imgagent"), "{list}");
    assert!(list.lines().any(|line| line.contains("init -> /usr/lib/imgtool/imgagent")), "{list}");
    let unpack = format!(
        "mkdir out2; cd out2; cpio -id --quiet < ../{archive}; stat -c '%a %u %g %h' bin/hard; cmp big ../tree/big"
    );
    assert_eq!(world.run("sh", ["-c", &unpack]).ok().text(), "4755 5 6 2");
}

#[test]
fn what_is_no_image_is_refused() {
    let world = World::new();
    bundle(&world);
    let kernel = world.files("out").into_iter().find(|f| f.starts_with("generic-6.1-")).unwrap();
    let kernel = format!("out/{kernel}");
    world.imgtool(["export", &kernel, "--as", "raw"]).fails(3, "it is a kernel");
    world.write("x.tar.zst", "no bundle");
    world.imgtool(["export", "x.tar.zst", "--as", "ext4"]).fails(3, "x.tar.zst");
    assert!(!world.files("").iter().any(|file| file.ends_with(".raw") || file.starts_with(".img")));
}

#[test]
fn texts_for_other_programs_are_theirs() {
    let world = World::new();
    let bundle = bundle(&world);
    let config = world.imgtool(["render", "firecracker", &bundle, "--memory", "256"]).ok().text();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["machine-config"]["mem_size_mib"], 256);
    assert!(config["boot-source"]["boot_args"].as_str().unwrap().contains("imgtool.init=agent"));
    let sum = world.run("sha256sum", [&bundle]).ok().text();
    let args =
        ["render", "systemd", &bundle, "--imgrun", "/bin/true", "--", "sh", "-c", "echo $A 5%"];
    let unit = world.imgtool(args).ok().text();
    assert!(unit.contains(&format!("{} sh -c \"echo $$A 5%%\"", &sum[..64])), "{unit}");
    world.write("t-machine.service", unit);
    world.run("systemd-analyze", ["verify", "--man=no", "./t-machine.service"]).ok();
    let job = world.imgtool(["render", "nomad", &bundle]).ok().text();
    assert!(job.contains(&sum[..64]) && job.contains("\"infinity\""), "{job}");
    assert_eq!(world.imgtool(["render", "nonesuch", &bundle]).code, Some(2));
}
