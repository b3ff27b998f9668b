//! `imgrun run IMAGE [-- COMMAND…]`

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bundle::Arch;
use clap::ValueEnum;
use imgrun::kept::{self, Intent, Kept};
use imgrun::volume::{Attachment, Mount};
use imgrun::{
    Accel, AccelChoice, Cancel, Class, Decision, Error, Exec, Forward, Hold, Hostname, Kernel,
    KvmEvidence, MEMORY_MIB_DEFAULT, Machine, Network, NotRun, Progress, Result, Snapshot, Spec,
    Store, Stored, Vmm, VmmChoice, boot_max, check_exec, choose_accel, choose_vmm, container,
    offer,
};
use serde_json::{Value, json};

use super::command::{CommandArgs, Done, Failure, conclude, duration, millis, session, size};
use super::session::Outcome;
use super::{Shell, say, supervise, tty};

/// Boot an image, run a command in it, throw the machine away
///
/// IMAGE is a file (it is imported first: ./debian-12-x86_64.tar.zst), the name of a bundle that is
/// here (debian, debian:12, or digits of its digest), or a container image, named in full
/// (docker.io/library/alpine). What is not here is pulled: bundles from the configured catalogs
/// (imgrun pull --help), container images from their registry. The image itself is never changed;
/// what the machine writes goes with it.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The image: a file, the name of a bundle, or a container image
    #[arg(required_unless_present = "from")]
    image: Option<String>,
    /// The command and its arguments; where there is none, the container image's own, or /bin/sh
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    how: CommandArgs,
    /// Begin where this snapshot was taken, instead of booting an image
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = FROM_DECIDES)]
    from: Option<String>,
    /// Virtual processors
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory, MiB
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB_DEFAULT)]
    memory: u32,
    /// Room for what the machine writes: 500M, 20G; it takes what is used
    #[arg(long, value_name = "SIZE", default_value = "8G", value_parser = size)]
    upper_size: u64,
    /// Who executes the guest: the processor (kvm) or QEMU (tcg); auto goes by what works here
    #[arg(long, value_name = "HOW", default_value = "auto")]
    accel: AccelArg,
    /// The program that runs the machine: qemu, firecracker or cloud-hypervisor; auto takes qemu
    /// where it is installed. The others run by KVM only, without a network
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    vmm: VmmArg,
    /// Connect the machine: none, or user (outbound only; see below)
    #[arg(long, value_name = "HOW", default_value = "none")]
    network: NetworkArg,
    /// Let a TCP port of this host lead to one of the machine's; only this host can connect where
    /// no address is given
    #[arg(short, long, value_name = "[ADDRESS:]PORT:PORT")]
    port: Vec<Forward>,
    /// Mount a disk that stays, made on demand: see imgrun volume. A machine writes, or many read
    #[arg(long, value_name = "NAME:/PATH[:ro]")]
    volume: Vec<Mount>,
    /// Boot this kernel instead of the image's: a vmlinux, or a kernel bundle
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The guest's name for itself; the image's name where none is given
    #[arg(long, value_name = "NAME")]
    hostname: Option<Hostname>,
    /// Give up on a guest that does not answer in this time; 30 s with KVM, else 120 s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    boot_timeout: Option<Duration>,
    /// Print one JSON object on the result; the guest's output then all goes to standard error
    #[arg(long)]
    pub(super) json: bool,
    /// Remove the machine at its end; always so without --detach
    #[arg(long)]
    rm: bool,
    /// Leave the machine running and print its name: see imgrun ps, exec, logs, stop, rm
    #[arg(short, long, conflicts_with_all = ["interactive", "tty", "timeout"])]
    detach: bool,
    /// The machine's name; the image's name and a number where none is given
    #[arg(long, value_name = "NAME")]
    name: Option<Hostname>,
}

/// What a machine has that begins from a snapshot.
const FROM_DECIDES: [&str; 8] =
    ["cpus", "memory", "upper_size", "accel", "vmm", "network", "kernel", "volume"];

const HELP: &str = "\
Examples:
  imgrun run ./debian-12-x86_64.tar.zst -- uname -a
  imgrun run -it debian -- bash
  imgrun run -e CI=1 -w /tmp -u nobody debian -- env
  imgrun run -d --name web debian -- /srv/server        stays: imgrun logs web, exec web -- sh
  imgrun run --from ready -- curl localhost             where imgrun snapshot web --as ready was
  pg_dump db | imgrun run --timeout 10m debian -- sh -c 'gzip -9' > db.gz
  imgrun run docker.io/library/alpine:3.21 -- apk info
  imgrun run docker://alpine                            docker's short names, told by docker://
  imgrun run oci-layout:build/oci:v1                    also oci-archive: and docker-archive:

