//! Choosing between KVM and TCG, by evidence, and saying which and why.

use bundle::Arch;

use crate::kvm::{Evidence, Guest};
use crate::{Accel, Error, Result};

/// What the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccelChoice {
    /// KVM where an ordinary guest can run on it, else TCG.
    #[default]
    Auto,
    /// KVM, whatever the evidence says.
    Kvm,
    /// TCG.
    Tcg,
}

/// What was chosen, and one line on why where that is not what one would expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What it will be.
    pub accel: Accel,
    /// For the user; a fallback is never silent.
    pub note: Option<String>,
}

/// Decides for a guest of `arch`. `evidence` is gathered only where it matters.
///
/// # Errors
/// `Host` where KVM is demanded and `/dev/kvm` does not open, or is for another architecture.
pub fn choose(
    choice: AccelChoice,
    arch: Arch,
    evidence: impl FnOnce() -> Evidence,
) -> Result<Decision> {
    let host = Arch::host();
    if arch != host && choice != AccelChoice::Tcg {
        let why = format!("the guest is for {arch}, this host is {host}");
        if choice == AccelChoice::Kvm {
            return Err(Error::host(format!("--accel kvm: {why}"))
                .hint("--accel tcg works, and is what happens by itself"));
        }
        let note = Some(format!("using QEMU's emulation (TCG): {why}"));
        return Ok(Decision { accel: Accel::Tcg, note });
    }
    let evidence = match choice {
        AccelChoice::Tcg => return Ok(Decision { accel: Accel::Tcg, note: None }),
        AccelChoice::Auto | AccelChoice::Kvm => evidence(),
    };
    let Some(why) = evidence.objection() else {
        return Ok(Decision { accel: Accel::Kvm, note: None });
    };
    if choice == AccelChoice::Auto {
        let note = Some(format!("using QEMU's emulation (TCG): {why}"));
        return Ok(Decision { accel: Accel::Tcg, note });
    }
    if let Err(e) = &evidence.device {
        return Err(Error::host(format!("--accel kvm: /dev/kvm: {e}"))
            .hint("imgrun doctor says what is missing; --accel tcg works without it"));
    }
    let note = Some(format!("using KVM as asked, although {why}"));
    Ok(Decision { accel: Accel::Kvm, note })
}

impl Evidence {
    /// Why an ordinary guest kernel can not be expected to run on this KVM; `None` where it can.
    pub fn objection(&self) -> Option<String> {
        if let Err(e) = &self.device {
            return Some(format!("/dev/kvm: {e}"));
        }
        let guest = match &self.guest {
            Guest::Ran { instructions_per_s } if *instructions_per_s >= RING0_RATE_MIN => None,
            Guest::Ran { instructions_per_s } => Some(format!(
                "emulates kernel code ({:.1} million instructions/s)",
                *instructions_per_s as f64 / 1e6
            )),
            Guest::Failed { why } => Some(format!("did not run a test guest ({why})")),
            Guest::NotTried => None,
        };
        match (self.hardware, guest) {
            (true, None) => None,
            (true, Some(guest)) => Some(format!("/dev/kvm {guest}")),
            (false, guest) => {
                let and = guest.map(|g| format!(" and {g}")).unwrap_or_default();
                Some(format!("/dev/kvm is there without hardware virtualisation{and}"))
            }
        }
    }
}

/// A KVM that runs less ring-0 code than this is emulated, and an ordinary kernel hangs on it.
/// Real ones run 500 million and more of the simplest instructions; an emulated one was measured at
/// 0.7 million of the usual mix and 3.4 million of the simplest. The limit lies far from both.
pub const RING0_RATE_MIN: u64 = 50_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(hardware: bool, rate: u64) -> Evidence {
        let guest = Guest::Ran { instructions_per_s: rate };
        Evidence { device: Ok(()), hardware, guest }
    }

    fn absent() -> Evidence {
        Evidence { device: Err("Permission denied".into()), ..evidence(true, 0) }
    }

    #[test]
    fn auto_takes_kvm_only_where_all_the_evidence_agrees() {
        let auto = |e: Evidence| choose(AccelChoice::Auto, Arch::host(), || e).unwrap();
        assert_eq!(auto(evidence(true, 900_000_000)).accel, Accel::Kvm);
        for e in [evidence(true, 700_000), evidence(false, 900_000_000), absent()] {
            let decision = auto(e);
            assert_eq!(decision.accel, Accel::Tcg);
            assert!(decision.note.unwrap().starts_with("using QEMU's emulation (TCG): /dev/kvm"));
        }
    }

    #[test]
    fn a_demand_is_met_or_refused() {
        let kvm = |e: Evidence| choose(AccelChoice::Kvm, Arch::host(), || e);
        assert!(kvm(absent()).is_err());
        let decision = kvm(evidence(false, 700_000)).unwrap();
        assert_eq!(decision.accel, Accel::Kvm);
        assert!(decision.note.is_some());
        let tcg = choose(AccelChoice::Tcg, Arch::host(), || unreachable!()).unwrap();
        assert_eq!(tcg.accel, Accel::Tcg);
    }

    #[test]
    fn kvm_is_for_the_hosts_architecture() {
        let other = Arch::ALL.into_iter().find(|arch| *arch != Arch::host()).unwrap();
        let decision = choose(AccelChoice::Auto, other, || unreachable!()).unwrap();
        assert_eq!(decision.accel, Accel::Tcg);
        assert!(decision.note.is_some());
        assert!(choose(AccelChoice::Kvm, other, || unreachable!()).is_err());
    }
}
