//! For the other architecture than this machine's.

use imgtool_tests::{World, finish, program};

use super::{kernel, local};

/// The architecture that this machine's is not, and what runs its programs here.
fn other() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "x86_64" => ("aarch64", "qemu-aarch64-static"),
        _ => ("x86_64", "qemu-x86_64-static"),
    }
}

fn both(world: &World) {
    local(world);
    let text = std::fs::read_to_string(world.path("configs/k.toml")).unwrap();
    let more = format!("{text}[arch.{}]\nfragments = [\"base\"]\n", other().0);
    world.write("configs/k.toml", more);
}

#[test]
fn a_kernel_is_built_for_the_other_architecture() {
    let (world, (arch, _)) = (World::new(), other());
    both(&world);
    let args = ["build", "k", "--arch", arch, "--config-dir", "configs", "--output", "out"];
    let bundle = kernel(&world, &args).ok().text();
    assert_eq!(bundle, format!("out/k-6.1.2-{arch}.tar.zst"));
    let boot = if arch == "aarch64" { "Image" } else { "vmlinux" };
    let image = world.run("tar", ["--zstd", "-xOf", &bundle, boot]).ok().stdout;
    let machine = if arch == "aarch64" { 183 } else { 62 };
    // The makefile's Image is an ELF file.
    assert_eq!(image[18], machine);
}

/// The image's agent runs, by user emulation.
#[test]
fn an_image_is_built_for_the_other_architecture() {
    let (world, (arch, emulator)) = (World::new(), other());
    both(&world);
    world.write("tree/etc/motd", "hello\n");
    world.run("tar", ["-cf", "root.tar", "-C", "tree", "."]).ok();
    let recipe = format!(
        "name = \"t\"\nversion = \"1\"\narch = [\"{arch}\"]\nkernel = \"k\"\n\
         source.tarball = \"root.tar\"\n"
    );
    world.write("t.toml", recipe);
    let mut command = world.command(program("imgtool"));
    command.args(["build", "-r", "t.toml", "--kernel-configs", "configs"]);
    command.env("IMGTOOL_CACHE", world.path("cache"));
    let outcome = finish(command).ok();
    world.run("tar", ["--zstd", "-xf", &outcome.text()]).ok();
    let dump = "dump /usr/lib/imgtool/imgagent imgagent";
    world.run("debugfs", ["-R", dump, "rootfs.ext4"]).ok();
    world.run("chmod", ["+x", "imgagent"]).ok();
    assert_eq!(world.run(emulator, ["./imgagent", "--version"]).ok().text(), "0.1.0");
}
