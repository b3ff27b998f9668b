//! What is asked of machines that run: ports, pipelines, logs of several, results as JSON.

use imgtool_tests::{World, built_kernel};
use serde_json::Value;

use crate::image_arg;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A world with a machine `web` in it, whose command prints two lines and stays.
fn world_with_a_machine() -> World {
    let world = World::new();
    for file in [built_kernel("micro-6.1").display().to_string(), image_arg("debian-micro")] {
        world.imgrun(["import", "-q", &file]).ok();
    }
    let script = "echo one; echo two; sleep 100000";
    let words = ["run", "-q", "-d", "--name", "web", "debian-micro", "--", "sh", "-c", script];
    world.imgrun(words).ok();
    world
}

/// Says that it listens once it does.
const LISTEN: &str = "use IO::Socket::INET; \
    my $t = IO::Socket::INET->new(Listen => 5, LocalPort => 8080) or die $!; \
    my $u = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1', LocalPort => 53) or die $!; \
    if (!fork) { close STDOUT; close STDERR; sleep 100000 }";

#[test]
fn machines_say_what_becomes_of_what_they_are_asked() {
    let world = world_with_a_machine();
    let imgrun = |line: &str| world.imgrun(line.split_whitespace());

    let seen = json(&imgrun("inspect --json web").ok().text());
    assert_eq!((&seen["kind"], &seen["running"]), (&"machine".into(), &true.into()), "{seen}");
    assert_eq!(seen["command"][0], "sh");
    assert!(imgrun("inspect web").ok().text().starts_with("machine    web running"));
    assert_eq!(json(&imgrun("inspect --json debian-micro").ok().text())["kind"], "bundle");

    // What a network's end is to a process.
    world.imgrun(["exec", "-q", "web", "--", "perl", "-e", LISTEN]).ok();
    let ports = json(&imgrun("ports --json web").ok().text());
    let found: Vec<_> = ports
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            let text = |name: &str| p[name].as_str().unwrap_or("?").to_string();
            (text("protocol"), text("address"), p["port"].as_u64(), text("process"))
        })
        .collect();
    let row = |a: &str, b: &str, port, name: &str| (a.into(), b.into(), Some(port), name.into());
    assert_eq!(found, [row("tcp", "0.0.0.0", 8080, "perl"), row("udp", "127.0.0.1", 53, "perl")]);

    // One fails: what comes behind it is not run.
    let steps =
        ["pipeline", "--json", "-w", "/tmp", "web", "pwd; echo x >x", "cat x; exit 3", "no"];
    let done = world.imgrun(steps);
    assert_eq!((done.code, &done.stderr[..]), (Some(3), "/tmp\nx\n"), "{done:?}");
    let done = json(&done.text());
    assert_eq!((&done["not_run"], &done["steps"][1]["code"]), (&1.into(), &3.into()), "{done}");
    let steps = ["pipeline", "-q", "-k", "web", "kill -9 $$", "echo on"];
    let done = world.imgrun(steps);
    assert_eq!((done.code, done.text()), (Some(137), "on".to_string()));

    // Files without a size have contents all the same.
    imgrun("cp web:/proc/version version").ok();
    assert!(std::fs::read_to_string(world.path("version")).unwrap().starts_with("Linux version"));

    imgrun("run -q -d --name db debian-micro -- echo three").ok();
    let lines = imgrun("logs -f --json db").ok().text();
    assert_eq!(json(&lines), serde_json::json!({ "machine": "db", "line": "three" }));
    assert_eq!(imgrun("logs web db").ok().text(), "web | one\nweb | two\ndb | three");
    let stopped = imgrun("stop --json web nobody");
    assert_eq!(stopped.code, Some(2), "{stopped:?}");
    let stopped = json(&stopped.text());
    assert_eq!(stopped[0], serde_json::json!({ "name": "web", "error": null }));
    assert_eq!(stopped[1]["error"]["class"], "usage");
    assert_eq!(json(&imgrun("rm --force --json web db").ok().text()).as_array().unwrap().len(), 2);
    assert_eq!(json(&imgrun("ps -a --json").ok().text()), serde_json::json!([]));
}
