//! A real kernel, built a second time.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use imgtool_tests::{World, built_kernel, finish, program, repository};

/// In another directory, by another user with another umask, time zone and language, at another
/// time, and without what a compiler cache remembers of the first build.
#[test]
fn micro_is_the_same_whoever_builds_it_and_where() {
    let world = World::new();
    std::fs::copy(program("imgtool"), world.path("imgtool")).unwrap();
    let configs = repository().join("kernel-configs");
    world.run("cp", ["-r", configs.to_str().unwrap(), "kernel-configs"]).ok();
    world.run("chmod", ["-R", "a+rwX", "."]).ok();
    let mut command = Command::new("sh");
    let build = "kernel build micro-6.1 --config-dir kernel-configs --output out";
    command
        .args(["-c", &format!("umask 077; exec ./imgtool --quiet {build}")])
        .current_dir(world.path(""))
        .env("IMGTOOL_CACHE", world.path("cache"))
        .env("HOME", world.path(""))
        .env_remove("XDG_CACHE_HOME")
        .env_remove("CCACHE_DIR")
        .env("TZ", "Asia/Tokyo")
        .env("LC_ALL", "C.UTF-8");
    if world.run("id", ["-u"]).text() == "0" {
        const NOBODY: u32 = 65_534;
        command.uid(NOBODY).gid(NOBODY);
    }
    let again = finish(command).ok().text();
    let (one, two) = (
        std::fs::read(built_kernel("micro-6.1")).unwrap(),
        std::fs::read(world.path(again)).unwrap(),
    );
    assert!(one == two, "the kernels differ");
}
