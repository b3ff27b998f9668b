//! `imgrun snapshot MACHINE`, `imgrun snapshot ls`, `imgrun snapshot rm SNAPSHOT…`

use imgrun::kept::Kept;
use imgrun::{Error, Hostname, Result, Snapshot, Store};
use serde_json::{Value, json};

use super::{Shell, lifecycle, say};

/// Save a machine that runs, to begin others from there: imgrun run --from
///
/// The machine stands still for some milliseconds and goes on. What is saved is all of one instant:
/// its memory with what runs in it, and its disk.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The machine, which must run
    #[arg(required = true)]
    machine: Option<String>,
    /// The snapshot's name; the machine's and a number where none is given
    #[arg(short = 'o', long = "as", value_name = "SNAPSHOT")]
    name: Option<Hostname>,
    /// Shut the machine down afterwards
    #[arg(long)]
    stop: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

const HELP: &str = "\
Examples:
  imgrun run -d --name warm debian -- /srv/server
  imgrun snapshot warm --as ready
  imgrun run --from ready -- curl -s localhost         the server runs in it, too
  imgrun run -d --from ready --name web-2
  imgrun snapshot rm ready                             machines that began there go on

A machine that begins from a snapshot has a name, a machine-id, a clock and random numbers of its own
before any command gets to it. Connections of the machine that was saved are not its own: they end. A
snapshot begins on the same processor, with the same QEMU and kernel, and only there; machines whose
memory has secrets have them in snapshots, too, which only this user can read.";

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Ls(Ls),
    Rm(Rm),
}

/// List the snapshots
#[derive(Debug, clap::Args)]
struct Ls {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Remove snapshots; machines that began there go on
#[derive(Debug, clap::Args)]
struct Rm {
    /// Names of snapshots
    #[arg(required = true, value_name = "SNAPSHOT")]
    names: Vec<String>,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        match (self.verb, self.machine) {
            (Some(Verb::Ls(ls)), _) => ls.run(&store, shell),
            (Some(Verb::Rm(rm)), _) => rm.names.iter().try_for_each(|name| {
                Snapshot::remove(&store, name)?;
                say(name)
            }),
            (None, None) => Err(Error::usage("which machine?")),
            (None, Some(machine)) => {
                let kept = Kept::get(&store, &machine)?;
                let take = async {
                    match &self.name {
                        Some(name) => Snapshot::take(&store, &kept, name).await,
                        None => Snapshot::take_numbered(&store, &kept).await,
                    }
                };
                let snapshot = shell.unless_interrupted(take).await?;
                if self.stop {
                    lifecycle::stop(shell, &kept).await?;
                }
                say(&if self.json { object(&snapshot).to_string() } else { snapshot.name })
            }
        }
    }
}

impl Ls {
    fn run(self, store: &Store, shell: &Shell) -> Result<()> {
        let all = Snapshot::readable(store, &shell.progress)?;
        if self.json {
            let all: Vec<Value> = all.iter().map(object).collect();
            return say(&Value::from(all).to_string());
        }
        if all.is_empty() {
            return say("there are no snapshots; imgrun snapshot MACHINE takes one");
        }
        say(&row("NAME", "MACHINE", "IMAGE", "MEMORY", "DISK"))?;
        for snapshot in &all {
            let intent = &snapshot.about.intent;
            let memory = format!("{} MiB", intent.memory_mib);
            let disk = indicatif::HumanBytes(snapshot.disk_bytes()).to_string();
            let machine = &snapshot.about.machine;
            say(&row(&snapshot.name, machine, &intent.image_title, &memory, &disk))?;
        }
        Ok(())
    }
}

fn row(name: &str, machine: &str, image: &str, memory: &str, disk: &str) -> String {
    format!("{name:<20} {machine:<20} {image:<24} {memory:>10} {disk:>12}")
}

fn object(snapshot: &Snapshot) -> Value {
    let about = &snapshot.about;
    json!({
        "snapshot": snapshot.name, "machine": about.machine, "image": about.intent.image_title,
        "digest": about.intent.image, "kernel": about.intent.kernel_title,
        "accel": about.intent.accel, "memory_mib": about.intent.memory_mib,
        "disk_bytes": snapshot.disk_bytes(), "pause_ms": about.pause_us as f64 / 1000.0,
        "taken_unix_s": about.taken_unix_s, "vmm": about.vmm,
    })
}
