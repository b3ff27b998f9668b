//! Cloud Hypervisor's command line.
//!
//! Its devices are on virtio-pci, so it takes a kernel that has PCI (`generic`, not `micro`). The
//! serial console is its standard output; the guest's agent is reached as Firecracker's is.

use std::path::Path;

use super::{AGENT_SOCKET, API_SOCKET, GUEST_CID, Launch, Place, Request, Vmm, reach};
use crate::{Spec, Upper};

/// The program.
pub(crate) const BINARY: &str = "cloud-hypervisor";

pub(super) fn launch(spec: &Spec, upper: Option<&Upper>, directory: &Path) -> Launch {
    let mut args = Vec::new();
    let mut add = |option: &str, values: Vec<String>| {
        args.push(format!("--{option}"));
        args.extend(values);
    };
    add("api-socket", vec![format!("path={API_SOCKET}")]);
    add("kernel", vec![spec.kernel.display().to_string()]);
    add("cmdline", vec![format!("{} imgtool.agent=vsock", spec.kernel_cmdline(upper.is_some()))]);
    add("cpus", vec![format!("boot={}", spec.cpus)]);
    add("memory", vec![format!("size={}M", spec.memory_mib)]);
    // The first is /dev/vda; the agent knows the upper disk by its serial number.
    let mut disks = vec![format!("path={},readonly=on,image_type=raw", quoted(&spec.root))];
    if let Some(upper) = upper {
        disks.push(format!("path={},serial=upper,image_type=raw", quoted(&upper.path)));
    }
    add("disk", disks);
    add("vsock", vec![format!("cid={GUEST_CID},socket={AGENT_SOCKET}")]);
    add("rng", vec!["src=/dev/urandom".to_string()]);
    add("serial", vec!["tty".to_string()]);
    add("console", vec!["off".to_string()]);
    add("seccomp", vec!["true".to_string()]);
    let directory = directory.to_path_buf();
    Launch {
        vmm: Vmm::CloudHypervisor,
        program: BINARY.to_string(),
        args,
        reach: reach(spec, upper),
        place: Some(Place { directory, config: None }),
    }
}

/// A comma would begin another option.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

/// Stops the processors; see [`resume`].
pub(super) fn pause() -> Request {
    Request { method: "PUT", path: "/api/v1/vm.pause", body: None }
}

/// Lets the processors go on.
pub(super) fn resume() -> Request {
    Request { method: "PUT", path: "/api/v1/vm.resume", body: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Accel;
    use crate::spec::example;

    #[test]
    fn the_launch_is_the_golden_one() {
        let spec = Spec { vmm: Vmm::CloudHypervisor, accel: Accel::Kvm, ..example() };
        let upper = Upper { path: "/run/m/upper.ext4".into(), kept: false };
        let launch = super::super::launch(&spec, Some(&upper));
        let text = launch.to_string().replace(" --", "\n--");
        assert_eq!(format!("{text}\n"), include_str!("cloud-hypervisor.golden"));
    }
}
