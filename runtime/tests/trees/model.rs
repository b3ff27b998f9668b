//! The rules of the OCI image specification in the simplest way: bottom-up, one map of names.
//!
//! It answers only where the rules leave no doubt: `None` is for layers that are refused or that
//! no program would write (a link's target that its own layer replaces afterwards, say).

use std::collections::BTreeMap;

/// A layer's entry: its path, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) what: What,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) mtime: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    Fifo,
    HardLink(String),
    /// Hides the path in lower layers.
    Whiteout,
    /// Hides what lower layers have below the path.
    Opaque,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) names: BTreeMap<String, usize>,
    pub(crate) inodes: Vec<Entry>,
    /// Which layer put each name there.
    layers: BTreeMap<String, usize>,
    /// Symlinks that entries went through, and where these went.
    through: Vec<(String, String)>,
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn is_below(path: &str, directory: &str) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|p| p.starts_with('/'))
}

/// Whether one layer makes a path two things: no program writes such a layer.
fn is_doubtful(entries: &[Entry]) -> bool {
    let is_leaf = |e: &&Entry| !matches!(e.what, What::Directory | What::Whiteout | What::Opaque);
    let leaves: Vec<&str> = entries.iter().filter(is_leaf).map(|e| &e.path[..]).collect();
    // A file and a directory of one name: does the one hide what the other had? And entries below a
    // path that is something else are refused.
    let is_twice = |e: &Entry| e.what == What::Directory && leaves.contains(&&e.path[..]);
    let is_through = |e: &Entry| leaves.iter().any(|leaf| is_below(&e.path, leaf));
    entries.iter().any(|e| is_twice(e) || is_through(e))
}

