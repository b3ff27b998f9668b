//! The flags of all verbs that work on a recipe, and what they lead to.

use std::fs;
use std::path::{Path, PathBuf};

use bundle::Arch;
use imgrun::{Progress, Result};
use imgtool::Error;
use imgtool::cache::Cache;
use imgtool::inject::Agent;
use imgtool::kernel::{self, BuiltKernel};
use imgtool::recipe::Recipe;
use imgtool::source::{self, Resolved};
use imgtool::step::{OnError, Secret, Site, Stages};

use super::access::Access;

/// Which recipe, for what, with what.
#[derive(clap::Args, Debug)]
pub(crate) struct Inputs {
    /// The recipe, a TOML file.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) recipe: PathBuf,
    /// Build for this machine only: x86_64 or aarch64. All of the recipe's by default.
    #[arg(long)]
    arch: Option<Arch>,
    /// Make a bootstrap anew instead of taking the one in the cache, and install packages anew.
    #[arg(long, conflicts_with = "offline")]
    pub(crate) refresh: bool,
    #[command(flatten)]
    access: Access,
    /// Where kernel configurations are; by default `kernel-configs` beside or above the recipe.
    #[arg(long, value_name = "DIR")]
    kernel_configs: Option<PathBuf>,
    /// Put this guest agent in instead of the one that imgtool carries: a static program.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
}

/// What a recipe's inputs turned out to be.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) arch: Arch,
    pub(crate) agent: Agent,
    pub(crate) source: Resolved,
    pub(crate) kernel: BuiltKernel,
    pub(crate) stages: Stages,
    environment: Vec<String>,
    offline: bool,
}

/// The secrets of flags like `npm-token=FILE`.
pub(crate) fn read_secrets(flags: &[String]) -> Result<Vec<Secret>> {
    let read = |text: &String| match text.split_once('=') {
        Some((name, file)) if !name.is_empty() => Secret::read(name, Path::new(file)),
        _ => Err(Error::usage(format!("--secret {text}: NAME=FILE is wanted"))),
    };
    flags.iter().map(read).collect()
}

impl Inputs {
    /// The recipe.
    pub(crate) fn recipe(&self) -> Result<Recipe> {
        Recipe::read(&self.recipe)
    }

    /// The recipe's file, the same from wherever we were started: names its last build.
    pub(crate) fn place(&self) -> PathBuf {
        std::path::absolute(&self.recipe).unwrap_or_else(|_| self.recipe.clone())
    }

    /// The machines to build for.
    pub(crate) fn arches(&self, recipe: &Recipe) -> Result<Vec<Arch>> {
        match self.arch {
            None => Ok(recipe.arch.clone()),
            Some(arch) if recipe.arch.contains(&arch) => Ok(vec![arch]),
            Some(arch) => {
                let file = self.recipe.display();
                Err(Error::usage(format!("{file} is not for {arch}")))
            }
        }
    }

    /// Finds, fetches and builds what `recipe` needs for `arch`. What is cheap to find wrong comes
    /// first: the agent, then the kernel's configuration, then what steps copy.
    pub(crate) fn find(
        &self,
        recipe: &Recipe,
        arch: Arch,
        cache: &Cache,
        progress: &Progress,
    ) -> Result<Found> {
        let agent = self.agent(arch)?;
        let config = kernel::find_config(&self.kernel_configs()?, recipe.kernel.as_str())?;
        let stages = Stages::of(recipe, arch)?;
        let access = self.access.open()?;
        let offline = access.offline;
        let source = source::resolve(recipe, arch, self.refresh, &access, cache, progress)?;
        let kernel = kernel::build(&config, arch, offline, cache, progress)?;
        let environment = source.config.as_ref().map_or(Vec::new(), |config| config.env.clone());
        Ok(Found { arch, agent, source, kernel, stages, environment, offline })
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

impl Found {
    /// What the stages are executed with.
    pub(crate) fn site<'s>(
        &'s self,
        secrets: &'s [Secret],
        on_error: OnError,
        output: &'s Path,
        refresh: bool,
    ) -> Site<'s> {
        Site {
            arch: self.arch,
            agent: &self.agent,
            kernel: &self.kernel,
            environment: &self.environment,
            secrets,
            on_error,
            output,
            refresh,
            anew: false,
            offline: self.offline,
        }
    }
}
