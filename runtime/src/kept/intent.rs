//! What a kept machine is to be and how it ended: the files that are kept of it.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use bundle::Digest;
use serde::{Deserialize, Serialize};

use crate::{Hostname, Kernel, Spec, Stored, Vmm};

/// The only layout of `machine.json` so far.
pub(super) const SCHEMA: u32 = 1;
/// What a kept machine is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    pub(super) schema: u32,
    /// The image's bundle.
    pub image: Digest,
    /// `name:version` of the image.
    pub image_title: String,
    /// The kernel's file.
    pub kernel: PathBuf,
    /// How people name the kernel.
    pub kernel_title: String,
    /// Who executes it: `kvm` or `tcg`.
    pub accel: String,
    /// The program that runs it, as [`crate::Vmm`] names them.
    #[serde(default = "default_vmm")]
    pub vmm: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Room for what it writes, bytes.
    pub upper_bytes: u64,
    /// Its own name for itself; else what it is named here.
    pub hostname: Option<String>,
    /// `none` or `user`.
    pub network: String,
    /// What leads in: `ADDRESS:PORT:PORT`.
    #[serde(default)]
    pub forwards: Vec<String>,
    /// The command whose end is the machine's; none: it runs until it is stopped.
    pub command: Option<Command>,
    /// Remove the machine when it ends.
    pub remove: bool,
    /// When it was made, seconds since 1970.
    pub created_unix_s: u64,
}

/// A command, as [`crate::Exec`] has it: bytes that need not be text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<Vec<u8>>,
    /// `KEY=VALUE`.
    pub env: Vec<Vec<u8>>,
    /// The working directory.
    pub cwd: Option<Vec<u8>>,
    /// As whom it runs.
    pub user: Option<Vec<u8>>,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The exit code of its command; 125 where we or the guest failed.
    pub code: u8,
    /// What went wrong, if something did.
    pub error: Option<String>,
    /// When, seconds since 1970.
    pub unix_s: u64,
}

impl Intent {
    /// `spec`, booted from `image` with `kernel`, to be kept.
    pub fn new(
        spec: &Spec,
        image: &Stored,
        kernel: &Kernel,
        hostname: Option<&Hostname>,
        command: Option<Command>,
        remove: bool,
    ) -> Self {
        Intent {
            schema: SCHEMA,
            image: image.digest,
            image_title: image.title(),
            kernel: kernel.vmlinux.clone(),
            kernel_title: kernel.title.clone(),
            accel: spec.accel.name().to_string(),
            vmm: spec.vmm.name().to_string(),
            cpus: spec.cpus,
            memory_mib: spec.memory_mib,
            upper_bytes: spec.upper_bytes,
            hostname: hostname.map(Hostname::to_string),
            network: spec.network.name().to_string(),
            forwards: spec.forwards.iter().map(|f| f.to_string()).collect(),
            command,
            remove,
            created_unix_s: now_unix_s(),
        }
    }
}

/// Of machines that were made before there was a choice.
fn default_vmm() -> String {
    Vmm::default().name().to_string()
}

/// Seconds since 1970.
pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
