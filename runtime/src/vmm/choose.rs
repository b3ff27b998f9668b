//! Choosing the VMM, by what a machine needs and what is installed.

use super::Vmm;
use crate::{Accel, Error, Network, Result, Spec};

/// What the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VmmChoice {
    /// QEMU, which can do all that we can and is what we have tried most; another where it is not
    /// installed and that one does.
    #[default]
    Auto,
    /// This one.
    Only(Vmm),
}

/// Decides for `spec`; `installed` is asked only where it matters.
///
/// # Errors
/// `Host` or `Usage` where the one that is demanded can not run such a machine.
pub fn choose(choice: VmmChoice, spec: &Spec, installed: impl Fn(Vmm) -> bool) -> Result<Vmm> {
    match choice {
        VmmChoice::Only(vmm) => fits(vmm, spec).map(|()| vmm),
        VmmChoice::Auto if installed(Vmm::Qemu) => Ok(Vmm::Qemu),
        VmmChoice::Auto => {
            let found =
                Vmm::ALL.into_iter().find(|vmm| fits(*vmm, spec).is_ok() && installed(*vmm));
            // Where there is none at all, starting QEMU says what to install.
            Ok(found.unwrap_or_default())
        }
    }
}

/// Whether `vmm` can run such a machine.
///
/// # Errors
/// What it lacks.
pub(crate) fn fits(vmm: Vmm, spec: &Spec) -> Result<()> {
    if vmm == Vmm::Qemu {
        return Ok(());
    }
    let name = vmm.name();
    if spec.accel != Accel::Kvm {
        return Err(Error::host(format!("{name} runs machines by KVM only, not by emulation"))
            .hint("imgrun doctor says what KVM lacks here; --vmm qemu works without it"));
    }
    if spec.network != Network::None {
        return Err(Error::usage(format!("{name} has no such network: it takes --vmm qemu")));
    }
    if !spec.volumes.is_empty() {
        return Err(Error::usage(format!("{name} gets no volumes from us: that takes --vmm qemu")));
    }
    if vmm == Vmm::Firecracker && spec.cpus > 1 && spec.cpus % 2 == 1 {
        let cpus = spec.cpus;
        return Err(Error::usage(format!("{cpus} cpus: {name} takes one or an even number")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;

    #[test]
    fn qemu_is_taken_where_it_is_there_or_needed() {
        let kvm = Spec { accel: Accel::Kvm, ..example() };
        let auto = |spec: &Spec, there: &[Vmm]| {
            choose(VmmChoice::Auto, spec, |vmm| there.contains(&vmm)).unwrap()
        };
        assert_eq!(auto(&kvm, &Vmm::ALL), Vmm::Qemu);
        assert_eq!(auto(&kvm, &[Vmm::Firecracker, Vmm::CloudHypervisor]), Vmm::Firecracker);
        assert_eq!(auto(&kvm, &[Vmm::CloudHypervisor]), Vmm::CloudHypervisor);
        assert_eq!(auto(&kvm, &[]), Vmm::Qemu);
        assert_eq!(auto(&example(), &[Vmm::Firecracker]), Vmm::Qemu);
        let three = Spec { cpus: 3, ..kvm };
        assert_eq!(auto(&three, &[Vmm::Firecracker, Vmm::CloudHypervisor]), Vmm::CloudHypervisor);
    }

    #[test]
    fn a_demand_is_met_or_refused() {
        let only = |spec: &Spec| choose(VmmChoice::Only(Vmm::Firecracker), spec, |_| false);
        let kvm = Spec { accel: Accel::Kvm, ..example() };
        assert_eq!(only(&kvm).unwrap(), Vmm::Firecracker);
        assert!(only(&example()).is_err());
        assert!(only(&Spec { network: Network::User, ..kvm.clone() }).is_err());
        assert!(only(&Spec { cpus: 3, ..kvm }).is_err());
    }
}
