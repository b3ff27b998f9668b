//! Firecracker's configuration file and command line.
//!
//! Source of every field: Firecracker's own API description (`firecracker.yaml`, version 1.15), which
//! the tests hold the golden files against. Devices are on virtio-mmio, in the order of the file.
//! Its serial console is its standard output; the guest's agent is reached through a UNIX socket in
//! the machine's directory (`hybrid.rs`), and so is the API.

use std::path::Path;

use serde_json::{Value, json};

use super::{AGENT_SOCKET, API_SOCKET, CONFIG_FILE, GUEST_CID, Launch, Place, Request, Vmm, reach};
use crate::{Spec, Upper};

/// The program.
pub(crate) const BINARY: &str = "firecracker";

/// Versions with defects that our machines meet, from Firecracker's change log and issues: up to and
/// with the version, from the version on, what happens.
const DEFECTS: [(Version, Version, &str); 2] = [
    ((1, 16, 0), (1, 16, 0), "a restored machine's agent may be out of reach (its issue 5969)"),
    ((1, 16, 0), (1, 16, 1), "after a pause the agent is out of reach (its issue 6074)"),
];

/// Major, minor, patch.
pub(crate) type Version = (u32, u32, u32);

/// The version in what `firecracker --version` says: `Firecracker v1.17.0-dev`.
pub(crate) fn version(text: &str) -> Option<Version> {
    let word = text.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
    let mut numbers = word.split(['.', '-']).map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next()?))
}

/// What is wrong with a version.
pub(crate) fn defect(version: Version) -> Option<&'static str> {
    let known = DEFECTS.iter().find(|(first, last, _)| (*first..=*last).contains(&version));
    known.map(|(_, _, what)| *what)
}

pub(super) fn launch(spec: &Spec, upper: Option<&Upper>, directory: &Path) -> Launch {
    let args = ["--api-sock", API_SOCKET, "--config-file", CONFIG_FILE, "--level", "Error"];
    Launch {
        vmm: Vmm::Firecracker,
        program: BINARY.to_string(),
        args: args.map(str::to_string).to_vec(),
        reach: reach(spec, upper),
        place: Some(Place {
            directory: directory.to_path_buf(),
            config: Some(format!("{:#}\n", config(spec, upper))),
        }),
    }
}

fn config(spec: &Spec, upper: Option<&Upper>) -> Value {
    let drive = |name: &str, path: &Path, read_only: bool, cache: &str| {
        json!({
            // Our own words on the command line say which disk is the root.
            "drive_id": name, "is_root_device": false, "is_read_only": read_only,
            "path_on_host": path, "cache_type": cache,
        })
    };
    // The first is /dev/vda.
    let mut drives = vec![drive("root", &spec.root, true, "Unsafe")];
    if let Some(upper) = upper {
        // One that is thrown away with the machine need not reach the host's disk.
        let cache = if upper.kept { "Writeback" } else { "Unsafe" };
        drives.push(drive("upper", &upper.path, false, cache));
    }
    json!({
        "boot-source": { "kernel_image_path": spec.kernel, "boot_args": cmdline(spec, upper) },
        "drives": drives,
        "machine-config": { "vcpu_count": spec.cpus, "mem_size_mib": spec.memory_mib },
        "vsock": { "guest_cid": GUEST_CID, "uds_path": AGENT_SOCKET },
        "entropy": {},
    })
}

fn cmdline(spec: &Spec, upper: Option<&Upper>) -> String {
    let words = spec.kernel_cmdline(false);
    // It listens to the keyboard controller's reset only.
    let words = words.split(' ').map(|word| if word == "reboot=t" { "reboot=k" } else { word });
    let mut words: Vec<&str> = words.collect();
    if upper.is_some() {
        // A disk's serial is made of its file's numbers; the order is ours.
        words.push("imgtool.upper=/dev/vdb");
    }
    words.push("imgtool.agent=vsock");
    words.join(" ")
}

/// Stops the processors; see [`resume`].
pub(super) fn pause() -> Request {
    Request { method: "PATCH", path: "/vm", body: Some(json!({ "state": "Paused" })) }
}

/// Lets the processors go on.
pub(super) fn resume() -> Request {
    Request { method: "PATCH", path: "/vm", body: Some(json!({ "state": "Resumed" })) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Accel;
    use crate::spec::example;

    #[test]
    fn the_launch_is_the_golden_one() {
        let spec = Spec { vmm: Vmm::Firecracker, accel: Accel::Kvm, ..example() };
        let upper = Upper { path: "/run/m/upper.ext4".into(), kept: true };
        let launch = super::super::launch(&spec, Some(&upper));
        assert_eq!(format!("{launch}\n"), include_str!("firecracker.golden"));
        let place = launch.place.unwrap();
        assert_eq!(place.directory, Path::new("/run/m/vmm"));
        assert_eq!(place.config.unwrap(), include_str!("firecracker.config.golden"));
    }

    #[test]
    fn the_requests_are_the_golden_ones() {
        let text = [pause(), resume()].map(|r| format!("{r}\n")).concat();
        assert_eq!(text, include_str!("firecracker.requests.golden"));
    }

    #[test]
    fn versions_with_defects_are_known() {
        let ours = |text| version(text).map(|v| defect(v).is_some());
        assert_eq!(ours("Firecracker v1.16.1\n\nSupported snapshot data format"), Some(true));
        assert_eq!(ours("Firecracker v1.16.2"), Some(false));
        assert_eq!(ours("Firecracker v1.17.0-dev"), Some(false));
        assert_eq!(ours("nonsense"), None);
    }
}
