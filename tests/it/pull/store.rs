//! What one does with bundles that are here.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use super::server::Server;
use super::{Depot, Host, noise};

fn damage(path: &Path, at: u64) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&noise(16, at | 1), at).unwrap();
}

#[test]
fn damage_is_found_and_repaired() {
    let (depot, server) = (Depot::shared(), Server::start(&Depot::shared().dir()));
    let host = depot.host(&[&server.address()]);
    host.pull("t@1");
    let dir = host.bundle("t:1");
    damage(&dir.join("rootfs.ext4"), 5_000_000);
    let found = host.imgrun(&["verify", "t"]).fails(4, "1 bundles are damaged");
    assert!(found.text().contains("DAMAGED (rootfs.ext4: 1 of "), "{}", found.text());
    let before = server.sent();
    let repaired = host.json(&["verify", "t", "--repair"]);
    assert_eq!(repaired[0]["repaired"], true);
    // Manifest, table and the one frame.
    let sent = server.sent() - before;
    assert!(sent < 1500 << 10, "{sent}");
    host.verify();
    host.holds(depot, "1");
    // Whatever is gone of a bundle comes back.
    for file in ["rootfs.ext4", "manifest.json", "frames", "origin", "sbom.spdx.json"] {
        std::fs::remove_file(dir.join(file)).unwrap();
        let outcome = host.imgrun(&["verify", "--repair"]);
        assert_eq!(outcome.code, Some(0), "{file}: {outcome:#?}");
        host.holds(depot, "1");
    }
    damage(&dir.join("manifest.json"), 100);
    damage(&dir.join("frames"), 100);
    host.imgrun(&["verify"]).fails(4, "damaged");
    host.imgrun(&["verify", "--repair"]).ok();
    host.holds(depot, "1");
    host.is_tidy();
    // A damaged bundle is of no use for another: what is wrong of it is fetched.
    damage(&dir.join("rootfs.ext4"), 7_000_000);
    let outcome = host.imgrun(&["pull", "t@2"]).ok();
    assert!(outcome.stderr.contains("are damaged, and were fetched"), "{}", outcome.stderr);
    host.holds(depot, "2");
}

#[test]
fn an_export_is_the_file_that_was_published() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    host.pull("t@1");
    host.imgrun(&["export", "t", "-o", "t.tar.zst"]).ok();
    host.world.run("cmp", ["t.tar.zst", depot.bundle("1").to_str().unwrap()]).ok();
    // Without a network it is what another host imports.
    let other = imgtool_tests::World::new();
    other.imgrun(["import", host.world.path("t.tar.zst").to_str().unwrap()]).ok();
    damage(&host.bundle("t").join("rootfs.ext4"), 6_000_000);
    host.imgrun(&["export", "t", "-o", "u.tar.zst"]).fails(4, "expected sha256:");
    assert!(!host.world.path("u.tar.zst").exists());
}

fn gc(host: &Host, args: &[&str]) -> usize {
    let args: Vec<&str> = ["gc"].into_iter().chain(args.iter().copied()).collect();
    host.json(&args)["removed"].as_array().unwrap().len()
}

#[test]
fn old_versions_go_and_kernels_in_use_stay() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    host.pull("t@1");
    host.pull("t@2");
    assert_eq!(gc(&host, &[]), 0);
    assert_eq!(gc(&host, &["--keep", "1", "--dry-run"]), 1);
    // A process that holds the directory runs from it.
    let dir = std::fs::File::open(host.bundle("t:1")).unwrap();
    dir.lock_shared().unwrap();
    assert_eq!(gc(&host, &["--keep", "1"]), 0);
    drop(dir);
    assert_eq!(gc(&host, &["--keep", "1"]), 1);
    assert_eq!(host.titles().len(), 2, "{:?}", host.titles());
    host.holds(depot, "2");
    host.imgrun(&["rm", "t"]).ok();
    assert_eq!(gc(&host, &["--keep", "0"]), 1);
    assert_eq!(host.titles(), Vec::<String>::new());
}

#[test]
fn beginnings_of_pulls_go_after_a_week() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    let draft = super::killed_midway(&host);
    let dir = draft.ancestors().nth(2).unwrap();
    assert_eq!(host.json(&["gc"])["drafts"], 0);
    host.world.run("touch", ["-d", "8 days ago", dir.to_str().unwrap()]).ok();
    // Somebody goes on with it.
    let lock = std::fs::File::open(dir).unwrap();
    lock.lock().unwrap();
    assert_eq!(host.json(&["gc"])["drafts"], 0);
    drop(lock);
    assert_eq!(host.json(&["gc"])["drafts"], 1);
    host.is_tidy();
}

#[test]
fn a_bundle_tells_what_it_is() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    host.pull("t@1");
    let told = host.json(&["inspect", "t"]);
    assert_eq!(told["manifest"]["name"], "t");
    assert_eq!(told["depots"][0], depot.address());
    let text = host.imgrun(&["inspect", "t"]).ok().text();
    assert!(text.contains("kernel     generic-6.1:"), "{text}");
}
