//! `imgtool kernel show`.

use std::path::Path;

use imgrun::Result;
use imgtool::kernel;

use super::Place;

/// Show what a kernel is made of: sources, fragments, and the options that they ask for, each with
/// its reason.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The name of a configured kernel, or the file of a kernel's bundle.
    kernel: String,
    /// List the options, too.
    #[arg(long)]
    options: bool,
    #[command(flatten)]
    place: Place,
}

impl Args {
    pub(super) fn run(self, json: bool) -> Result<()> {
        let path = Path::new(&self.kernel);
        if path.is_file() {
            // Both parts are JSON already.
            let shown = kernel::show_bundle(path)?;
            let text = if json { shown.to_string() } else { format!("{shown:#}") };
            crate::cli::print(text);
            return Ok(());
        }
        let shown = kernel::show(&self.place.find(&self.kernel)?, self.place.arch())?;
        if json {
            crate::cli::print(serde_json::json!(shown));
            return Ok(());
        }
        let kernel::Shown { name, version, arch, .. } = &shown;
        crate::cli::print(format!("kernel     {name} {version} for {arch}"));
        crate::cli::print(format!("source     {} {}", shown.source, shown.source_digest));
        for signer in &shown.signers {
            crate::cli::print(format!("signed by  {signer}"));
        }
        let parts = shown.patches.iter().map(|part| ("patch", part));
        for (what, part) in parts.chain(shown.fragments.iter().map(|part| ("fragment", part))) {
            crate::cli::print(format!("{what:<9}  {} {}", part.name, part.digest.short()));
        }
        crate::cli::print(format!("options    {}", shown.options.len()));
        if self.options {
            for (name, wanted) in &shown.options {
                let reason = match wanted.reason.as_str() {
                    "" => String::new(),
                    reason => format!("  # {reason}"),
                };
                let at = wanted.at.rsplit('/').next().unwrap_or_default();
                crate::cli::print(format!("CONFIG_{name}={}  {at}{reason}", wanted.value));
            }
        }
        Ok(())
    }
}
