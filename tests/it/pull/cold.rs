//! What comes, and how much of it.

use std::time::{Duration, Instant};

use super::server::Server;
use super::{Depot, fetched, killed_midway, length, noise, saved};

#[test]
fn an_image_comes_with_its_kernel_and_each_byte_once() {
    let (depot, server) = (Depot::shared(), Server::start(&Depot::shared().dir()));
    let host = depot.host(&[&server.address()]);
    let pulled = host.pull("t");
    // 3 was withdrawn.
    assert_eq!((&pulled[1]["name"], &pulled[1]["version"]), (&"t".into(), &"2".into()));
    assert_eq!(pulled[0]["kind"], "kernel");
    assert_eq!(fetched(&pulled), server.sent());
    let packed = length(&depot.bundle("2"));
    let image = pulled[1]["fetched_bytes"].as_u64().unwrap();
    assert!(image <= packed && image > packed * 99 / 100, "{image} of {packed}");
    host.holds(depot, "2");
    host.verify();
    host.is_tidy();
    let (requests, before) = (server.requests(), server.sent());
    assert!(requests < 60, "{requests} requests");
    assert_eq!(fetched(&host.pull("t@2")), 0);
    assert_eq!(server.sent(), before);
}

#[test]
fn another_version_costs_what_is_new_in_it() {
    let (depot, server) = (Depot::shared(), Server::start(&Depot::shared().dir()));
    let host = depot.host(&[&server.address()]);
    host.pull("t@1");
    let before = server.sent();
    let pulled = host.pull("t:2");
    let (sent, packed) = (server.sent() - before, length(&depot.bundle("2")));
    assert_eq!(fetched(&pulled), sent);
    // Its own megabyte, and what of the file system's tables has changed.
    assert!(sent < super::OWN_BYTES as u64 * 3 / 2, "{sent} of {packed}");
    assert!(saved(&pulled) + sent > packed * 9 / 10, "{pulled}");
    host.holds(depot, "2");
    host.verify();
}

#[test]
fn what_was_imported_counts_as_well() {
    let (depot, server) = (Depot::shared(), Server::start(&Depot::shared().dir()));
    let host = depot.host(&[&server.address()]);
    host.imgrun(&["import", depot.bundle("1").to_str().unwrap()]).ok();
    assert!(fetched(&host.json(&["pull", "t@2", "--kernel", "generic-6.1"])) < 12 << 20);
    host.holds(depot, "2");
}

#[test]
fn a_directory_serves_as_well() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    let digest = host.pull("t@1")[1]["digest"].as_str().unwrap().to_string();
    host.holds(depot, "1");
    host.imgrun(&["rm", "t"]).ok();
    assert_eq!(host.pull(&format!("t@{digest}"))[1]["version"], "1");
    // By flags alone, on a host that knows nothing.
    let bare = imgtool_tests::World::new();
    let root = depot.world.path("root.json");
    let root = root.to_str().unwrap();
    let address = depot.address();
    let from = ["pull", "t@1", "--from", &address];
    bare.imgrun(from).fails(4, "no root of trust");
    bare.imgrun(from.into_iter().chain(["--root", root])).ok();
    // It is remembered then.
    bare.imgrun(["pull", "t@2", "--from", &address]).ok();
}

/// A mirror of one of several catalogs is named without its root.
#[test]
fn a_depot_is_told_by_its_signatures() {
    let (depot, other) = (Depot::shared(), Depot::new());
    let host = depot.host(&["file:/nowhere/at/all"]);
    let root = std::fs::read(other.world.path("root.json")).unwrap();
    host.world.write("config/imgrun/other.json", root);
    let listed = |name: &str, root: &str| {
        format!("[[catalog]]\nname = {name:?}\nroot = {root:?}\ndepots = [\"file:/nowhere\"]\n")
    };
    let both = listed("other", "other.json") + &listed("house", "root.json");
    host.world.write("config/imgrun/catalogs.toml", both);
    host.imgrun(&["pull", "t@1", "--from", &depot.address()]).ok();
    host.holds(depot, "1");
    host.imgrun(&["pull", "t@2", "--from", &other.address()]).fails(3, "the catalog has no t:2");
    host.world.write("config/imgrun/catalogs.toml", listed("other", "other.json"));
    host.imgrun(&["pull", "t@2", "--from", &depot.address()]).fails(4, &depot.address());
}

