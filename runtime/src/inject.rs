//! What every image gets besides its layers: the guest agent above them, and mount points.

use std::io;

use bundle::{Arch, Digest, Init};

use crate::{Error, Result};

/// The agents, built together with this program (`builder/build.rs`); empty where that machine
/// could not build one.
static X86_64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/imgagent-x86_64"));
static AARCH64: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/imgagent-aarch64"));
static UNIT: &str = include_str!("../../templates/imgagent.service");

/// Where the agent lies in every image.
pub const AGENT_PATH: &str = "usr/lib/imgtool/imgagent";
const UNIT_PATH: &str = "usr/lib/systemd/system/imgagent.service";
const UNIT_LINK: &str = "usr/lib/systemd/system/sysinit.target.wants/imgagent.service";

/// The guest agent's program for one architecture.
#[derive(Clone, Debug)]
pub struct Agent {
    program: std::borrow::Cow<'static, [u8]>,
}

impl Agent {
    /// The agent that this program carries.
    ///
    /// # Errors
    /// Where it carries none for `arch`.
    pub fn embedded(arch: Arch) -> Result<Self> {
        let program = match arch {
            Arch::X86_64 => X86_64,
            Arch::Aarch64 => AARCH64,
        };
        if program.is_empty() {
            let triple = format!("{arch}-unknown-linux-gnu");
            let (gcc, libc) = match arch {
                Arch::X86_64 => ("gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"),
                Arch::Aarch64 => ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"),
            };
            return Err(Error::host(format!("this program carries no guest agent for {arch}"))
                .hint(format!(
                    "apt-get install {gcc} {libc}, rustup target add {triple}, and build it \
                     again; to imgtool an agent can be given: --agent"
                )));
        }
        Ok(Agent { program: program.into() })
    }

    /// An agent from elsewhere.
    ///
    /// # Errors
    /// Where `program` is no ELF program for `arch`.
    pub fn from_bytes(program: Vec<u8>, arch: Arch) -> Result<Self> {
        let is_elf = program.starts_with(b"\x7fELF\x02\x01");
        let machine = program.get(18..20).map(|m| u16::from_le_bytes([m[0], m[1]]));
        if !is_elf || machine != Some(arch.elf_machine()) {
            return Err(Error::input(format!("the agent is no ELF program for {arch}")));
        }
        Ok(Agent { program: program.into() })
    }

    /// The digest of the program.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.program)
    }

    /// The layer above all others, as a tar: the agent, and its unit where systemd is to start it.
    ///
    /// # Errors
    /// Only where memory is short.
    pub fn layer(&self, init: Init, epoch: u64) -> io::Result<Vec<u8>> {
        let mut tar = Tar::new(epoch);
        tar.directory("usr/lib/imgtool", 0o755)?;
        tar.file(AGENT_PATH, 0o755, &self.program)?;
        if init == Init::Systemd {
            tar.file(UNIT_PATH, 0o644, UNIT.as_bytes())?;
            tar.symlink(UNIT_LINK, "../imgagent.service")?;
        }
        tar.finish()
    }
}

/// The directories that a boot mounts on, for images that lack them or have them deleted.
pub const MOUNT_POINTS: [(&str, u16); 5] =
    [("dev", 0o755), ("proc", 0o555), ("run", 0o755), ("sys", 0o555), ("tmp", 0o1777)];

/// A tar whose every entry is root's and dated `epoch`.
struct Tar {
    builder: ::tar::Builder<Vec<u8>>,
    epoch: u64,
}

impl Tar {
    fn new(epoch: u64) -> Self {
        Tar { builder: ::tar::Builder::new(Vec::new()), epoch }
    }

    fn header(&self, kind: ::tar::EntryType, mode: u32, size: u64) -> ::tar::Header {
        let mut header = ::tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.epoch);
        header
    }

    fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let mut header = self.header(::tar::EntryType::Directory, mode, 0);
        self.builder.append_data(&mut header, path, io::empty())
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let mut header = self.header(::tar::EntryType::Regular, mode, content.len() as u64);
        self.builder.append_data(&mut header, path, content)
    }

    fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        let mut header = self.header(::tar::EntryType::Symlink, 0o777, 0);
        self.builder.append_link(&mut header, path, target)
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        self.builder.into_inner()
    }
}
