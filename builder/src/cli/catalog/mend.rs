//! `imgtool catalog mend`.

use std::io::{BufRead, IsTerminal, Write};

use imgrun::tuf::time;
use imgrun::{Error, Progress, Result};
use imgtool::publish::Mending;

use crate::cli::place::Sign;
use crate::cli::print;

/// Finish a change of lost keys that was cut: sign anew what the new root has taken over from them.
///
/// Readers are refused since then. Only what the root names by its digest is signed, never what the
/// lost keys may have signed since; but whether that is what was published last, only you know, if
/// this host has not seen the catalog since. So it is shown first.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The store.
    store: String,
    /// Sign without asking: for scripts.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    sign: Sign,
}

impl Args {
    /// Does it.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let mending = self.sign.planner(&self.store, progress, |publisher| publisher.mending())?;
        let (files, bundles) = (mending.files(), super::lines(&mending.entries));
        if !json || !self.yes {
            show(&mending).map_err(|e| Error::io("the terminal", e))?;
        }
        if !self.yes {
            confirm()?;
        }
        let catalog = self.sign.publisher(&self.store, progress, |p| p.mend(mending))?;
        let timestamp = &catalog.trusted.timestamp;
        let (version, until) = (timestamp.version, time::to_text(timestamp.expires.0));
        if json {
            print(serde_json::json!({
                "signed_anew": files, "bundles": bundles,
                "timestamp": version, "expires": until,
            }));
        } else {
            print(format!("timestamp {version}, valid until {until}"));
        }
        Ok(())
    }
}

/// Says on stderr, as all questions, what would be signed.
fn show(mending: &Mending) -> std::io::Result<()> {
    let mut out = std::io::stderr().lock();
    for entry in &mending.entries {
        let (line, published) = (super::line(entry), &entry.about.published);
        writeln!(out, "{line}  published {published}")?;
    }
    let files = mending.files().join(", ");
    writeln!(out, "{} bundles, as {files} say", mending.entries.len())
}

fn confirm() -> Result<()> {
    let stdin = std::io::stdin();
    let refused = || Error::usage("nothing was signed");
    if !stdin.is_terminal() {
        return Err(refused().hint("--yes signs it, if that is what was published last"));
    }
    let about = |e| Error::io("the terminal", e);
    let question = b"Is that what was published last? It will be signed anew. [y/N] ";
    std::io::stderr().write_all(question).map_err(about)?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(about)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(refused()),
    }
}
