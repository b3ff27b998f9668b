//! The flags of all verbs that work on a catalog: where it is, whom to trust, which keys there are.

use std::fs;
use std::path::PathBuf;

use bundle::Digest;
use imgrun::catalog::Catalog;
use imgrun::depot::Depot;
use imgrun::tuf::{Clock, Memory, PublicKey, Root};
use imgrun::{Error, Progress, Result};
use imgtool::depot::probe::{self, Verdict};
use imgtool::depot::{self, Writable};
use imgtool::publish::Publisher;
use imgtool::sign::{KEYS_VARIABLE, Keys};

use super::passphrase;

/// Names a directory to use instead of `$XDG_STATE_HOME/imgtool`.
const STATE_VARIABLE: &str = "IMGTOOL_STATE";
/// A root is at most this long.
const ROOT_BYTES_MAX: u64 = 512 << 10;
/// Beside the memory: a store that was tried once.
const PROBED: &str = "exclusive";

/// Whom to trust.
#[derive(clap::Args, Debug)]
pub(crate) struct Trust {
    /// The catalog's root of trust: the root.json that its owner gave you. Needed once; then this
    /// host remembers.
    #[arg(long, value_name = "FILE", env = "IMGTOOL_ROOT")]
    root: Option<PathBuf>,
    /// Where this host remembers the catalogs that it has seen. $XDG_STATE_HOME/imgtool by default.
    #[arg(long, value_name = "DIR", env = STATE_VARIABLE)]
    state: Option<PathBuf>,
}

/// With which keys, and how carefully.
#[derive(clap::Args, Debug)]
pub(crate) struct Sign {
    #[command(flatten)]
    pub(crate) trust: Trust,
    #[command(flatten)]
    pub(crate) keys: KeyDir,
    /// Take a store that overwrites what is there, or lets two publishers both win. You promise
    /// that nobody else publishes to it at the same time.
    #[arg(long)]
    single_writer: bool,
}

/// Where private keys are.
#[derive(clap::Args, Debug)]
pub(crate) struct KeyDir {
    /// Where the private keys are. $XDG_CONFIG_HOME/imgtool/keys by default; keys in
    /// IMGTOOL_SIGNING_KEYS are used, too.
    #[arg(long = "keys", value_name = "DIR", env = imgtool::sign::KEYS_DIR_VARIABLE)]
    dir: Option<PathBuf>,
}

impl KeyDir {
    /// The keys at hand.
    pub(crate) fn load(&self) -> Result<Keys> {
        let dir = self.dir.clone().map_or_else(Keys::default_dir, Ok)?;
        let environment = std::env::var(KEYS_VARIABLE).ok();
        Keys::load(&dir, environment.as_deref(), &passphrase::ask)
    }
}

impl Trust {
    /// This host's memory of the catalog in `depot`; begun with `--root` where that is given.
    pub(crate) fn memory(&self, depot: &dyn Depot) -> Result<Memory> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let dir = self
            .state
            .clone()
            .or_else(|| set("XDG_STATE_HOME").map(|dir| dir.join("imgtool")))
            .or_else(|| set("HOME").map(|dir| dir.join(".local/state/imgtool")))
            .ok_or_else(|| {
                Error::host("no place to remember catalogs: HOME is not set")
                    .hint(format!("set {STATE_VARIABLE} to a directory"))
            })?;
        let title = depot.title();
        let memory = Memory::open(dir.join("catalogs").join(Digest::of(&title).hex()))?;
        if let Some(file) = &self.root {
            let about = |e| Error::io(file.display(), e);
            if fs::metadata(file).map_err(about)?.len() > ROOT_BYTES_MAX {
                return Err(Error::input(format!("{}: it is no root.json", file.display())));
            }
            let root = fs::read(file).map_err(about)?;
            memory.begin(&title, &root, &file.display().to_string())?;
        }
        Ok(memory)
    }

    /// The catalog at `store`, verified; out of date only where `clock` says so.
    pub(crate) fn open(&self, store: &str, clock: Clock) -> Result<(Box<dyn Depot>, Catalog)> {
        let depot = depot::open_to_read(store)?;
        let memory = self.memory(depot.as_ref())?;
        let catalog = Catalog::open(depot.as_ref(), &memory, clock)?;
        Ok((depot, catalog))
    }
}

impl Sign {
    /// Lets `work` look at `store`, and write nothing.
    pub(crate) fn planner<T>(
        &self,
        store: &str,
        progress: &Progress,
        work: impl FnOnce(&Publisher<'_>) -> Result<T>,
    ) -> Result<T> {
        self.with(store, progress, |_, _| Ok(()), work)
    }

    /// Lets `work` publish to `store`.
    pub(crate) fn publisher<T>(
        &self,
        store: &str,
        progress: &Progress,
        work: impl FnOnce(&Publisher<'_>) -> Result<T>,
    ) -> Result<T> {
        self.with(store, progress, |depot, memory| self.check(depot, memory, progress), work)
    }

    fn with<T>(
        &self,
        store: &str,
        progress: &Progress,
        check: impl FnOnce(&dyn Writable, &Memory) -> Result<()>,
        work: impl FnOnce(&Publisher<'_>) -> Result<T>,
    ) -> Result<T> {
        let depot = depot::open(store)?;
        let memory = self.trust.memory(depot.as_ref())?;
        let keys = self.keys.load()?;
        check(depot.as_ref(), &memory)?;
        work(&Publisher::new(depot.as_ref(), &memory, &keys, &passphrase::ask, progress))
    }

    /// Refuses a store in which publishers would lose each other's work. A store is tried once;
    /// that it is right is remembered.
    fn check(&self, depot: &dyn Writable, memory: &Memory, progress: &Progress) -> Result<()> {
        let mark = memory.dir().join(PROBED);
        if self.single_writer || depot.exclusive() == Some(true) || mark.exists() {
            return Ok(());
        }
        let title = depot.title();
        progress.note(format!("trying whether {title} lets only one publisher win"));
        match probe::probe(depot)? {
            Verdict::Exclusive => fs::write(&mark, b"").map_err(|e| Error::io(mark.display(), e)),
            Verdict::Broken(why) => Err(Error::host(format!(
                "{title}: several publishers can not share this store: {why}"
            ))
            .hint("--single-writer, if you make sure that nobody else publishes at the same time")),
        }
    }
}

/// The public key called `name`: one at hand, or one of the catalog's by the beginning of its id.
pub(crate) fn key(keys: &Keys, root: &Root, name: &str) -> Result<PublicKey> {
    let listed: Vec<_> = root.keys.iter().filter(|(id, _)| id.starts_with(name)).collect();
    match (keys.find(name), listed.as_slice()) {
        (Ok(known), _) => Ok(known.public.clone()),
        (Err(_), [(_, key)]) if name.len() >= 8 => Ok((*key).clone()),
        (Err(error), _) => Err(error),
    }
}
