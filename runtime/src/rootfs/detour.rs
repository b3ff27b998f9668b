//! Entries that went through a symlink which a higher layer removed or replaced.
//!
//! `lib` is a symlink to `usr/lib` in layer 1, layer 2 has `lib/file` without naming `lib`, layer 3
//! removes `lib`. Laid bottom-up the file is at `usr/lib/file`. Laid top-down nobody knows of the
//! symlink when the file passes: where one then turns up, the layers are laid once more with what
//! was learned. Such images are rare, so all others pay for no more than looking out for it.

use std::collections::{HashMap, HashSet};

use super::merge::Level;
use super::path::{Name, Path, Wrong};
use crate::{Error, Result};

/// Symlinks followed for one path, as for the kernel.
pub(super) const FOLLOWED_MAX: usize = 40;
/// The layers are laid anew at most so many times.
const ROUNDS_MAX: usize = 40;

/// Where the entries of a layer that lie below a symlink belong.
#[derive(Debug, Default)]
pub struct Detours {
    /// The layer and the symlink's path, and where it points.
    ways: HashMap<(Level, Path), Path>,
    rounds: usize,
}

impl Detours {
    /// Where `level` means an entry at `path` to be.
    pub(super) fn follow(&self, level: Level, mut path: Path) -> Result<Path, Wrong> {
        if self.ways.is_empty() {
            return Ok(path);
        }
        for _ in 0..FOLLOWED_MAX {
            let names = path.names();
            let way = (1..names.len()).find_map(|n| {
                let to = self.ways.get(&(level, Path::of(&names[..n])));
                to.map(|to| to.append(&names[n..]))
            });
            match way {
                None => return Ok(path),
                Some(next) => path = next?,
            }
        }
        Err("it leads through too many symlinks")
    }

    /// Adds what one round of laying the layers found; false where that was nothing.
    ///
    /// # Errors
    /// Where a symlink leads to itself, out of the tree, or through what may be another symlink.
    pub fn learn(&mut self, shadows: Shadows) -> Result<bool> {
        self.rounds += 1;
        // What the lowest layer's entries are where they belong decides what the next layer's meet.
        let lowest = shadows.found.iter().map(|(level, _)| *level).min();
        for (level, symlink) in shadows.found.into_iter().filter(|(l, _)| Some(*l) == lowest) {
            let to = symlink.points_to().map_err(|why| symlink.wrong(why))?;
            let way = (level, symlink.path.clone());
            if self.rounds > ROUNDS_MAX || self.ways.insert(way, to).is_some() {
                return Err(symlink.wrong("they lead through too many symlinks"));
            }
        }
        Ok(lowest.is_some())
    }
}

/// A symlink of a layer.
#[derive(Clone, Debug)]
pub(super) struct Symlink {
    pub(super) path: Path,
    pub(super) target: Vec<u8>,
    pub(super) level: Level,
    /// Its layer.
    pub(super) origin: String,
}

impl Symlink {
    /// Where it points, by its words alone.
    fn points_to(&self) -> Result<Path, Wrong> {
        let parents = self.path.split().map_or(&[][..], |(parents, _)| parents);
        let is_absolute = self.target.first() == Some(&b'/');
        let mut names = if is_absolute { Vec::new() } else { parents.to_vec() };
        let mut went_down = false;
        for name in self.target.split(|&b| b == b'/') {
            match name {
                b"" | b"." => {}
                // What is above a directory that may be a symlink is for that symlink to say.
                b".." if went_down => return Err("its target goes down and up again"),
                b".." => {
                    names.pop();
                }
                _ => {
                    went_down = true;
                    names.push(name.into());
                }
            }
        }
        Path::default().append(&names)
    }

    fn wrong(&self, why: &str) -> Error {
        let path = String::from_utf8_lossy(&self.path.names().join(&b'/')).into_owned();
        Error::input(format!("entries below the symlink {path:?} have no place: {why}"))
            .within(&self.origin)
    }
}

/// What a layer has at a path.
#[derive(Debug)]
pub(super) enum Met {
    Directory,
    Symlink(Symlink),
    Other,
}

/// Looks out for such symlinks while layers are laid.
#[derive(Debug, Default)]
pub struct Shadows {
    /// Directories that are hidden, or no directories any more, but that entries of these higher
    /// layers lay in.
    below: HashMap<Path, Vec<Level>>,
    /// Those of the current layer.
    current: HashSet<Path>,
    /// Hidden directories that the current layer names: no symlinks to it.
    named: HashSet<Path>,
    /// What the current layer has where entries of higher ones lay in.
    met: HashMap<Path, Met>,
    /// What the current layer whites out, and what it has opaque.
    whited: Vec<Path>,
    opaque: Vec<Path>,
    /// Symlinks whose place a higher layer's directory has.
    replaced: HashSet<Path>,
    /// Levels whose entries went through a symlink.
    found: Vec<(Level, Symlink)>,
}

