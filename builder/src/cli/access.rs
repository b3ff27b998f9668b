//! The flags of all verbs that may ask a network.

use std::path::PathBuf;

use imgrun::Result;
use imgtool::oci;

/// How images are got.
#[derive(clap::Args, Debug)]
pub(crate) struct Access {
    /// Ask no network: take everything from the cache, a tag as it was when it was last pulled.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Mirrors, certificates and plain http by host: a TOML file. $XDG_CONFIG_HOME/imgtool/
    /// registries.toml by default.
    #[arg(long, value_name = "FILE", env = oci::REGISTRIES_VARIABLE)]
    registries: Option<PathBuf>,
}

impl Access {
    /// With the user's log-ins.
    pub(crate) fn open(&self) -> Result<oci::Access> {
        oci::Access::of_user(self.registries.as_deref(), self.offline)
    }
}