A container image is named with its registry's host (with a dot or a colon, or localhost), so that
it is never mistaken for a bundle. It is made a bundle once, with our agent in it, and then boots at
once, without asking the registry; imgrun pull asks again. Its variables, user and working directory
hold where no flag says otherwise, its entrypoint and command where no COMMAND is given. Unlike
docker run: a COMMAND is run as it is, without the entrypoint; ports, volumes and health checks that
the image declares mean nothing; the guest is a machine with a kernel of its own (generic-6.1, or
--kernel) and, without --network, no network; a working directory that is missing is an error.
Log-ins are those of docker and podman, mirrors and plain http those of imgtool:
~/.config/imgtool/registries.toml, or $IMGTOOL_REGISTRIES.

With --network user the machine reaches what this host reaches by IPv4, this host's own addresses
included, and asks its name server; but not its loopback (127.0.0.0/8) and link-local addresses
(169.254.0.0/16). What reaches the machine are the ports that --port names.

Exit code: the command's own, 128+n where signal n ended it; 124 after --timeout, 125 where we
failed (the machine did not boot, say), 126 where the command could not be executed, 127 where there
is no such command; 2 where this command line of ours is wrong. The first Ctrl-C goes to the command, the second kills the machine.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AccelArg {
    Auto,
    Kvm,
    Tcg,
}

