//! What a kernel's bytes depend on, and what not.

use imgtool_tests::World;

use super::{build, local, script};

/// ccache names files otherwise where it is told to make paths relative.
#[test]
fn ccache_changes_no_byte() {
    let with = World::new();
    assert_eq!(with.run("ccache", ["--version"]).code, Some(0), "run tests/setup");
    local(&with);
    let one = build(&with).ok().text();

    let without = World::new();
    local(&without);
    // A ccache that is none comes first.
    script(&without, "ccache", "#!/bin/sh\nexec \"$@\"\n");
    let mut command = without.command(imgtool_tests::program("imgtool"));
    let path = format!("{}:{}", without.path("bin").display(), std::env::var("PATH").unwrap());
    command.args(["kernel", "build", "k", "--config-dir", "configs"]);
    command.env("PATH", path).env("IMGTOOL_CACHE", without.path("cache"));
    let two = imgtool_tests::finish(command).ok().text();
    assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
}