impl Shadows {
    /// An entry that lies in `parents` is hidden because the first `from` of them are.
    pub(super) fn pass(&mut self, parents: &[Name], from: usize) {
        for n in (from.max(1)..=parents.len()).rev() {
            // Who has the deepest has those above it.
            if !self.current.insert(Path::of(&parents[..n])) {
                break;
            }
        }
    }

    /// The current layer names a directory there that is hidden, itself or as a directory.
    pub(super) fn name(&mut self, path: &Path) {
        self.named.insert(path.clone());
    }

    /// The current layer hides `path` in lower ones.
    pub(super) fn white_out(&mut self, path: Path) {
        self.whited.push(path);
    }

    /// The current layer hides all that lower ones have below `path`.
    pub(super) fn make_opaque(&mut self, path: Path) {
        self.opaque.push(path);
    }

    /// The current layer has a symlink where higher ones have a directory: one of those that have
    /// `entered` it last and that `named` it last.
    pub(super) fn replace(&mut self, symlink: Symlink, entered: Level, named: Level) {
        self.replaced.insert(symlink.path.clone());
        // Layers between went through the symlink, until one named the directory.
        if (symlink.level + 1..named).contains(&entered) {
            self.watch(symlink.path.clone(), entered);
            self.meet(symlink.path.clone(), Met::Symlink(symlink));
        }
    }

    fn watch(&mut self, path: Path, level: Level) {
        // Whoever makes something else of a directory above it matters, too.
        for n in (1..path.names().len()).rev() {
            let above = Path::of(&path.names()[..n]);
            if self.below.contains_key(&above) {
                break;
            }
            self.below.insert(above, Vec::new());
        }
        let levels = self.below.entry(path).or_default();
        if !levels.contains(&level) {
            levels.push(level);
        }
    }

    /// Whether anything that the current layer has at `path` matters.
    pub(super) fn looks_for(&self, path: &Path) -> bool {
        !self.below.is_empty() && self.below.contains_key(path)
    }

    /// What the current layer has at a path looked for. The last one of a path counts.
    pub(super) fn meet(&mut self, path: Path, met: Met) {
        self.met.insert(path, met);
    }

    /// Whether one of these symlinks is on the way to, or below, where another points, or a hidden
    /// one is on that way: then it matters in which order entries went through them.
    pub(super) fn entangle<'s>(&self, symlinks: impl Iterator<Item = &'s Symlink> + Clone) -> bool {
        let prefixes = |path: &Path| {
            let names = path.names().to_vec();
            (1..=names.len()).map(move |n| Path::of(&names[..n]))
        };
        let ends = symlinks.clone().filter_map(|symlink| symlink.points_to().ok());
        let to: HashSet<Path> = ends.collect();
        let at: HashSet<&Path> = symlinks.map(|symlink| &symlink.path).collect();
        let is_on_the_way = |prefix: Path| at.contains(&prefix) || self.replaced.contains(&prefix);
        to.iter().any(|end| prefixes(end).any(is_on_the_way))
            || at.iter().any(|path| prefixes(path).any(|prefix| to.contains(&prefix)))
    }

    /// Entries of `level` went through this symlink.
    pub(super) fn find(&mut self, level: Level, symlink: Symlink) {
        self.found.push((level, symlink));
    }

    /// The layer is done.
    pub(super) fn end_layer(&mut self, level: Level) {
        for (path, met) in self.met.drain() {
            let levels = self.below.get_mut(&path).map(std::mem::take).unwrap_or_default();
            if let Met::Symlink(symlink) = &met {
                self.found.extend(levels.into_iter().map(|level| (level, symlink.clone())));
            }
            if !matches!(met, Met::Directory) {
                self.opaque.push(path);
            }
        }
        let named = std::mem::take(&mut self.named);
        for path in std::mem::take(&mut self.current) {
            if !named.contains(&path) {
                self.watch(path, level);
            }
        }
        let whited: HashSet<Path> = self.whited.drain(..).collect();
        let opaque: HashSet<Path> = self.opaque.drain(..).collect();
        if whited.is_empty() && opaque.is_empty() {
            return;
        }
        self.below.retain(|path, _| {
            let names = path.names();
            !(0..names.len()).any(|n| {
                let (parents, path) = (Path::of(&names[..n]), Path::of(&names[..=n]));
                opaque.contains(&parents) || whited.contains(&path)
            })
        });
    }
}
