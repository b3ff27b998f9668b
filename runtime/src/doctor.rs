//! What this machine can and can not run, and what to do about it.

use std::fs;
use std::time::Duration;

use bundle::Arch;

use crate::vmm::{Vmm, firecracker, landlock};
use crate::{
    AccelChoice, KvmEvidence, MEMORY_MIB_DEFAULT, Progress, Result, Store, Tool, choose_accel,
};

/// A program that is asked for its version may take this long.
const VERSION_MAX: Duration = Duration::from_secs(10);
/// Room that an image and a machine need to be comfortable, bytes.
const DISK_BYTES_LOW: u64 = 2 << 30;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As it should be.
    Good,
    /// Machines run, but less well.
    Poor,
    /// No machine runs.
    Bad,
}

impl Health {
    /// `good`, `poor` or `bad`.
    pub fn name(self) -> &'static str {
        match self {
            Health::Good => "good",
            Health::Poor => "poor",
            Health::Bad => "bad",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Check {
    /// What: `kvm`, `qemu`, `firecracker`, `cloud-hypervisor`, `isolation`, `store`,
    /// `memory`.
    pub name: &'static str,
    /// How it is.
    pub health: Health,
    /// What was found, one line.
    pub found: String,
    /// What to do about it, one line.
    pub remedy: Option<String>,
}

/// Looks at everything that a machine needs. Blocks, for a second at most; changes nothing but that the
/// store's directories are made.
pub fn examine(home: Result<std::path::PathBuf>) -> Vec<Check> {
    let evidence = KvmEvidence::gather(true);
    let without_kvm = evidence.objection();
    let mut checks = vec![kvm(evidence), qemu()];
    for vmm in [Vmm::Firecracker, Vmm::CloudHypervisor] {
        checks.push(other(vmm, without_kvm.as_deref()));
    }
    checks.extend([isolation(), store(home), memory()]);
    checks
}

fn kvm(evidence: KvmEvidence) -> Check {
    let name = "kvm";
    match choose_accel(AccelChoice::Auto, Arch::host(), || evidence.clone()) {
        Ok(decision) if decision.note.is_none() => {
            let found = "ordinary guests run on /dev/kvm".to_string();
            Check { name, health: Health::Good, found, remedy: None }
        }
        Ok(decision) => {
            let remedy = match &evidence.device {
                Err(e) if e.contains("denied") => "add this user to the group kvm, log in again",
                Err(_) => "load the module (modprobe kvm_intel or kvm_amd), or run on such a host",
                Ok(()) => "run on a host with hardware virtualisation; here machines are slower",
            };
            let found = decision.note.unwrap_or_default();
            Check { name, health: Health::Poor, found, remedy: Some(remedy.to_string()) }
        }
        Err(e) => Check { name, health: Health::Poor, found: e.to_string(), remedy: None },
    }
}

fn qemu() -> Check {
    let name = "qemu";
    match version(Vmm::Qemu) {
        Err(e) => {
            let remedy = e.hint_text().map(str::to_string);
            Check { name, health: Health::Bad, found: e.to_string(), remedy }
        }
        Ok(found) => Check { name, health: Health::Good, found, remedy: None },
    }
}

/// A VMM that nobody needs where QEMU is there.
fn other(vmm: Vmm, without_kvm: Option<&str>) -> Check {
    let name = vmm.name();
    let check = |health, found: String, remedy: &str| {
        let remedy = Some(remedy.to_string()).filter(|text| !text.is_empty());
        Check { name, health, found, remedy }
    };
    if !vmm.is_installed(Arch::host()) {
        return check(Health::Good, "not installed, and not needed".to_string(), "");
    }
    let found = match version(vmm) {
        Ok(found) => found,
        Err(e) => return check(Health::Poor, e.to_string(), "put a released program on PATH"),
    };
    let known = firecracker::version(&found).filter(|_| vmm == Vmm::Firecracker);
    if let Some(defect) = known.and_then(firecracker::defect) {
        let remedy = "install another version: 1.16.2, or 1.17.0 and newer";
        return check(Health::Poor, format!("{found}: {defect}"), remedy);
    }
    match without_kvm {
        Some(why) => check(Health::Poor, format!("{found}; it runs by KVM only: {why}"), ""),
        None => check(Health::Good, found, ""),
    }
}

/// What it says of its version, one line.
fn version(vmm: Vmm) -> Result<String> {
    let tool = Tool::new(vmm.binary(Arch::host())).arg("--version").timeout(VERSION_MAX);
    let output = tool.run()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(crate::printable(text.lines().next().unwrap_or_default().as_bytes()))
}

fn isolation() -> Check {
    let name = "isolation";
    match landlock() {
        Ok(what) => {
            let found = format!("a VMM is kept from this host's {what} by Landlock");
            Check { name, health: Health::Good, found, remedy: None }
        }
        Err(why) => {
            let remedy = "boot a kernel of 6.12 or newer, with landlock in its lsm= list";
            let found = format!("a VMM that a guest broke out to has this user's files: {why}");
            Check { name, health: Health::Poor, found, remedy: Some(remedy.to_string()) }
        }
    }
}

fn store(home: Result<std::path::PathBuf>) -> Check {
    let name = "store";
    let open = || {
        let store = Store::open(home?)?;
        let bundles = store.list(&Progress::silent())?.len();
        let space = rustix::fs::statvfs(store.machines())
            .map_err(|e| crate::Error::io(store.machines().display(), e.into()))?;
        Ok((store.home().display().to_string(), bundles, space.f_bavail * space.f_frsize))
    };
    match open() {
        Err::<_, crate::Error>(e) => {
            let remedy = e.hint_text().map(str::to_string);
            Check { name, health: Health::Bad, found: e.to_string(), remedy }
        }
        Ok((home, bundles, free)) => {
            let low = free < DISK_BYTES_LOW;
            let found = format!("{home}: {bundles} bundles, {} MiB free", free >> 20);
            let remedy = low.then(|| "free some space, or set IMGRUN_HOME elsewhere".to_string());
            Check { name, health: if low { Health::Poor } else { Health::Good }, found, remedy }
        }
    }
}

fn memory() -> Check {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|v| v.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    let mib = kib.unwrap_or(0) / 1024;
    let low = mib < u64::from(MEMORY_MIB_DEFAULT);
    Check {
        name: "memory",
        health: if low { Health::Poor } else { Health::Good },
        found: format!("{mib} MiB available"),
        remedy: low.then(|| "give machines less: run --memory MIB".to_string()),
    }
}
