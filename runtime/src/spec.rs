//! What a machine is to be: a value, checked, that says nothing of how.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use bundle::{Arch, Init};

use crate::vmm::fits;
use crate::volume::{Attachment, VOLUMES_MAX};
use crate::{Error, Forward, Kernel, Network, Result, Stored, Vmm, tsc_khz};

/// Virtual processors, at most: what a microvm's interrupt controller and our tests cover.
pub const CPUS_MAX: u32 = 32;
/// Memory that a Debian userland with our kernel starts in, MiB.
pub const MEMORY_MIB_MIN: u32 = 64;
/// Memory, at most, MiB.
pub const MEMORY_MIB_MAX: u32 = 512 * 1024;
/// Memory where nothing is said, MiB.
pub const MEMORY_MIB_DEFAULT: u32 = 512;
/// Room for what a machine writes, where nothing is said, bytes. Sparse: it costs what is used.
pub const UPPER_BYTES_DEFAULT: u64 = 8 << 30;
/// The kernel takes 2048 bytes in all; the VMM adds a word of 45 for each device.
pub const CMDLINE_BYTES_MAX: usize = 1400;
/// A host name is at most this long.
pub const HOSTNAME_BYTES_MAX: usize = 63;
/// `-` and the digits of a `u32`.
const NUMBER_BYTES_MAX: usize = 11;

/// How a machine's processors are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// By the host's processor.
    Kvm,
    /// By QEMU's translator, in software.
    Tcg,
}

impl Accel {
    /// `kvm` or `tcg`.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Accel::Kvm, Accel::Tcg].into_iter().find(|accel| accel.name() == name)
    }
}

/// A name that a kernel and DNS accept: letters, digits, inner `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname(String);

impl Hostname {
    /// The nearest host name to `text`.
    pub fn from_name(text: &str) -> Self {
        let allowed = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = text.chars().take(HOSTNAME_BYTES_MAX).map(allowed).collect();
        let name = name.trim_matches('-');
        Hostname(if name.is_empty() { "machine".to_string() } else { name.to_string() })
    }

    /// This name and a number.
    pub fn numbered(&self, number: u32) -> Self {
        let stem: String = self.0.chars().take(HOSTNAME_BYTES_MAX - NUMBER_BYTES_MAX).collect();
        Self::from_name(&format!("{stem}-{number}"))
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Hostname {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if Hostname::from_name(text).0 == text {
            return Ok(Hostname(text.to_string()));
        }
        Err(Error::usage(format!("host name {text:?}: letters, digits and inner - are allowed")))
    }
}

/// A machine to boot.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The guest's architecture.
    pub arch: Arch,
    /// Who executes it.
    pub accel: Accel,
    /// The program that runs it.
    pub vmm: Vmm,
    /// Virtual processors, 1 to [`CPUS_MAX`].
    pub cpus: u32,
    /// Memory, MiB, [`MEMORY_MIB_MIN`] to [`MEMORY_MIB_MAX`].
    pub memory_mib: u32,
    /// The kernel: an uncompressed ELF file.
    pub kernel: PathBuf,
    /// The root file system: an ext4 image that is never written.
    pub root: PathBuf,
    /// Room for what the machine writes, bytes.
    pub upper_bytes: u64,
    /// What runs as process 1.
    pub init: Init,
    /// The image's own words for the kernel's command line. Ours come after them and win.
    pub cmdline: Vec<String>,
    /// The guest's name for itself.
    pub hostname: Hostname,
    /// How it is connected.
    pub network: Network,
    /// What leads in; it takes [`Network::User`].
    pub forwards: Vec<Forward>,
    /// Disks that outlive it, [`VOLUMES_MAX`] at most.
    pub volumes: Vec<Attachment>,
    /// The rate of the host's time stamp counter, which a guest of [`Accel::Tcg`] sees: see
    /// [`crate::tsc_khz`].
    pub tsc_khz: Option<u64>,
}

impl Spec {
    /// What `image` asks for, on `kernel`, with the defaults for the rest. Measures the time stamp
    /// counter where the guest must be told, which takes 10 ms.
    pub fn new(image: &Stored, kernel: &Kernel, accel: Accel) -> Self {
        let measured = if accel == Accel::Tcg { tsc_khz() } else { None };
        Self::with_tsc_khz(image, kernel, accel, measured)
    }

    /// As [`Spec::new`], where the time stamp counter's rate is known or does not matter.
    pub(crate) fn with_tsc_khz(
        image: &Stored,
        kernel: &Kernel,
        accel: Accel,
        tsc_khz: Option<u64>,
    ) -> Self {
        let boot = image.manifest.boot.as_ref();
        Spec {
            arch: image.manifest.arch,
            accel,
            vmm: Vmm::default(),
            // Under TCG a second processor makes a boot slower: 1.5 times the time, measured.
            cpus: 1,
            memory_mib: MEMORY_MIB_DEFAULT,
            kernel: kernel.vmlinux.clone(),
            root: image.path("rootfs.ext4"),
            upper_bytes: UPPER_BYTES_DEFAULT,
            init: boot.map(|b| b.init).unwrap_or_default(),
            cmdline: boot.map(|b| b.cmdline.clone()).unwrap_or_default(),
            hostname: Hostname::from_name(image.manifest.name.as_str()),
            network: Network::None,
            forwards: Vec::new(),
            volumes: Vec::new(),
            tsc_khz,
        }
    }

