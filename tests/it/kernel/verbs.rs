//! The verbs besides `build`.

use imgtool_tests::{Outcome, World};
use serde_json::Value;

use super::{build, kernel, local, script};

fn json(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {outcome:#?}"))
}

const PLACE: [&str; 2] = ["--config-dir", "configs"];

fn run(world: &World, args: &[&str]) -> Outcome {
    kernel(world, &[args, &PLACE].concat())
}

#[test]
fn a_list_tells_what_is_built() {
    let world = World::new();
    local(&world);
    let list = || {
        let listed = json(&run(&world, &["list", "--json"]).ok());
        let state = |kernel: &Value| kernel["state"].as_str().unwrap().to_string();
        listed["kernels"].as_array().unwrap().iter().map(state).collect::<Vec<_>>()
    };
    assert_eq!(list(), ["configured"]);
    let path = build(&world).ok().text();
    assert_eq!(list(), ["built"]);
    let sum = world.run("sha256sum", [&path]).ok().text();
    let text = run(&world, &["list"]).ok().text();
    assert!(text.contains("k  6.1.2") && text.contains(&sum[..12]), "{text}");
    world.write("configs/fragments/base.config", "CONFIG_A=y\nCONFIG_B=y\n");
    assert_eq!(list(), ["configured", "other"]);
    world.write("configs/bad.toml", "name = 7\n");
    run(&world, &["list"]).fails(3, "configs/bad.toml:1:8");
}

#[test]
fn a_kernel_is_shown_with_its_reasons() {
    let world = World::new();
    local(&world);
    world.write("configs/fragments/base.config", "# It is fast.\nCONFIG_A=y\n\nCONFIG_B=7\n");
    let text = run(&world, &["show", "k", "--options"]).ok().text();
    for wanted in [
        "kernel     k 6.1.2 for",
        "source     linux-6.1.2.tar.xz sha256:",
        "fragment   base",
        "CONFIG_A=y  base.config:2  # It is fast.",
        "CONFIG_B=7  base.config:4",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let bundle = build(&world).ok().text();
    let shown = json(&run(&world, &["show", "--json", &bundle]).ok());
    assert_eq!(shown["manifest"]["name"], "k");
    assert_eq!(shown["build"]["fragments"][0]["name"], "base");
    run(&world, &["show", "nonesuch"]).fails(2, "there is no kernel nonesuch");
    world.write("text", "this is no bundle");
    run(&world, &["show", "./text"]).fails(3, "./text");
}

#[test]
fn an_edit_becomes_a_fragment() {
    let world = World::new();
    local(&world);
    world.write("configs/fragments/base.config", "CONFIG_A=y\nCONFIG_B=y\n");
    script(&world, "edit", "#!/bin/sh\nsed -i 's/^CONFIG_B=y/CONFIG_C=\"x\"/' \"$1\"\n");
    let outcome = run(&world, &["config", "k", "--with", "bin/edit"]).ok();
    assert_eq!(outcome.text(), "CONFIG_C=\"x\"");
    for wanted in ["base.config:2: CONFIG_B=y is now n: change it", "add \"k-edits\" to"] {
        assert!(outcome.stderr.contains(wanted), "{outcome:#?}");
    }
    let fragment = std::fs::read_to_string(world.path("configs/fragments/k-edits.config"));
    assert_eq!(fragment.unwrap(), "CONFIG_C=\"x\"\n");

    // With the fragment and that line changed, the configuration is the edited one.
    let config = std::fs::read_to_string(world.path("configs/k.toml")).unwrap();
    world.write("configs/k.toml", config.replace("[\"base\"]", "[\"base\", \"k-edits\"]"));
    world.write("configs/fragments/base.config", "CONFIG_A=y\n");
    world.write("edited", "CONFIG_A=y\nCONFIG_C=\"x\"\n");
    let changes = json(&run(&world, &["diff", "--json", "k", "edited"]).ok());
    assert_eq!(changes["changes"].as_array().unwrap().len(), 0, "{changes}");

    // An editor that fails, one that changes nothing, one that is not there.
    script(&world, "fail", "#!/bin/sh\nexit 3\n");
    run(&world, &["config", "k", "--with", "bin/fail"]).fails(6, "bin/fail");
    let outcome = run(&world, &["config", "k", "--with", "olddefconfig"]).ok();
    assert!(outcome.stderr.contains("nothing to write"), "{outcome:#?}");
    run(&world, &["config", "k", "--with", "bin/gone"]).fails(6, "bin/gone");
    let mut left = world.files("cache/kernel");
    left.retain(|file| !file.ends_with(".lock") && !file.starts_with(".gone-"));
    assert_eq!(left, [""; 0]);
}

#[test]
fn differences_have_both_values() {
    let world = World::new();
    local(&world);
    world.write("one", "CONFIG_A=y\nCONFIG_B=1\n");
    world.write("two", "CONFIG_A=m\nCONFIG_C=\"text\"\n# CONFIG_D is not set\n");
    let text = run(&world, &["diff", "one", "two"]).ok().text();
    assert_eq!(text, "CONFIG_A: y -> m\nCONFIG_B: 1 -> n\nCONFIG_C: n -> \"text\"");
    // A kernel that was never built: it is configured for this.
    assert_eq!(run(&world, &["diff", "k", "one"]).ok().text(), "CONFIG_B: n -> 1");
    let bundle = build(&world).ok().text();
    assert_eq!(run(&world, &["diff", &bundle, "one"]).ok().text(), "CONFIG_B: n -> 1");
    run(&world, &["diff", "one", "./gone"]).fails(3, "./gone: no such file");
    world.write("text", "no configuration");
    run(&world, &["diff", "one", "text"]).fails(3, "text: .config:1: CONFIG_NAME=value is wanted");
}

#[test]
fn what_is_missing_decides_how_a_check_ends() {
    let world = World::new();
    local(&world);
    world.write("configs/fragments/net.config", "CONFIG_VETH=y\n");
    world.write("config", "CONFIG_NAMESPACES=y\nCONFIG_BRIDGE=m\n");
    let outcome = run(&world, &["check", "docker", "config"]).fails(3, "config lacks ");
    let text = outcome.text();
    let veth = "needed   CONFIG_VETH  docker: a container's end of the network (fragment net)";
    assert!(text.lines().any(|line| line == veth), "{text}");
    assert!(text.contains("CONFIG_BRIDGE  docker: docker0; it is a module"), "{text}");
    assert!(!text.contains("CONFIG_NAMESPACES") && text.contains("advised  CONFIG_USER_NS"));

    // All that is said to be needed is enough.
    let missing = json(&run(&world, &["check", "--json", "docker,systemd", "config"]));
    let missing = missing["missing"].as_array().unwrap().clone();
    let needed = missing.iter().filter(|missing| !missing["advised"].as_bool().unwrap());
    let lines: String =
        needed.map(|m| format!("CONFIG_{}=y\n", m["options"][0].as_str().unwrap())).collect();
    let bridge = lines.replace("CONFIG_BRIDGE=y\n", "");
    world.write("config", format!("CONFIG_NAMESPACES=y\nCONFIG_BRIDGE=y\n{bridge}"));
    let outcome = run(&world, &["check", "docker,systemd", "config"]).ok();
    assert!(outcome.stderr.contains("more are advised"), "{outcome:#?}");
    run(&world, &["check", "lxc", "config"]).fails(2, "nobody knows what lxc needs");
    run(&world, &["check", "docker", "k"]).fails(3, "k lacks ");

    // An image says itself what it needs.
    world.write("tree/etc/motd", "hello\n");
    world.run("tar", ["-cf", "root.tar", "-C", "tree", "."]).ok();
    let recipe = "name = \"t\"\nversion = \"1\"\nkernel = \"k\"\nsource.tarball = \"root.tar\"\n";
    world.write("t.toml", recipe);
    let mut command = world.command(imgtool_tests::program("imgtool"));
    command.args(["build", "-r", "t.toml", "--kernel-configs", "configs"]);
    command.env("IMGTOOL_CACHE", world.path("cache"));
    let image = imgtool_tests::finish(command).ok().text();
    let outcome = run(&world, &["check", &image, "config"]).fails(3, "options for agent");
    assert!(outcome.text().contains("agent: the disks"), "{outcome:#?}");
}

/// A kernel of a few bytes: an ELF header and a banner.
fn vmlinux() -> Vec<u8> {
    let mut elf = vec![0; 10_000];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 62;
    elf[3000..3033].copy_from_slice(b"Linux version 6.1.0-9-cloud (gcc)");
    elf
}

/// It as a distribution has it in /boot (the kernel's Documentation/arch/x86/boot.rst).
fn vmlinuz(world: &World) -> Vec<u8> {
    world.write("vmlinux-plain", vmlinux());
    world.run("gzip", ["-kf", "vmlinux-plain"]).ok();
    let payload = std::fs::read(world.path("vmlinux-plain.gz")).unwrap();
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend_from_slice(&payload);
    file
}

fn unpacked(world: &World, bundle: &str, name: &str) -> Vec<u8> {
    world.run("tar", ["--zstd", "-xOf", bundle, name]).ok().stdout
}

#[test]
fn a_distributions_package_becomes_a_bundle() {
    let world = World::new();
    let packed = vmlinuz(&world);
    world.write("deb/boot/vmlinuz-6.1.0-9-cloud", &packed);
    world.write("deb/boot/config-6.1.0-9-cloud", "CONFIG_A=y\n");
    world.write("deb/lib/modules/6.1.0-9-cloud/a.ko", "module");
    let control = "Package: linux-image-6.1.0-9-cloud\nVersion: 1:6.1.20-1\nArchitecture: amd64\n\
                   Maintainer: a\nDescription: b\n";
    world.write("deb/DEBIAN/control", control);
    for how in ["gzip", "xz", "zstd"] {
        world.run("dpkg-deb", [&format!("-Z{how}"), "--build", "deb", "k.deb"]).ok();
        let bundle = kernel(&world, &["import", "k.deb", "--output", "out"]).ok().text();
        assert_eq!(bundle, "out/linux-image-6.1.0-9-cloud-6.1.20-1-x86_64.tar.zst");
        assert_eq!(unpacked(&world, &bundle, "vmlinux"), vmlinux());
        assert_eq!(unpacked(&world, &bundle, "bzImage"), packed);
        assert_eq!(unpacked(&world, &bundle, "config"), b"CONFIG_A=y\n");
        let info: Value = serde_json::from_slice(&unpacked(&world, &bundle, "build.json")).unwrap();
        assert_eq!(info["release"], "6.1.0-9-cloud");
    }
    // imgrun takes what imgtool makes of it.
    let bundle = "out/linux-image-6.1.0-9-cloud-6.1.20-1-x86_64.tar.zst";
    world.imgrun(["import", bundle]).ok();

    std::fs::remove_file(world.path("deb/boot/vmlinuz-6.1.0-9-cloud")).unwrap();
    world.run("dpkg-deb", ["--build", "deb", "k.deb"]).ok();
    kernel(&world, &["import", "k.deb"]).fails(3, "holds no boot/vmlinuz-*");
    world.write("k.deb", "this is no package");
    kernel(&world, &["import", "k.deb"]).fails(3, "k.deb");
}

#[test]
fn a_directory_or_a_file_becomes_a_bundle() {
    let world = World::new();
    world.write("dir/vmlinuz", vmlinuz(&world));
    kernel(&world, &["import", "dir"]).fails(2, "dir: it does not say its name");
    let bundle = kernel(&world, &["import", "dir", "--name", "mine"]).ok().text();
    assert!(bundle.ends_with("/mine-6.1.0-9-cloud-x86_64.tar.zst"), "{bundle}");
    let listed = world.run("tar", ["--zstd", "-tf", &bundle]).ok().text();
    assert_eq!(listed, "manifest.json\nvmlinux\nbzImage\nbuild.json");
    // The same again is found, not made.
    assert_eq!(kernel(&world, &["import", "dir", "--name", "mine"]).ok().text(), bundle);

    for (name, text) in [("config", "CONFIG_A=y\n"), ("initrd", "i"), ("modules.tar", "m")] {
        world.write(&format!("dir/{name}"), text);
    }
    world.write("dir/metadata.json", r#"{"name": "mine", "version": "7", "distro": "debian"}"#);
    let bundle = kernel(&world, &["import", "dir", "--output", "out"]).ok().text();
    assert_eq!(bundle, "out/mine-7-x86_64.tar.zst");
    let listed = world.run("tar", ["--zstd", "-tf", &bundle]).ok().text();
    let files = "manifest.json\nvmlinux\nbzImage\ninitrd\nmodules.tar\nconfig\nbuild.json";
    assert_eq!(listed, files);
    let info = String::from_utf8(unpacked(&world, &bundle, "build.json")).unwrap();
    assert!(info.contains("\"distro\": \"debian\""), "{info}");

    let bundle = kernel(&world, &["import", "vmlinux-plain", "--name", "plain"]).ok().text();
    let listed = world.run("tar", ["--zstd", "-tf", &bundle]).ok().text();
    assert_eq!(listed, "manifest.json\nvmlinux\nbuild.json");

    std::fs::create_dir(world.path("empty")).unwrap();
    kernel(&world, &["import", "empty"]).fails(3, "empty holds no kernel");
    kernel(&world, &["import", "gone"]).fails(3, "gone");
    let cut = std::fs::read(world.path("dir/vmlinuz")).unwrap();
    world.write("cut", &cut[..cut.len() - 8]);
    kernel(&world, &["import", "cut", "--name", "cut"]).fails(3, "its header points past its end");
    let drafts = world.files("cache/kernel");
    assert!(drafts.iter().all(|file| !file.starts_with('.')), "{drafts:?}");
}
