//! `imgtool kernel build`.

use std::path::PathBuf;

use imgrun::{Progress, Result};
use imgtool::cache::Cache;
use imgtool::kernel;

use super::Place;

/// Build a kernel, or find it in the cache, and print the path of its bundle.
///
/// Equal sources, fragments and compilers give equal bytes, wherever and whenever.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The kernel: the name of a file in the configuration directory, without `.toml`.
    name: String,
    /// Put a copy of the bundle into this directory.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

impl Args {
    pub(super) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let config = self.place.find(&self.name)?;
        let cache = Cache::of_user()?;
        let Place { offline, .. } = self.place;
        let built = kernel::build(&config, self.place.arch(), offline, &cache, progress)?;
        super::print_kernel(&built, self.output.as_deref(), json, progress)
    }
}
