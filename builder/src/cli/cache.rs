//! `imgtool cache …`.

use clap::Subcommand;
use imgrun::{Progress, Result, Unit};
use imgtool::cache::{Cache, Inventory, Item};
use imgtool::date;

/// What was fetched and made once: image layers, bootstraps, kernels and their sources.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List what takes the space, the largest first, and when it was last used.
    List,
    /// Remove what was not used for a while. What another process is using stays.
    Prune(Prune),
}

#[derive(clap::Args, Debug)]
struct Prune {
    /// How long a thing must not have been used to go, as in 12h, 30d or 8w.
    #[arg(long, value_name = "AGE", default_value = "30d", value_parser = parse_age)]
    older_than: u64,
    /// Remove all that nobody is using now.
    #[arg(long, conflicts_with = "older_than")]
    all: bool,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// Does it.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let inventory = Inventory::read(&Cache::of_user()?)?;
        match self.verb {
            Verb::List => list(&inventory, json),
            Verb::Prune(args) => args.run(&inventory, json, progress)?,
        }
        Ok(())
    }
}

fn list(inventory: &Inventory, json: bool) {
    let total: u64 = inventory.items.iter().map(|item| item.bytes).sum();
    if json {
        super::print(serde_json::json!({ "items": inventory.items, "bytes": total }));
        return;
    }
    for item in &inventory.items {
        super::print(line(item));
    }
    let count = inventory.items.len();
    super::print(format!("{} in all, in {count} places", Unit::Bytes.amount(total)));
}

/// `  29.15 MiB  blob       2026-11-20  docker.io/library/debian:12 layer 1`
fn line(item: &Item) -> String {
    let kind = format!("{:?}", item.kind).to_lowercase();
    let bytes = Unit::Bytes.amount(item.bytes);
    format!("{bytes:>11}  {kind:<9}  {}  {}", date::day(item.last_used), item.name)
}

impl Prune {
    fn run(&self, inventory: &Inventory, json: bool, progress: &Progress) -> Result<()> {
        let before = if self.all { u64::MAX } else { date::now().saturating_sub(self.older_than) };
        let pruned = inventory.prune(before, self.dry_run)?;
        let freed = pruned.freed_bytes();
        for item in &pruned.in_use {
            progress.note(format!("in use by another process: {}", item.name));
        }
        if json {
            super::print(serde_json::json!({
                "freed_bytes": freed, "dry_run": self.dry_run,
                "removed": pruned.removed, "in_use": pruned.in_use,
            }));
            return Ok(());
        }
        for item in &pruned.removed {
            super::print(line(item));
        }
        let verb = if self.dry_run { "would free" } else { "freed" };
        super::print(format!("{verb} {} ({freed} bytes)", Unit::Bytes.amount(freed)));
        Ok(())
    }
}

/// An age in seconds.
pub(crate) fn parse_age(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(60 * 60),
        "d" => Some(24 * 60 * 60),
        "w" => Some(7 * 24 * 60 * 60),
        _ => None,
    };
    let age = seconds.and_then(|seconds| number.parse::<u64>().ok()?.checked_mul(seconds));
    age.ok_or_else(|| "an age is wanted, as in 12h, 30d or 8w".to_string())
}
