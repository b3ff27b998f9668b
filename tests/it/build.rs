//! `imgtool build` from the outside: what it makes, and what it says where it can not.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use imgtool_tests::{World, cache_directory, finish, program, repository};

/// A recipe for a tarball, with whatever else.
fn recipe(world: &World, tarball: &str, more: &str) {
    let text =
        format!("name = \"t\"\nversion = \"1\"\n{more}\n[source]\ntarball = \"{tarball}\"\n");
    world.write("t.toml", text);
}

/// Makes `name` out of a directory tree by GNU tar.
fn tar(world: &World, name: &str) {
    world.write("tree/etc/os-release", "ID=test\n");
    world.write("tree/bin/tool", "#!/bin/true\n");
    world.run("tar", ["-cf", name, "--owner=0", "--group=0", "-C", "tree", "."]).ok();
}

fn build(world: &World) -> imgtool_tests::Outcome {
    let configs = repository().join("kernel-configs");
    let configs = configs.to_str().unwrap();
    world.imgtool(["build", "--recipe", "t.toml", "--kernel-configs", configs, "--output", "out"])
}

/// Nothing but the kernel may be in the output directory after a failure.
#[track_caller]
fn nothing_left(world: &World) {
    let left: Vec<_> =
        world.files("out").into_iter().filter(|f| !f.starts_with("generic-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_bundle_is_an_ordinary_file() {
    let world = World::new();
    tar(&world, "root.tar");
    recipe(&world, "root.tar", "");
    let path = build(&world).ok().text();
    assert_eq!(path, format!("out/t-1-{}.tar.zst", std::env::consts::ARCH));
    let listed = world.run("sh", ["-c", &format!("zstd -dcq {path} | tar t")]).ok().text();
    assert_eq!(listed, "manifest.json\nrootfs.ext4");
    world.run("sh", ["-c", &format!("zstd -dcq {path} | tar x")]).ok();
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.path("manifest.json")).unwrap()).unwrap();
    let digest = world.run("sha256sum", ["rootfs.ext4"]).ok().text();
    let digest = digest.split(' ').next().unwrap();
    assert_eq!(manifest["files"][0]["digest"], format!("sha256:{digest}"));
    world.run("e2fsck", ["-fn", "rootfs.ext4"]).ok();
    let stat = world.run("debugfs", ["-R", "stat /usr/lib/imgtool/imgagent", "rootfs.ext4"]).ok();
    assert!(stat.text().contains("Mode:  0755"), "{}", stat.text());

    let kernel = world.files("out").into_iter().find(|f| f.starts_with("generic-6.1-")).unwrap();
    let digest = world.run("sha256sum", [format!("out/{kernel}")]).ok().text();
    let digest = digest.split(' ').next().unwrap();
    assert_eq!(manifest["kernel"]["digest"], format!("sha256:{digest}"));
    let listed = world.run("sh", ["-c", &format!("zstd -dcq out/{kernel} | tar t")]).ok().text();
    assert_eq!(listed, "manifest.json\nvmlinux\nbzImage\nconfig\nbuild.json");
}