impl Model {
    /// Lays a layer on top.
    pub(crate) fn apply(&mut self, layer: usize, entries: &[Entry]) -> Option<()> {
        for entry in entries {
            match entry.what {
                What::Whiteout => {
                    let path = self.resolve(layer, &entry.path, false)?;
                    self.remove(&path)?;
                }
                What::Opaque => {
                    let path = self.resolve(layer, &format!("{}/x", entry.path), false)?;
                    self.remove_below(parent(&path))?;
                }
                // The layer names the directory: what is below is not where a symlink points.
                What::Directory
                    if self.names.get(&entry.path).is_some_and(|&i| !self.is_dir(i)) =>
                {
                    self.remove(&entry.path)?;
                }
                _ => {}
            }
        }
        if is_doubtful(entries) {
            return None;
        }
        let mut late = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            match &entry.what {
                What::Whiteout | What::Opaque => {}
                What::HardLink(target) => {
                    let named = |path: &String| {
                        entries[i + 1..].iter().any(|e| {
                            e.path == *path && !matches!(e.what, What::Whiteout | What::Opaque)
                        })
                    };
                    match (self.names.contains_key(target), named(target)) {
                        (true, false) => self.link(layer, entry, target)?,
                        (false, true)
                            if entries.iter().filter(|e| e.path == entry.path).count() == 1 =>
                        {
                            late.push((entry, target))
                        }
                        _ => return None,
                    }
                }
                _ => {
                    let inode = self.inodes.len();
                    self.inodes.push(entry.clone());
                    self.put(layer, &entry.path, inode)?;
                }
            }
        }
        late.iter().try_for_each(|(entry, target)| self.link(layer, entry, target))?;
        // What a link names must still be there when the layer is done.
        let holds = |entry: &Entry| match &entry.what {
            What::Whiteout | What::Opaque => self.check_marker(entry).is_some(),
            What::HardLink(target) => {
                let is_through =
                    self.through.iter().any(|(link, place)| [link, place].contains(&target));
                !is_through && self.names.get(target).is_some_and(|&i| !self.is_dir(i))
            }
            _ => true,
        };
        entries.iter().all(holds).then_some(())
    }

    fn is_dir(&self, inode: usize) -> bool {
        self.inodes[inode].what == What::Directory
    }

    fn link(&mut self, layer: usize, entry: &Entry, target: &str) -> Option<()> {
        let inode = *self.names.get(target)?;
        let was_moved = self.through.iter().any(|(_, place)| place == target);
        if self.is_dir(inode) || target == entry.path || was_moved {
            return None;
        }
        self.put(layer, &entry.path, inode)
    }

    /// A marker is in a directory; no program writes one below anything else.
    fn check_marker(&self, entry: &Entry) -> Option<()> {
        let blocks = |(path, &inode): (&String, &usize)| {
            !self.is_dir(inode)
                && (is_below(&entry.path, path)
                    || *path == entry.path && entry.what == What::Opaque)
        };
        (!self.names.iter().any(blocks)).then_some(())
    }

    /// `path` with symlinks of lower layers in its parents followed; their directories are made.
    fn resolve(&mut self, layer: usize, path: &str, make: bool) -> Option<String> {
        let mut ahead: Vec<String> = path.split('/').rev().map(String::from).collect();
        let mut at = String::new();
        let mut followed = 0;
        while let Some(name) = ahead.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    at = parent(&at).to_string();
                    continue;
                }
                _ => {}
            }
            let next = if at.is_empty() { name } else { format!("{at}/{name}") };
            if ahead.is_empty() {
                return Some(next);
            }
            match self.names.get(&next).map(|&i| (i, self.inodes[i].what.clone())) {
                Some((_, What::Directory)) => at = next,
                Some(_) if self.layers[&next] == layer => return None,
                // Entries below a second name of a symlink: that it is one comes out too late where
                // its layer or name is another. `semantics.rs` tests what is known in time.
                Some((inode, What::Symlink(_))) if self.inodes[inode].path != next => return None,
                Some((_, What::Symlink(target))) => {
                    followed += 1;
                    if followed > 1 || !make {
                        return None;
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    ahead.extend(target.split('/').rev().map(String::from));
                }
                other => {
                    if other.is_some() && followed > 0 {
                        return None;
                    }
                    if make {
                        self.remove(&next)?;
                        let inode = self.inodes.len();
                        self.inodes.push(Entry {
                            path: next.clone(),
                            what: What::Directory,
                            mode: 0o755,
                            uid: 0,
                            mtime: 0,
                        });
                        self.names.insert(next.clone(), inode);
                        self.layers.insert(next.clone(), layer);
                    }
                    at = next;
                }
            }
        }
        None
    }

    fn put(&mut self, layer: usize, path: &str, inode: usize) -> Option<()> {
        let place = self.resolve(layer, path, true)?;
        if place != path {
            // Two ways to one place in one layer: it depends on the order which of them wins.
            if self.layers.get(&place) == Some(&layer) {
                return None;
            }
            // Every symlink on the way matters, so take them all.
            let links =
                self.names.iter().filter(|&(name, &i)| is_below(path, name) && !self.is_dir(i));
            let links: Vec<_> = links.map(|(name, _)| (name.clone(), place.clone())).collect();
            self.through.extend(links);
            // What replaces a symlink by going through it changes what the next entry means.
            if self.through.iter().any(|(link, place)| link == place) {
                return None;
            }
        } else if self.through.iter().any(|(_, p)| p == path)
            && self.layers.get(path) == Some(&layer)
        {
            return None;
        }
        match self.names.get(&place) {
            Some(&there) if self.is_dir(there) && self.is_dir(inode) => {}
            Some(&there) => {
                let mut below = self.layers.iter().filter(|(name, _)| is_below(name, &place));
                if self.is_dir(there) && below.any(|(_, &l)| l == layer) {
                    return None;
                }
                self.remove(&place)?;
            }
            None => {}
        }
        self.names.insert(place.clone(), inode);
        self.layers.insert(place, layer);
        Some(())
    }

    fn remove(&mut self, path: &str) -> Option<()> {
        self.remove_below(path)?;
        self.names.remove(path);
        self.layers.remove(path);
        Some(())
    }

    fn remove_below(&mut self, path: &str) -> Option<()> {
        self.names.retain(|name, _| !is_below(name, path));
        self.layers.retain(|name, _| !is_below(name, path));
        Some(())
    }
}
