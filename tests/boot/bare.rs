//! The guest of `tests/guest`, which is all ours and a few KiB: it speaks the agent's protocol without
//! a kernel. So it runs on every `/dev/kvm` that opens, also on one that interprets a guest's ring 0
//! at under a million instructions a second, where a kernel would hang. What is shown here is that
//! the KVM path works: QEMU's driver, the devices, the wire, stopping.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use imgtool_tests::{World, program, repository};

/// The host may be slow, and interpret the firmware, too.
const BOOT_MAX: &str = "--boot-timeout=120s";
/// The guest's programs need no more.
const MEMORY: &str = "--memory=64";

/// A world with the guest and an image for its disk.
pub(crate) struct Bare {
    pub(crate) world: World,
    guest: String,
    image: String,
}

impl Bare {
    pub(crate) fn new() -> Self {
        let world = World::new();
        world.write("tree/etc/motd", "hello\n");
        let guest = world.path("guest").display().to_string();
        world.run(repository().join("tests/guest/build"), [&guest]).ok();
        let image = super::broken::build(&world, &[]);
        Bare { world, guest, image }
    }

    /// `imgrun run` as `how` says; the command is to be added.
    pub(crate) fn run(&self, how: &str, more: &[&str]) -> Command {
        let mut command = self.world.command(program("imgrun"));
        command.args(["run", "-q", BOOT_MAX, MEMORY]).args(how.split(' '));
        command.args(["--kernel", &self.guest]).args(more).arg(&self.image);
        command
    }

    fn exec(&self, words: &str) -> imgtool_tests::Outcome {
        self.world.imgrun(["exec", "-q", "bare", "--"].into_iter().chain(words.split(' ')))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.world.imgrun(["rm", "-f", "bare"]);
    }
}

/// This test is about KVM: without it, it fails and says why.
fn require_kvm() {
    if let Err(e) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        panic!("/dev/kvm does not open ({e}): nothing can be shown of the KVM path here");
    }
}

/// Writes to a child's standard input, on a thread: it may have to wait until all of it is read.
fn feed(child: &mut Child, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || stdin.write_all(&bytes).unwrap())
}

/// Every byte there is, over more than one window of the protocol.
fn bytes() -> Vec<u8> {
    (0..600_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn echoes(how: &str) {
    let bare = Bare::new();
    let mut cat = bare.run(how, &["-i"]);
    cat.args(["--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut cat = cat.spawn().unwrap();
    let feeder = feed(&mut cat, bytes());
    let output = cat.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == bytes(), "{} bytes came back", output.stdout.len());
    for (words, code, text) in
        [("exit 7", 7, ""), ("echo a guest", 0, "a guest\n"), ("nothing", 127, "")]
    {
        let mut command = bare.run(how, &[]);
        command.arg("--").args(words.split(' '));
        let outcome = imgtool_tests::finish(command);
        assert_eq!(outcome.code, Some(code), "{outcome:#?}");
        assert_eq!(outcome.stdout, text.as_bytes(), "{outcome:#?}");
    }
    assert_eq!(bare.world.files("imgrun/machines"), [""; 0]);
}

#[test]
fn the_wire_works_on_real_kvm() {
    require_kvm();
    echoes("--accel kvm --vmm qemu");
}

/// The same guest under emulation: what fails here as well has nothing to do with KVM.
#[test]
fn the_wire_works_without_a_kernel() {
    echoes("--accel tcg");
}

/// Of the VMMs that no registry has: where one is on `PATH`, it is driven.
fn echoes_where_installed(vmm: &str) {
    if World::new().run("sh", ["-c", &format!("command -v {vmm}")]).code != Some(0) {
        // Not by eprintln, which is shown of tests that fail only.
        let said = format!("SKIPPED: {vmm} is not on PATH: nothing is shown of its driver\n");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return;
    }
    require_kvm();
    echoes(&format!("--accel kvm --vmm {vmm}"));
}

#[test]
fn the_wire_works_on_firecracker_where_it_is_installed() {
    echoes_where_installed("firecracker");
}

#[test]
fn a_machine_on_real_kvm_stays_and_is_stopped() {
    require_kvm();
    let bare = Bare::new();
    let accel =
        imgtool_tests::finish(bare.run("--accel kvm", &["-d", "--json", "--name", "bare"])).ok();
    assert!(accel.text().contains("\"accel\":\"kvm\""), "{accel:#?}");
    // Its memory is one: each command finds what the one before has left.
    assert_eq!(bare.exec("count").ok().text(), "1");
    assert_eq!(bare.exec("count").ok().text(), "2");

    // Two at a time, on channels of their own; a signal ends the one that it is for.
    let mut wait = bare.world.interruptible("imgrun");
    wait.args(["exec", "-q", "bare", "--", "wait"]).stdout(Stdio::piped());
    let mut wait = wait.spawn().unwrap();
    let mut said = BufReader::new(wait.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "waiting\n");
    assert_eq!(bare.exec("count").ok().text(), "3");
    bare.world.run("kill", ["-TERM", &wait.id().to_string()]).ok();
    assert_eq!(wait.wait().unwrap().code(), Some(128 + 15));
    assert_eq!(bare.exec("count").ok().text(), "4");
    let console = bare.world.imgrun(["console", "bare"]).ok();
    assert!(console.text().contains("imgtool's bare guest"), "{console:#?}");

    // It does what the protocol asks for rather than being killed after ten seconds.
    bare.world.imgrun(["stop", "bare"]).ok();
    bare.world.imgrun(["exec", "bare", "--", "true"]).fails(125, "bare does not run");
    let ps = bare.world.imgrun(["ps", "-a", "--json"]).ok().text();
    let ps: serde_json::Value = serde_json::from_str(&ps).unwrap();
    let end = &ps[0]["end"];
    assert!(ps[0]["running"] == false && end["code"] == 0 && end["error"].is_null(), "{ps:#}");
}