#[test]
fn what_can_not_be_had_is_said() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    host.imgrun(&["pull", "t@3"]).fails(3, "t:3 x86_64 was withdrawn: it leaks");
    host.imgrun(&["pull", "t@4"]).fails(3, "the catalog has no t:4 for x86_64");
    host.imgrun(&["pull", "u"]).fails(3, "the catalog has no u for x86_64");
    host.imgrun(&["pull", "t", "--arch", "aarch64"]).fails(3, "no t for aarch64");
    assert_eq!(host.imgrun(&["pull", "T"]).code, Some(2));
    assert_eq!(host.imgrun(&["pull", "t", "--limit-rate", "1"]).code, Some(2));
    host.follow(&["file:/nowhere/at/all"]);
    host.imgrun(&["pull", "t"]).fails(4, "file:/nowhere/at/all");
    host.world.write("config/imgrun/catalogs.toml", "[[catalog]]\nnam = \"x\"\n");
    host.imgrun(&["pull", "t"]).fails(3, "catalogs.toml: line 2: unknown field `nam`");
    host.world.write("config/imgrun/catalogs.toml", "");
    host.imgrun(&["pull", "t"]).fails(4, "no catalog is known here");
    // A name that is neither here nor in a catalog.
    host.imgrun(&["run", "nothing"]).fails(125, "no bundle named");
    assert_eq!(host.titles(), Vec::<String>::new());
}

#[test]
fn a_clock_that_is_wrong_is_not_a_catalog_that_is() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    let program = imgtool_tests::program("imgrun");
    let at = |date: &str| {
        host.world.run("faketime", ["-f", date, program.to_str().unwrap(), "pull", "t"])
    };
    at("@2099-01-01 00:00:00").fails(4, "expired");
    at("@1970-01-02 00:00:00").fails(6, "clock");
    host.pull("t");
}

#[test]
fn a_limit_holds() {
    let (depot, server) = (Depot::shared(), Server::start(&Depot::shared().dir()));
    let host = depot.host(&[&server.address()]);
    let began = Instant::now();
    let fetched = fetched(&host.json(&["pull", "t@1", "--limit-rate", "8M"]));
    let least = Duration::from_secs_f64(fetched as f64 / (8 << 20) as f64 * 0.75);
    assert!(began.elapsed() >= least, "{:?}, not {least:?}", began.elapsed());
}

/// Blocks of a btrfs are shared, not copied.
#[test]
fn blocks_are_shared_where_the_file_system_can() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    let disk = host.world.path("disk");
    std::fs::File::create(&disk).unwrap().set_len(400 << 20).unwrap();
    host.world.run("mkfs.btrfs", ["-q", disk.to_str().unwrap()]).ok();
    std::fs::create_dir(host.world.path("imgrun")).unwrap();
    host.world.run("mount", ["-o", "loop", "disk", "imgrun"]).ok();
    let used = || {
        host.world.run("sync", ["-f", "imgrun"]).ok();
        let df = host.world.run("df", ["-B1", "--output=used", "imgrun"]).ok().text();
        df.lines().nth(1).unwrap().trim().parse::<u64>().unwrap()
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        host.pull("t@1");
        let before = used();
        host.pull("t@2");
        let grown = used() - before;
        assert!(grown < 4 << 20, "{grown} bytes more");
        host.holds(depot, "2");
        host.imgrun(&["rm", "t:1"]).ok();
        host.verify();
    }));
    host.world.run("umount", ["imgrun"]).ok();
    outcome.unwrap();
}

#[test]
fn a_cut_pull_goes_on_where_it_was() {
    let (depot, server) = (Depot::shared(), Server::start(&Depot::shared().dir()));
    let host = depot.host(&[&server.address()]);
    host.imgrun(&["pull", "generic-6.1"]).ok();
    killed_midway(&host);
    assert_eq!(host.titles(), ["generic-6.1:".to_string() + &kernel_version(&host)]);
    let pulled = host.pull("t@1");
    assert!(pulled[1]["resumed_bytes"].as_u64().unwrap() > 2 << 20, "{pulled}");
    host.holds(depot, "1");
    // What was there of it is not believed: somebody wrote into it, holes too.
    host.imgrun(&["rm", "t"]).ok();
    let draft = killed_midway(&host);
    let file = std::fs::File::options().write(true).open(&draft).unwrap();
    let size = file.metadata().unwrap().len();
    for at in (0..size).step_by(32 << 10) {
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(100, at + 9), at).unwrap();
    }
    host.pull("t@1");
    host.holds(depot, "1");
    host.verify();
    host.is_tidy();
}

#[test]
fn an_interrupt_ends_a_pull_at_once_and_keeps_what_came() {
    let (depot, server) = (Depot::shared(), Server::start(&Depot::shared().dir()));
    let host = depot.host(&[&server.address()]);
    let mut command = host.world.interruptible("imgrun");
    let mut child = command.args(["-q", "pull", "t@1", "--limit-rate", "3M"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let (began, id) = (Instant::now(), child.id().to_string());
    host.world.run("kill", ["-INT", &id]).ok();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(host.titles(), Vec::<String>::new());
    host.pull("t@1");
    host.holds(depot, "1");
    host.is_tidy();
}

fn kernel_version(host: &super::Host) -> String {
    host.json(&["inspect", "generic-6.1"])["manifest"]["version"].as_str().unwrap().to_string()
}
