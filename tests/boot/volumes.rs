//! Disks that stay when their machines go.

use imgtool_tests::{Outcome, World, built_kernel};
use serde_json::Value;

use crate::image_arg;

#[test]
fn a_volume_stays_and_one_machine_at_a_time_writes_to_it() {
    let world = World::new();
    for file in [built_kernel("micro-6.1").display().to_string(), image_arg("debian-micro")] {
        world.imgrun(["import", "-q", &file]).ok();
    }
    let run = |volumes: &str, script: &str| -> Outcome {
        let words = ["run", "-q"].into_iter().chain(volumes.split_whitespace());
        world.imgrun(words.chain(["debian-micro", "--", "sh", "-c", script]))
    };
    let list = || -> Value {
        serde_json::from_str(&world.imgrun(["volume", "ls", "--json"]).ok().text()).unwrap()
    };
    // Nothing to read yet; then it is made on demand, and is what was synced after a power cut.
    run("--volume data:/srv/data:ro", "true").fails(125, "there is no volume data");
    run("--volume data:/srv/data", "echo first >/srv/data/log; sync").ok();
    world.imgrun(["volume", "create", "--size", "64M", "other"]).ok();
    let both = "--volume data:/srv/data --volume other:/srv/other";
    let done = run(both, "cat /srv/data/log; df -k --output=size /srv/other | tail -1").ok();
    let (log, kib) = done.text().split_once('\n').map(|(a, b)| (a.into(), b.into())).unwrap();
    let (log, kib): (String, String) = (log, kib);
    assert_eq!(log, "first");
    let kib: u64 = kib.trim().parse().unwrap();
    assert!((40_000..=65_536).contains(&kib), "{kib}");

    // A machine with a name has it for as long as it runs, and again when it starts again.
    let web = ["run", "-q", "-d", "--name", "web", "--volume", "data:/srv/data", "debian-micro"];
    world.imgrun(web).ok();
    assert_eq!(list()[0]["in_use"], true);
    run("--volume data:/d", "true").fails(125, "the volume data is in use");
    run("--volume data:/d:ro", "true").fails(125, "the volume data is in use");
    world.imgrun(["volume", "rm", "data"]).fails(2, "the volume data is in use");
    let write = ["exec", "-q", "web", "--", "sh", "-c", "echo second >>/srv/data/log"];
    world.imgrun(write).ok();
    // An orderly stop: nothing was synced.
    world.imgrun(["restart", "-q", "web"]).ok();
    let read = world.imgrun(["exec", "-q", "web", "--", "cat", "/srv/data/log"]).ok();
    assert_eq!(read.text(), "first\nsecond");
    world.imgrun(["stop", "-q", "web"]).ok();
    let disk = world.path("imgrun/volumes/data.ext4").display().to_string();
    let judged = world.run("e2fsck", ["-fn", &disk]).ok();
    assert!(!judged.text().contains("recovering"), "{judged:?}");

    // Many read at the same time.
    let reads = ["run", "-q", "-d", "--name", "reads", "--volume", "data:/d:ro", "debian-micro"];
    world.imgrun(reads).ok();
    assert_eq!(run("--volume data:/x/y:ro", "cat /x/y/log; : >/x/y/log").code, Some(2));
    world.imgrun(["start", "web"]).fails(2, "the volume data is in use");
    world.imgrun(["rm", "-f", "reads", "web"]).ok();
    assert_eq!(list()[0]["in_use"], false);
    world.imgrun(["volume", "rm", "data", "other"]).ok();
    assert_eq!(list(), serde_json::json!([]));
    assert_eq!(world.files("imgrun/volumes"), [""; 0]);
}
