//! `kill -9` at random moments: 24 by default; `IMGRUN_KILLS=500` asks for more.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::server::Server;
use super::{Depot, Host};

const KILLS_DEFAULT: u64 = 24;

/// What is killed.
const WORK: [&[&str]; 7] = [
    &["pull", "t@1"],
    &["pull", "t@2"],
    &["gc", "--keep", "1"],
    &["rm", "t"],
    &["pull", "t@1", "--limit-rate", "60M"],
    &["verify", "--repair"],
    &["sync"],
];

/// What can be seen is whole.
#[track_caller]
fn check(host: &Host, why: &str) {
    let outcome = host.imgrun(&["verify"]);
    assert_eq!(outcome.code, Some(0), "{why}: {outcome:#?}");
    let outcome = host.imgrun(&["list"]);
    assert!(!outcome.stderr.contains("left out"), "{why}: {outcome:#?}");
    for title in host.titles() {
        assert!(title.starts_with("t:") || title.starts_with("generic-"), "{why}: {title}");
    }
}

#[test]
fn a_kill_at_any_moment() {
    let (depot, server) = (Depot::shared(), Server::start(&Depot::shared().dir()));
    let host = depot.host(&[&server.address()]);
    host.world.write("config/imgrun/sync.toml", "[[follow]]\nname = \"t\"\n");
    let began = Instant::now();
    host.pull("t@1");
    let longest = began.elapsed().mul_f64(1.2);
    let kills = std::env::var("IMGRUN_KILLS").ok().and_then(|n| n.parse().ok());
    let (mut state, mut killed) = (0x9e37_79b9_7f4a_7c15_u64, 0);
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let turns = kills.unwrap_or(KILLS_DEFAULT);
    for turn in 0..turns {
        let work = WORK[random(WORK.len() as u64) as usize];
        let mut command = host.world.command(imgtool_tests::program("imgrun"));
        command.args(work).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // Some work is done in a hundredth of the time that other work takes.
        let moment = random(longest.as_micros() as u64) >> random(7);
        std::thread::sleep(Duration::from_micros(moment));
        killed += u64::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        child.wait().unwrap();
        check(&host, &format!("turn {turn}, {work:?} was killed"));
        if random(4) == 0 {
            host.imgrun(&["rm", "t"]);
        }
        if random(6) == 0 {
            host.imgrun(&["rm", "generic-6.1"]);
        }
    }
    assert!(killed > turns / 4, "only {killed} of {turns}");
    host.pull("t@1");
    host.pull("t@2");
    host.holds(depot, "1");
    host.holds(depot, "2");
    host.verify();
    host.is_tidy();
}
