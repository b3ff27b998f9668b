//! A host that follows a name.

use serde_json::Value;

use super::server::Server;
use super::{Depot, Host};

fn sync(host: &Host) -> Value {
    host.json(&["sync"])["follows"][0].clone()
}

/// What `follow.toml` says beside the name.
fn follow(host: &Host, more: &str) {
    host.world.write("config/imgrun/sync.toml", format!("[[follow]]\nname = \"t\"\n{more}"));
}

#[test]
fn a_host_follows_a_channel() {
    let depot = Depot::new();
    depot.publish("1.1");
    let server = Server::start(&depot.dir());
    let host = depot.host(&[&server.address()]);
    follow(&host, "channel = \"1\"\n");
    let dry = host.json(&["sync", "--dry-run"]);
    assert_eq!((&dry["follows"][0]["action"], &dry["dry_run"]), (&"pull".into(), &true.into()));
    assert_eq!(host.titles(), Vec::<String>::new());
    let first = sync(&host);
    assert_eq!((&first["action"], &first["version"]), (&"pull".into(), &"1.1".into()));
    assert_eq!(first["why"], "new here");
    let expected = &dry["follows"][0]["bundles"];
    let expected: u64 =
        expected.as_array().unwrap().iter().map(|b| b["fetch_bytes"].as_u64().unwrap()).sum();
    let fetched = first["fetched_bytes"].as_u64().unwrap();
    assert!(fetched.abs_diff(expected) < 64 << 10, "{fetched}, planned {expected}");
    assert_eq!(sync(&host)["action"], "keep");

    // A new version, one of another channel, and one that is withdrawn.
    for version in ["1.10", "2"] {
        depot.publish(version);
    }
    let second = sync(&host);
    assert_eq!((&second["version"], &second["why"]), (&"1.10".into(), &"t:1.10 is out".into()));
    assert_eq!(second["previous"]["version"], "1.1");
    host.holds(&depot, "1.1");
    host.holds(&depot, "1.10");
    depot.publish("1.11");
    let report = host.json(&["sync"]);
    assert_eq!(report["removed"][0]["version"], "1.1");
    depot.yank("t:1.11");
    let back = sync(&host);
    assert_eq!(
        (&back["version"], &back["why"]),
        (&"1.10".into(), &"t:1.11 was withdrawn: it leaks".into())
    );
    host.verify();
    host.is_tidy();
}

#[test]
fn what_is_gone_or_damaged_comes_back() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    follow(&host, "channel = \"1\"\n");
    sync(&host);
    let dir = host.bundle("t:1");
    std::fs::remove_file(dir.join("rootfs.ext4")).unwrap();
    let repaired = sync(&host);
    assert_eq!(repaired["action"], "repair");
    assert!(repaired["why"].as_str().unwrap().contains("rootfs.ext4: missing"), "{repaired}");
    host.holds(depot, "1");
    host.imgrun(&["rm", "generic-6.1"]).ok();
    let pulled = sync(&host);
    assert_eq!(pulled["action"], "pull");
    assert!(pulled["why"].as_str().unwrap().ends_with("is gone"), "{pulled}");
    host.verify();
}

#[test]
fn what_fails_stays_where_it_was_and_the_others_go_on() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    follow(&host, "channel = \"1\"\n");
    sync(&host);
    host.follow(&["file:/nowhere/at/all"]);
    host.imgrun(&["sync", "--textfile", "metrics"]).fails(4, "/nowhere/at/all");
    let text = std::fs::read_to_string(host.world.path("metrics")).unwrap();
    assert!(
        text.contains("imgrun_sync_success{name=\"t\",channel=\"1\",arch=\"x86_64\"} 0"),
        "{text}"
    );
    assert!(text.contains("version=\"1\""), "{text}");
    host.holds(depot, "1");
    host.follow(&[&depot.address()]);
    let other =
        "channel = \"1\"\n[[follow]]\nname = \"t\"\nchannel = \"2\"\n[[follow]]\nname = \"u\"\n";
    follow(&host, other);
    let outcome = host.imgrun(&["sync", "--json"]).fails(3, "has no u for");
    let report: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let actions: Vec<_> =
        report["follows"].as_array().unwrap().iter().map(|f| f["action"].clone()).collect();
    assert_eq!(actions, ["keep", "pull", "failed"]);
    host.holds(depot, "1");
    host.holds(depot, "2");
    host.world.write("config/imgrun/sync.toml", "follow = 1\n");
    host.imgrun(&["sync"]).fails(3, "sync.toml: line 1: ");
}

#[test]
fn prometheus_reads_what_is_written() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    follow(&host, "");
    host.imgrun(&["sync", "--textfile", "metrics"]).ok();
    let script = "import sys\n\
        from prometheus_client.parser import text_string_to_metric_families as parse\n\
        for family in parse(open('metrics').read()):\n  \
          for sample in family.samples: print(sample.name, sample.labels.get('name'), sample.value)";
    let read = host.world.run("/usr/bin/python3", ["-c", script]).ok().text();
    for line in ["imgrun_sync_success t 1.0", "imgrun_bundle_info t 1.0"] {
        assert!(read.lines().any(|l| l == line), "{read}");
    }
}

#[test]
fn systemd_takes_the_units() {
    let world = imgtool_tests::World::new();
    let program = imgtool_tests::program("imgrun");
    for unit in ["imgrun-sync.service", "imgrun-sync.timer"] {
        let text = imgtool_tests::repository().join("templates").join(unit);
        let text = std::fs::read_to_string(text).unwrap();
        world.write(unit, text.replace("/usr/bin/imgrun", program.to_str().unwrap()));
    }
    let units = ["verify", "--man=no", "./imgrun-sync.service", "./imgrun-sync.timer"];
    let outcome = world.run("systemd-analyze", units).ok();
    assert!(!outcome.stderr.contains("imgrun-sync"), "{}", outcome.stderr);
}
