//! `imgtool lock` and `imgtool outdated`: what a recipe's inputs are, written down and compared.

use std::process::ExitCode;

use bundle::Arch;
use imgrun::{Progress, Result};
use imgtool::cache::Cache;
use imgtool::image::Image;
use imgtool::lock::{Lock, Locked, Pin, package_line};
use imgtool::recipe::Recipe;
use imgtool::step::{OnError, Secret};
use imgtool::{Error, packages};

use super::inputs::{Inputs, read_secrets};

/// Write down what a recipe's inputs are now: NAME.lock beside NAME.toml.
///
/// Tags become digests, packages versions, the kernel a digest, and each step's layer a digest.
/// Steps are executed for it where the cache has not their layers; --refresh takes what package
/// archives have today. `imgtool build --locked` then makes this image or none.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    inputs: Inputs,
    /// A secret for steps that name it, from a file.
    #[arg(long, value_name = "NAME=FILE")]
    secret: Vec<String>,
}

/// Say what a new lock would have that the present one has not: newer images, packages, kernels.
///
/// Asks registries and package archives anew. The exit code is 1 where something moved on.
#[derive(clap::Args, Debug)]
pub(crate) struct Outdated {
    #[command(flatten)]
    args: Args,
}

impl Args {
    /// Writes the lock and prints its path.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let recipe = self.inputs.recipe()?;
        let file = &self.inputs.recipe;
        let mut lock = Lock::read(file)?.map_or_else(Lock::empty, |(lock, _)| lock);
        let cache = Cache::of_user()?;
        let secrets = read_secrets(&self.secret)?;
        for arch in self.inputs.arches(&recipe)? {
            lock.set(arch, self.locked(&recipe, arch, &secrets, &cache, progress)?);
        }
        let path = lock.write(file)?;
        match json {
            true => super::print(serde_json::json!({ "path": path, "lock": lock })),
            false => super::print(path.display()),
        }
        Ok(())
    }

    /// What is there now.
    fn locked(
        &self,
        recipe: &Recipe,
        arch: Arch,
        secrets: &[Secret],
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Locked> {
        let found = self.inputs.find(recipe, arch, cache, progress)?;
        let work = tempfile::tempdir_in(cache.dir()).map_err(|e| Error::io("the cache", e))?;
        let site = found.site(secrets, OnError::Clean, work.path(), self.inputs.refresh);
        let (place, below) = (self.inputs.place(), found.source.layers.clone());
        let layers = found.stages.run(below, &site, &place, cache, progress)?;
        let steps = found.stages.all.iter().zip(&layers[found.source.layers.len()..]);
        let step = steps.map(|(stage, layer)| Pin::new(&stage.title, layer.digest)).collect();
        let (source, kernel) = (&found.source, &found.kernel);
        let kernel = Pin::new(format!("{} {}", kernel.name, kernel.version), kernel.digest);
        let source = Pin::new(&source.name, source.digest);
        let layout = imgtool::image::Layout {
            layers,
            mount_points: &imgtool::inject::MOUNT_POINTS,
            epoch: recipe.source_date_epoch,
            ..Default::default()
        };
        let image = Image::flatten(&layout, work.path(), progress)?;
        let file = std::fs::File::open(image.path()).map_err(|e| Error::io("the image", e))?;
        let packages = packages::read(file)?.packages.iter().map(package_line).collect();
        Ok(Locked { source, kernel, packages, step })
    }
}

impl Outdated {
    /// Prints what moved on.
    pub(crate) fn run(mut self, json: bool, progress: &Progress) -> Result<ExitCode> {
        self.args.inputs.refresh = true;
        let recipe = self.args.inputs.recipe()?;
        let file = &self.args.inputs.recipe;
        let (lock, _) = Lock::read(file)?.ok_or_else(|| no_lock(file))?;
        let cache = Cache::of_user()?;
        let secrets = read_secrets(&self.args.secret)?;
        let mut all = Vec::new();
        for arch in self.args.inputs.arches(&recipe)? {
            let now = self.args.locked(&recipe, arch, &secrets, &cache, progress)?;
            let lines = match lock.of(arch) {
                Some(before) => before.differences(&now),
                None => vec!["not locked at all".to_string()],
            };
            all.extend(lines.into_iter().map(|line| (arch, line)));
        }
        if json {
            let all: Vec<_> =
                all.iter().map(|(arch, line)| serde_json::json!([arch, line])).collect();
            super::print(serde_json::json!({ "outdated": all }));
        } else {
            all.iter().for_each(|(arch, line)| super::print(format!("{arch}: {line}")));
        }
        Ok(if all.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

/// What to say where `--locked` has nothing to hold to.
pub(crate) fn no_lock(recipe: &std::path::Path) -> Error {
    Error::input(format!("{}: there is no lock", Lock::path(recipe).display()))
        .hint(format!("write it: imgtool lock --recipe {}", recipe.display()))
}
