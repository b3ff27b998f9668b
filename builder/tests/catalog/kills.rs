//! `kill -9`: at every system call that matters, and at random moments.
//!
//! The random ones are 40 by default; `IMGTOOL_KILLS=200` asks for more.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use crate::servers::{LOGIN, Server};
use crate::world::{World, finish};

const KILLS_DEFAULT: u64 = 40;
/// More than any of the calls below is made by one publication.
const CALLS_MAX: usize = 60;

/// A reader that was never here before finds a valid catalog; one that was, too.
fn verify(world: &World, store: &str, why: &str) {
    for state in ["reader", "fresh"] {
        let _ = std::fs::remove_dir_all(world.path("fresh"));
        let mut command = world.command();
        command.env("IMGTOOL_STATE", world.path(state));
        command.env("IMGTOOL_ROOT", world.path("root.json"));
        let outcome = finish(command.args(["catalog", "verify", store, "--deep"]));
        assert!(outcome.output.status.success(), "{state} {why}: {}", outcome.errors());
    }
}

/// The depot and the host's memory survive a kill at every call that changes a file system: for each
/// kind of call at the first, the second, … until a publication makes no more of them.
#[test]
fn a_kill_at_every_write() {
    let world = World::new();
    let store = world.store("s");
    world.init(&store);
    let mut kills = 0;
    let calls = ["write", "fsync", "linkat,link", "renameat,renameat2,rename", "unlink,unlinkat"];
    for calls in calls.into_iter().chain(["openat", "mkdir"]) {
        for n in 1.. {
            assert!(n < CALLS_MAX * 5, "{calls}: it never ends");
            // Files are opened for many reasons: every fifth will do.
            let n = if calls == "openat" { 30 + 5 * n } else { n };
            let name = format!("{}-{n}", calls.split(',').next().unwrap());
            let bundle = world.kernel(&name, "1");
            let bundle = bundle.to_str().unwrap();
            let inject = format!("inject={calls}:signal=KILL:when={n}");
            let trace = ["-f", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", &inject];
            let mut command = world.wrapped("strace", &trace);
            command.arg(env!("CARGO_BIN_EXE_imgtool"));
            let status =
                finish(command.args(["publish", bundle, "--to", &store, "--untested"])).output;
            if status.status.success() {
                break;
            }
            assert_eq!(status.status.signal(), Some(9), "{calls} {n}: {status:?}");
            kills += 1;
            verify(&world, &store, &format!("killed at {calls} {n}"));
            world.imgtool(["publish", bundle, "--to", &store, "--untested"]).ok();
        }
    }
    assert!(kills > 30, "only {kills} kills");
    let shown = world.imgtool(["catalog", "show", &store, "--json"]).ok().json();
    assert!(shown["bundles"].as_array().unwrap().len() > kills);
}

#[test]
fn kills_at_random_moments() {
    let kills = std::env::var("IMGTOOL_KILLS").map_or(KILLS_DEFAULT, |n| n.parse().unwrap());
    let world = World::new();
    let store = world.store("s");
    world.init(&store);
    random_kills(&world, &store, kills, &[]);
}

/// The same in a bucket, a quarter as often.
#[test]
fn kills_at_random_moments_in_a_bucket() {
    let kills = std::env::var("IMGTOOL_KILLS").map_or(KILLS_DEFAULT, |n| n.parse().unwrap()) / 4;
    let (world, server) = (World::new(), Server::moto());
    server.make_bucket("images");
    let store = server.bucket("images");
    world.imgtool(["key", "new", "me", "--no-passphrase"]).ok();
    let init = ["catalog", "init", &store, "--key", "me"];
    finish(world.command().args(init).envs(LOGIN)).ok();
    random_kills(&world, &store, kills, &LOGIN);
}

/// Two publishers at a time; both are killed after a random time, which goes up to what a whole
/// publication takes. Then the catalog has to be valid, and both commands have to finish.
pub(crate) fn random_kills(world: &World, store: &str, kills: u64, env: &[(&str, &str)]) {
    let publish = |name: &str, version: u64| {
        let bundle = world.kernel(name, &version.to_string());
        let mut command = world.command();
        command.env("IMGTOOL_STATE", world.path(name));
        command.env("IMGTOOL_ROOT", world.path("root.json")).envs(env.iter().copied());
        command.arg("-q").arg("publish").arg(bundle).args(["--to", store, "--untested"]);
        command.stdout(std::process::Stdio::null());
        command
    };
    let began = Instant::now();
    finish(&mut publish("a", 0)).ok();
    let whole = began.elapsed();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut killed = 0;
    let mut version = 0;
    while killed < kills {
        version += 1;
        let mut children = ["a", "b"].map(|name| publish(name, version).spawn().unwrap());
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let part = (random >> 40) as f64 / (1_u64 << 24) as f64;
        std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * 1.4 * part));
        for child in &mut children {
            let _ = child.kill();
            killed += u64::from(child.wait().unwrap().signal() == Some(9));
        }
        verify_with(world, store, env);
        for name in ["a", "b"] {
            finish(&mut publish(name, version)).ok();
        }
        assert!(version < 20 * kills, "nothing is killed");
    }
    let mut command = world.command();
    command.args(["catalog", "show", store, "--json"]).envs(env.iter().copied());
    let shown = finish(&mut command).ok().json();
    assert_eq!(shown["bundles"].as_array().unwrap().len() as u64, 2 * version + 1);
}

