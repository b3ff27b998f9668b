//! QEMU's command line.
//!
//! The machine on x86_64 is a `microvm` without ACPI: devices on virtio-mmio, found by the kernel
//! through words that QEMU adds to its command line (it does so only with `acpi=off`). Such a guest
//! has no way to power off; it resets, and `-no-reboot` turns that into an exit. On aarch64 it is a
//! `virt`, whose device tree tells of the same buses.

use std::net::Ipv4Addr;
use std::path::Path;

use bundle::Arch;

use super::{GUARD_IN_FD, GUARD_OUT_FD, Launch, MEMORY_FD, MONITOR_FD, Vmm};
use crate::network::{GATEWAY, GUEST, NAMESERVER};
use crate::volume::{Attachment, VOLUMES_MAX};
use crate::{Accel, Forward, Network, Spec, Upper};

/// The program that runs guests of `arch`.
pub(crate) fn binary(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "qemu-system-x86_64",
        Arch::Aarch64 => "qemu-system-aarch64",
    }
}

/// `from` is the memory that the machine begins with; then it waits for a state.
pub(super) fn launch(spec: &Spec, upper: Option<&Upper>, from: Option<&Path>) -> Launch {
    let mut args = Vec::new();
    let mut add = |option: &str, value: String| {
        args.push(format!("-{option}"));
        args.push(value);
    };
    // The memory is an object of its own so that a snapshot can keep it in a file.
    let (memory, share) = match from {
        None => (format!("/proc/self/fd/{MEMORY_FD}"), "on"),
        Some(path) => (path.display().to_string().replace(',', ",,"), "off"),
    };
    let size = spec.memory_mib;
    let memory = format!("id=memory,share={share},size={size}M,mem-path={memory}");
    add("object", format!("memory-backend-file,{memory}"));
    add("M", format!("{},memory-backend=memory", board(spec.arch)));
    add("accel", spec.accel.name().to_string());
    add("cpu", cpu(spec.arch, spec.accel).to_string());
    add("smp", spec.cpus.to_string());
    add("m", format!("{}M", spec.memory_mib));
    add("kernel", spec.kernel.display().to_string());
    add("append", spec.kernel_cmdline(upper.is_some()));
    disks(spec, upper, &mut add);
    // Descriptors 0 and 1 are our ends of socket pairs: see the module above.
    add("chardev", "socket,id=agent,fd=0".to_string());
    add("device", "virtio-serial-device,bus=virtio-mmio-bus.2,max_ports=2".to_string());
    add("device", format!("virtserialport,chardev=agent,name={}", agent::PORT_NAME));
    add("chardev", format!("socket,id=monitor,fd={MONITOR_FD}"));
    add("mon", "chardev=monitor,mode=control".to_string());
    if from.is_some() {
        add("incoming", "defer".to_string());
    }
    add("chardev", "socket,id=console,fd=1".to_string());
    add("serial", "chardev:console".to_string());
    add("object", "rng-builtin,id=random".to_string());
    add("device", "virtio-rng-device,bus=virtio-mmio-bus.3,rng=random".to_string());
    match spec.network {
        Network::None => add("nic", "none".to_string()),
        Network::User => {
            let (address, prefix) = GUEST;
            let addresses = format!("net={address}/{prefix},host={GATEWAY},dns={NAMESERVER}");
            let forwards: String = spec.forwards.iter().map(|f| forward(f, address)).collect();
            add("netdev", format!("user,id=net,ipv6=off,{addresses}{forwards}"));
            let device = "virtio-net-device,bus=virtio-mmio-bus.4,netdev=net";
            add("device", device.to_string());
            // What the guest sends goes through our hands. QEMU takes the filters of this queue
            // from the last to the first: out, then back in.
            for (name, end, fd) in [("in", "indev", GUARD_IN_FD), ("out", "outdev", GUARD_OUT_FD)] {
                add("chardev", format!("socket,id=guard-{name},fd={fd}"));
                let guard = format!("id=guard-{name}-filter,netdev=net,queue=rx");
                add("object", format!("filter-redirector,{guard},{end}=guard-{name}"));
            }
        }
    }
    let deny = "obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
    add("sandbox", format!("on,{deny}"));
    add("display", "none".to_string());
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        args.push(flag.to_string());
    }
    if from.is_some() {
        // Nobody runs before we say so.
        args.push("-S".to_string());
    }
    let mut reach = super::reach(spec, upper);
    // It is mapped for this machine alone, but opened as if it were to be written.
    reach.writes.extend(from.map(Path::to_path_buf));
    Launch { vmm: Vmm::Qemu, program: binary(spec.arch).to_string(), args, place: None, reach }
}

