//! The manifest: what a bundle says of itself.

use serde::{Deserialize, Serialize};

use crate::{Arch, Digest, Error, Name, Result, Test, Version};

/// The schema version that this crate writes and reads.
///
/// 1 was the manifest of bundles without a frame table, which no release ever made: they are
/// refused, and built again.
pub const SCHEMA: u32 = 2;

/// A manifest is at most this long.
pub const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// The root file system of an image.
pub const ROOTFS: &str = "rootfs.ext4";
/// The list of what is in an image: SPDX 2.3 as JSON.
pub const SBOM: &str = "sbom.spdx.json";

/// What kind of thing a bundle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A root file system and the list of what is in it: `rootfs.ext4`, `sbom.spdx.json`.
    Image,
    /// A guest kernel: what boots, `config`, `build.json`.
    Kernel,
}

impl Kind {
    /// The files that a bundle of this kind holds, in this order, after the manifest. A kernel's
    /// may lack some, but not [`Arch::kernel_file`].
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Kind::Image => &[ROOTFS, SBOM],
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
    /// The frame table: where every piece of the files lies, and what it must be.
    pub frames: Blob,
    /// How an image is started. Images only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// The kernel that an image was built to run on; none: any. Images only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Reference>,
    /// The agent inside an image. Images only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentInfo>,
    /// What went in, by digest.
    pub sources: Vec<Source>,
    /// The digest of the recipe's or kernel configuration's text.
    pub recipe: Digest,
    /// The digest of the lock file's text, where the recipe has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Digest>,
    /// The packages that are installed in an image, by database, name and version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<Package>,
    /// The program that made it: `imgtool 0.1.0`.
    pub tool: String,
    /// What must be so in a machine that booted it. Images only. What came of that can not be here,
    /// because the manifest decides the bundle's digest: it is a document of its own
    /// ([`TestResult`](crate::TestResult)).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<Test>,
}

/// Bytes that are named by their digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

impl Blob {
    /// The name of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        Blob { digest: Digest::of(bytes), size: bytes.len() as u64 }
    }
}

/// A package that an image's package manager says is installed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Whose database names it.
    pub database: Database,
    /// Its name.
    pub name: String,
    /// Its version, as the package manager writes it.
    pub version: String,
    /// The architecture in the package manager's words: `amd64`, `all`, `x86_64`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arch: String,
}

/// A package manager's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Database {
    /// Debian's: `/var/lib/dpkg/status` and `status.d/`.
    Dpkg,
    /// Alpine's: `/lib/apk/db/installed`.
    Apk,
    /// That of Fedora, Red Hat and others: `/usr/lib/sysimage/rpm/rpmdb.sqlite`.
    Rpm,
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
    /// Bytes of its frames in the packed file.
    pub packed: u64,
}

/// How an image is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// What runs as process 1 once the root is stacked.
    pub init: Init,
    /// More words for the kernel's command line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmdline: Vec<String>,
    /// How a container image wants its program run, where the bundle is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ImageConfig>,
}

/// How an image wants to be run (OCI image specification, "config").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// More arguments, or the program where there is no entrypoint.
    pub cmd: Vec<String>,
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// The directory to start in; empty is `/`.
    pub workdir: String,
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
            let remedy = if schema < SCHEMA { "build the bundle again" } else { "update it" };
            return Err(Error::format(format!(
                "manifest.json has schema {schema}, this program reads schema {SCHEMA}: {remedy}"
            )));
        }
        let manifest: Manifest = serde_json::from_slice(json).map_err(wrong)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Out of the packed file behind `read`, of which nothing else is looked at.
    ///
    /// # Errors
    /// As [`read_manifest`](crate::read_manifest) and [`Manifest::parse`].
    pub fn of_packed(read: &mut impl std::io::Read) -> Result<Self> {
        Self::parse(&crate::read_manifest(read)?)
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
        if self.kind == Kind::Image && self.boot.is_none() {
            return Err(Error::format("manifest.json of an image needs boot"));
        }
        crate::test::check(&self.tests)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(arch: Arch, files: &[&str]) -> Result<Manifest> {
        let digest = Digest::of(b"");
        let file = |name: &&str| FileEntry { name: name.to_string(), digest, size: 0, packed: 0 };
        let manifest = Manifest {
            schema: SCHEMA,
            kind: Kind::Kernel,
            name: "k".parse()?,
            version: "1".parse()?,
            arch,
            files: files.iter().map(file).collect(),
            frames: Blob::of([]),
            boot: None,
            kernel: None,
            agent: None,
            sources: vec![],
            recipe: digest,
            lock: None,
            packages: vec![],
            tool: "test".into(),
            tests: Vec::new(),
        };
        Manifest::parse(&manifest.to_json())
    }

    #[test]
    fn a_kernel_holds_what_boots_and_known_files_in_order() {
        for (arch, files) in [
            (Arch::X86_64, &["vmlinux", "config", "build.json"][..]),
            (Arch::X86_64, &["vmlinux", "bzImage", "initrd", "modules.tar", "config"]),
            (Arch::X86_64, &["vmlinux"]),
            (Arch::Aarch64, &["Image", "config", "build.json"]),
        ] {
            assert!(kernel(arch, files).is_ok(), "{files:?}");
        }
        for (arch, files) in [
            (Arch::X86_64, &["config", "build.json"][..]),
            (Arch::X86_64, &["bzImage", "config"]),
            (Arch::X86_64, &["config", "vmlinux"]),
            (Arch::X86_64, &["vmlinux", "vmlinux"]),
            (Arch::X86_64, &["vmlinux", "other"]),
            (Arch::Aarch64, &["vmlinux", "config"]),
            (Arch::Aarch64, &[]),
        ] {
            assert!(kernel(arch, files).is_err(), "{files:?}");
        }
    }
}
