//! `imgtool kernel diff`.

use imgrun::{Progress, Result};
use imgtool::cache::Cache;
use imgtool::kernel::Change;

use super::Place;

/// Show how the configurations of two kernels differ.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The name of a configured kernel, a kernel's bundle, or a .config.
    from: String,
    /// Another.
    to: String,
    #[command(flatten)]
    place: Place,
}

impl Args {
    pub(super) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let cache = Cache::of_user()?;
        let from = self.place.options(&self.from, &cache, progress)?;
        let to = self.place.options(&self.to, &cache, progress)?;
        let changes = from.changes(&to);
        if json {
            crate::cli::print(serde_json::json!({
                "from": self.from, "to": self.to, "changes": changes,
            }));
            return Ok(());
        }
        for Change { name, from, to } in &changes {
            crate::cli::print(format!("CONFIG_{name}: {from} -> {to}"));
        }
        progress.note(format!(
            "{} of {} and {} options differ",
            changes.len(),
            from.len(),
            to.len()
        ));
        Ok(())
    }
}
