//! Commands of a recipe in a machine of our own: the image so far as its read-only root, all that
//! it writes on an upper disk that is thrown away once a layer was made of it.
//!
//! Secrets go through the agent's channel to a file system in memory; they are on no disk.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bundle::{Arch, Init};
use imgrun::{
    Accel, AccelChoice, Cancel, Decision, Exec, Hostname, KvmEvidence, Machine, NAMESERVER,
    Network, Output, Progress, Running, Spec, Stage, Status, Store, Vmm, boot_max, choose_accel,
};

use crate::cache::Cache;
use crate::recipe::Command;
use crate::{Error, Result, patience};

use super::namespace::{self, Ending, Order};
use super::shell;
use super::stage::Site;
use super::upper::{self, Placed};
use super::{account, layer};

/// Part of a stage's key: raised when a command finds another machine.
pub(super) const PROCEDURE: u32 = 2;
/// Memory for a command, MiB; what it does not use costs nothing.
const MEMORY_MIB: u32 = 1024;
/// Processors, where the host's execute the guest. Under emulation a second one costs more than it
/// gives.
const CPUS: u32 = 2;
/// Room for what a command writes, bytes; sparse.
const UPPER_BYTES: u64 = 32 << 30;
/// What a failed command said last is shown up to here.
const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// The machine's name for itself.
const HOSTNAME: &str = "build";
/// A secret is at most this long.
const SECRET_BYTES_MAX: u64 = 1 << 20;
/// Where secrets are while a command runs.
const SECRETS: &str = "/run/secrets";
/// How a proxy is told to programs: passed on to commands that may use the network.
const PROXIES: [&str; 6] =
    ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// What becomes of a machine whose command failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Nothing is left.
    #[default]
    Clean,
    /// What the command wrote is kept, as a tar.
    Keep,
    /// A shell is opened in it first.
    Shell,
}

/// Where commands run. Both leave the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Executor {
    /// In a machine of our own.
    #[default]
    Machine,
    /// In name spaces of this machine: see [`super::namespace`].
    Namespace,
}

/// A secret for commands.
#[derive(Clone)]
pub struct Secret {
    name: String,
    value: Vec<u8>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({})", self.name)
    }
}

impl Secret {
    /// The secret `name` from a file.
    ///
    /// # Errors
    /// Where the file can not be read or is too long for a secret.
    pub fn read(name: &str, file: &Path) -> Result<Secret> {
        let about = |e| Error::io(file.display(), e).within(format!("secret {name}"));
        let size = file.metadata().map_err(about)?.len();
        if size > SECRET_BYTES_MAX {
            let why = format!("{size} bytes are no secret ({SECRET_BYTES_MAX} at most)");
            return Err(Error::input(format!("secret {name}: {}: {why}", file.display())));
        }
        let value = std::fs::read(file).map_err(about)?;
        Ok(Secret { name: name.to_string(), value })
    }
}

/// A command and what it is run with.
pub(super) struct Job<'j> {
    /// The image so far, ext4, with the agent in it.
    pub(super) image: &'j Path,
    pub(super) command: &'j Command,
    pub(super) site: &'j Site<'j>,
    /// `NAME=value` each, below the command's own.
    pub(super) environment: Vec<String>,
    /// For what is kept after a failure.
    pub(super) epoch: u64,
}

