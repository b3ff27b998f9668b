//! Machine architectures we build for and run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// A guest's machine architecture, written as the kernel writes it (`uname -m`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Arch {
    /// Every architecture there is.
    pub const ALL: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

    /// The architecture of this program.
    pub fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 }
    }

    /// As `uname -m` says it: `x86_64`, `aarch64`.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
    }

    /// As OCI image indexes, Debian and Go say it: `amd64`, `arm64`.
    pub fn oci_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::Aarch64 => "arm64",
        }
    }

    /// The file of a kernel's bundle that a virtual machine starts.
    pub fn kernel_file(self) -> &'static str {
        match self {
            Arch::X86_64 => "vmlinux",
            Arch::Aarch64 => "Image",
        }
    }

    /// The `e_machine` of its ELF programs.
    pub fn elf_machine(self) -> u16 {
        match self {
            Arch::X86_64 => 62,
            Arch::Aarch64 => 183,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Arch {
    type Err = Error;

    /// Takes both spellings: `x86_64` and `amd64`, `aarch64` and `arm64`.
    fn from_str(text: &str) -> Result<Self, Error> {
        Arch::ALL.into_iter().find(|a| a.name() == text || a.oci_name() == text).ok_or_else(|| {
            Error::Value {
                what: "architecture",
                text: text.to_string(),
                rule: "x86_64 and aarch64 are known",
            }
        })
    }
}
