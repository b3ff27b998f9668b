//! `imgtool build`: from a recipe to an image bundle and its kernel's.

use std::fs;
use std::path::{Path, PathBuf};

use bundle::{Arch, Reference};
use clap::ValueEnum;
use imgrun::{Progress, Result};
use imgtool::cache::Cache;
use imgtool::image::Image;
use imgtool::pack::{Packed, pack};
use imgtool::plan::Plan;
use imgtool::recipe::Recipe;
use imgtool::step::{OnError, Secret};
use imgtool::{Error, finished, lint};

use super::inputs::Inputs;

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
        let secrets = self.secrets()?;
        let cache = Cache::of_user()?;
        fs::create_dir_all(&self.output).map_err(|e| Error::io(self.output.display(), e))?;
        for arch in arches {
            let packed = self.build(&recipe, arch, &secrets, &cache, progress)?;
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

    fn build(
        &self,
        recipe: &Recipe,
        arch: Arch,
        secrets: &[Secret],
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Packed> {
        let mut found = self.inputs.find(recipe, arch, cache, progress)?;
        found.kernel.copy_to(&self.output)?;
        let refresh = self.inputs.refresh;
        let site = found.site(secrets, self.on_error.into(), &self.output, refresh);
        let key = finished::key(recipe, &found.source, &found.stages, &site, &self.output);
        if let Some(packed) = finished::find(&key, cache).filter(|_| !refresh) {
            progress.note("nothing changed since it was built");
            return Ok(Packed { path: self.output.join(packed.manifest.file_name()), ..packed });
        }
        let (place, layers) = (self.inputs.place(), found.source.layers.clone());
        let layers = found.stages.run(layers, &site, &place, cache, progress)?;
        let built = &found.kernel;
        let (name, version) = (built.name.clone(), built.version.clone());
        let kernel = Reference { name, version, digest: built.digest };
        found.source.layers = layers;
        let plan = Plan::new(recipe, arch, found.source, kernel, found.agent);
        let mut image = Image::flatten(&plan.layout()?, &self.output, progress)?;
        lint::check(&mut image, &recipe.allow)?;
        let packed = pack(&plan, image, &self.output, progress)?;
        finished::remember(&key, &packed, cache)?;
        Ok(packed)
    }

    fn secrets(&self) -> Result<Vec<Secret>> {
        let read = |text: &String| match text.split_once('=') {
            Some((name, file)) if !name.is_empty() => Secret::read(name, Path::new(file)),
            _ => Err(Error::usage(format!("--secret {text}: NAME=FILE is wanted"))),
        };
        self.secret.iter().map(read).collect()
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