impl Job<'_> {
    /// Runs the command and returns the disk with what it wrote.
    pub(super) fn run(&self, cache: &Cache, progress: &Progress, stage: &Stage) -> Result<File> {
        let secrets = self.secrets()?;
        if self.site.executor == Executor::Namespace {
            return self.in_namespace(&secrets, &cache.images(), stage);
        }
        let store = Store::open(cache.dir().join("machines"))?;
        let spec = self.spec(&store, progress)?;
        let runtime = patience::runtime()?;
        patience::run(&runtime, self.session(&store, &spec, &secrets, stage))
    }

    /// The command in name spaces.
    fn in_namespace(&self, secrets: &[&Secret], scratch: &Path, stage: &Stage) -> Result<File> {
        if self.site.arch != Arch::host() {
            let why = "name spaces run programs of this machine's architecture only";
            return Err(Error::usage(why).hint("--executor=machine runs any"));
        }
        let command = self.command;
        let cwd = command.workdir.clone().unwrap_or_else(|| "/".to_string());
        let (home, ids) = match &command.user {
            Some(user) => account::user(self.image, user)?,
            None => ("/root".to_string(), (0, 0)),
        };
        let mut order = Order::new(command.argv.clone(), self.variables(&home), cwd);
        order.ids = ids;
        order.hostname = HOSTNAME.to_string();
        order.secrets = secrets.iter().map(|s| (s.name.clone(), s.value.clone())).collect();
        if command.network {
            order.resolv_conf = Some(host_resolv_conf());
        }
        let mut tail = Vec::new();
        let said = |line: &str| {
            tail.extend_from_slice(line.as_bytes());
            tail.push(b'\n');
            let excess = tail.len().saturating_sub(OUTPUT_BYTES_MAX);
            tail.drain(..excess);
        };
        order.timeout = command.timeout;
        let done = namespace::run(self.image, order, command.network, scratch, stage, said);
        let (ending, disk) = done?;
        let why = match ending {
            Ending { timed_out: true, .. } => {
                format!("it took longer than {}", time(command.timeout))
            }
            Ending { code: Some(0), .. } => return Ok(disk),
            Ending { code: Some(code), .. } => format!("it ended with code {code}"),
            Ending { signal, .. } => format!("signal {} ended it", signal.unwrap_or_default()),
        };
        let output = imgrun::printable(&tail);
        let error = Error::guest(why);
        let error = if output.is_empty() { error } else { error.detail(output) };
        Err(match self.site.on_error {
            OnError::Keep => self.kept(error, self.keep(disk)),
            OnError::Clean | OnError::Shell => error,
        })
    }

    /// All variables of the command's environment, the defaults first.
    fn variables(&self, home: &str) -> Vec<String> {
        let default = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut all = vec![default.to_string(), format!("HOME={home}")];
        all.extend(self.proxies());
        all.extend(self.environment.iter().chain(&self.command.env).cloned());
        all
    }

    /// What commands are told of proxies where they may use the network.
    fn proxies(&self) -> Vec<String> {
        let names = PROXIES.iter().filter(|_| self.command.network);
        let told = |name: &&str| std::env::var(name).ok().map(|value| format!("{name}={value}"));
        names.filter_map(told).collect()
    }

    fn secrets(&self) -> Result<Vec<&Secret>> {
        let given = self.site.secrets;
        let find = |name: &String| {
            given.iter().find(|secret| secret.name == *name).ok_or_else(|| {
                Error::usage(format!("the secret {name} was not given"))
                    .hint(format!("give it with --secret {name}=FILE"))
            })
        };
        self.command.secrets.iter().map(find).collect()
    }

    fn spec(&self, store: &Store, progress: &Progress) -> Result<Spec> {
        let (arch, kernel) = (self.site.arch, self.site.kernel);
        let stored = match store.by_digest(kernel.digest)? {
            Some(stored) => stored,
            None => store.import(&kernel.bundle_path, progress, &Cancel::new())?.bundle,
        };
        let decision = choose_accel(AccelChoice::Auto, arch, || KvmEvidence::gather(false))?;
        let Decision { accel, note } = decision;
        note.into_iter().for_each(|note| progress.note(note));
        let network = if self.command.network { Network::User } else { Network::None };
        Ok(Spec {
            arch,
            accel,
            vmm: Vmm::default(),
            cpus: if accel == Accel::Kvm { CPUS } else { 1 },
            memory_mib: MEMORY_MIB,
            kernel: stored.path(Arch::kernel_file(arch)),
            root: self.image.to_path_buf(),
            upper_bytes: UPPER_BYTES,
            init: Init::Agent,
            cmdline: vec!["imgtool.redirect=off".to_string()],
            hostname: Hostname::from_name(HOSTNAME),
            network,
            forwards: Vec::new(),
            volumes: Vec::new(),
            tsc_khz: if accel == Accel::Tcg { imgrun::tsc_khz() } else { None },
        })
    }

    /// What the agent writes into `/etc` at boot.
    pub(super) fn placed(&self) -> Vec<Placed> {
        let mut placed =
            vec![Placed { path: "etc/hostname", content: format!("{HOSTNAME}\n").into_bytes() }];
        if self.command.network {
            let text = match self.site.executor {
                Executor::Machine => format!("nameserver {NAMESERVER}\n"),
                Executor::Namespace => host_resolv_conf(),
            };
            placed.push(Placed { path: "etc/resolv.conf", content: text.into_bytes() });
        }
        placed
    }

    async fn session(
        &self,
        store: &Store,
        spec: &Spec,
        secrets: &[&Secret],
        stage: &Stage,
    ) -> Result<File> {
        let mut machine = Machine::boot(store, spec, boot_max(spec.accel)).await?;
        let path = machine.upper_disk();
        let disk = File::open(path).map_err(|e| Error::io(path.display(), e))?;
        let done = tokio::select! {
            done = self.command(&machine, secrets, stage) => done,
            e = machine.panicked() => Err(e),
        };
        match done {
            Ok(None) => {
                machine.shutdown().await?;
                Ok(disk)
            }
            Ok(Some(failed)) => Err(self.failed(failed, machine, disk).await),
            Err(e) if e.class() == crate::Class::Guest => Err(machine.explain(e).await),
            Err(e) => Err(e),
        }
    }

    /// Runs the command; an error that is the command's own comes back as a value.
    async fn command(
        &self,
        machine: &Machine,
        secrets: &[&Secret],
        stage: &Stage,
    ) -> Result<Option<Error>> {
        for secret in secrets {
            place(machine, secret).await?;
        }
        let bytes = |text: &String| text.clone().into_bytes();
        let proxies = PROXIES
            .iter()
            .filter(|_| self.command.network)
            .filter_map(|name| std::env::var(name).ok().map(|value| format!("{name}={value}")));
        let mut env: Vec<Vec<u8>> = proxies.map(String::into_bytes).collect();
        env.extend(self.environment.iter().chain(&self.command.env).map(bytes));
        let workdir = self.command.workdir.clone().unwrap_or_else(|| "/".to_string());
        let exec = Exec {
            argv: self.command.argv.iter().map(bytes).collect(),
            env,
            cwd: Some(workdir.into_bytes()),
            user: self.command.user.as_ref().map(bytes),
            timeout_ms: u64::try_from(self.command.timeout.as_millis()).ok(),
            ..Exec::default()
        };
        let running = match machine.exec(exec).await {
            Ok(running) => running,
            Err(not_run) if not_run.code.is_some() => return Ok(Some(not_run.error)),
            Err(not_run) => return Err(not_run.error),
        };
        let (exit, output) = watch(running, stage).await?;
        let why = match exit.status {
            Status::Code(0) => return Ok(None),
            _ if exit.timed_out => format!("it took longer than {}", time(self.command.timeout)),
            Status::Code(code) => format!("it ended with code {code}"),
            Status::Signal(signal) => format!("signal {signal} ended it"),
        };
        let output = imgrun::printable(&output);
        let error = Error::guest(why);
        Ok(Some(if output.is_empty() { error } else { error.detail(output) }))
    }

    /// What is done with a machine whose command failed.
    async fn failed(&self, error: Error, machine: Machine, disk: File) -> Error {
        match self.site.on_error {
            OnError::Clean => {
                let hint = "--on-error=shell opens a shell where it failed, --on-error=keep keeps \
                            what it wrote";
                return error.hint(hint);
            }
            OnError::Keep => {}
            OnError::Shell => {
                if let Err(e) = shell::open(&machine, &self.environment, &error).await {
                    return error.hint(format!("the shell failed, too: {e}"));
                }
                return error;
            }
        }
        let kept = machine.shutdown().await.and_then(|()| self.keep(disk));
        self.kept(error, kept)
    }

    fn kept(&self, error: Error, kept: Result<PathBuf>) -> Error {
        match kept {
            Ok(path) => error.hint(format!("what it wrote is kept in {}", path.display())),
            Err(e) => error.hint(format!("what it wrote can not be kept: {e}")),
        }
    }

    fn keep(&self, disk: File) -> Result<PathBuf> {
        let path = self.site.output.join("failed-step.tar.zst");
        let base = File::open(self.image).map_err(|e| Error::io(self.image.display(), e))?;
        let placed = self.placed();
        layer::keep(&path, |tar| upper::write(disk, base, &placed, self.epoch, tar))?;
        Ok(path)
    }
}

