//! `imgtool key …`.

use std::collections::BTreeSet;

use clap::Subcommand;
use imgrun::tuf::{Clock, Role, time};
use imgrun::{Progress, Result};

use super::passphrase;
use super::place::{KeyDir, Sign, Trust};

/// A key's whole id: a SHA-256.
const ID_DIGITS: usize = 64;

/// The keys that sign catalogs.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a new ed25519 key. Its file is encrypted: PKCS#8 with a passphrase, mode 0600.
    New(New),
    /// List the keys at hand, and what they sign for in a catalog.
    List(List),
    /// Give a role a new key in the place of an old one, or one more key, or another threshold.
    /// The root keys sign that; readers follow without being told.
    Rotate(Rotate),
    /// Take a key out of every role: what it signs from now on is worth nothing.
    Expire(Expire),
}

#[derive(clap::Args, Debug)]
struct New {
    /// Its name.
    name: String,
    /// Do not encrypt it; for keys that go into a CI's secrets.
    #[arg(long)]
    no_passphrase: bool,
    #[command(flatten)]
    keys: KeyDir,
}

#[derive(clap::Args, Debug)]
struct List {
    /// A store whose catalog tells what the keys sign for.
    store: Option<String>,
    #[command(flatten)]
    keys: KeyDir,
    #[command(flatten)]
    trust: Trust,
}

#[derive(clap::Args, Debug)]
#[group(id = "what", required = true, multiple = true, args = ["old", "new", "threshold"])]
struct Rotate {
    /// The store whose catalog it is.
    store: String,
    /// root, targets, snapshot or timestamp.
    #[arg(long)]
    role: Role,
    /// The key that goes: its name, or the beginning of its id.
    #[arg(long, value_name = "KEY")]
    old: Option<String>,
    /// The key that comes.
    #[arg(long, value_name = "KEY")]
    new: Option<String>,
    /// How many keys of the role have to sign from now on.
    #[arg(long, value_name = "N")]
    threshold: Option<u32>,
    #[command(flatten)]
    sign: Sign,
}

#[derive(clap::Args, Debug)]
struct Expire {
    /// The store whose catalog it is.
    store: String,
    /// The key: its name, or the beginning of its id.
    key: String,
    #[command(flatten)]
    sign: Sign,
}

impl Args {
    /// Does it.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        match self.verb {
            Verb::New(args) => args.run(json),
            Verb::List(args) => args.run(json),
            Verb::Rotate(args) => args.run(json, progress),
            Verb::Expire(args) => args.run(json, progress),
        }
    }
}

impl New {
    fn run(self, json: bool) -> Result<()> {
        let keys = self.keys.load()?;
        let (public, path) = match self.no_passphrase {
            true => keys.create(&self.name, &|_| Ok(String::new()))?,
            false => keys.create(&self.name, &passphrase::ask_new)?,
        };
        if json {
            super::print(serde_json::json!({ "id": public.id(), "path": path }));
        } else {
            super::print(public.id());
        }
        Ok(())
    }
}

impl List {
    fn run(self, json: bool) -> Result<()> {
        let keys = self.keys.load()?;
        let root = match &self.store {
            Some(store) => Some(self.trust.open(store, Clock::Ignored)?.1.trusted.root),
            None => None,
        };
        let roles = |public: &imgrun::tuf::PublicKey| -> Vec<&str> {
            let root = root.as_ref();
            let signs = |role: &Role| {
                root.is_some_and(|root| root.keys_of(*role).iter().any(|(_, key)| *key == public))
            };
            Role::ALL.into_iter().filter(signs).map(Role::name).collect()
        };
        let mut lines = Vec::new();
        for key in keys.iter() {
            let (name, id, roles) = (&key.name, key.public.id(), roles(&key.public));
            lines.push((name.clone(), id, roles, true));
        }
        let here: BTreeSet<_> = keys.iter().map(|key| key.public.clone().id()).collect();
        for (id, public) in root.iter().flat_map(|root| &root.keys) {
            if !here.contains(&public.id()) {
                lines.push(("-".to_string(), id.clone(), roles(public), false));
            }
        }
        if json {
            let keys: Vec<_> = lines
                .iter()
                .map(|(name, id, roles, here)| {
                    serde_json::json!({ "name": name, "id": id, "roles": roles, "here": here })
                })
                .collect();
            super::print(serde_json::json!({ "keys": keys }));
            return Ok(());
        }
        for (name, id, roles, _) in lines {
            super::print(format!("{name:<20}  {id}  {}", roles.join(",")).trim_end().to_string());
        }
        for role in root.iter().flat_map(|_| Role::ALL) {
            let root = root.as_ref().map(|root| (root.keys_of(role).len(), root.threshold(role)));
            let (keys, threshold) = root.unwrap_or_default();
            super::print(format!("{role}: {threshold} of {keys} keys have to sign"));
        }
        if let Some(root) = root {
            super::print(format!("the root expires at {}", time::to_text(root.expires.0)));
        }
        Ok(())
    }
}

fn said(version: u64, json: bool) {
    if json {
        super::print(serde_json::json!({ "root": version }));
    } else {
        super::print(format!("root {version}"));
    }
}

impl Rotate {
    fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let root = self.sign.planner(&self.store, progress, |publisher| publisher.root())?;
        let keys = self.sign.keys.load()?;
        let new = self.new.as_deref().map(|name| keys.find(name).map(|k| k.public.clone()));
        let new = new.transpose()?;
        // Who is named by a whole id and no longer there was taken out before.
        let has_new = root.keys_of(self.role).iter().any(|(_, key)| Some(*key) == new.as_ref());
        let gone =
            |name: &&str| has_new && name.len() == ID_DIGITS && !root.keys.contains_key(*name);
        let old = self.old.as_deref().filter(|name| !gone(name));
        let old = old.map(|name| super::place::key(&keys, &root, name)).transpose()?;
        let version = self.sign.publisher(&self.store, progress, |publisher| {
            publisher.rotate(self.role, old.as_ref(), new.as_ref(), self.threshold)
        })?;
        said(version, json);
        Ok(())
    }
}

impl Expire {
    fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let root = self.sign.planner(&self.store, progress, |publisher| publisher.root())?;
        let key = super::place::key(&self.sign.keys.load()?, &root, &self.key)?;
        let expire = |publisher: &imgtool::publish::Publisher<'_>| publisher.expire(&key);
        let version = self.sign.publisher(&self.store, progress, expire)?;
        said(version, json);
        Ok(())
    }
}
