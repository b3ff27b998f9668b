//! What we tell Firecracker, by its own description of its API. `tests/setup` has fetched that.

use imgtool_tests::{Outcome, World, repository};

fn judge(world: &World, config: &str, requests: &str) -> Outcome {
    let judges = repository().join("target/judges");
    let script = repository().join("tests/judge/api.py");
    let files = [world.write("config.json", config), world.write("requests", requests)];
    let description = judges.join("api/firecracker.yaml");
    world.run(judges.join("python/bin/python"), [script, description].iter().chain(&files))
}

#[test]
fn firecrackers_golden_files_are_what_its_api_takes() {
    let world = World::new();
    // Unit tests compare these files with what is launched and sent.
    let golden = |name: &str| {
        let path = repository().join("runtime/src/vmm").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let config = golden("firecracker.config.golden");
    let requests = golden("firecracker.requests.golden");
    judge(&world, &config, &requests).ok();

    // The judge sees what is wrong.
    for (from, to) in [
        ("\"vcpu_count\": 1", "\"vcpu_count\": 33"),
        ("\"Unsafe\"", "\"None\""),
        ("\"drive_id\"", "\"drive\""),
        ("\"uds_path\": \"vmm-agent.sock\"", "\"uds_path\": 7"),
    ] {
        assert!(config.contains(from), "{from}");
        let bad = config.replacen(from, to, 1);
        assert_ne!(judge(&world, &bad, &requests).code, Some(0), "{to}");
    }
    for bad in ["PATCH /vm {\"state\":\"Running\"}\n", "PUT /vm {}\n", "PATCH /vm\n"] {
        assert_ne!(judge(&world, &config, bad).code, Some(0), "{bad}");
    }
}