impl From<AccelArg> for AccelChoice {
    fn from(arg: AccelArg) -> Self {
        match arg {
            AccelArg::Auto => AccelChoice::Auto,
            AccelArg::Kvm => AccelChoice::Kvm,
            AccelArg::Tcg => AccelChoice::Tcg,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum VmmArg {
    Auto,
    Qemu,
    Firecracker,
    CloudHypervisor,
}

impl From<VmmArg> for VmmChoice {
    fn from(arg: VmmArg) -> Self {
        match arg {
            VmmArg::Auto => VmmChoice::Auto,
            VmmArg::Qemu => VmmChoice::Only(Vmm::Qemu),
            VmmArg::Firecracker => VmmChoice::Only(Vmm::Firecracker),
            VmmArg::CloudHypervisor => VmmChoice::Only(Vmm::CloudHypervisor),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NetworkArg {
    None,
    User,
}

impl From<NetworkArg> for Network {
    fn from(arg: NetworkArg) -> Self {
        match arg {
            NetworkArg::None => Network::None,
            NetworkArg::User => Network::User,
        }
    }
}

/// What a run came to.
struct Report {
    /// What it ran on.
    base: Value,
    boot: Duration,
    exec: Duration,
    outcome: Outcome,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> ExitCode {
        let json = self.json;
        let done = match self.detach {
            true => self.detach(shell, true).await,
            false => self.perform(shell).await.map(|r| (r.object(), r.outcome.code())),
        };
        conclude(done, json, shell)
    }

    /// Makes a machine that stays, and starts it if `start`.
    pub(super) async fn detach(mut self, shell: &mut Shell, start: bool) -> Done {
        let is_given = self.is_given();
        let mut exec = self.exec();
        check_exec(&exec)?;
        let keep = |exec: Exec| kept::Command {
            argv: exec.argv,
            env: exec.env,
            cwd: exec.cwd,
            user: exec.user,
        };
        let store = shell.store().await?;
        let (stem, intent, _hold) = match &self.from {
            Some(from) => {
                let snapshot = Snapshot::get(&store, from)?;
                if let Some(image) = store.by_digest(snapshot.about.intent.image)? {
                    configure(&image, is_given, &mut exec)?;
                }
                let command = is_given.then(|| keep(exec));
                (from.clone(), self.begin(&snapshot, command)?, None)
            }
            None => {
                let (spec, image, kernel, hold) = self.prepare(shell).await?;
                let has_command = configure(&image, is_given, &mut exec)?;
                let command = has_command.then(|| keep(exec));
                let hostname = self.hostname.as_ref();
                let intent = Intent::new(&spec, &image, &kernel, hostname, command, self.rm);
                (image.manifest.name.to_string(), intent, Some(hold))
            }
        };
        let mut object = base(&intent);
        let (kept, turn) = match &self.name {
            Some(name) => Kept::create(&store, name, intent)?,
            None => Kept::create_numbered(&store, &stem, intent)?,
        };
        object["machine"] = kept.name.to_string().into();
        if start {
            match supervise::start(shell, &kept, turn, self.boot_timeout).await {
                Ok(boot) => object["boot_ms"] = millis(boot).into(),
                Err(e) => {
                    // What never ran is nothing to keep.
                    let _ = kept.remove().await;
                    return Err(e.into());
                }
            }
        }
        if !self.json {
            say(&kept.name.to_string())?;
        }
        Ok((object, 0))
    }

    async fn perform(mut self, shell: &mut Shell) -> Result<Report, Failure> {
        if self.name.is_some() {
            return Err(Error::usage("--name is for machines that stay")
                .hint("with --detach, or imgrun create")
                .into());
        }
        if self.how.tty {
            tty::require()?;
        }
        let streams = self.how.streams(self.json);
        let is_given = self.is_given();
        let mut exec = self.exec();
        // Before anything is pulled or booted for nothing.
        check_exec(&exec)?;
        let (mut machine, base, _hold) = self.machine(shell, is_given, &mut exec).await?;
        let began = Instant::now();
        let boot = machine.booted_in();
        let outcome = session(machine.exec(exec), machine.panicked(), streams, shell).await;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(NotRun { code: None, error }) if error.class() == Class::Guest => {
                return Err(machine.explain(error).await.into());
            }
            Err(not_run) => return Err(not_run.into()),
        };
        let exec = began.elapsed();
        machine.kill();
        Ok(Report { base, boot, exec, outcome })
    }

    /// Whether there is a command; with --from it may have come in the image's place.
    fn is_given(&self) -> bool {
        !self.command.is_empty() || self.from.is_some() && self.image.is_some()
    }

    /// The machine that goes with the command, and what it runs on. What its image says of how it
    /// is run is added to `exec`.
    async fn machine(
        &self,
        shell: &mut Shell,
        is_given: bool,
        exec: &mut Exec,
    ) -> Result<(Machine, Value, Option<Hold>)> {
        let store = shell.store().await?;
        if let Some(from) = &self.from {
            let snapshot = Snapshot::get(&store, from)?;
            let intent = &snapshot.about.intent;
            if let Some(image) = store.by_digest(intent.image)? {
                configure(&image, is_given, exec)?;
            }
            let limit = self.boot_timeout.unwrap_or(boot_max(snapshot.accel()?));
            let machine = snapshot.start(&store, self.hostname.as_ref(), &self.port, limit);
            let machine = shell.unless_interrupted(machine).await?;
            return Ok((machine, base(intent), None));
        }
        let (spec, image, kernel, hold) = self.prepare(shell).await?;
        configure(&image, is_given, exec)?;
        let limit = self.boot_timeout.unwrap_or(boot_max(spec.accel));
        let machine = Machine::boot(&store, &spec, limit);
        let machine = shell.unless_interrupted(machine).await?;
        let base = base(&Intent::new(&spec, &image, &kernel, None, None, true));
        Ok((machine, base, Some(hold)))
    }

    /// What a machine is to be that begins at `snapshot`; without a command of its own it has that
    /// of the machine that was saved, which goes on.
    fn begin(&self, snapshot: &Snapshot, command: Option<kept::Command>) -> Result<Intent> {
        snapshot.check()?;
        let mut intent = snapshot.intent();
        intent.hostname = self.hostname.as_ref().map(Hostname::to_string);
        intent.forwards = self.port.iter().map(|port| port.to_string()).collect();
        intent.remove = self.rm;
        if let Some(command) = command {
            intent.command = Some(command);
            intent.begin.iter_mut().for_each(|begin| begin.own_command = true);
        }
        Ok(intent)
    }

    /// What is to be booted, and the right to the image.
    async fn prepare(&self, shell: &mut Shell) -> Result<(Spec, Stored, Kernel, Hold)> {
        let (image, kernel) = self.resolve(shell).await?;
        let hold = image.hold()?;
        let accel = self.accel.into();
        let Decision { accel, note } =
            choose_accel(accel, image.manifest.arch, || KvmEvidence::gather(false))?;
        let mut spec = self.spec(&image, &kernel, accel);
        let store = shell.store().await?;
        let attach = |mount: &Mount| Attachment::new(&store, mount.clone());
        spec.volumes = self.volume.iter().map(attach).collect();
        let arch = spec.arch;
        spec.vmm = choose_vmm(self.vmm.into(), &spec, |vmm| vmm.is_installed(arch))?;
        spec.check()?;
        if let Some(note) = note {
            shell.progress.note(note);
        }
        Ok((spec, image, kernel, hold))
    }

    /// The image and its kernel, imported where they are files.
    async fn resolve(&self, shell: &mut Shell) -> Result<(Stored, Kernel)> {
        let store = shell.store().await?;
        let reference = self.image.clone().unwrap_or_default();
        let kernel = self.kernel.clone();
        let resolved = shell.blocking(move |progress, cancel| {
            let told = container::told(&reference).transpose()?;
            let is_file = told.is_none() && is_file(&reference);
            let file = is_file.then(|| PathBuf::from(&reference));
            let image = match (&told, &file) {
                (Some(container), _) => {
                    // First: an image that nothing can boot is not pulled.
                    if kernel.is_none() {
                        offer::default_kernel(&store, Arch::host(), progress, cancel)?;
                    }
                    container::image(&store, container, Arch::host(), progress, cancel)?
                }
                (None, Some(file)) => import(&store, file, progress, cancel)?,
                (None, None) => offer::image(&store, &reference, progress, cancel)?,
            };
            if image.manifest.kind != bundle::Kind::Image {
                return Err(Error::input(format!("{} is a kernel, not an image", image.title())));
            }
            if file.is_none() && kernel.is_none() {
                offer::kernel(&store, &image, progress, cancel)?;
            }
            let beside = file.as_deref().map(|f| f.parent().unwrap_or(Path::new("")));
            let kernel = store.kernel(&image, kernel.as_deref(), beside, progress, cancel)?;
            Ok((image, kernel))
        });
        resolved.await
    }

    fn spec(&self, image: &Stored, kernel: &Kernel, accel: Accel) -> Spec {
        let mut spec = Spec::new(image, kernel, accel);
        spec.cpus = self.cpus;
        spec.memory_mib = self.memory;
        spec.upper_bytes = self.upper_size;
        spec.network = self.network.into();
        spec.forwards = self.port.clone();
        if let Some(hostname) = &self.hostname {
            spec.hostname = hostname.clone();
        }
        spec
    }

    fn exec(&mut self) -> Exec {
        let mut command = std::mem::take(&mut self.command);
        if self.from.is_some() {
            // There is no image: the first word is the command's.
            command.splice(0..0, self.image.take().map(OsString::from));
        }
        self.how.exec(command)
    }
}

fn base(intent: &Intent) -> Value {
    json!({
        "image": intent.image_title, "digest": intent.image, "kernel": intent.kernel_title,
        "accel": intent.accel, "vmm": intent.vmm,
    })
}

/// Adds what a container image says of how it is run; returns whether there is a command then.
fn configure(image: &Stored, is_given: bool, exec: &mut Exec) -> Result<bool> {
    let config = image.manifest.boot.as_ref().and_then(|boot| boot.config.as_ref());
    let Some(config) = config else { return Ok(is_given) };
    container::apply(config, is_given, exec);
    check_exec(exec).map_err(|e| e.within(image.title()))?;
    Ok(is_given || !(config.entrypoint.is_empty() && config.cmd.is_empty()))
}

fn import(store: &Store, file: &Path, progress: &Progress, cancel: &Cancel) -> Result<Stored> {
    match store.import(file, progress, cancel) {
        Err(e) if !file.exists() && e.hint_text().is_none() => {
            Err(e.hint("a container image is named in full: docker.io/library/alpine"))
        }
        imported => Ok(imported?.bundle),
    }
}

/// A path has a slash, or looks like a packed bundle; anything else is a name. Container images were
/// told before.
fn is_file(reference: &str) -> bool {
    reference.contains('/') || reference.ends_with(".tar.zst")
}

impl Report {
    fn object(&self) -> serde_json::Value {
        let (signal, timed_out) = self.outcome.details();
        let killed = matches!(self.outcome, Outcome::Killed { .. });
        let mut object = self.base.clone();
        object["code"] = self.outcome.code().into();
        object["signal"] = signal.into();
        object["timed_out"] = timed_out.into();
        object["killed"] = killed.into();
        object["boot_ms"] = millis(self.boot).into();
        object["exec_ms"] = millis(self.exec).into();
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_from_a_name() {
        assert!(is_file("./debian"));
        assert!(is_file("debian-12-x86_64.tar.zst"));
        assert!(!is_file("debian:12"));
    }
}
