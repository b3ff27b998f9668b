//! `imgrun rm NAME…`

use imgrun::Result;

use super::{Shell, say};

/// Remove bundles from the local store
///
/// Machines that run from a bundle go on; their files are freed when they end.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// name, name:version, or the first twelve or more digits of the digest
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        for name in self.names {
            let (digest, title) = match store.damaged(&name)? {
                Some(digest) => (digest, "(damaged)".to_string()),
                None => {
                    let stored = store.find(&name, None, &shell.progress)?;
                    (stored.digest, stored.title())
                }
            };
            store.remove(digest)?;
            say(&format!("{title} {digest}"))?;
        }
        Ok(())
    }
}
