//! A disk that firmware starts: QEMU with Debian's OVMF, as a cloud or a desktop would run it.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use imgtool_tests::World;

use super::image_arg;

/// Where Debian's ovmf puts the firmware, and the variables that a new machine starts with.
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// 30 s of emulation on an idle machine.
const BOOT_MAX: Duration = Duration::from_secs(600);

#[test]
fn firmware_boots_a_disk_to_systemds_login() {
    let world = World::new();
    let args = ["export", &image_arg("debian"), "--as", "qcow2", "--output", "disk.qcow2"];
    world.imgtool(args).ok();
    fs::copy(VARIABLES, world.path("variables")).unwrap();
    let mut qemu = world.command("qemu-system-x86_64");
    qemu.args(["-M", "q35", "-accel", "tcg", "-cpu", "max,-erms,-fsrm", "-m", "512"]);
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    let firmware = format!("if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}");
    qemu.args(["-drive", &firmware, "-drive", "if=pflash,format=raw,unit=1,file=variables"]);
    qemu.args(["-drive", "if=none,id=disk,format=qcow2,file=disk.qcow2"]);
    qemu.args(["-device", "virtio-blk-pci,drive=disk", "-serial", "file:console"]);
    let mut qemu = qemu.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let console = loop {
        let text = fs::read(world.path("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let over = qemu.try_wait().unwrap().is_some() || began.elapsed() > BOOT_MAX;
        if over || text.contains(" login: ") {
            break text;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    assert!(console.contains("EFI v2"), "no firmware: {console}");
    assert!(console.contains(" login: "), "no login: {console}");
    assert!(!console.contains("[FAILED]"), "a unit failed: {console}");
}
