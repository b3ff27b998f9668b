//! `imgtool kernel …`: one verb, one file.

mod build;
mod check;
mod config;
mod diff;
mod import;
mod list;
mod show;

use std::path::{Path, PathBuf};

use bundle::Arch;
use clap::Subcommand;
use imgrun::{Progress, Result};
use imgtool::cache::Cache;
use imgtool::kernel::{self, Options};

/// Guest kernels: minimal, from pinned sources.
///
/// A kernel is a file of `kernel-configs`: its sources, by digest, and the fragments that its
/// configuration is put together from. Nothing is on that no fragment asks for or selects.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Examples:
  imgtool kernel list                            what there is, and what is built
  imgtool kernel build generic-6.1               build it, or find it in the cache
  imgtool kernel check docker generic-6.1        what docker would miss
  imgtool kernel config generic-6.1              change it with menuconfig
  imgtool kernel diff generic-6.1 /boot/config-6.1.0-50-cloud-amd64
  imgtool kernel import linux-image-6.1.0-50-cloud-amd64_6.1.192-1_amd64.deb --output out";

#[derive(Subcommand, Debug)]
enum Verb {
    Build(build::Args),
    Check(check::Args),
    Config(config::Args),
    Diff(diff::Args),
    Import(import::Args),
    List(list::Args),
    Show(show::Args),
}

/// Which of the configured kernels.
#[derive(clap::Args, Debug)]
struct Place {
    /// The machine: x86_64 or aarch64; this machine's by default.
    #[arg(long)]
    arch: Option<Arch>,
    /// Where the configurations are.
    #[arg(long, value_name = "DIR", default_value = "kernel-configs")]
    config_dir: PathBuf,
    /// Download no sources.
    #[arg(long)]
    offline: bool,
}

impl Place {
    fn arch(&self) -> Arch {
        self.arch.unwrap_or(Arch::host())
    }

    fn find(&self, name: &str) -> Result<PathBuf> {
        kernel::find_config(&self.config_dir, name)
    }

    fn fragments(&self) -> PathBuf {
        self.config_dir.join("fragments")
    }

    /// The whole configuration of `what`: a kernel's name, its bundle, or a `.config`.
    fn options(&self, what: &str, cache: &Cache, progress: &Progress) -> Result<Options> {
        if Path::new(what).is_file() {
            return Options::of_file(Path::new(what));
        }
        let config = self.find(what).map_err(|e| match what.contains('/') {
            true => imgrun::Error::input(format!("{what}: no such file")),
            false => e,
        })?;
        let text = kernel::configuration(&config, self.arch(), self.offline, cache, progress)?;
        Options::parse(&text)
    }
}

impl Args {
    /// Does it.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        match self.verb {
            Verb::Build(args) => args.run(json, progress),
            Verb::Check(args) => args.run(json, progress),
            Verb::Config(args) => args.run(json, progress),
            Verb::Diff(args) => args.run(json, progress),
            Verb::Import(args) => args.run(json, progress),
            Verb::List(args) => args.run(json),
            Verb::Show(args) => args.run(json),
        }
    }
}

/// Says which bundle a verb made: a copy in `output` where that is given.
fn print_kernel(
    kernel: &kernel::BuiltKernel,
    output: Option<&Path>,
    json: bool,
    progress: &Progress,
) -> Result<()> {
    let path = match output {
        Some(dir) => kernel.copy_to(dir)?,
        None => kernel.bundle_path.clone(),
    };
    progress.note(format!("kernel {} {} {}", kernel.name, kernel.version, kernel.digest));
    if json {
        crate::cli::print(serde_json::json!({
            "path": path, "digest": kernel.digest, "name": kernel.name,
            "version": kernel.version, "arch": kernel.arch,
        }));
    } else {
        crate::cli::print(path.display());
    }
    Ok(())
}
