//! The catalogs that this host follows: where they are, and whom to trust.
//!
//! ```toml
//! # ~/.config/imgrun/catalogs.toml
//! # Catalogs are asked in this order: the first one that has the name is taken.
//! [[catalog]]
//! name = "house"                          # under this name the host remembers what it has seen
//! root = "house-root.json"                # the root.json that its owner gave you; beside this file
//! depots = [                              # the same catalog in several places, asked in this order
//!   "https://images.example/stable",
//!   "file:/srv/mirror",
//! ]
//! ```
//! There is no trust on first use: without a root nothing is believed. What was seen of a catalog is
//! remembered under its name, whatever depot showed it, so that no mirror can go back in time.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bundle::{Digest, Name};
use serde::Deserialize;

use crate::catalog::Catalog;
use crate::depot::{self, Depot};
use crate::tuf::{Clock, Memory};
use crate::{Class, Error, Progress, Result, Store};

/// The file's name.
const FILE: &str = "catalogs.toml";
/// Names a file to use instead.
const VARIABLE: &str = "IMGRUN_CATALOGS";
/// For all users of this machine.
const SYSTEM: &str = "/etc/imgrun/catalogs.toml";
/// A configuration is at most this long.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// A root is at most this long.
const ROOT_BYTES_MAX: u64 = 512 << 10;

/// What the user says of catalogs on the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Depots to ask instead of those in the file.
    pub from: Vec<String>,
    /// A catalog's root of trust.
    pub root: Option<PathBuf>,
    /// The file to read.
    pub config: Option<PathBuf>,
}

/// A catalog that this host follows.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Where it is: in the order in which to ask.
    pub depots: Vec<Arc<dyn Depot>>,
    memory: Memory,
    /// The depots are those of `--from`: whose catalog is there, its signatures tell.
    pub(crate) is_guess: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    catalog: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: Name,
    root: PathBuf,
    depots: Vec<String>,
}

impl Feed {
    /// The catalogs that `flags` and the configuration file name; never none.
    ///
    /// # Errors
    /// [`Class::Usage`] and [`Class::Input`] where they make no sense, [`Class::Trust`] where no
    /// catalog is known, or a root is another owner's than the one that this host has seen.
    pub fn all(flags: &Flags, store: &Store) -> Result<Vec<Feed>> {
        let catalogs = store.home().join("catalogs");
        let from = open_all(&flags.from)?;
        // The last way to an address is the one that it names.
        let first = flags.from.first().map(|address| depot::open(address)).transpose()?;
        if let Some(root) = &flags.root {
            let first = first.as_ref().ok_or_else(|| {
                Error::usage("--root is for a catalog that --from names")
                    .hint("--from DEPOT --root FILE")
            })?;
            let memory = memory(&catalogs, &place_of(first.as_ref()))?;
            begin(&memory, &first.title(), root)?;
            return Ok(vec![Feed { depots: from, memory, is_guess: false }]);
        }
        let (path, config) = read(flags)?;
        if let Some(first) = &first {
            // A depot that was named with its root before is known by that.
            let known = memory(&catalogs, &place_of(first.as_ref()))?;
            if known.load()?.is_some() {
                return Ok(vec![Feed { depots: from, memory: known, is_guess: false }]);
            }
        }
        let mut feeds = Vec::new();
        for listed in &config.catalog {
            let memory = memory(&catalogs, listed.name.as_str())?;
            let root = path.parent().unwrap_or(Path::new("")).join(&listed.root);
            let about = |e: Error| e.within(format!("{}: {}", path.display(), listed.name));
            begin(&memory, listed.name.as_str(), &root).map_err(about)?;
            let depots = match from.is_empty() {
                false => from.clone(),
                true => open_all(&listed.depots).map_err(about)?,
            };
            feeds.push(Feed { depots, memory, is_guess: !from.is_empty() });
        }
        if feeds.is_empty() {
            let what = if from.is_empty() { "no catalog is known here" } else { NO_ROOT };
            return Err(Error::trust(what)
                .hint(format!("--from DEPOT --root FILE, or list it in {}", path.display())));
        }
        Ok(feeds)
    }

    /// Whether any catalog is configured.
    ///
    /// # Errors
    /// Where the configuration makes no sense.
    pub fn is_any_known() -> Result<bool> {
        Ok(!read(&Flags::default())?.1.catalog.is_empty())
    }

