//! Machines that do not come up: each ends with one error, in bounded time, and leaves nothing.

use std::time::{Duration, Instant};

use imgtool_tests::{Outcome, World, repository};

use crate::image_arg;

/// Builds an image of what is below `tree`, with these words more for imgtool.
pub(crate) fn build(world: &World, more: &[&str]) -> String {
    world.run("tar", ["-cf", "root.tar", "-C", "tree", "."]).ok();
    world.write("t.toml", "name = \"t\"\nversion = \"1\"\nsource.tarball = \"root.tar\"\n");
    let configs = repository().join("kernel-configs");
    let build = ["build", "-r", "t.toml", "--kernel-configs", configs.to_str().unwrap()];
    world.imgtool(build.iter().chain(more)).ok().text()
}

/// Builds an image of a nearly empty tarball with `agent` as its init, and runs it.
fn run_with_agent(world: &World, agent: &str) -> Outcome {
    world.write("tree/etc/motd", "hello\n");
    let image = build(world, &["--agent", agent]);
    let began = Instant::now();
    let outcome = world.imgrun(["run", "--boot-timeout", "15s", &image, "--", "true"]);
    assert!(began.elapsed() < Duration::from_secs(60), "it took {:?}", began.elapsed());
    assert_eq!(world.files("imgrun/machines"), [""; 0]);
    outcome
}

/// Files of an image that the agent uses may be anything.
#[test]
fn odd_files_in_etc_keep_nobody_from_running() {
    for odd in ["ln -s /no/such/place tree/etc/hostname", "mkfifo tree/etc/hostname"] {
        let world = World::new();
        world.write("hello.c", "#include <stdio.h>\nint main(void) { puts(\"hello\"); }\n");
        world.write("tree/etc/motd", "hello\n");
        let script =
            format!("{odd} && mkfifo tree/etc/passwd && gcc -static -o tree/hello hello.c");
        world.run("sh", ["-c", &script]).ok();
        let image = build(&world, &[]);
        let outcome = world.imgrun(["run", "-q", "--timeout", "60s", &image, "--", "/hello"]).ok();
        assert_eq!(outcome.text(), "hello", "{odd}");
    }
}

#[test]
fn a_kernel_panic_shows_the_consoles_last_lines() {
    let world = World::new();
    world.write("exit.c", "int main(void) { return 3; }\n");
    world.run("gcc", ["-static", "-o", "exit", "exit.c"]).ok();
    let outcome = run_with_agent(&world, "exit");
    assert_eq!(outcome.code, Some(125), "{outcome:#?}");
    assert!(outcome.stderr.contains("Kernel panic - not syncing"), "{outcome:#?}");
}

#[test]
fn a_guest_that_never_answers_is_given_up() {
    let world = World::new();
    world.write("wait.c", "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n");
    world.run("gcc", ["-static", "-o", "wait", "wait.c"]).ok();
    let outcome = run_with_agent(&world, "wait");
    assert_eq!(outcome.code, Some(125), "{outcome:#?}");
    assert!(outcome.stderr.contains("15"), "{outcome:#?}");
}

#[test]
fn damaged_bundles_are_not_imported() {
    let world = World::new();
    let good = std::fs::read(image_arg("debian-minimal")).unwrap();
    world.write("cut.tar.zst", &good[..good.len() / 2]);
    world.imgrun(["import", "cut.tar.zst"]).fails(3, "cut.tar.zst");
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    world.write("flipped.tar.zst", &flipped);
    let outcome = world.imgrun(["import", "flipped.tar.zst"]);
    assert!(matches!(outcome.code, Some(3 | 4)), "{outcome:#?}");
    world.write("text.tar.zst", "this is no bundle");
    world.imgrun(["import", "text.tar.zst"]).fails(3, "text.tar.zst");
    assert_eq!(world.files("imgrun/bundles"), [""; 0]);
    assert_eq!(world.files("imgrun/staging"), [""; 0]);
}

#[test]
fn without_qemu_the_package_is_named() {
    let world = World::new();
    let mut command = world.command(imgtool_tests::program("imgrun"));
    command.args(["run", &image_arg("debian-minimal"), "--", "true"]).env("PATH", "/nonexistent");
    let outcome = imgtool_tests::finish(command);
    assert_eq!(outcome.code, Some(125), "{outcome:#?}");
    assert!(outcome.stderr.contains("qemu-system-x86"), "{outcome:#?}");
}

#[test]
fn without_the_kernel_it_is_named() {
    let world = World::new();
    let name = format!("debian-minimal-12-{}.tar.zst", std::env::consts::ARCH);
    std::fs::copy(image_arg("debian-minimal"), world.path(&name)).unwrap();
    let outcome = world.imgrun(["run", &format!("./{name}"), "--", "true"]);
    assert_eq!(outcome.code, Some(125), "{outcome:#?}");
    assert!(outcome.stderr.contains("generic-6.1"), "{outcome:#?}");
}

/// The host's disk is full: the guest's write fails, and the machine goes on.
#[test]
fn a_full_host_is_an_error_in_the_guest_and_no_hang() {
    let world = World::new();
    let image = image_arg("debian-minimal");
    world.imgrun(["import", &image]).ok();
    let script = "dd if=/dev/zero of=/big bs=1M count=64 conv=fsync; echo dd said $?";
    let machines = ["-t", "tmpfs", "-o", "size=24m,mode=0700", "none", "imgrun/machines"];
    world.run("mount", machines).ok();
    // A hang, which is what this is about, must not last.
    let imgrun = imgtool_tests::program("imgrun").display().to_string();
    let run = ["100", &imgrun, "run", "-q", &image, "--", "sh", "-c", script];
    let outcome = world.run("timeout", run);
    world.run("umount", ["imgrun/machines"]).ok();
    assert_eq!(outcome.ok().text(), "dd said 1");
}
