//! `imgtool plan` and `imgtool explain`: what a build would do, and why.

use imgrun::{Progress, Result};
use imgtool::cache::Cache;
use imgtool::finished;
use imgtool::step::{Difference, OnError, Outcome, Seen};

use super::inputs::Inputs;

/// Longer values of a key are cut.
const VALUE_CHARS_MAX: usize = 100;
/// What is shown of them around a difference.
const CONTEXT_CHARS: usize = 24;

/// Say what a build of a recipe would do: its steps in order, and which of them the cache has.
///
/// Sources and the kernel are brought to the cache first where they are not there: what they are
/// decides everything else.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    inputs: Inputs,
    /// Where a build would put the bundles.
    #[arg(long, short, value_name = "DIR", default_value = "out")]
    output: std::path::PathBuf,
    /// Say for each step that would run which part of its key is not as it was at the last build.
    #[arg(long)]
    why: bool,
}

/// Say why each step of a recipe would run: which part of its key is not as it was at the last
/// build.
#[derive(clap::Args, Debug)]
pub(crate) struct Explain {
    /// The recipe, a TOML file.
    #[command(flatten)]
    inputs: Inputs,
}

impl Explain {
    /// Prints it.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        Args { inputs: self.inputs, output: "out".into(), why: true }.run(json, progress)
    }
}

impl Args {
    /// Prints it.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let recipe = self.inputs.recipe()?;
        let cache = Cache::of_user()?;
        for arch in self.inputs.arches(&recipe)? {
            let found = self.inputs.find(&recipe, arch, &cache, progress)?;
            let site = found.site(&[], OnError::Clean, &self.output, self.inputs.refresh);
            let (layers, place) = (&found.source.layers, self.inputs.place());
            let seen = found.stages.look(layers, &site, &place, &cache);
            let key = finished::key(&recipe, &found.source, &found.stages, &site, &self.output);
            let done = finished::find(&key, &cache).is_some();
            let source_bytes: u64 = layers.iter().map(|layer| layer.bytes).sum();
            if json {
                super::print(serde_json::json!({
                    "name": recipe.name, "version": recipe.version, "arch": arch,
                    "source": { "name": found.source.name, "digest": found.source.digest, "bytes": source_bytes },
                    "kernel": { "name": found.kernel.name, "digest": found.kernel.digest },
                    "steps": seen, "finished": done,
                }));
                continue;
            }
            super::print(format!("{} {} for {arch}", recipe.name, recipe.version));
            let size = imgrun::Unit::Bytes.amount(source_bytes);
            super::print(format!("  source   {} ({size})", found.source.name));
            super::print(format!(
                "  kernel   {} {}",
                found.kernel.name,
                found.kernel.digest.short()
            ));
            seen.iter().for_each(|seen| self.print(seen));
            let bundle = if done { "unchanged" } else { "to be packed" };
            super::print(format!("  bundle   {bundle}"));
        }
        Ok(())
    }

    fn print(&self, seen: &Seen) {
        let word = match seen.outcome {
            Outcome::Cached => "cached ",
            Outcome::Runs => "runs   ",
            Outcome::Unknown => "depends",
        };
        super::print(format!("  {word}  {}", seen.title));
        if !self.why {
            return;
        }
        let why = |text: &str| super::print(format!("             {text}"));
        match seen.outcome {
            Outcome::Cached => {}
            Outcome::Unknown => why("runs if what is below it comes out otherwise than before"),
            Outcome::Runs if !seen.known => why("it is new"),
            Outcome::Runs if seen.differences.is_empty() => why("its layer left the cache"),
            Outcome::Runs => seen.differences.iter().for_each(|d| why(&line(d))),
        }
    }
}

/// `step 3: … make … -> … make all …`
fn line(difference: &Difference) -> String {
    let Difference { name, before, now } = difference;
    let nothing = || "nothing".to_string();
    let (before, now) = match (before, now) {
        (Some(before), Some(now)) => apart(before, now),
        (before, now) => (
            before.as_deref().map_or_else(nothing, |value| cut(value, 0, 0)),
            now.as_deref().map_or_else(nothing, |value| cut(value, 0, 0)),
        ),
    };
    format!("{name}: {before} -> {now}")
}

/// Two values, long ones only where they differ.
fn apart(before: &str, now: &str) -> (String, String) {
    if before.starts_with("sha256:") || before.len().max(now.len()) <= VALUE_CHARS_MAX {
        return (cut(before, 0, 0), cut(now, 0, 0));
    }
    let same = |(a, b): &(char, char)| a == b;
    let first = before.chars().zip(now.chars()).take_while(same).count();
    let last = before.chars().rev().zip(now.chars().rev()).take_while(same).count();
    let shortest = before.chars().count().min(now.chars().count());
    let last = last.min(shortest - first.min(shortest));
    let context = |n: usize| n.saturating_sub(CONTEXT_CHARS);
    (cut(before, context(first), context(last)), cut(now, context(first), context(last)))
}

/// A value without so many characters at its ends, and no longer than it may be.
fn cut(value: &str, first: usize, last: usize) -> String {
    if let Some(hex) = value.strip_prefix("sha256:") {
        return format!("sha256:{}", &hex[..hex.len().min(12)]);
    }
    let count = value.chars().count();
    let kept = count.saturating_sub(first + last).min(VALUE_CHARS_MAX);
    let text: String = value.chars().skip(first).take(kept).collect();
    let before = if first > 0 { "… " } else { "" };
    let after = if first + kept < count { " …" } else { "" };
    format!("{before}{text}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_shown_where_they_differ() {
        let long = "x".repeat(200);
        let (before, now) = apart(&format!("{long}make{long}"), &format!("{long}make all{long}"));
        assert!(before.contains("make") && now.contains("make all"), "{before} {now}");
        assert!(before.chars().count() < 80 && before.starts_with("… x"), "{before}");
        assert_eq!(apart("a", "b"), ("a".to_string(), "b".to_string()));
    }
}
