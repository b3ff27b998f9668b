//! `imgrun verify [NAME…]`

use bundle::Digest;
use imgrun::offer::Offer;
use imgrun::{Cancel, Class, Damage, Error, Progress, Result, Store};
use serde_json::{Value, json};

use super::pull::SourceArgs;
use super::{Shell, say};

/// Compare bundles in the local store with what they were, byte for byte
///
/// With --repair the damaged pieces are fetched again, from the catalog that lists the bundle; all
/// others are taken over. Machines that run from it are not disturbed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// name, name:version, or the first twelve or more digits of the digest; all where none is given
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Fetch what is damaged
    #[arg(long)]
    repair: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceArgs,
}

/// What was found of one bundle, and what was done.
struct Finding {
    digest: Digest,
    title: String,
    damage: Damage,
    repaired: Option<Result<u64>>,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        let json = self.json;
        let work = shell.blocking(move |progress, cancel| self.perform(&store, progress, cancel));
        let findings = work.await?;
        if json {
            let all: Vec<Value> = findings.iter().map(Finding::object).collect();
            say(&Value::from(all).to_string())?;
        } else {
            findings.iter().try_for_each(|finding| say(&finding.line()))?;
        }
        let left = findings.iter().filter(|f| !f.is_right()).count();
        match left {
            0 => Ok(()),
            _ => Err(findings
                .into_iter()
                .find_map(|f| f.repaired.and_then(Result::err))
                .unwrap_or_else(|| {
                    Error::new(Class::Trust, format!("{left} bundles are damaged"))
                        .hint("imgrun verify --repair fetches what is missing from a catalog")
                })),
        }
    }

    fn perform(self, store: &Store, progress: &Progress, cancel: &Cancel) -> Result<Vec<Finding>> {
        let mut digests = Vec::new();
        for name in &self.names {
            digests.push(match store.damaged(name)? {
                Some(digest) => digest,
                None => store.find(name, None, progress)?.digest,
            });
        }
        if digests.is_empty() {
            digests = store.digests()?;
            digests.sort();
        }
        let mut findings = Vec::new();
        for digest in digests {
            let damage = store.verify(digest, progress, cancel)?;
            let stored = store.by_digest(digest).ok().flatten();
            let title = stored.map_or("(damaged)".to_string(), |stored| stored.title());
            let repaired = (self.repair && !damage.is_none())
                .then(|| repair(store, digest, &self.source, progress, cancel));
            cancel.check()?;
            findings.push(Finding { digest, title, damage, repaired });
        }
        Ok(findings)
    }
}

/// Fetches what is damaged of a bundle; returns how many bytes that were.
fn repair(
    store: &Store,
    digest: Digest,
    source: &SourceArgs,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<u64> {
    let offer = Offer::of_digest(source.feeds(store)?, digest, progress)?;
    let offer = offer.ok_or_else(|| {
        Error::input(format!("no catalog lists {digest}"))
            .hint("remove it, and import the file that it came from: imgrun rm, imgrun import")
    })?;
    let pulled = offer.repair(store, digest, &source.options(), progress, cancel)?;
    Ok(pulled.fetched_bytes)
}

impl Finding {
    fn is_right(&self) -> bool {
        self.damage.is_none() || matches!(self.repaired, Some(Ok(_)))
    }

    fn line(&self) -> String {
        let what = match &self.repaired {
            _ if self.damage.is_none() => "ok".to_string(),
            Some(Ok(_)) => format!("repaired ({})", self.damage.faults.join(", ")),
            _ => format!("DAMAGED ({})", self.damage.faults.join(", ")),
        };
        format!("{} {} {what}", self.title, self.digest)
    }

    fn object(&self) -> Value {
        let fetched = self.repaired.as_ref().and_then(|r| r.as_ref().ok());
        json!({
            "title": self.title, "digest": self.digest, "ok": self.is_right(),
            "faults": self.damage.faults, "damaged_frames": self.damage.frames,
            "repaired": fetched.is_some(), "fetched_bytes": fetched,
        })
    }
}
