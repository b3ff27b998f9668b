//! What came of a sync, for people, programs and Prometheus.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::config::Follow;
use super::escape;
use super::plan::{Action, Wish};
use super::state::Reached;
use crate::pull::Pulled;
use crate::{Error, Result, Stored};

/// All of it.
#[derive(Debug)]
pub struct Report {
    /// In the order of the configuration.
    pub outcomes: Vec<Outcome>,
    /// Old versions that went.
    pub removed: Vec<Stored>,
    /// Nothing was done.
    pub dry_run: bool,
    /// Seconds since 1970.
    pub began_s: u64,
    /// How long it took.
    pub seconds: f64,
    /// Where every name is now.
    pub reached: Vec<Reached>,
}

/// What came of one name.
#[derive(Debug)]
pub struct Outcome {
    /// The name.
    pub follow: Follow,
    /// Where it was before.
    pub previous: Option<Reached>,
    /// What was wanted, and what was pulled for it.
    pub done: Result<(Wish, Vec<Pulled>)>,
}

impl Outcome {
    fn fetched(&self) -> u64 {
        self.pulled().iter().map(|p| p.fetched_bytes).sum()
    }

    fn saved(&self) -> u64 {
        self.pulled().iter().map(|p| p.saved_bytes).sum()
    }

    fn pulled(&self) -> &[Pulled] {
        self.done.as_ref().map_or(&[], |(_, pulled)| pulled)
    }

    fn repaired(&self) -> usize {
        let items = self.done.as_ref().map_or(&[][..], |(wish, _)| &wish.items);
        items.iter().filter(|item| matches!(item.action, Action::Repair(_))).count()
    }

    /// What it took in all.
    fn action(&self) -> &'static str {
        let Ok((wish, _)) = &self.done else { return "failed" };
        let any = |name: &str| wish.items.iter().any(|item| item.action.name() == name);
        ["pull", "repair"].into_iter().find(|name| any(name)).unwrap_or("keep")
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let Follow { name, channel, .. } = &self.follow;
        let channel = channel.as_ref().map(|c| format!(" {c}")).unwrap_or_default();
        match &self.done {
            Err(e) => format!("{name}{channel}: failed: {e}"),
            Ok((wish, pulled)) => {
                let title = wish.entry.title();
                let why = wish.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                let amount = |bytes| crate::Unit::Bytes.amount(bytes);
                let bytes: u64 = wish.items.iter().filter_map(|item| item.fetch_bytes).sum();
                let bytes = match pulled.is_empty() {
                    _ if self.action() == "keep" => String::new(),
                    true => format!(", {} to fetch", amount(bytes)),
                    false => {
                        let (fetched, saved) = (amount(self.fetched()), amount(self.saved()));
                        format!(", {fetched} fetched, {saved} saved")
                    }
                };
                format!("{name}{channel}: {} {title}{bytes}{why}", self.action())
            }
        }
    }

    fn object(&self) -> Value {
        let mut value = json!({
            "name": self.follow.name, "channel": self.follow.channel, "arch": self.follow.arch,
            "action": self.action(), "ok": self.done.is_ok(),
            "previous": self.previous.as_ref().map(|p| json!({
                "version": p.version, "digest": p.digest,
            })),
            "fetched_bytes": self.fetched(), "saved_bytes": self.saved(),
        });
        match &self.done {
            Ok((wish, _)) => {
                value["version"] = json!(wish.entry.version);
                value["digest"] = json!(wish.entry.digest);
                value["why"] = json!(wish.why);
                let items = wish.items.iter().map(|item| {
                    json!({
                        "name": item.entry.name, "version": item.entry.version,
                        "digest": item.entry.digest, "action": item.action.name(),
                        "fetch_bytes": item.fetch_bytes,
                    })
                });
                value["bundles"] = items.collect();
            }
            Err(e) => {
                value["error"] = json!({
                    "class": e.class().name(), "message": e.to_string(), "hint": e.hint_text(),
                });
            }
        }
        value
    }
}

impl Report {
    /// The first error, where there was one.
    pub fn into_error(self) -> Option<Error> {
        self.outcomes.into_iter().find_map(|outcome| outcome.done.err())
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        let removed = self.removed.iter().map(|s| {
            json!({
                "name": s.manifest.name, "version": s.manifest.version, "digest": s.digest,
            })
        });
        json!({
            "ok": self.outcomes.iter().all(|o| o.done.is_ok()), "dry_run": self.dry_run,
            "began_unix_s": self.began_s, "seconds": self.seconds,
            "follows": self.outcomes.iter().map(Outcome::object).collect::<Vec<_>>(),
            "removed": removed.collect::<Vec<_>>(),
        })
    }

    /// In Prometheus' text format, for the node exporter's textfile collector.
    pub fn to_prometheus(&self) -> String {
        let mut text = String::new();
        let mut gauge = |name: &str, help: &str, values: Vec<(String, f64)>| {
            let _ = writeln!(text, "# HELP imgrun_{name} {help}\n# TYPE imgrun_{name} gauge");
            for (labels, value) in values {
                let _ = writeln!(text, "imgrun_{name}{labels} {value}");
            }
        };
        let all = |value: &dyn Fn(&Outcome) -> f64| -> Vec<(String, f64)> {
            self.outcomes.iter().map(|o| (labels(&o.follow, ""), value(o))).collect()
        };
        let began = vec![(String::new(), self.began_s as f64)];
        gauge("sync_timestamp_seconds", "When the last sync began.", began);
        gauge("sync_seconds", "How long it took.", vec![(String::new(), self.seconds)]);
        let ok = all(&|o| f64::from(u8::from(o.done.is_ok())));
        gauge("sync_success", "Whether the last sync brought the name up to date.", ok);
        gauge("sync_fetched_bytes", "What it fetched.", all(&|o| o.fetched() as f64));
        gauge("sync_saved_bytes", "What was here already.", all(&|o| o.saved() as f64));
        gauge("sync_repaired_bundles", "What was damaged.", all(&|o| o.repaired() as f64));
        let reached = |o: &Outcome| {
            let f = &o.follow;
            let key = (&f.name, &f.channel, f.arch);
            self.reached.iter().find(|r| (&r.name, &r.channel, r.arch) == key)
        };
        let right = self.outcomes.iter().filter_map(|o| Some((o, reached(o)?)));
        let right: Vec<_> = right.collect();
        let times = right.iter().map(|(o, r)| (labels(&o.follow, ""), r.right_at_s as f64));
        let help = "When a sync last brought the name up to date.";
        gauge("sync_success_timestamp_seconds", help, times.collect());
        let infos = right.iter().map(|(o, r)| {
            let more = format!(
                ",version=\"{}\",digest=\"{}\"",
                escape(r.version.as_str()),
                escape(&r.digest.to_string())
            );
            (labels(&o.follow, &more), 1.0)
        });
        gauge("bundle_info", "The version that is here.", infos.collect());
        text
    }
}

fn labels(follow: &Follow, more: &str) -> String {
    let channel = follow.channel.as_ref().map_or("", |channel| channel.as_str());
    let (name, arch) = (escape(follow.name.as_str()), follow.arch.name());
    format!("{{name=\"{name}\",channel=\"{}\",arch=\"{arch}\"{more}}}", escape(channel))
}
