//! Programs that run machines. A VMM is a child process: what to start is a value that can be
//! printed and tested ([`launch`]), starting it is another step.
//!
//! QEMU inherits socket pairs and no path: its standard input is the agent's port, its standard
//! output the console. There is no socket file that could be too long for `sun_path`, be left
//! behind, or be connected to by somebody else. The others can not inherit sockets: they have theirs
//! in the machine's own directory ([`Place`]).

mod api;
mod child;
mod choose;
mod cloud_hypervisor;
mod confine;
pub(crate) mod firecracker;
mod hybrid;
mod monitor;
mod qemu;

use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bundle::Arch;

use crate::{Accel, Network, Spec, Upper};

pub(crate) use api::Request;
pub(crate) use child::{Child, Ends};
pub(crate) use choose::fits;
pub use choose::{VmmChoice, choose};
pub use confine::Reach;
pub(crate) use confine::landlock;
pub(crate) use monitor::Monitor;
pub(crate) use qemu::cpu;

/// Where a machine has a network, the VMM writes what the guest sends to this descriptor,
pub(crate) const GUARD_OUT_FD: i32 = 900;
/// and reads from this one what may pass. Numbers that no process of ours has come to: so nothing
/// is lost when the child puts its ends there.
pub(crate) const GUARD_IN_FD: i32 = 901;
/// Here it listens to us,
pub(crate) const MONITOR_FD: i32 = 902;
/// and this is the machine's memory: ours, too, so that it can be copied.
pub(crate) const MEMORY_FD: i32 = 903;

/// In a machine's directory: a [`Place`].
const PLACE: &str = "vmm";
/// In a [`Place`]: the VMM's socket that leads to the guest's vsock ports,
const AGENT_SOCKET: &str = "vmm-agent.sock";
/// the one of its API,
const API_SOCKET: &str = "vmm-api.sock";
/// and its configuration.
const CONFIG_FILE: &str = "vmm.json";
/// The guest's vsock address: of no account, each VMM has a world of its own. 0 to 2 are taken.
const GUEST_CID: u32 = 3;

/// A program that runs machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vmm {
    /// QEMU: by KVM or by emulation, with every network and snapshots.
    #[default]
    Qemu,
    /// Firecracker: by KVM only, no network of ours.
    Firecracker,
    /// Cloud Hypervisor: by KVM only, no network of ours, kernels with PCI.
    CloudHypervisor,
}

impl Vmm {
    /// All there are, the one that is taken where nothing is said first.
    pub const ALL: [Vmm; 3] = [Vmm::Qemu, Vmm::Firecracker, Vmm::CloudHypervisor];

    /// `qemu`, `firecracker` or `cloud-hypervisor`.
    pub fn name(self) -> &'static str {
        match self {
            Vmm::Qemu => "qemu",
            Vmm::Firecracker => firecracker::BINARY,
            Vmm::CloudHypervisor => cloud_hypervisor::BINARY,
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vmm| vmm.name() == name)
    }

    /// The program that runs guests of `arch`.
    pub(crate) fn binary(self, arch: Arch) -> &'static str {
        match self {
            Vmm::Qemu => qemu::binary(arch),
            Vmm::Firecracker | Vmm::CloudHypervisor => self.name(),
        }
    }

    /// Whether its program for guests of `arch` is on `PATH`.
    pub fn is_installed(self, arch: Arch) -> bool {
        crate::tool::find(self.binary(arch)).is_some()
    }

    fn pause(self) -> Option<Request> {
        match self {
            Vmm::Qemu => None,
            Vmm::Firecracker => Some(firecracker::pause()),
            Vmm::CloudHypervisor => Some(cloud_hypervisor::pause()),
        }
    }

    fn resume(self) -> Option<Request> {
        match self {
            Vmm::Qemu => None,
            Vmm::Firecracker => Some(firecracker::resume()),
            Vmm::CloudHypervisor => Some(cloud_hypervisor::resume()),
        }
    }
}

