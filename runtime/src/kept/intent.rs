//! What a kept machine is to be and how it ended: the files that are kept of it.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bundle::Digest;
use serde::{Deserialize, Serialize};

use super::INTENT;
use crate::volume::Attachment;

use crate::{Accel, Error, Hold, Hostname, Kernel, Network, Result, Spec, Store, Stored, Vmm};

/// The only layout of `machine.json` so far.
pub(super) const SCHEMA: u32 = 1;
/// What a kept machine is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    pub(crate) schema: u32,
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
    /// Its volumes: `NAME:/path[:ro]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// The command whose end is the machine's; none: it runs until it is stopped.
    pub command: Option<Command>,
    /// Remove the machine when it ends.
    pub remove: bool,
    /// When it was made, seconds since 1970.
    pub created_unix_s: u64,
    /// Where it begins, if not with a boot; once it has a disk of its own it boots, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin: Option<Begin>,
}

/// A machine that begins where another was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// The snapshot's directory.
    pub snapshot: PathBuf,
    /// [`Intent::command`] is to be started; else it runs in the snapshot.
    pub own_command: bool,
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
            volumes: spec.volumes.iter().map(|volume| volume.mount.to_string()).collect(),
            command,
            remove,
            created_unix_s: now_unix_s(),
            begin: None,
        }
    }

    /// The machine to boot, named `name` where it has no name of its own, with the right to its
    /// image.
    ///
    /// # Errors
    /// `Input` where the image or the kernel has been removed, or a word is none of ours.
    pub(crate) fn spec(&self, store: &Store, name: &Hostname) -> Result<(Spec, Hold)> {
        let gone = || Error::input(format!("its image {} was removed", self.image_title));
        let image = store.by_digest(self.image)?.ok_or_else(gone)?;
        let hold = image.hold()?;
        if !self.kernel.exists() {
            return Err(Error::input(format!("its kernel {} was removed", self.kernel_title)));
        }
        let (vmlinux, title) = (self.kernel.clone(), self.kernel_title.clone());
        // gc spares what a machine names.
        let kernel = Kernel { vmlinux, title, hold: None };
        let network = Network::from_name(&self.network);
        let mut spec = match self.begin {
            // What is saved knows it already, and measuring takes 10 ms.
            Some(_) => Spec::with_tsc_khz(&image, &kernel, self.accel()?, None),
            None => Spec::new(&image, &kernel, self.accel()?),
        };
        spec.vmm = Vmm::from_name(&self.vmm).ok_or_else(|| unknown(&self.vmm))?;
        spec.cpus = self.cpus;
        spec.memory_mib = self.memory_mib;
        spec.upper_bytes = self.upper_bytes;
        spec.hostname = match &self.hostname {
            Some(hostname) => hostname.parse()?,
            None => name.clone(),
        };
        spec.network = network.ok_or_else(|| unknown(&self.network))?;
        spec.forwards = self.forwards.iter().map(|f| f.parse()).collect::<Result<_>>()?;
        let attach = |text: &String| Ok(Attachment::new(store, text.parse()?));
        spec.volumes = self.volumes.iter().map(attach).collect::<Result<_>>()?;
        Ok((spec, hold))
    }

    /// Who executes it.
    ///
    /// # Errors
    /// `Input` where the word is none of ours.
    pub(crate) fn accel(&self) -> Result<Accel> {
        Accel::from_name(&self.accel).ok_or_else(|| unknown(&self.accel))
    }

    /// Whether it needs this bundle to start.
    pub(crate) fn names(&self, stored: &Stored) -> bool {
        // By the digest: the same store may be named by another path now.
        let kernel = self.kernel.parent().and_then(Path::file_name);
        let is_kernel = kernel.is_some_and(|name| name.to_str() == Some(&stored.digest.hex()));
        self.image == stored.digest || is_kernel
    }
}

fn unknown(word: &str) -> Error {
    Error::input(format!("{INTENT}: what is {word:?}?"))
}

/// Of machines that were made before there was a choice.
fn default_vmm() -> String {
    Vmm::default().name().to_string()
}

/// Seconds since 1970.
pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
