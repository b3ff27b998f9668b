//! Many publishers at once.

use std::collections::BTreeSet;
use std::process::Child;

use crate::servers::{LOGIN, Server};
use crate::world::World;

const PUBLISHERS: usize = 16;
/// Enough that every commit is contended; `IMGTOOL_VERSIONS=20` asks for more.
const VERSIONS_DEFAULT: usize = 4;

fn versions() -> usize {
    std::env::var("IMGTOOL_VERSIONS").map_or(VERSIONS_DEFAULT, |n| n.parse().unwrap())
}

/// 16 publishers, as many machines (each has a memory of its own), some versions each: all of them
/// are in the catalog in the end.
#[test]
fn sixteen_publishers_lose_nothing_in_a_directory() {
    let world = World::new();
    race(&world, &world.store("s"), versions(), &[]);
}

#[test]
fn sixteen_publishers_lose_nothing_in_a_bucket() {
    let (world, server) = (World::new(), Server::moto());
    server.make_bucket("images");
    race(&world, &server.bucket("images"), versions(), &LOGIN);
}

pub(crate) fn race(world: &World, store: &str, versions: usize, env: &[(&str, &str)]) {
    let mut command = world.command();
    command.args(["key", "new", "me", "--no-passphrase"]).envs(env.iter().copied());
    crate::world::finish(&mut command).ok();
    let mut command = world.command();
    command.args(["catalog", "init", store, "--key", "me"]).envs(env.iter().copied());
    crate::world::finish(&mut command).ok();
    let start = |publisher: usize| -> Child {
        let mut script = "set -e\n".to_string();
        for version in 0..versions {
            let bundle = world.kernel(&format!("p{publisher}"), &version.to_string());
            let bundle = bundle.display();
            let imgtool = env!("CARGO_BIN_EXE_imgtool");
            script += &format!("{imgtool} -q publish {bundle} --to '{store}' --untested\n");
        }
        let mut command = world.wrapped("sh", &["-c", &script]);
        command.env("IMGTOOL_STATE", world.path(&format!("state-{publisher}")));
        command.env("IMGTOOL_ROOT", world.path("root.json"));
        command.envs(env.iter().copied()).stdout(std::process::Stdio::null());
        command.spawn().unwrap()
    };
    let children: Vec<Child> = (0..PUBLISHERS).map(start).collect();
    for child in children {
        let status = child.wait_with_output().unwrap().status;
        assert!(status.success(), "{status}");
    }
    let mut command = world.command();
    command.args(["catalog", "show", store, "--json"]).envs(env.iter().copied());
    let shown = crate::world::finish(&mut command).ok().json();
    let found: BTreeSet<String> = shown["bundles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| format!("{} {}", b["name"].as_str().unwrap(), b["version"].as_str().unwrap()))
        .collect();
    let all = (0..PUBLISHERS).flat_map(|p| (0..versions).map(move |v| format!("p{p} {v}")));
    assert_eq!(found, all.collect::<BTreeSet<_>>());
    let mut command = world.command();
    command.args(["catalog", "verify", store, "--deep"]).envs(env.iter().copied());
    crate::world::finish(&mut command).ok();
}
