//! `imgrun create IMAGE [-- COMMAND…]`

use std::process::ExitCode;

use super::command::conclude;
use super::{Shell, run};

/// Make a machine that stays, and do not start it yet: imgrun start does
#[derive(Debug, clap::Args)]
// Else it would be called as the one in it.
#[group(id = "create")]
pub(super) struct Args {
    #[command(flatten)]
    machine: run::Args,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> ExitCode {
        let json = self.machine.json;
        let done = self.machine.detach(shell, false).await;
        conclude(done, json, shell)
    }
}
