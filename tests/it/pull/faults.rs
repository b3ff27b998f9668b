//! Servers that lie, cut, stall and refuse.

use super::server::{Fault, Proxy, Server};
use super::{Depot, fetched};

fn server() -> Server {
    Server::start(&Depot::shared().dir())
}

#[test]
fn what_passes_is_tried_again() {
    let (depot, server) = (Depot::shared(), server());
    let faults = [
        Fault::None,
        Fault::Answer("429 Too Many Requests", "Retry-After: 1\r\n"),
        Fault::Answer("503 Service Unavailable", ""),
        Fault::Cut(100_000),
        Fault::Cut(0),
        Fault::Cut(1_000_000),
    ];
    let proxy = Proxy::once(&server, &faults);
    let host = depot.host(&[&proxy.address()]);
    host.pull("t@1");
    host.holds(depot, "1");
    host.verify();
}

#[test]
fn one_wrong_byte_ends_a_depots_service() {
    let (depot, server) = (Depot::shared(), server());
    for fault in [Fault::Lie(5), Fault::Lie(600)] {
        let proxy = Proxy::always(&server, fault);
        let host = depot.host(&[&proxy.address()]);
        host.imgrun(&["pull", "t@1"]).fails(4, &proxy.address());
        assert_eq!(host.titles(), Vec::<String>::new());
        // Another one that tells the truth.
        host.follow(&[&proxy.address(), &server.address()]);
        let outcome = host.imgrun(&["pull", "t@1"]).ok();
        assert!(outcome.stderr.contains("going on with"), "{}", outcome.stderr);
        host.holds(depot, "1");
        host.verify();
    }
    // In the middle: what came before stays.
    let faults: Vec<Fault> =
        std::iter::repeat_n(Fault::None, 24).chain([Fault::Lie(70_000)]).collect();
    let proxy = Proxy::once(&server, &faults);
    let host = depot.host(&[&proxy.address()]);
    let lied = host.imgrun(&["pull", "t@1"]);
    if lied.code != Some(0) {
        lied.fails(4, "not those that were signed");
    }
    assert!(fetched(&host.pull("t@1")) < 20 << 20);
    host.holds(depot, "1");
}

#[test]
fn a_server_that_is_gone_asks_for_the_next() {
    let (depot, server) = (Depot::shared(), server());
    let refusing = Proxy::always(&server, Fault::Answer("404 Not Found", ""));
    let host = depot.host(&["http://127.0.0.1:9", &refusing.address(), &server.address()]);
    let outcome = host.imgrun(&["pull", "t@1"]).ok();
    assert!(outcome.stderr.contains("it has not got it; going on with"), "{}", outcome.stderr);
    host.holds(depot, "1");
    let late = Fault::Answer("429 Too Many Requests", "Retry-After: 86400\r\n");
    let late = Proxy::always(&server, late);
    let host = depot.host(&[&late.address()]);
    host.imgrun(&["pull", "t@1"]).fails(5, "wants us back in 86400 s");
}

#[test]
fn a_server_without_parts_takes_longer() {
    let (depot, server) = (Depot::shared(), server());
    let proxy = Proxy::always(&server, Fault::Whole);
    let host = depot.host(&[&proxy.address()]);
    let outcome = host.imgrun(&["pull", "t@1"]).ok();
    assert!(outcome.stderr.contains("sends whole files only"), "{}", outcome.stderr);
    host.holds(depot, "1");
    host.pull("t@2");
    host.holds(depot, "2");
    host.verify();
}

/// It takes the half minute that a silent server is given.
#[test]
fn a_server_that_falls_silent_is_left() {
    let (depot, server) = (Depot::shared(), server());
    let faults = [Fault::None, Fault::None, Fault::None, Fault::Stall(50_000)];
    let proxy = Proxy::once(&server, &faults);
    let host = depot.host(&[&proxy.address()]);
    let began = std::time::Instant::now();
    host.pull("t@1");
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    host.holds(depot, "1");
}

#[test]
fn a_silent_server_holds_up_no_interrupt() {
    let (depot, server) = (Depot::shared(), server());
    let proxy = Proxy::always(&server, Fault::Stall(0));
    let host = depot.host(&[&proxy.address()]);
    let mut command = host.world.interruptible("imgrun");
    let mut child = command.args(["-q", "pull", "t@1"]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let (began, id) = (std::time::Instant::now(), child.id().to_string());
    host.world.run("kill", ["-INT", &id]).ok();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    host.verify();
}

/// A catalog that goes back in time is refused, and the next depot asked.
#[test]
fn an_old_mirror_is_passed_over() {
    let depot = Depot::shared();
    let old = imgtool_tests::World::new();
    old.run("cp", ["-r", depot.dir().to_str().unwrap(), "old"]).ok();
    let metadata = old.path("old/metadata");
    std::fs::copy(metadata.join("2.timestamp.json"), metadata.join("timestamp.json")).unwrap();
    for n in 3..9 {
        for role in ["timestamp", "snapshot", "targets"] {
            let _ = std::fs::remove_file(metadata.join(format!("{n}.{role}.json")));
        }
    }
    let host = depot.host(&[&depot.address()]);
    host.pull("t");
    let old = format!("file:{}", old.path("old").display());
    host.follow(&[&old]);
    host.imgrun(&["pull", "t"]).fails(4, "older than");
    host.follow(&[&old, &depot.address()]);
    host.imgrun(&["pull", "t"]).ok();
}