/// Keys of every role change, and each change is killed after a random time: the catalog is valid for
/// who never saw it and for who did, and the same command finishes the change.
#[test]
fn rotations_under_kills() {
    let kills = std::env::var("IMGTOOL_KILLS").map_or(KILLS_DEFAULT, |n| n.parse().unwrap()) / 4;
    let world = World::new();
    let store = world.store("s");
    world.init(&store);
    let bundle = world.kernel("linux", "1");
    world.imgtool(["publish", bundle.to_str().unwrap(), "--to", &store, "--untested"]).ok();
    let mut keys = std::collections::BTreeMap::new();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut whole = Duration::ZERO;
    let (mut killed, mut turn) = (0, 0);
    while killed < kills {
        let role = ["targets", "root", "snapshot", "timestamp"][turn % 4];
        let new = format!("key-{turn}");
        let old = keys.insert(role, new.clone()).unwrap_or_else(|| "me".to_string());
        world.imgtool(["key", "new", &new, "--no-passphrase"]).ok();
        let rotate = ["key", "rotate", &store, "--role", role, "--old", &old, "--new", &new];
        if turn > 3 {
            let mut command = world.command();
            command.args(rotate).stdout(std::process::Stdio::null());
            let mut child = command.spawn().unwrap();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let part = (random >> 40) as f64 / (1_u64 << 24) as f64;
            std::thread::sleep(whole.mul_f64(1.2 * part));
            let _ = child.kill();
            killed += u64::from(child.wait().unwrap().signal() == Some(9));
            verify(&world, &store, &format!("killed in a rotation of {role}"));
        }
        let began = Instant::now();
        world.imgtool(rotate).ok();
        whole = began.elapsed();
        verify(&world, &store, &format!("after a rotation of {role}"));
        turn += 1;
        assert!(turn < 20 * kills as usize + 10, "nothing is killed");
    }
    // The first key signs for nobody any more.
    let listed = world.imgtool(["key", "list", &store, "--json"]).ok().json();
    let me = listed["keys"].as_array().unwrap().iter().find(|key| key["name"] == "me").unwrap();
    assert_eq!(me["roles"], serde_json::json!([]));
    world.imgtool(["catalog", "refresh", &store]).ok();
    verify(&world, &store, "at the end");
}

/// A role's private keys are lost, and the root's owner is killed at every file that is put while a
/// new one takes their place: the same command finishes it, behind the new root after a mending that
/// somebody has agreed to; nothing published is lost.
#[test]
fn a_lost_key_under_kills() {
    let calls = "linkat,link,renameat,renameat2,rename";
    let (mut kills, mut mended) = (0, 0);
    for n in 1..CALLS_MAX {
        let world = World::new();
        let store = world.store("s");
        for name in ["root", "online", "found"] {
            world.imgtool(["key", "new", name, "--no-passphrase"]).ok();
        }
        let init = ["catalog", "init", &store, "--role-key", "root=root", "--key", "online"];
        world.imgtool(init).ok();
        let bundle = world.kernel("linux", "1");
        world.imgtool(["publish", bundle.to_str().unwrap(), "--to", &store, "--untested"]).ok();
        verify(&world, &store, "before");
        std::fs::remove_file(world.path("keys/online.pem")).unwrap();
        std::fs::remove_file(world.path("keys/online.json")).unwrap();
        // For all roles at once, as three rotations would have to: the last takes the key away.
        let id = world.imgtool(["key", "list", &store, "--json"]).ok().json();
        let id = id["keys"].as_array().unwrap().iter().find(|key| key["here"] == false);
        let id = id.unwrap()["id"].as_str().unwrap().to_string();
        for role in ["timestamp", "snapshot"] {
            let rotate = ["key", "rotate", &store, "--role", role, "--old", &id, "--new", "found"];
            world.imgtool(rotate).ok();
        }
        let rotate = ["key", "rotate", &store, "--role", "targets", "--old", &id, "--new", "found"];
        let inject = format!("inject={calls}:signal=KILL:when={n}");
        let trace = ["-f", "-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", &inject];
        let mut command = world.wrapped("strace", &trace);
        command.arg(env!("CARGO_BIN_EXE_imgtool"));
        let cut = finish(command.args(rotate)).output.status;
        if !cut.success() {
            assert_eq!(cut.signal(), Some(9), "{n}: {cut:?}");
            kills += 1;
            let again = world.imgtool(rotate);
            if !again.output.status.success() {
                // No other verb does it on the way.
                again.fails(4, "imgtool catalog mend");
                let repair = ["catalog", "refresh", &store, "--repair"];
                world.imgtool(repair).fails(4, "imgtool catalog mend");
                let mend = ["catalog", "mend", &store];
                let asked = world.imgtool(mend).fails(2, "nothing was signed");
                assert!(asked.errors().contains("linux:1 x86_64"), "{}", asked.errors());
                world.imgtool(mend.iter().chain(&["--yes"])).ok();
                world.imgtool(rotate).ok();
                mended += 1;
            }
        }
        verify(&world, &store, &format!("a kill at {n}"));
        let shown = world.imgtool(["catalog", "show", &store, "--json"]).ok().json();
        assert_eq!(shown["bundles"].as_array().unwrap().len(), 1);
        if cut.success() {
            assert!(kills > 5 && mended > 2, "only {kills} kills, {mended} of them mended");
            world.imgtool(["catalog", "mend", &store]).fails(2, "nothing to mend");
            return;
        }
    }
    panic!("it never ends");
}

fn verify_with(world: &World, store: &str, env: &[(&str, &str)]) {
    if env.is_empty() {
        return verify(world, store, "at a random moment");
    }
    let mut command = world.command();
    command.args(["catalog", "verify", store, "--deep"]).envs(env.iter().copied());
    finish(&mut command).ok();
}
