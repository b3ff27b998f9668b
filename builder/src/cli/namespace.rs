//! `imgtool namespace`: the other ends of `--executor=namespace`. Not for people.

use std::process::ExitCode;

use imgrun::Result;
use imgtool::step::namespace;

/// Run a step in name spaces: started by `imgtool build` itself.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// `outer` makes the name spaces, `inner` is in them.
    #[arg(value_parser = ["outer", "inner"])]
    end: String,
    /// Whether the step shares our network.
    #[arg(value_parser = ["alone", "network"], default_value = "alone")]
    network: String,
}

impl Args {
    /// Does it.
    pub(crate) fn run(self) -> Result<ExitCode> {
        if self.end == "outer" {
            return namespace::outer(self.network == "network").map(ExitCode::from);
        }
        super::print(namespace::inner()?);
        Ok(ExitCode::SUCCESS)
    }
}
