//! `imgtool verify --rebuild`: is this bundle what its recipe gives?

use std::path::PathBuf;
use std::process::ExitCode;

use imgrun::{Cancel, Progress, Result, Store};
use imgtool::cache::Cache;
use imgtool::inspect::diff;
use imgtool::step::OnError;
use imgtool::{Error, inspect};

use super::inputs::{Inputs, read_secrets};
use super::job::Job;

/// The rebuilt bundle is another: as `diff(1)` has it.
const EXIT_DIFFERENT: u8 = 1;
/// So many differences are shown.
const SHOWN_MAX: usize = 10;

/// Build a bundle's recipe again and say whether it gives the same bytes.
///
/// Every step is executed again; sources and kernels come from the cache where it has them. Where the
/// result is another, the first files that differ are named and the exit code is 1.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The bundle.
    bundle: PathBuf,
    /// Rebuild it: the one way of verifying that there is today.
    #[arg(long, required = true)]
    rebuild: bool,
    #[command(flatten)]
    inputs: Inputs,
    /// Hold the rebuild to the recipe's lock, as the bundle's build was.
    #[arg(long)]
    locked: bool,
    /// A secret for steps that name it, from a file.
    #[arg(long, value_name = "NAME=FILE")]
    secret: Vec<String>,
}

impl Args {
    /// Rebuilds and compares.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<ExitCode> {
        let work = tempfile::tempdir().map_err(|e| Error::io("a temporary directory", e))?;
        let store = Store::open(work.path().join("store"))?;
        let cancel = Cancel::new();
        let given = store.import(&self.bundle, progress, &cancel)?.bundle;
        let recipe = self.inputs.recipe()?;
        if given.manifest.recipe != recipe.digest {
            let (bundle, file) = (self.bundle.display(), self.inputs.recipe.display());
            return Err(Error::input(format!("{bundle} was not built of this text of {file}"))
                .hint("the manifest names a recipe by the digest of its text"));
        }
        let arch = given.manifest.arch;
        let output = work.path().join("out");
        std::fs::create_dir(&output).map_err(|e| Error::io(output.display(), e))?;
        let secrets = read_secrets(&self.secret)?;
        let on_error = OnError::Clean;
        let job = Job { inputs: self.inputs, output, secrets, on_error, anew: true };
        let cache = Cache::of_user()?;
        let rebuilt = job.build(&recipe, arch, self.locked, &cache, progress)?;
        let same = rebuilt.digest == given.digest;
        let mut lines = Vec::new();
        if !same {
            let again = store.import(&rebuilt.path, progress, &cancel)?.bundle;
            let (old, new) = (given.path(bundle::ROOTFS), again.path(bundle::ROOTFS));
            diff(&old, &new, &[], &mut |difference: inspect::Difference| {
                lines.push(super::inspect::line(&difference));
                Ok(lines.len() < SHOWN_MAX)
            })?;
            if lines.is_empty() {
                lines.push("the images are the same, their manifests differ".to_string());
            }
        }
        if json {
            super::print(serde_json::json!({
                "same": same, "given": given.digest, "rebuilt": rebuilt.digest, "differences": lines,
            }));
        } else if same {
            super::print(format!("the same: {}", rebuilt.digest));
        } else {
            super::print(format!("another: {} instead of {}", rebuilt.digest, given.digest));
            lines.iter().for_each(super::print);
        }
        Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DIFFERENT) })
    }
}
