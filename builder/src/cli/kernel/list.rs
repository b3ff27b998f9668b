//! `imgtool kernel list`.

use std::path::PathBuf;

use imgrun::{Result, Unit};
use imgtool::cache::Cache;
use imgtool::kernel::{self, Listed};

/// List the kernels that are configured and those in the cache.
///
/// `built` ones are in the cache as they are configured now, `configured` ones are not; `other`
/// ones are in the cache only: imported, or built before their configuration or the compiler
/// changed.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Where the configurations are.
    #[arg(long, value_name = "DIR", default_value = "kernel-configs")]
    config_dir: PathBuf,
}

impl Args {
    pub(super) fn run(self, json: bool) -> Result<()> {
        let listed = kernel::list(&self.config_dir, &Cache::of_user()?)?;
        if json {
            crate::cli::print(serde_json::json!({ "kernels": listed }));
            return Ok(());
        }
        let width = listed.iter().map(|kernel| kernel.name.as_str().len()).max().unwrap_or(0);
        for kernel in &listed {
            crate::cli::print(line(kernel, width));
        }
        Ok(())
    }
}

/// `generic-6.1  6.1.192  x86_64   built        8.01 MiB  sha256:88eb22fb6fa0`
fn line(kernel: &Listed, width: usize) -> String {
    let Listed { name, version, arch, state, bundle } = kernel;
    let (name, version, state) = (name.as_str(), version.as_str(), state.name());
    let line = format!("{name:<width$}  {version:<12}  {arch:<7}  {state:<10}");
    match bundle {
        Some(bundle) => {
            let size = Unit::Bytes.amount(bundle.bytes);
            format!("{line}  {size:>11}  {}", bundle.digest.short())
        }
        None => line.trim_end().to_string(),
    }
}