/// Where a VMM has its sockets and its configuration: it runs in this directory, and names them
/// without it, as a socket's path may not be long. Nothing else is there: what lies beside it, what
/// a machine with a name is to be, say, is not for the VMM to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory; nobody else may use it.
    pub directory: PathBuf,
    /// What is to be in its configuration file.
    pub config: Option<String>,
}

impl Place {
    /// Makes it with the configuration in it, and removes what a killed VMM has left.
    fn prepare(&self) -> std::io::Result<()> {
        self.clear();
        std::fs::DirBuilder::new().mode(0o700).create(&self.directory)?;
        match &self.config {
            Some(text) => std::fs::write(self.directory.join(CONFIG_FILE), text),
            None => Ok(()),
        }
    }

    fn clear(&self) {
        // Most often it is not there.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// KVM.
const KVM: &str = "/dev/kvm";

/// The files of every launch.
fn reach(spec: &Spec, upper: Option<&Upper>) -> Reach {
    let files = |read_only| {
        let volumes = spec.volumes.iter().filter(move |v| v.mount.read_only == read_only);
        volumes.map(|volume| volume.file.clone())
    };
    let kvm = (spec.accel == Accel::Kvm).then(|| PathBuf::from(KVM));
    Reach {
        reads: files(true).chain([spec.kernel.clone(), spec.root.clone()]).collect(),
        writes: upper
            .map(|upper| upper.path.clone())
            .into_iter()
            .chain(kvm)
            .chain(files(false))
            .collect(),
        network: spec.network != Network::None,
    }
}

/// What to start: a program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Which it is.
    pub vmm: Vmm,
    /// The program, to be looked up in `PATH`.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where it has its sockets; none where its standard streams are all it needs.
    pub place: Option<Place>,
    /// What it may reach of this host; no more.
    pub reach: Reach,
}

/// What to start for `spec`, with the upper disk `upper` where there is one. Pure.
pub fn launch(spec: &Spec, upper: Option<&Upper>) -> Launch {
    // The machine's directory: its upper disk lies there.
    let directory = upper.and_then(|upper| upper.path.parent()).unwrap_or(Path::new("."));
    let directory = &directory.join(PLACE);
    match spec.vmm {
        Vmm::Qemu => qemu::launch(spec, upper, None),
        Vmm::Firecracker => firecracker::launch(spec, upper, directory),
        Vmm::CloudHypervisor => cloud_hypervisor::launch(spec, upper, directory),
    }
}

/// What to start for a machine that is to go on from a state, as [`launch`], with `memory`: a file
/// that stays as it is. Pure.
pub(crate) fn relaunch(spec: &Spec, upper: &Upper, memory: &Path) -> Launch {
    qemu::launch(spec, Some(upper), Some(memory))
}

impl fmt::Display for Launch {
    /// As a shell would take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)?;
        for arg in &self.args {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:".contains(c);
            if !arg.is_empty() && arg.chars().all(plain) {
                write!(f, " {arg}")?;
            } else {
                write!(f, " '{}'", arg.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vmms_place_has_nothing_of_the_machines() {
        let dir = tempfile::tempdir().unwrap();
        let upper = Upper { path: dir.path().join("upper.ext4"), kept: true };
        std::fs::write(dir.path().join("machine.json"), "what it is to be").unwrap();
        for vmm in [Vmm::Firecracker, Vmm::CloudHypervisor] {
            let spec = Spec { vmm, accel: Accel::Kvm, ..crate::spec::example() };
            let place = launch(&spec, Some(&upper)).place.unwrap();
            // What a killed one has left is no hindrance.
            for _ in 0..2 {
                place.prepare().unwrap();
                let entries = place.directory.read_dir().unwrap().flatten();
                let there: Vec<_> = entries.map(|entry| entry.file_name()).collect();
                assert!(there.iter().all(|name| name == CONFIG_FILE), "{vmm:?}: {there:?}");
            }
            place.clear();
            let left = dir.path().read_dir().unwrap().flatten().map(|entry| entry.file_name());
            assert_eq!(left.collect::<Vec<_>>(), ["machine.json"], "{vmm:?}");
        }
    }
}