    /// What the first depot that can be believed says today. Those before it are asked last from
    /// then on.
    ///
    /// # Errors
    /// The first depot's, where none can.
    pub fn catalog(&mut self, clock: Clock, progress: &Progress) -> Result<Catalog> {
        let mut first = None;
        for (number, depot) in self.depots.iter().enumerate() {
            match Catalog::open(depot.as_ref(), &self.memory, clock) {
                Ok(catalog) => {
                    self.depots.rotate_left(number);
                    return Ok(catalog);
                }
                Err(e) if matches!(e.class(), Class::Host | Class::Interrupted) => return Err(e),
                Err(e) => {
                    if let Some(next) = self.depots.get(number + 1) {
                        progress.note(format!("{e}; going on with {}", next.title()));
                    }
                    first.get_or_insert(e);
                }
            }
        }
        Err(first.unwrap_or_else(|| Error::usage("a catalog without depots")))
    }
}

const NO_ROOT: &str = "no root of trust is known for this depot";

/// Each of `addresses` with all ways to it.
fn open_all(addresses: &[String]) -> Result<Vec<Arc<dyn Depot>>> {
    let ways = addresses.iter().map(|address| depot::ways(address));
    Ok(ways.collect::<Result<Vec<_>>>()?.into_iter().flatten().map(Arc::from).collect())
}

/// Names the memory of a catalog that has no other name than its address; no configured name has
/// an underscore first.
fn place_of(depot: &dyn Depot) -> String {
    format!("_{}", Digest::of(depot.title()).hex())
}

fn memory(catalogs: &Path, name: &str) -> Result<Memory> {
    Memory::open(catalogs.join(name))
}

fn begin(memory: &Memory, place: &str, root: &Path) -> Result<()> {
    let about = |e| Error::io(root.display(), e);
    if fs::metadata(root).map_err(about)?.len() > ROOT_BYTES_MAX {
        return Err(Error::input(format!("{}: it is no root.json", root.display())));
    }
    memory.begin(place, &fs::read(root).map_err(about)?, &root.display().to_string())
}

/// The configuration and where it is, or would be.
fn read(flags: &Flags) -> Result<(PathBuf, Config)> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = flags.config.clone().or_else(|| set(VARIABLE)) {
        let config = read_file(&path)?;
        let config = config.ok_or_else(|| Error::io(path.display(), ErrorKind::NotFound.into()))?;
        return Ok((path, config));
    }
    let home = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let users = home.map(|home| home.join("imgrun").join(FILE));
    for path in users.iter().chain([&PathBuf::from(SYSTEM)]) {
        if let Some(config) = read_file(path)? {
            return Ok((path.clone(), config));
        }
    }
    Ok((users.unwrap_or_else(|| SYSTEM.into()), Config::default()))
}

fn read_file(path: &Path) -> Result<Option<Config>> {
    let about = |e| Error::io(path.display(), e);
    let text = match fs::metadata(path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(about(e)),
        Ok(metadata) if metadata.len() > CONFIG_BYTES_MAX => {
            return Err(Error::input(format!("{}: too long", path.display())));
        }
        Ok(_) => fs::read_to_string(path).map_err(about)?,
    };
    let wrong = |why: String| Error::input(format!("{}: {why}", path.display()));
    let config: Config =
        toml::from_str(&text).map_err(|e| wrong(toml_place(&text, &e)).hint(SHAPE))?;
    let mut names = HashSet::new();
    for listed in &config.catalog {
        if !names.insert(&listed.name) {
            return Err(wrong(format!("two catalogs are called {}", listed.name)));
        }
        if listed.depots.is_empty() {
            return Err(wrong(format!("the catalog {} has no depots", listed.name)));
        }
    }
    Ok(Some(config))
}

const SHAPE: &str = "imgrun pull --help shows what it looks like";

/// One line: where in the text, and what is wrong there.
pub(crate) fn toml_place(text: &str, e: &toml::de::Error) -> String {
    let message = e.message().lines().next().unwrap_or_default().to_string();
    let Some(span) = e.span() else { return message };
    let line = text.get(..span.start).map_or(0, |before| before.matches('\n').count()) + 1;
    format!("line {line}: {message}")
}
