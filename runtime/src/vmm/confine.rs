//! What a VMM may reach of this host: the files that its launch names, and no more.
//!
//! All of it is asked of the kernel between fork and exec, so that it holds from the VMM's first
//! instruction on and can not be taken back:
//! - **Landlock** (since Linux 5.13; where it is newer, more of it): files, directories and devices by
//!   name; no TCP where the machine has no network; no signal to a process and no connection to an
//!   abstract socket outside. Where the kernel has none of it, the rest still holds.
//! - **No new privileges**, and of root's only the one to open files whatever their mode: images may
//!   be another user's, and Landlock says which.
//! - **Limits**: no core dump, in which the guest's memory would be; no more open files than now.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    Scope,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::Launch;
use crate::{Error, Result};

/// The newest rules that we know; an older kernel keeps those that it knows.
const RULES: ABI = ABI::V6;
/// Programs and their libraries and data: public files, on every system the same.
const SYSTEM: [&str; 7] = ["/usr", "/lib", "/lib64", "/bin", "/sbin", "/nix/store", "/gnu/store"];
/// Beside a program's `bin`, where it was installed elsewhere.
const BESIDE: [&str; 4] = ["lib", "lib64", "libexec", "share"];
/// What the loader, the C library and every VMM look at.
const READ: [&str; 4] =
    ["/etc/ld.so.cache", "/dev/urandom", "/dev/random", "/sys/devices/system/cpu"];
const WRITTEN: [&str; 2] = ["/dev/null", "/dev/zero"];
/// Resolvers' files are replaced in these, and nothing else is in them.
const RESOLVERS: [&str; 3] = ["/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf"];

/// What a launch is about, beside the system's own programs and libraries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Files that are read.
    pub reads: Vec<PathBuf>,
    /// Files and devices that are read and written.
    pub writes: Vec<PathBuf>,
    /// Whether it opens connections.
    pub network: bool,
}

/// The rules for one VMM, not in force yet.
pub(super) struct Confinement {
    rules: Option<RulesetCreated>,
}

impl Confinement {
    /// What `launch` may do.
    ///
    /// # Errors
    /// `Host` where the kernel does not take the rules.
    pub(super) fn new(launch: &Launch) -> Result<Self> {
        let rules = rules(launch).map_err(|e| Error::host("the VMM's confinement").because(e))?;
        Ok(Confinement { rules: Some(rules) })
    }

    /// Puts them in force for this process and all that it will be: between fork and exec. Makes a
    /// few system calls and allocates nothing unless it fails.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        let open_files = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { maximum: open_files.current, ..open_files })?;
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        rustix::thread::set_no_new_privs(true)?;
        // `exec` gives root all of them back, but for the rule above: not more than it has.
        let kept = capabilities(None)?.permitted & CapabilitySet::DAC_OVERRIDE;
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
        match self.rules.take() {
            Some(rules) => rules.restrict_self().map(drop).map_err(|_| io::ErrorKind::Other.into()),
            None => Ok(()),
        }
    }
}

fn rules(launch: &Launch) -> std::result::Result<RulesetCreated, RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(RULES))?
        .scope(Scope::from_all(RULES))?;
    if !launch.reach.network {
        rules = rules.handle_access(AccessNet::from_all(RULES))?;
    }
    let look = AccessFs::ReadFile | AccessFs::ReadDir;
    let run = look | AccessFs::Execute;
    let write = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let mut rules = Rules(rules.create()?);
    rules.add(SYSTEM, run)?;
    if let Some(program) = crate::tool::find(&launch.program) {
        let program = program.canonicalize().unwrap_or(program);
        let prefix = program.parent().filter(|dir| dir.ends_with("bin")).and_then(Path::parent);
        rules.add(prefix.iter().flat_map(|prefix| BESIDE.map(|name| prefix.join(name))), run)?;
        rules.add([program], AccessFs::ReadFile | AccessFs::Execute)?;
    }
    rules.add(READ, look)?;
    rules.add(WRITTEN, write)?;
    if launch.reach.network {
        rules.add(["/etc/resolv.conf"], AccessFs::ReadFile.into())?;
        rules.add(RESOLVERS, look)?;
    }
    rules.add(&launch.reach.reads, AccessFs::ReadFile.into())?;
    rules.add(&launch.reach.writes, write)?;
    if let Some(place) = &launch.place {
        rules.add([&place.directory], look | write | AccessFs::MakeSock | AccessFs::RemoveFile)?;
    }
    Ok(rules.0)
}

struct Rules(RulesetCreated);

impl Rules {
    /// Allows `access` to each of `paths` and what is below. One that can not be opened is left
    /// out: the VMM says better what it misses.
    fn add<P: AsRef<Path>>(
        &mut self,
        paths: impl IntoIterator<Item = P>,
        access: BitFlags<AccessFs>,
    ) -> std::result::Result<(), RulesetError> {
        for path in paths {
            let Ok(fd) = PathFd::new(&path) else { continue };
            let is_directory = path.as_ref().is_dir();
            let access = if is_directory { access } else { access & AccessFs::from_file(RULES) };
            (&mut self.0).add_rule(PathBeneath::new(fd, access))?;
        }
        Ok(())
    }
}

/// What this kernel keeps a VMM from by Landlock; the error says why nothing.
pub(crate) fn landlock() -> std::result::Result<String, &'static str> {
    // In force for a thread of its own, which ends with it.
    let ask = || -> std::result::Result<RestrictionStatus, RulesetError> {
        Ruleset::default().handle_access(AccessFs::from_all(RULES))?.create()?.restrict_self()
    };
    let status = std::thread::Builder::new().spawn(ask).ok().and_then(|t| t.join().ok());
    match status.and_then(std::result::Result::ok).map(|status| status.landlock) {
        Some(LandlockStatus::Available { effective_abi, .. }) if effective_abi >= ABI::V6 => {
            Ok("files, TCP, signals and abstract sockets".to_string())
        }
        Some(LandlockStatus::Available { effective_abi, .. }) if effective_abi >= ABI::V4 => {
            Ok("files and TCP".to_string())
        }
        Some(LandlockStatus::Available { .. }) => Ok("files".to_string()),
        Some(LandlockStatus::NotEnabled) => Err("the kernel has Landlock, but it is not enabled"),
        _ => Err("the kernel has no Landlock"),
    }
}
