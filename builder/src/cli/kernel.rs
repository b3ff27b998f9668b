//! `imgtool kernel …`.

use std::path::PathBuf;

use bundle::Arch;
use clap::Subcommand;
use imgrun::{Progress, Result};
use imgtool::cache::Cache;
use imgtool::kernel;

/// Guest kernels: minimal, from pinned sources.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Build a kernel, or find it in the cache, and print the path of its bundle.
    Build(Build),
}

#[derive(clap::Args, Debug)]
struct Build {
    /// The kernel: the name of a file in the configuration directory, without `.toml`.
    name: String,
    /// The machine to build for: x86_64 or aarch64; this machine's by default.
    #[arg(long)]
    arch: Option<Arch>,
    /// Put a copy of the bundle into this directory.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Where the configurations are.
    #[arg(long, value_name = "DIR", default_value = "kernel-configs")]
    config_dir: PathBuf,
}

impl Args {
    /// Does it.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        match self.verb {
            Verb::Build(args) => args.run(json, progress),
        }
    }
}

impl Build {
    fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let config = kernel::find_config(&self.config_dir, &self.name)?;
        let arch = self.arch.unwrap_or(Arch::host());
        let cache = Cache::of_user()?;
        let built = kernel::build(&config, arch, false, &cache, progress)?;
        let path = match &self.output {
            Some(dir) => built.copy_to(dir)?,
            None => built.bundle_path.clone(),
        };
        progress.note(format!("kernel {} {} {}", built.name, built.version, built.digest));
        if json {
            super::print(serde_json::json!({
                "path": path, "digest": built.digest, "name": built.name,
                "version": built.version, "arch": built.arch,
            }));
        } else {
            super::print(path.display());
        }
        Ok(())
    }
}
