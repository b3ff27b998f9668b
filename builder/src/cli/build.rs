//! `imgtool build`: from a recipe to an image bundle and its kernel's.

use std::fs;
use std::path::PathBuf;

use clap::ValueEnum;
use imgrun::{Progress, Result};
use imgtool::Error;
use imgtool::cache::Cache;
use imgtool::step::OnError;

use super::inputs::{Inputs, read_secrets};
use super::job::Job;

/// Build an image bundle from a recipe, with the kernel that it runs on.
///
/// The result is two files in the output directory: NAME-VERSION-ARCH.tar.zst with the root file
/// system, and its kernel's. Equal inputs give equal bytes, and what did not change is not done
/// again: `imgtool plan` says what there is to do, `imgtool explain` why.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    inputs: Inputs,
    /// Where the bundles go; made if it is not there.
    #[arg(long, short, value_name = "DIR", default_value = "out")]
    output: PathBuf,
    /// Refuse everything that is not what the recipe's lock has (`imgtool lock`).
    #[arg(long, conflicts_with = "refresh")]
    locked: bool,
    /// A secret for steps that name it, from a file. It is in no layer and in no cache.
    #[arg(long, value_name = "NAME=FILE")]
    secret: Vec<String>,
    /// When a step fails: leave nothing, keep what it wrote as a tar, or open a shell in it.
    #[arg(long, value_name = "WHAT", default_value = "clean")]
    on_error: OnErrorArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnErrorArg {
    Clean,
    Keep,
    Shell,
}

impl Args {
    /// Builds for each architecture and prints the bundles' paths.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let recipe = self.inputs.recipe()?;
        let arches = self.inputs.arches(&recipe)?;
        let secrets = read_secrets(&self.secret)?;
        let cache = Cache::of_user()?;
        fs::create_dir_all(&self.output).map_err(|e| Error::io(self.output.display(), e))?;
        let job = Job {
            inputs: self.inputs,
            output: self.output,
            secrets,
            on_error: self.on_error.into(),
            anew: false,
        };
        for arch in arches {
            let packed = job.build(&recipe, arch, self.locked, &cache, progress)?;
            if json {
                super::print(serde_json::json!({
                    "path": packed.path, "digest": packed.digest, "bytes": packed.bytes,
                    "manifest": packed.manifest,
                }));
            } else {
                super::print(packed.path.display());
            }
        }
        Ok(())
    }
}

impl From<OnErrorArg> for OnError {
    fn from(arg: OnErrorArg) -> OnError {
        match arg {
            OnErrorArg::Clean => OnError::Clean,
            OnErrorArg::Keep => OnError::Keep,
            OnErrorArg::Shell => OnError::Shell,
        }
    }
}