#[test]
fn json_results_and_json_progress() {
    let world = World::new();
    tar(&world, "root.tar");
    recipe(&world, "root.tar", "");
    let configs = repository().join("kernel-configs");
    let configs = configs.to_str().unwrap();
    let outcome = world
        .imgtool(["build", "--json", "-r", "t.toml", "--kernel-configs", configs, "-o", "out"])
        .ok();
    let result: serde_json::Value = serde_json::from_str(&outcome.text()).unwrap();
    let digest = world.run("sha256sum", [result["path"].as_str().unwrap()]).ok().text();
    assert!(digest.starts_with(&result["digest"].as_str().unwrap()["sha256:".len()..]));
    for line in outcome.stderr.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

#[test]
fn the_same_bundle_whoever_builds_it_and_where() {
    let first = World::new();
    tar(&first, "root.tar");
    recipe(&first, "root.tar", "");
    build(&first).ok();
    let name = format!("out/t-1-{}.tar.zst", std::env::consts::ARCH);
    let expected = std::fs::read(first.path(&name)).unwrap();

    // Another directory, another user, another umask and time zone.
    let second = World::new();
    std::fs::copy(first.path("root.tar"), second.path("root.tar")).unwrap();
    recipe(&second, "root.tar", "");
    // What another user must be able to read: programs, configurations, the finished kernel.
    std::fs::copy(program("imgtool"), second.path("imgtool")).unwrap();
    let configs = repository().join("kernel-configs");
    second.run("cp", ["-r", configs.to_str().unwrap(), "kernel-configs"]).ok();
    let cache = second.path("cache");
    let from = cache_directory();
    std::fs::create_dir(&cache).unwrap();
    second.run("cp", ["-r", &format!("{from}/kernel"), cache.to_str().unwrap()]).ok();
    second.run("chmod", ["-R", "a+rwX", "."]).ok();
    let mut command = Command::new("sh");
    command
        .args(["-c", "umask 077; exec ./imgtool build -r t.toml -o out"])
        .current_dir(second.path(""))
        .env("IMGTOOL_CACHE", &cache)
        .env("TZ", "Asia/Tokyo")
        .env("HOME", second.path(""));
    if is_root() {
        const NOBODY: u32 = 65_534;
        command.uid(NOBODY).gid(NOBODY);
    }
    finish(command).ok();
    assert!(std::fs::read(second.path(&name)).unwrap() == expected, "the bundles differ");
}

fn is_root() -> bool {
    finish({
        let mut id = Command::new("id");
        id.arg("-u");
        id
    })
    .text()
        == "0"
}

#[test]
fn wrong_recipes_are_shown_with_their_line() {
    let world = World::new();
    world.write("t.toml", "name = \"t\"\nversoin = \"1\"\n[source]\ntarball = \"x\"\n");
    let outcome = build(&world).fails(3, "t.toml:");
    let wanted = "t.toml:2:1: unknown key `versoin`; did you mean `version`?\n  2 | versoin";
    assert!(outcome.stderr.contains(wanted), "{}", outcome.stderr);
    world.imgtool(["build", "--recipe", "nothing.toml"]).fails(3, "nothing.toml");
    recipe(&world, "missing.tar", "");
    build(&world).fails(3, "missing.tar");
    recipe(&world, "x", "kernel = \"nonesuch\"");
    build(&world).fails(2, "nonesuch");
    nothing_left(&world);
}

#[test]
fn wrong_layers_leave_nothing_behind() {
    let world = World::new();
    tar(&world, "root.tar");
    world.run("gzip", ["-k", "root.tar"]).ok();
    let good = std::fs::read(world.path("root.tar.gz")).unwrap();
    recipe(&world, "cut.tar.gz", "");
    world.write("cut.tar.gz", &good[..good.len() / 2]);
    build(&world).fails(3, "truncated");
    nothing_left(&world);

    let out = std::fs::File::create(world.path("up.tar")).unwrap();
    let mut archive = tar_with(out, b"../../etc/passwd");
    archive.flush().unwrap();
    recipe(&world, "up.tar", "");
    build(&world).fails(3, "../../etc/passwd");
    nothing_left(&world);
    // Said once more what was never there to begin with: nothing outside was touched.
    assert!(!world.path("etc/passwd").exists());

    world.write("text.tar", "this is no tar");
    recipe(&world, "text.tar", "");
    build(&world).fails(3, "text.tar");
    nothing_left(&world);
}

/// A tar of one empty file with any name.
fn tar_with(mut out: std::fs::File, name: &[u8]) -> std::fs::File {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name);
    for (at, text) in [
        (100, "0000644\0"),
        (108, "0000000\0"),
        (116, "0000000\0"),
        (124, "00000000000\0"),
        (136, "00000000000\0"),
        (257, "ustar\x0000"),
    ] {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    header[156] = b'0';
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&header).unwrap();
    out.write_all(&[0; 1024]).unwrap();
    out
}

#[test]
fn another_architecture_is_refused_before_any_work() {
    let world = World::new();
    tar(&world, "root.tar");
    recipe(&world, "root.tar", "arch = [\"x86_64\"]");
    let configs = repository().join("kernel-configs");
    let args = ["build", "-r", "t.toml", "--arch", "aarch64", "-o", "out"];
    world.imgtool(args).fails(2, "not for aarch64");
    let args = ["build", "-r", "t.toml", "--arch", "m68k", "-o", "out"];
    assert_eq!(world.imgtool(args).code, Some(2));
    assert!(configs.exists());
    nothing_left(&world);
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let world = World::new();
    world.write("tree/big", vec![1; 40 << 20]);
    tar(&world, "root.tar");
    recipe(&world, "root.tar", "");
    std::fs::create_dir(world.path("out")).unwrap();
    world.run("mount", ["-t", "tmpfs", "-o", "size=30m", "tmpfs", "out"]).ok();
    let outcome = build(&world);
    nothing_left(&world);
    world.run("umount", ["out"]).ok();
    let outcome = outcome.fails(6, "");
    assert!(outcome.stderr.contains("space"), "{}", outcome.stderr);
}

#[test]
fn an_interrupt_ends_a_build_and_leaves_nothing() {
    let world = World::new();
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(60 << 20)
    .collect();
    world.write("tree/big", noise);
    tar(&world, "root.tar");
    recipe(&world, "root.tar", "");
    let configs = repository().join("kernel-configs");
    for delay in [0.1, 0.3, 0.6, 1.0] {
        let mut command = world.interruptible("imgtool");
        command.args(["build", "-r", "t.toml", "-o", "out", "--kernel-configs"]).arg(&configs);
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_secs_f64(delay));
        let id = child.id().to_string();
        world.run("kill", ["-INT", &id]);
        let code = child.wait().unwrap().code();
        assert!(matches!(code, Some(130 | 0)), "{code:?}");
        if code == Some(130) {
            nothing_left(&world);
        }
    }
}