/// The root must be the first block device that the kernel finds, `/dev/vda`. A microvm's kernel is
/// told of the buses from the last to the first, a virt's finds them from the first to the last; the
/// boot tests see to it. The agent knows the upper disk by its serial number.
fn disks(spec: &Spec, upper: Option<&Upper>, add: &mut impl FnMut(&str, String)) {
    let file = |path: &Path| path.display().to_string().replace(',', ",,");
    let root = file(&spec.root);
    add(
        "blockdev",
        format!("raw,node-name=root,read-only=on,file.driver=file,file.filename={root}"),
    );
    let bus = "bus=virtio-mmio-bus";
    // A microvm has eight buses.
    let (root_bus, upper_bus, volume_buses): (_, _, [u8; VOLUMES_MAX]) = match spec.arch {
        Arch::X86_64 if spec.volumes.is_empty() => (1, 0, [0; VOLUMES_MAX]),
        // Behind the volumes, so that it is found before them.
        Arch::X86_64 => (7, 0, [6, 5, 1]),
        Arch::Aarch64 => (0, 1, [5, 6, 7]),
    };
    add("device", format!("virtio-blk-device,{bus}.{root_bus},drive=root,serial=root"));
    if let Some(upper) = upper {
        // One that is thrown away with the machine need not reach the host's disk.
        let flush = if upper.kept { "" } else { "cache.no-flush=on," };
        let options = format!("raw,node-name=upper,discard=unmap,{flush}file.driver=file");
        add("blockdev", format!("{options},file.filename={}", file(&upper.path)));
        // Where the host's disk is full the guest gets an error; else QEMU would stop it for ever.
        let errors = "werror=report,rerror=report";
        add(
            "device",
            format!("virtio-blk-device,{bus}.{upper_bus},drive=upper,serial=upper,{errors}"),
        );
    }
    let volumes = spec.volumes.iter().zip(volume_buses).enumerate();
    for (number, (Attachment { mount, file: path }, volume_bus)) in volumes {
        let mode = if mount.read_only { "read-only=on" } else { "discard=unmap" };
        let options = format!("raw,node-name=volume{number},{mode},file.driver=file");
        add("blockdev", format!("{options},file.filename={}", file(path)));
        let device = format!("drive=volume{number},serial=volume{number}");
        let errors = "werror=report,rerror=report";
        let bus = format!("{bus}.{volume_bus}");
        add("device", format!("virtio-blk-device,{bus},{device},{errors}"));
    }
}

fn forward(forward: &Forward, guest: Ipv4Addr) -> String {
    let (address, port) = (forward.host.ip(), forward.host.port());
    format!(",hostfwd=tcp:{address}:{port}-{guest}:{}", forward.guest)
}

fn board(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "microvm,acpi=off,pcie=off,usb=off,graphics=off",
        // The interrupt controller that a host's KVM has is not for us to know.
        Arch::Aarch64 => "virt,gic-version=max,usb=off,graphics=off",
    }
}

