//! A depot that keeps bundles in pieces.

use super::Depot;
use super::server::Server;

/// Who has the index of a bundle asks for its pieces, and for nothing else.
#[test]
fn pieces_are_asked_for_once() {
    let depot = Depot::new();
    for version in ["1", "2"] {
        depot.publish_as(version, &["--chunked"]);
    }
    let server = Server::start(&depot.dir());
    let host = depot.host(&[&server.address()]);
    host.pull("t@1");
    host.pull("t@2");
    host.holds(&depot, "1");
    host.holds(&depot, "2");
    host.verify();
    let asked = server.stop();
    let targets: Vec<&String> = asked.iter().filter(|line| line.contains(" /targets/")).collect();
    let of = |suffix: &str| {
        let named = |line: &&&String| line.split(' ').nth(3).unwrap().ends_with(suffix);
        targets.iter().filter(named).count()
    };
    // Two images and a kernel: each is looked for as a whole by each program once, and then in pieces.
    let (whole, indexes, pieces) = (of(".tar.zst"), of(".chunks"), of(".frames"));
    assert_eq!((whole, indexes), (3, 3), "{asked:#?}");
    assert!(pieces > 3, "{asked:#?}");
    assert_eq!(whole + indexes + pieces, targets.len() - of("catalog.json"), "{asked:#?}");
    let mut ranges: Vec<&&String> =
        targets.iter().filter(|line| line.contains(".frames ")).collect();
    ranges.sort();
    let all = ranges.len();
    ranges.dedup();
    assert_eq!(ranges.len(), all, "a piece was asked for twice: {asked:#?}");
    let failed = targets.iter().filter(|line| !line.starts_with("20")).count();
    assert_eq!(failed, whole, "{asked:#?}");
}