    /// Checks every limit.
    ///
    /// # Errors
    /// `Usage` for a number out of range, `Input` for words of the image that break the kernel's
    /// command line, `Host` for KVM of another architecture.
    pub fn check(&self) -> Result<()> {
        if self.accel == Accel::Kvm && self.arch != Arch::host() {
            let (guest, host) = (self.arch, Arch::host());
            return Err(Error::host(format!("KVM of a {host} host runs no guests for {guest}")));
        }
        fits(self.vmm, self)?;
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            return Err(Error::usage(format!("{} cpus: 1 to {CPUS_MAX} are allowed", self.cpus)));
        }
        if !(MEMORY_MIB_MIN..=MEMORY_MIB_MAX).contains(&self.memory_mib) {
            return Err(Error::usage(format!(
                "{} MiB of memory: {MEMORY_MIB_MIN} to {MEMORY_MIB_MAX} are allowed",
                self.memory_mib
            )));
        }
        if !self.forwards.is_empty() && self.network == Network::None {
            return Err(Error::usage("a port leads in, but there is no network")
                .hint("--network user makes one"));
        }
        if self.volumes.len() > VOLUMES_MAX {
            let n = self.volumes.len();
            return Err(Error::usage(format!("{n} volumes: {VOLUMES_MAX} are allowed")));
        }
        let word = |w: &String| !w.is_empty() && w.bytes().all(|c| c.is_ascii_graphic());
        if let Some(bad) = self.cmdline.iter().find(|w| !word(w)) {
            return Err(Error::input(format!(
                "the image's word {bad:?} for the kernel's command line: printable ASCII only"
            )));
        }
        // Behind `--` all words are for process 1, and a quote makes one word of several: ours
        // would not be heard.
        if let Some(bad) = self.cmdline.iter().find(|w| *w == "--" || w.contains('"')) {
            return Err(Error::input(format!(
                "the image's word {bad:?} for the kernel's command line: it would hide ours"
            )));
        }
        let bytes = self.kernel_cmdline(true).len();
        if bytes > CMDLINE_BYTES_MAX {
            return Err(Error::input(format!(
                "a kernel command line of {bytes} bytes, {CMDLINE_BYTES_MAX} are allowed"
            )));
        }
        Ok(())
    }

    /// The kernel's command line; `upper` where there is an upper disk, whose serial number tells
    /// the agent which one it is.
    pub(crate) fn kernel_cmdline(&self, upper: bool) -> String {
        let mut words = self.cmdline.clone();
        let mut say = |word: &str| words.push(word.to_string());
        say("root=/dev/vda");
        say("ro");
        say("rootfstype=ext4");
        say(&format!("init={}", agent::GUEST_PATH));
        say(&format!("imgtool.init={}", self.init.name()));
        if upper {
            say("imgtool.upper=upper");
        }
        say(&format!("imgtool.hostname={}", self.hostname));
        for (number, Attachment { mount, .. }) in self.volumes.iter().enumerate() {
            let mode = if mount.read_only { ":ro" } else { "" };
            say(&format!("imgtool.volume=volume{number}:{}{mode}", mount.at));
        }
        if let Some(network) = self.network.guest_word() {
            say(&format!("imgtool.net={network}"));
        }
        say(match self.arch {
            Arch::X86_64 => "console=ttyS0",
            Arch::Aarch64 => "console=ttyAMA0",
        });
        say("quiet");
        say("panic=-1");
        if self.arch == Arch::X86_64 {
            say("reboot=t");
        }
        if self.accel == Accel::Tcg && self.arch == Arch::X86_64 {
            // Without these a guest spends 300 ms calibrating timers that no KVM guest has to, and
            // on a loaded host may hang in it for ever.
            for word in ["no_timer_check", "nolapic_timer", "cryptomgr.notests"] {
                say(word);
            }
            // QEMU keeps its translations by virtual address. With random ones it would translate a
            // program and its libraries anew each time they start: 20 ms for `true`, not 2. Inside
            // the guest only, and `sysctl kernel.randomize_va_space=2` there brings them back.
            say("norandmaps");
            if let Some(khz) = self.tsc_khz {
                say(&format!("tsc_early_khz={khz}"));
                say("tsc=nowatchdog");
            }
        }
        words.join(" ")
    }
}

#[cfg(test)]
pub(crate) fn example() -> Spec {
    Spec {
        arch: Arch::X86_64,
        accel: Accel::Tcg,
        vmm: Vmm::default(),
        cpus: 1,
        memory_mib: 512,
        kernel: "/store/k/vmlinux".into(),
        root: "/store/i,1/rootfs.ext4".into(),
        upper_bytes: UPPER_BYTES_DEFAULT,
        init: Init::Agent,
        cmdline: vec!["loglevel=4".into()],
        hostname: Hostname::from_name("debian"),
        network: Network::None,
        forwards: Vec::new(),
        volumes: Vec::new(),
        tsc_khz: Some(2_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold() {
        assert!(example().check().is_ok());
        let bad: [fn(&mut Spec); 8] = [
            |s| s.cpus = 0,
            |s| s.cpus = CPUS_MAX + 1,
            |s| s.memory_mib = MEMORY_MIB_MIN - 1,
            |s| s.cmdline = vec!["a b".into()],
            |s| s.cmdline = vec!["--".into()],
            |s| s.cmdline = vec!["a=\"b".into()],
            |s| s.cmdline = vec!["a".repeat(CMDLINE_BYTES_MAX)],
            |s| (s.arch, s.accel) = (Arch::Aarch64, Accel::Kvm),
        ];
        for break_it in bad {
            let mut spec = example();
            break_it(&mut spec);
            assert!(spec.check().is_err());
        }
    }

    #[test]
    fn host_names_are_labels() {
        assert_eq!(Hostname::from_name("my_image-1.2").to_string(), "my-image-1-2");
        assert_eq!(Hostname::from_name("--").to_string(), "machine");
        assert!("a b".parse::<Hostname>().is_err());
        assert!("-a".parse::<Hostname>().is_err());
        assert!("web-1".parse::<Hostname>().is_ok());
    }
}
