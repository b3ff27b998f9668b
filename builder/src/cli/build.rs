//! `imgtool build`: from a recipe to an image bundle and its kernel's.

use std::fs;
use std::path::{Path, PathBuf};

use bundle::{Arch, Reference};
use imgrun::{Progress, Result};
use imgtool::cache::Cache;
use imgtool::image::Image;
use imgtool::inject::Agent;
use imgtool::pack::{Packed, pack};
use imgtool::plan::Plan;
use imgtool::recipe::Recipe;
use imgtool::{Error, kernel, source};

use super::access::Access;

/// Build an image bundle from a recipe, with the kernel that it runs on.
///
/// The result is two files in the output directory: NAME-VERSION-ARCH.tar.zst with the root file
/// system, and its kernel's. Equal inputs give equal bytes.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The recipe, a TOML file.
    #[arg(long, short, value_name = "FILE")]
    recipe: PathBuf,
    /// Where the bundles go; made if it is not there.
    #[arg(long, short, value_name = "DIR", default_value = "out")]
    output: PathBuf,
    /// Build for this machine only: x86_64 or aarch64. All of the recipe's by default.
    #[arg(long)]
    arch: Option<Arch>,
    /// Make a bootstrap anew instead of taking the one in the cache.
    #[arg(long, conflicts_with = "offline")]
    refresh: bool,
    #[command(flatten)]
    access: Access,
    /// Where kernel configurations are; by default `kernel-configs` beside or above the recipe.
    #[arg(long, value_name = "DIR")]
    kernel_configs: Option<PathBuf>,
    /// Put this guest agent in instead of the one that imgtool carries: a static program.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
}

impl Args {
    /// Builds for each architecture and prints the bundles' paths.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let recipe = Recipe::read(&self.recipe)?;
        let arches = match self.arch {
            None => recipe.arch.clone(),
            Some(arch) if recipe.arch.contains(&arch) => vec![arch],
            Some(arch) => {
                let file = self.recipe.display();
                return Err(Error::usage(format!("{file} is not for {arch}")));
            }
        };
        let cache = Cache::of_user()?;
        fs::create_dir_all(&self.output).map_err(|e| Error::io(self.output.display(), e))?;
        for arch in arches {
            let packed = self.build(&recipe, arch, &cache, progress)?;
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
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Packed> {
        // What is cheap to find wrong comes first: the agent, then the kernel's configuration.
        let agent = self.agent(arch)?;
        let configs = self.kernel_configs()?;
        let config = kernel::find_config(&configs, recipe.kernel.as_str())?;
        let access = self.access.open()?;
        let source = source::resolve(recipe, arch, self.refresh, &access, cache, progress)?;
        let built = kernel::build(&config, arch, access.offline, cache, progress)?;
        built.copy_to(&self.output)?;
        let kernel = Reference { name: built.name, version: built.version, digest: built.digest };
        let plan = Plan::new(recipe, arch, source, kernel, agent);
        let image = Image::flatten(&plan.layout()?, &self.output, progress)?;
        pack(&plan, image, &self.output, progress)
    }

    fn agent(&self, arch: Arch) -> Result<Agent> {
        let Some(file) = &self.agent else { return Agent::embedded(arch) };
        let program = fs::read(file).map_err(|e| Error::io(file.display(), e))?;
        Agent::from_bytes(program, arch).map_err(|e| e.within(file.display()))
    }

    fn kernel_configs(&self) -> Result<PathBuf> {
        if let Some(given) = &self.kernel_configs {
            return Ok(given.clone());
        }
        let beside = self.recipe.parent().unwrap_or(Path::new(""));
        let candidates = [
            beside.join("kernel-configs"),
            beside.join("../kernel-configs"),
            "kernel-configs".into(),
        ];
        candidates.into_iter().find(|dir| dir.is_dir()).ok_or_else(|| {
            Error::usage(format!("no kernel-configs beside or above {}", self.recipe.display()))
                .hint("name it with --kernel-configs")
        })
    }
}
