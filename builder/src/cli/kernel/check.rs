//! `imgtool kernel check`.

use std::path::Path;

use imgrun::{Error, Progress, Result};
use imgtool::cache::Cache;
use imgtool::kernel::needs::{self, Missing};

use super::Place;

/// Check whether a kernel has what an image or a program needs.
///
/// Ends with 3 if something is missing without which nothing works. What is only advised is shown.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// An image's bundle, or programs: agent, docker, podman, systemd; several with commas.
    needs: String,
    /// The name of a configured kernel, a kernel's bundle, or a .config.
    kernel: String,
    #[command(flatten)]
    place: Place,
}

impl Args {
    pub(super) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let tables: Vec<&str> = match Path::new(&self.needs) {
            image if image.is_file() => needs::of_image(image)?,
            _ => self.needs.split(',').map(str::trim).collect(),
        };
        // A wrong name is said before a kernel is configured.
        for table in &tables {
            needs::source(table)?;
        }
        let options = self.place.options(&self.kernel, &Cache::of_user()?, progress)?;
        let mut missing = Vec::new();
        for table in &tables {
            missing.extend(needs::check(table, &options, &self.place.fragments())?);
        }
        if json {
            crate::cli::print(serde_json::json!({
                "kernel": self.kernel, "needs": tables, "missing": missing,
            }));
        } else {
            missing.iter().for_each(|missing| crate::cli::print(line(missing)));
        }
        let needed = missing.iter().filter(|missing| !missing.advised).count();
        let (kernel, tables) = (&self.kernel, tables.join(" and "));
        match (needed, missing.len()) {
            (0, 0) => progress.note(format!("{kernel} has all that {tables} can use")),
            (0, advised) => {
                let text = format!("{kernel} has what {tables} needs; {advised} more are advised");
                progress.note(text);
            }
            _ => {
                return Err(Error::input(format!("{kernel} lacks {needed} options for {tables}")));
            }
        }
        Ok(())
    }
}

/// `needed   CONFIG_VETH  docker: a container's end of the network (fragment containers)`
fn line(missing: &Missing) -> String {
    let Missing { by, options, why, advised, module, fragment } = missing;
    let kind = if *advised { "advised" } else { "needed" };
    let options: Vec<String> = options.iter().map(|name| format!("CONFIG_{name}")).collect();
    let options = options.join(" or ");
    let module = if *module { "; it is a module, and imgrun loads none" } else { "" };
    let fragment = fragment.as_ref().map(|name| format!(" (fragment {name})")).unwrap_or_default();
    format!("{kind:<8} {options}  {by}: {why}{module}{fragment}")
}
