//! `imgrun fork MACHINE`

use std::time::{Duration, Instant};

use imgrun::kept::{Kept, Turn};
use imgrun::{Class, Error, Result, Snapshot};
use serde_json::json;

use super::command::{duration, millis};
use super::{Shell, lifecycle, say, supervise};

/// At a time: a machine is a process of some ten MiB and more.
const COPIES_MAX: u32 = 256;

/// Make machines that go on from where another one is now
///
/// The machine stands still for some milliseconds and goes on. Each copy has its own disk, name,
/// machine-id, clock and random numbers, and shares the memory that it does not write. What runs in
/// the machine runs in the copies. Ports do not lead into copies.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The machine, which must run
    machine: String,
    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(COPIES_MAX)))]
    copies: u32,
    /// Remove each copy at its end
    #[arg(long)]
    rm: bool,
    /// Give up on a copy that does not answer in this time; 30 s with KVM, else 120 s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    boot_timeout: Option<Duration>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        let kept = Kept::get(&store, &self.machine)?;
        let began = Instant::now();
        // It goes with us: a copy has all that it needs of it once it runs.
        let take = Snapshot::take_draft(&store, &kept);
        let snapshot = shell.unless_interrupted(take).await?;
        let taken = began.elapsed();
        let mut copies = Vec::new();
        for _ in 0..self.copies {
            let mut intent = snapshot.intent();
            intent.remove = self.rm;
            copies.push(Kept::create_numbered(&store, &self.machine, intent)?);
        }
        // All at once: each has a process of its own.
        let spawn = |(copy, turn): (Kept, Turn)| {
            let child = supervise::spawn(&copy, turn, self.boot_timeout);
            (copy, child)
        };
        let starts: Vec<_> = copies.into_iter().map(spawn).collect();
        let (mut started, mut first): (Vec<Kept>, Option<Error>) = (Vec::new(), None);
        for (copy, child) in starts {
            let ready = match child {
                Ok(child) if stopped(&first) => child.give_up().await,
                Ok(child) => child.ready(shell).await.map(drop),
                Err(e) => Err(e),
            };
            match ready {
                Ok(()) => started.push(copy),
                Err(e) => {
                    // What never ran is nothing to keep.
                    let _ = copy.remove().await;
                    first.get_or_insert(e);
                }
            }
        }
        if stopped(&first) {
            for copy in started.drain(..) {
                // What keeps one from ending is no reason to leave the others.
                if let Err(e) = lifecycle::kill(&copy).await {
                    shell.progress.note(e.to_string());
                }
                // One that was to go at its end is gone by now.
                let _ = copy.remove().await;
            }
        }
        let names: Vec<String> = started.iter().map(|copy| copy.name.to_string()).collect();
        let all = began.elapsed();
        if self.json {
            let pause_ms = snapshot.about.pause_us as f64 / 1000.0;
            say(&json!({
                "machines": names, "pause_ms": pause_ms, "save_ms": millis(taken),
                "start_ms": millis(all - taken),
            })
            .to_string())?;
        } else {
            names.iter().try_for_each(|name| say(name))?;
        }
        first.map_or(Ok(()), Err)
    }
}

/// Whether the user wants no more.
fn stopped(first: &Option<Error>) -> bool {
    first.as_ref().is_some_and(|e| e.class() == Class::Interrupted)
}
