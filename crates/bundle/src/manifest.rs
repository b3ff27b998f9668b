//! The manifest: what a bundle says of itself.

use serde::{Deserialize, Serialize};

use crate::{Arch, Digest, Error, Name, Result, Version};

/// The schema version that this crate writes and reads.
pub const SCHEMA: u32 = 1;

/// What kind of thing a bundle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A root file system: `rootfs.ext4`.
    Image,
    /// A guest kernel: what boots, `config`, `build.json`.
    Kernel,
}

impl Kind {
    /// The files that a bundle of this kind holds, in this order, after the manifest. A kernel's
    /// may lack some, but not [`Arch::kernel_file`].
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Kind::Image => &["rootfs.ext4"],
            Kind::Kernel => &[
                // Uncompressed, an ELF file.
                "vmlinux",
                // The same as x86_64's boot loaders want it, and as aarch64's do.
                "bzImage",
                "Image",
                // Of imported kernels: a distribution's early user space and modules.
                "initrd",
                "modules.tar",
                "config",
                // What it was made of.
                "build.json",
            ],
        }
    }
}

/// `manifest.json`: the first member of every bundle.
///
/// Readers accept unknown fields, so that a field can be added without a new schema; a change of
/// meaning takes a new [`SCHEMA`], which old readers refuse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What the bundle holds.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// The machine that it runs on.
    pub arch: Arch,
    /// The files after the manifest, in this order: those of [`Kind::files`].
    pub files: Vec<FileEntry>,
    /// How an image is started. Images only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// The kernel that an image was built to run on. Images only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Reference>,
    /// The agent inside an image. Images only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentInfo>,
    /// What went in, by digest.
    pub sources: Vec<Source>,
    /// The digest of the recipe's or kernel configuration's text.
    pub recipe: Digest,
    /// The program that made it: `imgtool 0.1.0`.
    pub tool: String,
}

/// A file inside a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name in the archive.
    pub name: String,
    /// Of its raw bytes.
    pub digest: Digest,
    /// Raw size in bytes.
    pub size: u64,
}

/// How an image is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// What runs as process 1 once the root is stacked.
    pub init: Init,
    /// More words for the kernel's command line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmdline: Vec<String>,
}

/// What runs as process 1 once the root is stacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// The agent itself.
    #[default]
    Agent,
    /// The image's systemd, with the agent as a unit.
    Systemd,
}

impl Init {
    /// `agent` or `systemd`.
    pub fn name(self) -> &'static str {
        match self {
            Init::Agent => "agent",
            Init::Systemd => "systemd",
        }
    }
}

/// Another bundle, by name for people and by digest for machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// The digest of its packed file.
    pub digest: Digest,
}

/// The agent inside an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its version.
    pub version: String,
    /// The digest of the program.
    pub digest: Digest,
}

/// Something that went into a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// What it is, as the recipe says it: `bootstrap bookworm`, an OCI reference, a file's name.
    pub name: String,
    /// The digest of its bytes as they were read.
    pub digest: Digest,
}

impl Manifest {
    /// Reads and checks `manifest.json`.
    pub fn parse(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Schema {
            schema: u32,
        }
        let wrong = |e: serde_json::Error| Error::format(format!("manifest.json: {e}"));
        let Schema { schema } = serde_json::from_slice(json).map_err(wrong)?;
        if schema != SCHEMA {
            return Err(Error::format(format!(
                "manifest.json has schema {schema}, this program reads schema {SCHEMA}"
            )));
        }
        let manifest: Manifest = serde_json::from_slice(json).map_err(wrong)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// As bytes: pretty JSON with a newline, the same for equal manifests.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// The file called `name`.
    pub fn file(&self, name: &str) -> Option<&FileEntry> {
        self.files.iter().find(|f| f.name == name)
    }

    /// `<name>-<version>-<arch>.tar.zst`, the packed file's usual name.
    pub fn file_name(&self) -> String {
        format!("{}-{}-{}.tar.zst", self.name, self.version, self.arch)
    }

    fn check(&self) -> Result<()> {
        let names: Vec<&str> = self.files.iter().map(|f| f.name.as_str()).collect();
        let allowed = self.kind.files();
        let whole = match self.kind {
            Kind::Image => names == allowed,
            Kind::Kernel => {
                let mut rest = allowed.iter();
                let in_order = names.iter().all(|name| rest.any(|other| other == name));
                in_order && names.contains(&self.arch.kernel_file())
            }
        };
        if !whole {
            return Err(Error::format(format!(
                "manifest.json lists the files {names:?}, a bundle of this kind holds {allowed:?}"
            )));
        }
        if self.kind == Kind::Image && (self.boot.is_none() || self.kernel.is_none()) {
            return Err(Error::format("manifest.json of an image needs boot and kernel"));
        }
        Ok(())
    }
}
