//! `imgtool inspect diff`.

use std::path::PathBuf;
use std::process::ExitCode;

use imgrun::{Progress, Result};
use imgtool::inspect::{Aspect, Change, Detail, Difference, diff, escaped, kind_text};
use serde_json::{Map, Value, json};

use super::out::{Out, put_name};

/// Two images are not the same: as `diff(1)` has it.
const EXIT_DIFFERENT: u8 = 1;

/// Compare the trees of two images, path by path.
///
/// A line for each path that is not the same: `-` removed, `+` added, `~` changed, and in what:
/// type, mode, owner, mtime, content, target, device, xattrs, and link (which other name is the
/// same file). The exit code is 0 where nothing differs, 1 where something does, and above
/// that where an image can not be read. With --json each path is an object on a line of its own.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The first image, the old one.
    old: PathBuf,
    /// The second, the new one.
    new: PathBuf,
    /// What not to look at, as in mtime,owner.
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = parse_aspect)]
    ignore: Vec<Aspect>,
}

impl Args {
    pub(super) fn run(self, json: bool, progress: &Progress) -> Result<ExitCode> {
        let mut out = Out::new();
        let (mut added, mut removed, mut changed) = (0u64, 0u64, 0u64);
        diff(&self.old, &self.new, &self.ignore, &mut |difference| {
            match difference.change {
                Change::Added => added += 1,
                Change::Removed => removed += 1,
                Change::Changed(_) => changed += 1,
            }
            match json {
                true => out.line(object(&difference))?,
                false => out.line(line(&difference))?,
            }
            Ok(!out.is_closed())
        })?;
        out.finish()?;
        progress.note(format!("{removed} removed, {added} added, {changed} changed"));
        let is_same = added + removed + changed == 0;
        Ok(if is_same { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DIFFERENT) })
    }
}

fn parse_aspect(word: &str) -> Result<Aspect, String> {
    let known = Aspect::ALL.map(Aspect::name);
    let found = Aspect::ALL.into_iter().find(|aspect| aspect.name() == word);
    found.ok_or_else(|| format!("one of these is wanted: {}", known.join(", ")))
}

/// A difference for people.
pub(crate) fn line(difference: &Difference) -> String {
    let path = escaped(&super::absolute(&difference.path));
    let kind = kind_text(difference.kind);
    match &difference.change {
        Change::Removed => format!("- {path} ({kind})"),
        Change::Added => format!("+ {path} ({kind})"),
        Change::Changed(details) => {
            let text =
                |Detail { aspect, old, new }: &Detail| format!("{} {old} -> {new}", aspect.name());
            let details: Vec<String> = details.iter().map(text).collect();
            format!("~ {path}: {}", details.join("; "))
        }
    }
}

/// A difference for programs.
pub(crate) fn object(difference: &Difference) -> Value {
    let mut object = Map::new();
    put_name(&mut object, "path", &super::absolute(&difference.path));
    object.insert("type".into(), kind_text(difference.kind).into());
    let change = match &difference.change {
        Change::Removed => "removed",
        Change::Added => "added",
        Change::Changed(details) => {
            let detail = |Detail { aspect, old, new }: &Detail| json!({ "what": aspect.name(), "old": old, "new": new });
            object.insert("details".into(), details.iter().map(detail).collect());
            "changed"
        }
    };
    object.insert("change".into(), change.into());
    Value::Object(object)
}
