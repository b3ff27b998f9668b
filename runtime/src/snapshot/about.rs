//! What a snapshot says of itself.

use std::fs;
use std::path::Path;

use bundle::{Arch, Digest};
use serde::{Deserialize, Serialize};

use super::seal::Seal;
use crate::guest;
use crate::kept::Intent;
use crate::{Accel, Error, Result};

/// The only layout of `snapshot.json` so far.
pub(super) const SCHEMA: u32 = 1;
const ABOUT: &str = "snapshot.json";
/// The digest of that file, as `sha256sum --check` reads it.
const ABOUT_DIGEST: &str = "snapshot.json.sha256";
/// `snapshot.json` is at most this long: a command's arguments and environment are 64 KiB.
const ABOUT_BYTES_MAX: u64 = 1 << 20;
/// Nothing can begin at one that can not be read, and gc removes nothing while there is one.
const REMEDY: &str = "imgrun snapshot rm removes it";
/// Where Linux tells of processors; this much of it tells of the first.
const CPUINFO: &str = "/proc/cpuinfo";

/// What a snapshot is of, and what it needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    pub(super) schema: u32,
    /// The machine that was saved.
    pub machine: String,
    /// What that machine was to be.
    pub intent: Intent,
    /// When, seconds since 1970.
    pub taken_unix_s: u64,
    /// How long the machine stood still, microseconds.
    pub pause_us: u64,
    /// The version of the VMM, as it says it.
    pub vmm: String,
    /// The model of processor that the guest sees.
    pub(super) cpu: String,
    /// The host's processor, which the guest counts time with.
    pub(super) processor: String,
    /// The protocol of the agent that is in it.
    pub(super) protocol: u16,
    /// Its command that goes on.
    pub(super) command: Option<guest::Kept>,
    pub(super) kernel: Seal,
    pub(super) memory: Seal,
    pub(super) state: Seal,
    pub(super) upper: Seal,
}

impl About {
    /// Writes it into `dir`, which has all else.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::input("what the snapshot is").because(e))?;
        let digest = format!("{}  {ABOUT}\n", Digest::of(&text).hex());
        for (file, bytes) in [(ABOUT, &text[..]), (ABOUT_DIGEST, digest.as_bytes())] {
            let path = dir.join(file);
            fs::write(&path, bytes).map_err(|e| Error::io(path.display(), e))?;
        }
        Ok(())
    }

    /// Reads what `dir` has; `None` where there is nothing of the kind.
    ///
    /// # Errors
    /// `Input` where it is damaged, or a newer imgrun wrote it.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(ABOUT);
        let text = match path.metadata() {
            Ok(metadata) if metadata.len() > ABOUT_BYTES_MAX => {
                return Err(Error::input(format!("{}: too long", path.display())).hint(REMEDY));
            }
            Ok(_) => fs::read(&path),
            Err(e) => Err(e),
        };
        let text = match text {
            Ok(text) => text,
            // It was never there, or is being removed.
            Err(_) if !dir.exists() => return Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::input(path.display().to_string()).because(e).hint(REMEDY));
            }
            Err(e) => return Err(Error::io(path.display(), e)),
        };
        let digest = fs::read_to_string(dir.join(ABOUT_DIGEST)).unwrap_or_default();
        if digest.split_whitespace().next() != Some(&Digest::of(&text).hex()) {
            return Err(Error::input(format!("{}: damaged", path.display())).hint(REMEDY));
        }
        let about: About = serde_json::from_slice(&text).map_err(|e| {
            let hint = "a newer imgrun made this snapshot";
            Error::input(path.display().to_string()).because(e).hint(hint)
        })?;
        if about.schema != SCHEMA {
            let other = format!("{}: schema {}", path.display(), about.schema);
            return Err(Error::input(other).hint("a newer imgrun made this snapshot"));
        }
        Ok(Some(about))
    }
}

/// This host's processor: what a guest of `accel` can tell of it. One that is emulated counts its
/// time, one that is not has its features, too.
pub(super) fn processor(accel: Accel) -> Result<String> {
    let text = fs::read_to_string(CPUINFO).map_err(|e| Error::io(CPUINFO, e))?;
    Ok(describe(&text, accel))
}

fn describe(cpuinfo: &str, accel: Accel) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let value = |key: &str| {
        let mut lines = first.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(k, _)| k.trim() == key).map(|(_, v)| v.trim().to_string())
    };
    let parts = ["model name", "CPU implementer", "CPU part", "CPU revision"];
    let mut parts: Vec<String> = parts.into_iter().filter_map(value).collect();
    if accel == Accel::Kvm {
        let features = value("flags").or(value("Features")).unwrap_or_default();
        parts.push(Digest::of(features).short());
    }
    parts.push(Arch::host().name().to_string());
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_differ_by_model_and_for_kvm_by_features() {
        let one =
            "processor\t: 0\nmodel name\t: Fast (R) 1\nflags\t\t: fpu sse\n\nprocessor\t: 1\n";
        let two = one.replace("sse", "avx");
        assert!(describe(one, Accel::Tcg).starts_with("Fast (R) 1 "));
        assert_eq!(describe(one, Accel::Tcg), describe(&two, Accel::Tcg));
        assert_ne!(describe(one, Accel::Kvm), describe(&two, Accel::Kvm));
        assert_ne!(describe(one, Accel::Tcg), describe(&one.replace("Fast", "Slow"), Accel::Tcg));
    }
}
