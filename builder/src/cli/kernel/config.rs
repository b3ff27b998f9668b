//! `imgtool kernel config`.

use bundle::Name;
use imgrun::{Progress, Result};
use imgtool::cache::Cache;
use imgtool::kernel;

use super::Place;

/// Change a kernel's configuration with menuconfig, and write the change back as a fragment.
///
/// The fragment holds as few lines as give the edited configuration. An option that a fragment asks
/// for otherwise is only named: change that line by hand, fragments do not overrule each other.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The name of a configured kernel.
    name: String,
    /// Edit with this target of the kernel's makefile (nconfig), or with this program, if it has a
    /// slash in it: it is given the path of the .config.
    #[arg(long, value_name = "EDITOR", default_value = kernel::EDITOR)]
    with: String,
    /// The fragment to write, or to add to; NAME-edits by default.
    #[arg(long, value_name = "FRAGMENT")]
    fragment: Option<Name>,
    #[command(flatten)]
    place: Place,
}

impl Args {
    pub(super) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let (config, arch) = (self.place.find(&self.name)?, self.place.arch());
        let cache = Cache::of_user()?;
        let Place { offline, .. } = self.place;
        let edited = kernel::edit(&config, arch, &self.with, offline, &cache, progress)?;
        let name = match &self.fragment {
            Some(name) => name.to_string(),
            None => format!("{}-edits", self.name),
        };
        let path = self.place.fragments().join(format!("{name}.config"));
        let written = kernel::write_fragment(&edited, &path)?;
        for (option, wanted) in &edited.conflicts {
            let (old, new) = (&wanted.value, &edited.options[option]);
            progress.note(format!("{}: CONFIG_{option}={old} is now {new}: change it", wanted.at));
        }
        if json {
            crate::cli::print(serde_json::json!({
                "fragment": written.as_ref().map(|_| &path), "options": edited.options,
                "conflicts": edited.conflicts,
            }));
            return Ok(());
        }
        match written {
            Some(text) => {
                crate::cli::print(text.trim_end());
                progress.note(format!("written to {}", path.display()));
                let listed = kernel::show(&config, arch)?.fragments.iter().any(|f| f.name == name);
                if !listed {
                    progress
                        .note(format!("add \"{name}\" to the fragments in {}", config.display()));
                }
            }
            None => progress.note("nothing to write"),
        }
        Ok(())
    }
}
