//! `imgtool kernel …` from the outside.

mod bytes;
mod cross;
mod rebuild;
mod sources;
mod verbs;

use imgtool_tests::{Outcome, World};

/// A makefile that knows the targets that a kernel build calls.
const MAKEFILE: &str = r#"
kernelversion:
	@echo 6.1.2
allnoconfig:
	@cp $(KCONFIG_ALLCONFIG) $(O)/.config
olddefconfig:
	@true
bzImage Image:
	@echo "  CC      main.o"
	@$(CC) $(KCFLAGS) -c -o $(O)/main.o $(CURDIR)/main.c
	@$(CC) -nostdlib -static -o $(O)/vmlinux $(O)/main.o
	@mkdir -p $(O)/arch/x86/boot $(O)/arch/arm64/boot
	@cp $(O)/vmlinux $(O)/arch/x86/boot/bzImage
	@cp $(O)/vmlinux $(O)/arch/arm64/boot/Image
"#;

/// Puts sources of a few bytes into `linux-6.1.2.tar` and `.tar.xz`; the digest of the latter.
fn sources(world: &World) -> String {
    world.write("configs/fragments/base.config", "CONFIG_A=y\n");
    world.write("linux-6.1.2/Makefile", MAKEFILE);
    world.write("linux-6.1.2/main.c", "const char file[] = __FILE__; void _start(void) {}\n");
    let how = ["--sort=name", "--mtime=@1000000000", "--owner=0", "--group=0", "--mode=0755"];
    world.run("tar", how.iter().chain(&["-cf", "linux-6.1.2.tar", "linux-6.1.2"])).ok();
    world.run("xz", ["-kf", "linux-6.1.2.tar"]).ok();
    let sum = world.run("sha256sum", ["linux-6.1.2.tar.xz"]).ok().text();
    sum.split(' ').next().unwrap().to_string()
}

/// Writes the configuration of kernel `k` whose sources are what `source` says.
fn config(world: &World, source: &str) {
    let arch = std::env::consts::ARCH;
    let text = format!(
        "name = \"k\"\nversion = \"6.1.2\"\n[source]\n{source}\n[arch.{arch}]\n\
         fragments = [\"base\"]\n"
    );
    world.write("configs/k.toml", text);
}

/// Makes `bin/<name>`, a script.
fn script(world: &World, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = world.write(&format!("bin/{name}"), text);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs `imgtool kernel …` with a cache of this world's own.
fn kernel(world: &World, args: &[&str]) -> Outcome {
    let mut command = world.command(imgtool_tests::program("imgtool"));
    command.arg("kernel").args(args).env("IMGTOOL_CACHE", world.path("cache"));
    imgtool_tests::finish(command)
}

/// A kernel whose sources are a file.
fn local(world: &World) {
    let digest = sources(world);
    world.run("cp", ["linux-6.1.2.tar.xz", "configs"]).ok();
    config(world, &format!("file = \"linux-6.1.2.tar.xz\"\nsha256 = \"{digest}\""));
}

fn build(world: &World) -> Outcome {
    kernel(world, &["build", "k", "--config-dir", "configs"])
}
