//! One build, from a checked recipe to a packed bundle: for every verb that builds.

use std::path::PathBuf;

use bundle::{Arch, Digest, Reference};
use imgrun::{Progress, Result};
use imgtool::cache::Cache;
use imgtool::image::Image;
use imgtool::lock::{Lock, Locked};
use imgtool::pack::{Packed, pack};
use imgtool::plan::Plan;
use imgtool::recipe::Recipe;
use imgtool::source::Layer;
use imgtool::step::{Executor, OnError, Secret};
use imgtool::{Error, finished, lint};

use super::inputs::Inputs;
use super::lock::no_lock;

/// What a build is done with.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) inputs: Inputs,
    /// Where the bundles go; it is there.
    pub(crate) output: PathBuf,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) on_error: OnError,
    /// Where steps run.
    pub(crate) executor: Executor,
    /// Every step is executed, whatever the cache has.
    pub(crate) anew: bool,
}

impl Job {
    /// Builds `recipe` for `arch`, held to its lock where it is `locked`.
    pub(crate) fn build(
        &self,
        recipe: &Recipe,
        arch: Arch,
        locked: bool,
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Packed> {
        let file = &self.inputs.recipe;
        if !locked {
            return self.make(recipe, arch, None, cache, progress);
        }
        let (lock, digest) = Lock::read(file)?.ok_or_else(|| no_lock(file))?;
        let held = lock.of(arch).ok_or_else(|| {
            Error::input(format!("{}: it has nothing for {arch}", Lock::path(file).display()))
        })?;
        self.make(&held.pin(recipe), arch, Some((held, digest)), cache, progress)
    }

    fn make(
        &self,
        recipe: &Recipe,
        arch: Arch,
        lock: Option<(&Locked, Digest)>,
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Packed> {
        let mut found = self.inputs.find(recipe, arch, cache, progress)?;
        if let Some((lock, _)) = lock {
            lock.check("the source", &lock.source, &found.source.digest)?;
            lock.check("the kernel", &lock.kernel, &found.kernel.digest)?;
        }
        found.kernel.copy_to(&self.output)?;
        let refresh = self.inputs.refresh;
        let mut site = found.site(&self.secrets, self.on_error, &self.output, refresh);
        site.anew = self.anew;
        site.executor = self.executor;
        let key = finished::key(recipe, &found.source, &found.stages, &site, &self.output);
        let key = lock.map_or(key, |(_, digest)| finished::locked(&key, &digest));
        if let Some(packed) = finished::find(&key, cache).filter(|_| !refresh && !self.anew) {
            progress.note("nothing changed since it was built");
            return Ok(Packed { path: self.output.join(packed.manifest.file_name()), ..packed });
        }
        let (place, layers) = (self.inputs.place(), found.source.layers.clone());
        let layers = found.stages.run(layers, &site, &place, cache, progress)?;
        if let Some((lock, _)) = lock {
            check_steps(lock, &layers[found.source.layers.len()..])?;
        }
        let built = &found.kernel;
        let (name, version) = (built.name.clone(), built.version.clone());
        let kernel = Reference { name, version, digest: built.digest };
        found.source.layers = layers;
        let mut plan = Plan::new(recipe, arch, found.source, kernel, found.agent);
        plan.lock = lock.map(|(_, digest)| digest);
        let mut image = Image::flatten(&plan.layout()?, &self.output, progress)?;
        lint::check(&mut image, &recipe.allow, &lint::host_paths(&self.inputs.recipe))?;
        let packed = pack(&plan, image, &self.output, progress)?;
        finished::remember(&key, &packed, cache)?;
        Ok(packed)
    }
}

/// Fails unless the layers of the steps are those of the lock.
fn check_steps(lock: &Locked, layers: &[Layer]) -> Result<()> {
    if lock.step.len() != layers.len() {
        let (locked, found) = (lock.step.len(), layers.len());
        return Err(Error::input(format!(
            "the lock is of {locked} stages of steps, here are {found}"
        ))
        .hint("the recipe changed: imgtool lock writes its lock anew"));
    }
    for (pin, layer) in lock.step.iter().zip(layers) {
        lock.check(&layer.origin, pin, &layer.digest)?;
    }
    Ok(())
}
