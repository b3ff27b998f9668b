//! Disks that are full or can not be written.

use super::{Depot, Host};

/// A store on a tmpfs of so many MiB, unmounted when this is dropped.
struct Small<'h>(&'h Host);

impl<'h> Small<'h> {
    fn new(host: &'h Host, mib: u32) -> Self {
        std::fs::create_dir(host.world.path("imgrun")).unwrap();
        let size = format!("size={mib}m");
        host.world.run("mount", ["-t", "tmpfs", "-o", &size, "tmpfs", "imgrun"]).ok();
        Small(host)
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        self.0.world.run("mount", ["-o", &options, "imgrun"]).ok();
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        self.0.world.run("umount", ["imgrun"]);
    }
}

#[test]
fn too_little_space_is_seen_before_anything_is_fetched() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    let small = Small::new(&host, 60);
    host.pull("generic-6.1");
    small.remount("size=34m");
    let outcome = host.imgrun(&["pull", "t@1"]).fails(6, "are free");
    assert!(outcome.stderr.contains("imgrun gc"), "{}", outcome.stderr);
    host.verify();
    small.remount("size=100m");
    host.pull("t@1");
    host.holds(depot, "1");
    // The old version stays what it was when the new one does not fit.
    small.remount("size=60m");
    host.imgrun(&["pull", "t@2"]).fails(6, "are free");
    host.verify();
    host.holds(depot, "1");
    small.remount("ro");
    host.imgrun(&["pull", "t@2"]).fails(6, "ead-only");
    host.imgrun(&["list"]).ok();
}

/// Somebody else fills it up meanwhile.
#[test]
fn a_disk_that_fills_up_is_an_error_and_the_next_pull_goes_on() {
    let depot = Depot::shared();
    let host = depot.host(&[&depot.address()]);
    let small = Small::new(&host, 100);
    host.pull("generic-6.1");
    let program = imgtool_tests::program("imgrun");
    let mut command = host.world.command(program);
    command.args(["pull", "t@1", "--limit-rate", "5M"]);
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(800));
    // Writes until there is no more room.
    let _ = std::fs::write(host.world.path("imgrun/other"), vec![1; 100 << 20]);
    let outcome = child.wait_with_output().unwrap();
    let text = String::from_utf8(outcome.stderr).unwrap();
    assert_eq!(outcome.status.code(), Some(6), "{text}");
    assert!(text.contains("space"), "{text}");
    host.verify();
    std::fs::remove_file(host.world.path("imgrun/other")).unwrap();
    let pulled = host.pull("t@1");
    assert!(pulled[1]["resumed_bytes"].as_u64().unwrap() > 0, "{pulled}");
    host.holds(depot, "1");
    drop(small);
}
