//! `imgrun cp FROM TO`

use std::path::Path;

use imgrun::kept::Kept;
use imgrun::{Error, Hostname, Result};
use serde_json::json;

use super::{Shell, say};

/// Copy files and directories into a machine that runs, or out of it
///
/// One of the two is MACHINE:PATH. A directory that is there takes what is copied in, anything
/// else there is replaced. Modes, times, symlinks and holes stay; devices, FIFOs and sockets are
/// passed over. What comes out of a machine loses set-user-id, set-group-id and sticky bits, and
/// can go nowhere but to TO, whatever the machine says.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// PATH or MACHINE:PATH
    from: String,
    /// PATH or MACHINE:PATH
    to: String,
    /// As this user of the machine's: name, uid, name:group or uid:gid
    #[arg(short, long)]
    user: Option<String>,
    /// Print one JSON object on what was copied
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  imgrun cp ./site web:/srv            becomes /srv/site where /srv is a directory
  imgrun cp web:/var/log/nginx logs";

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let (from, to, user) = (&self.from, &self.to, self.user.as_deref());
        let (name, inside, out) = match (inside(from), inside(to)) {
            (Some((name, path)), None) => (name, path, true),
            (None, Some((name, path))) => (name, path, false),
            _ => {
                return Err(Error::usage("one of the two must be MACHINE:PATH")
                    .hint("a file with a colon in its name is ./NAME"));
            }
        };
        let kept = Kept::get(&shell.store().await?, name)?;
        let copy = async {
            let guest = kept.guest().await?;
            match out {
                true => guest.copy_out(inside, Path::new(to), user).await,
                false => guest.copy_in(Path::new(from), inside, user).await,
            }
        };
        let copied = shell.unless_interrupted(copy).await?;
        if copied.passed_over > 0 {
            shell.progress.note(format!("{} special files were passed over", copied.passed_over));
        }
        match self.json {
            true => say(&json!({
                "entries": copied.entries, "bytes": copied.bytes,
                "passed_over": copied.passed_over,
            })
            .to_string()),
            false => Ok(()),
        }
    }
}

/// `MACHINE:PATH` in its parts.
fn inside(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(name, _)| name.parse::<Hostname>().is_ok())
}
