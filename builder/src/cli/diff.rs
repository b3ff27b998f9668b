//! `imgtool diff`: what changed from one version of a bundle to the next.

use std::path::PathBuf;

use imgrun::{Progress, Result, Unit};
use imgtool::compare::{Comparison, Opened, PackageChange, Side, compare, compare_files};
use serde_json::json;

use super::inspect::{line, object};

/// Show what changed from one version of a bundle to another.
///
/// Packages, the kernel and its configuration (where the kernels' bundles lie beside the images'),
/// sizes, how much a host that has the old version must fetch, and how long each took to boot
/// (where `imgtool test` has left its results). With --files the root file systems are unpacked and
/// compared, too: `-` removed, `+` added, `~` changed.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The old bundle's packed file.
    old: PathBuf,
    /// The new one's.
    new: PathBuf,
    /// List the files that changed.
    #[arg(long)]
    files: bool,
}

impl Args {
    /// Compares and prints.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let (old, new) = (Opened::open(&self.old)?, Opened::open(&self.new)?);
        let comparison = compare(&old, &new)?;
        let mut files = Vec::new();
        if self.files {
            compare_files(&old, &new, progress, &mut |difference| {
                files.push(difference);
                Ok(true)
            })?;
        }
        if json {
            let files = self.files.then(|| files.iter().map(object).collect::<Vec<_>>());
            super::print(json!({
                "old": comparison.old, "new": comparison.new, "packages": comparison.packages,
                "config": comparison.config, "update_bytes": comparison.update_bytes,
                "files": files,
            }));
            return Ok(());
        }
        text(&comparison).into_iter().for_each(super::print);
        files.iter().for_each(|file| super::print(line(file)));
        Ok(())
    }
}

fn text(comparison: &Comparison) -> Vec<String> {
    let Comparison { old, new, packages, config, update_bytes } = comparison;
    let title = |side: &Side| format!("{} {} {}", side.name, side.version, side.arch);
    let amount = |bytes: u64| Unit::Bytes.amount(bytes);
    let kernel = |side: &Side| {
        let kernel = side.kernel.as_ref();
        kernel.map(|k| format!("{} {} {}", k.name, k.version, k.digest.short()))
    };
    let mut lines = vec![
        format!("{} -> {}", title(old), title(new)),
        format!("packed: {} -> {}", amount(old.packed_bytes), amount(new.packed_bytes)),
        format!("raw: {} -> {}", amount(old.raw_bytes), amount(new.raw_bytes)),
        format!("an update fetches: {}", amount(*update_bytes)),
    ];
    if let (Some(from), Some(to)) = (kernel(old), kernel(new)) {
        let same = if from == to { " (the same)".to_string() } else { format!(" -> {to}") };
        lines.push(format!("kernel: {from}{same}"));
    }
    if let (Some(from), Some(to)) = (&old.boot, &new.boot) {
        let from = format!("{} ms, {}", from.ms, from.accel);
        lines.push(format!("boot: {from} -> {} ms, {}", to.ms, to.accel));
    }
    for change in config.iter().flatten() {
        lines.push(format!("CONFIG_{}: {} -> {}", change.name, change.from, change.to));
    }
    let (from, to, differ) = (old.packages, new.packages, packages.len());
    lines.push(format!("packages: {from} -> {to}, {differ} not the same"));
    lines.extend(packages.iter().map(package));
    lines
}

fn package(change: &PackageChange) -> String {
    let (name, from, to) = (&change.name, change.from.join(", "), change.to.join(", "));
    match (from.is_empty(), to.is_empty()) {
        (true, _) => format!("+ {name} {to}"),
        (_, true) => format!("- {name} {from}"),
        _ => format!("~ {name} {from} -> {to}"),
    }
}
