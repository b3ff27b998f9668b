//! Stopping a machine's processors and letting them go on, with the guest of `tests/guest`: on every
//! VMM that is here.
#![cfg(target_arch = "x86_64")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bundle::{Arch, Init};
use imgrun::{Accel, Exec, Hostname, Machine, Network, Spec, Status, Vmm, tool};

/// The host may be slow.
const BOOT_MAX: Duration = Duration::from_secs(120);
/// A guest that runs answers long before.
const STILL: Duration = Duration::from_millis(500);

fn spec(dir: &Path, vmm: Vmm, accel: Accel) -> Spec {
    let (kernel, root) = (dir.join("guest"), dir.join("root"));
    let build = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/guest/build");
    assert!(Command::new(build).arg(&kernel).status().unwrap().success());
    // It looks at no disk.
    File::create(&root).unwrap().set_len(1 << 20).unwrap();
    Spec {
        arch: Arch::X86_64,
        accel,
        vmm,
        cpus: 1,
        memory_mib: 64,
        kernel,
        root,
        upper_bytes: 64 << 20,
        init: Init::Agent,
        cmdline: Vec::new(),
        hostname: Hostname::from_name("bare"),
        network: Network::None,
        forwards: Vec::new(),
        volumes: Vec::new(),
        tsc_khz: None,
    }
}

fn exec(word: &str) -> Exec {
    Exec { argv: vec![word.into()], ..Exec::default() }
}

#[tokio::main(flavor = "current_thread")]
async fn pauses(vmm: Vmm, accel: Accel) {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), vmm, accel);
    let upper = dir.path().join("upper.ext4");
    let machine = Machine::boot_on(&spec, &upper, BOOT_MAX).await.unwrap();
    let count = async || {
        let mut count = machine.exec(exec("count")).await.unwrap();
        count.stdout.read_to_end(100).await.unwrap()
    };
    assert_eq!(count().await, b"1\n");
    for round in 0..3 {
        machine.pause().await.unwrap();
        let mut starts = Box::pin(machine.exec(exec("true")));
        assert!(tokio::time::timeout(STILL, &mut starts).await.is_err(), "round {round}");
        machine.resume().await.unwrap();
        let started = starts.await.unwrap();
        assert_eq!(started.wait().await.unwrap().status, Status::Code(0));
    }
    assert_eq!(count().await, b"2\n");
    // One that is paused hears of its end all the same.
    machine.pause().await.unwrap();
    machine.shutdown().await.unwrap();
    // Sockets and files of the VMM's are gone with it.
    let mut left: Vec<_> =
        dir.path().read_dir().unwrap().flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["guest", "root", "upper.ext4"]);
}

#[test]
fn qemu_pauses_and_goes_on() {
    pauses(Vmm::Qemu, Accel::Tcg);
}

#[test]
fn firecracker_pauses_and_goes_on_where_it_is_installed() {
    if tool::find("firecracker").is_none() {
        // Not by eprintln, which is shown of tests that fail only.
        let said = b"SKIPPED: firecracker is not on PATH: nothing is shown of its API\n";
        return std::io::stderr().write_all(said).unwrap();
    }
    pauses(Vmm::Firecracker, Accel::Kvm);
}