/// Who answers names for this machine.
fn host_resolv_conf() -> String {
    std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

fn time(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

/// Puts a secret where commands find it: `/run` is memory in every machine.
async fn place(machine: &Machine, secret: &Secret) -> Result<()> {
    let script =
        "umask 077; mkdir -p \"$1\" && cat >\"$1/$2\" && chmod 755 \"$1\" && chmod 444 \"$1/$2\"";
    let words = ["/bin/sh", "-c", script, "secret", SECRETS, &secret.name];
    let argv = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let exec = Exec { argv, stdin: true, ..Exec::default() };
    let mut running = machine.exec(exec).await.map_err(|e| e.error)?;
    if let Some(mut stdin) = running.stdin.take() {
        stdin.write(&secret.value).await?;
    }
    match running.wait().await?.status {
        Status::Code(0) => Ok(()),
        _ => Err(Error::guest(format!("the secret {} can not be placed", secret.name))),
    }
}

/// Reads what a command says to its end; returns the last of it.
async fn watch(running: Running, stage: &Stage) -> Result<(imgrun::Exit, Vec<u8>)> {
    let control = running.control();
    let tail = std::cell::RefCell::new(Vec::new());
    let (mut out, mut err) = (running.stdout, running.stderr);
    let (exit, one, two) =
        tokio::join!(control.wait(), read(&mut out, &tail, stage), read(&mut err, &tail, stage));
    one.and(two)?;
    Ok((exit?, tail.into_inner()))
}

async fn read(
    output: &mut Output,
    tail: &std::cell::RefCell<Vec<u8>>,
    stage: &Stage,
) -> Result<()> {
    while let Some(bytes) = output.read().await? {
        let lines = bytes.iter().filter(|&&c| c == b'\n').count();
        stage.add(lines as u64);
        let mut tail = tail.borrow_mut();
        tail.extend_from_slice(&bytes);
        let excess = tail.len().saturating_sub(OUTPUT_BYTES_MAX);
        tail.drain(..excess);
    }
    Ok(())
}
