//! Many processes at once.

use std::process::{Child, Stdio};

use super::server::Server;
use super::{Depot, Host, length};

fn start(host: &Host, what: &str) -> Child {
    let mut command = host.world.command(imgtool_tests::program("imgrun"));
    command.args(["pull", what]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn eight_processes_fetch_each_byte_once() {
    let (depot, server) = (Depot::shared(), Server::start(&Depot::shared().dir()));
    let alone = depot.host(&[&server.address()]);
    alone.pull("t@1");
    let kernel_and_first = server.sent();
    alone.pull("t@2");
    let all = server.sent();

    let host = depot.host(&[&server.address()]);
    let children: Vec<_> =
        ["t@1", "t@2"].into_iter().cycle().take(8).map(|what| start(&host, what)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    // Whichever image is first, the other costs its own megabyte, give or take a frame.
    let sent = server.sent() - all;
    let difference = sent.abs_diff(all);
    assert!(difference < 64 << 10, "{sent} bytes, one process after the other {all}");
    assert!(sent < kernel_and_first + length(&depot.bundle("2")) / 4);
    host.holds(depot, "1");
    host.holds(depot, "2");
    host.verify();
    host.is_tidy();
}

/// Who waits for another that is killed goes on in its place.
#[test]
fn a_waiting_process_takes_over() {
    let (depot, server) = (Depot::shared(), Server::start(&Depot::shared().dir()));
    let host = depot.host(&[&server.address()]);
    let mut command = host.world.command(imgtool_tests::program("imgrun"));
    command.args(["-q", "pull", "t@1", "--limit-rate", "3M"]);
    let mut slow = command.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(800));
    let (mut same, mut other) = (start(&host, "t@1"), start(&host, "t@2"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(same.try_wait().unwrap(), None);
    slow.kill().unwrap();
    slow.wait().unwrap();
    assert!(same.wait().unwrap().success());
    assert!(other.wait().unwrap().success());
    host.holds(depot, "1");
    host.holds(depot, "2");
    host.is_tidy();
}