/// The model of processor that the guest sees.
pub(crate) fn cpu(arch: Arch, accel: Accel) -> &'static str {
    match (accel, arch) {
        (Accel::Kvm, _) => "host",
        // What every aarch64 distribution is compiled for; pointer authentication, which `max`
        // has, is slow to emulate.
        (Accel::Tcg, Arch::Aarch64) => "cortex-a72",
        // Without the promise of fast `rep movsb` and `rep stosb`, which TCG executes byte by byte,
        // guests copy and clear words: a kernel boots with a tenth fewer instructions.
        (Accel::Tcg, Arch::X86_64) => "max,-erms,-fsrm",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;

    #[test]
    fn the_command_line_for_aarch64_is_the_golden_one() {
        let spec = Spec { arch: Arch::Aarch64, kernel: "/store/k/Image".into(), ..example() };
        let upper = Upper { path: "/run/m/upper.ext4".into(), kept: false };
        let text = super::super::launch(&spec, Some(&upper)).to_string().replace(" -", "\n-");
        assert_eq!(format!("{text}\n"), include_str!("qemu-aarch64.golden"));
    }

    #[test]
    fn a_network_is_a_device_and_a_word_for_the_agent() {
        let forwards = vec!["8080:80".parse().unwrap()];
        let spec = Spec { network: Network::User, forwards, ..example() };
        let text = super::super::launch(&spec, None).to_string();
        let netdev = "-netdev user,id=net,ipv6=off,net=10.0.2.15/24,host=10.0.2.2,dns=10.0.2.3";
        assert!(text.contains(netdev), "{text}");
        assert!(text.contains(",hostfwd=tcp:127.0.0.1:8080-10.0.2.15:80 "), "{text}");
        assert!(text.contains(" imgtool.net=10.0.2.15/24,10.0.2.2,10.0.2.3 "), "{text}");
        assert!(!text.contains("-nic"), "{text}");
    }

    #[test]
    fn a_copy_has_its_originals_memory_for_itself_and_waits() {
        let upper = Upper { path: "/run/m/upper.ext4".into(), kept: true };
        let launch = super::super::relaunch(&example(), &upper, Path::new("/s/a,b/memory"));
        let text = launch.to_string();
        let memory = "id=memory,share=off,size=512M,mem-path=/s/a,,b/memory ";
        assert!(text.contains(memory), "{text}");
        assert!(text.contains(" -incoming defer ") && text.contains(" -S"), "{text}");
    }

    #[test]
    fn volumes_are_disks_that_are_found_behind_the_root() {
        let attach = |text: &str| Attachment {
            mount: text.parse().unwrap(),
            file: format!("/v/{}.ext4", text.len()).into(),
        };
        let volumes = ["a:/srv", "bc:/srv/b:ro", "d:/x"].map(attach).to_vec();
        for (arch, root) in [(Arch::X86_64, "bus.7"), (Arch::Aarch64, "bus.0")] {
            let spec = Spec { arch, volumes: volumes.clone(), ..example() };
            let upper = Upper { path: "/m/upper.ext4".into(), kept: false };
            let text = super::super::launch(&spec, Some(&upper)).to_string();
            assert!(text.contains(&format!("{root},drive=root,")), "{text}");
            let disk =
                "raw,node-name=volume1,read-only=on,file.driver=file,file.filename=/v/12.ext4";
            assert!(text.contains(disk), "{text}");
            assert!(
                text.contains(" imgtool.volume=volume0:/srv imgtool.volume=volume1:/srv/b:ro ")
            );
            // Each has a place of its own.
            let buses: Vec<_> = text.split("virtio-mmio-").skip(1).map(|b| &b[..5]).collect();
            let distinct: std::collections::HashSet<_> = buses.iter().collect();
            assert_eq!((buses.len(), distinct.len()), (7, 7), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_the_golden_one() {
        let mut upper = Upper { path: "/run/m/upper.ext4".into(), kept: false };
        let launch = super::super::launch(&example(), Some(&upper));
        let text = launch.to_string().replace(" -", "\n-");
        assert_eq!(format!("{text}\n"), include_str!("qemu.golden"));
        upper.kept = true;
        let text = super::super::launch(&example(), Some(&upper)).to_string();
        assert!(!text.contains("no-flush"), "{text}");
    }
}
