//! `imgrun import FILE…`

use std::path::PathBuf;

use imgrun::Result;

use super::{Shell, say};

/// Take bundles into the local store
///
/// A bundle that is there already is left alone. Nothing is left of an import that fails.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Packed bundles: images or kernels (.tar.zst)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        for file in self.files {
            let store = store.clone();
            let imported = shell
                .blocking(move |progress, cancel| store.import(&file, progress, cancel))
                .await?;
            let known = if imported.new { "" } else { " (was there)" };
            say(&format!("{} {}{known}", imported.bundle.title(), imported.bundle.digest))?;
        }
        Ok(())
    }
}
