//! The tree while layers are laid under it.

use std::collections::BTreeMap;

use ext4::{Kind, Meta, Node, NodeId, Tree};

use super::path::{Path, Wrong};

/// A layer's place: 1 is the bottom; higher ones hide lower ones.
pub(super) type Level = u32;
/// An index into [`Merge::slots`].
pub(super) type SlotId = usize;
/// An index into [`Merge::inodes`].
pub(super) type InodeId = usize;

/// What is at a path so far.
#[derive(Debug)]
pub(super) struct Slot {
    /// The layer that put it here.
    pub(super) level: Level,
    pub(super) body: Body,
    /// The directory it was put into.
    parent: SlotId,
}

#[derive(Debug)]
pub(super) enum Body {
    Directory(Directory),
    /// Anything else; two slots with one inode are hard links.
    Inode(InodeId),
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    /// Its metadata and the layer it is from; `None` while only its children are known.
    pub(super) meta: Option<(Level, Meta)>,
    /// An entry below it made it a directory, whatever became of that entry.
    pub(super) implied: bool,
    pub(super) children: BTreeMap<Box<[u8]>, SlotId>,
    /// Nothing of layers below this one shows here.
    pub(super) opaque: Level,
    /// Names that show nothing of layers below theirs.
    pub(super) hidden: BTreeMap<Box<[u8]>, Level>,
    /// The last layer that has an entry in it, and the last that names it; 0 for none.
    pub(super) entered: Level,
    pub(super) named: Level,
    /// Whether it will be in the image: an entry names it, or something below it shows.
    shows: bool,
}

#[derive(Debug)]
pub(super) enum Inode {
    Known(Node),
    /// A hard link whose target comes later.
    Awaited,
    /// A hard link whose target has come: `to` this, and by now to what is `near` its end, which holds
    /// until a link is turned elsewhere.
    Same {
        to: InodeId,
        near: InodeId,
        turns: u32,
    },
}

/// Where an entry belongs.
#[derive(Debug)]
pub(super) enum Place {
    /// Nowhere: a higher layer hides it, or its first so many parents.
    Hidden { parents: Option<usize> },
    /// In this directory; perhaps something is there already.
    At { parent: SlotId, there: Option<SlotId> },
    /// Below something of its own layer that is no directory.
    Through,
}

#[derive(Debug)]
pub(super) struct Merge {
    slots: Vec<Slot>,
    inodes: Vec<Inode>,
    /// How often a link was turned elsewhere, because its target came once more.
    turns: u32,
}

pub(super) const ROOT: SlotId = 0;

/// Each turn makes the way through all links long again.
const TURNS_MAX: u32 = 1000;

impl Merge {
    pub(super) fn new() -> Self {
        let body = Body::Directory(Directory::default());
        let root = Slot { level: Level::MAX, body, parent: ROOT };
        Merge { slots: vec![root], inodes: Vec::new(), turns: 0 }
    }

    pub(super) fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id]
    }

    pub(super) fn directory(&mut self, id: SlotId) -> Option<&mut Directory> {
        match &mut self.slots[id].body {
            Body::Directory(directory) => Some(directory),
            Body::Inode(_) => None,
        }
    }

    /// The lowest layer that has anything at or below a slot.
    pub(super) fn lowest(&self, id: SlotId) -> Level {
        let slot = &self.slots[id];
        match &slot.body {
            Body::Directory(directory) => directory.lowest(),
            Body::Inode(_) => slot.level,
        }
    }

    pub(super) fn add_inode(&mut self, inode: Inode) -> InodeId {
        self.inodes.push(inode);
        self.inodes.len() - 1
    }

    pub(super) fn inode(&mut self, id: InodeId) -> &Inode {
        let id = self.same(id);
        &self.inodes[id]
    }

    pub(super) fn set_inode(&mut self, id: InodeId, inode: Inode) {
        if matches!(self.inodes[id], Inode::Same { .. }) {
            self.turns += 1;
        }
        self.inodes[id] = inode;
    }

    /// The inode that `id` ends at, links to links resolved; the way is shortened for the next.
    pub(super) fn same(&mut self, mut id: InodeId) -> InodeId {
        let turns = self.turns;
        let next = |inode: &Inode| match *inode {
            Inode::Same { near, turns: then, .. } if then == turns => Some(near),
            Inode::Same { to, .. } => Some(to),
            _ => None,
        };
        while let Some(after) = next(&self.inodes[id]) {
            let skip = next(&self.inodes[after]).unwrap_or(after);
            if let Inode::Same { near, turns: then, .. } = &mut self.inodes[id] {
                (*near, *then) = (skip, turns);
            }
            id = after;
        }
        id
    }

    /// Makes the link `waiting` the same as `inode`, whatever it was the same as before.
    ///
    /// # Errors
    /// Where links lead in a circle, or have turned too often for the time that takes.
    pub(super) fn join(&mut self, waiting: InodeId, inode: InodeId) -> Result<(), Wrong> {
        let before = std::mem::replace(&mut self.inodes[waiting], Inode::Awaited);
        if matches!(before, Inode::Same { .. }) {
            self.turns += 1;
            if self.turns > TURNS_MAX {
                return Err("too many targets of hard links come twice");
            }
        }
        if self.same(inode) == waiting {
            // It came before, and this is one more link to that.
            let is_there = !matches!(before, Inode::Awaited);
            self.inodes[waiting] = before;
            return if is_there { Ok(()) } else { Err("hard links lead in a circle") };
        }
        self.inodes[waiting] = Inode::Same { to: inode, near: inode, turns: self.turns };
        Ok(())
    }

    /// How many slots there are, replaced ones counted: what a hostile layer can make grow.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Finds where `level` may put an entry at `path` (not the root), making the directories on the
    /// way that nothing hides. A marker's parents need not be in the image for its sake.
    pub(super) fn place(
        &mut self,
        level: Level,
        parents: &[Box<[u8]>],
        name: &[u8],
        is_marker: bool,
    ) -> Place {
        let mut at = ROOT;
        for (above, parent) in parents.iter().enumerate() {
            let hidden = Place::Hidden { parents: Some(above + 1) };
            let Some(directory) = self.directory(at) else { return hidden };
            if directory.hides(level, parent) {
                return hidden;
            }
            let next = match directory.children.get(parent) {
                Some(&child) => child,
                None => self.insert(at, parent, level, Body::Directory(Directory::default())),
            };
            let slot = &mut self.slots[next];
            match &mut slot.body {
                Body::Directory(directory) => {
                    directory.implied |= !is_marker;
                    directory.entered = level;
                }
                Body::Inode(_) if slot.level == level => return Place::Through,
                Body::Inode(_) => return hidden,
            }
            if !is_marker {
                self.show(next);
            }
            at = next;
        }
        match self.directory(at) {
            Some(directory) if !directory.hides(level, name) => {
                Place::At { parent: at, there: directory.children.get(name).copied() }
            }
            _ => Place::Hidden { parents: None },
        }
    }

    /// The slot at `path`, if there is one.
    pub(super) fn find(&mut self, path: &Path) -> Option<SlotId> {
        let mut at = ROOT;
        for name in path.names() {
            at = *self.directory(at)?.children.get(name)?;
        }
        Some(at)
    }

    /// Puts `body` at `name` in `parent`, in the place of what was there.
    pub(super) fn insert(
        &mut self,
        parent: SlotId,
        name: &[u8],
        level: Level,
        body: Body,
    ) -> SlotId {
        let id = self.slots.len();
        let shows = matches!(body, Body::Inode(_));
        self.slots.push(Slot { level, body, parent });
        if let Body::Directory(directory) = &mut self.slots[parent].body {
            directory.children.insert(name.into(), id);
        }
        if shows {
            self.show(parent);
        }
        id
    }

    /// Nothing that layers below `level` have at `name` in `parent` shows.
    pub(super) fn hide(&mut self, parent: SlotId, name: &[u8], level: Level) {
        if let Body::Directory(directory) = &mut self.slots[parent].body {
            directory.hidden.entry(name.into()).or_insert(level);
        }
    }

    /// Moves a slot to another directory.
    pub(super) fn adopt(&mut self, parent: SlotId, name: Box<[u8]>, child: SlotId) {
        self.slots[child].parent = parent;
        if let Body::Directory(directory) = &mut self.slots[parent].body {
            directory.children.insert(name, child);
        }
    }

    /// Gives a directory its metadata.
    pub(super) fn name(&mut self, id: SlotId, level: Level, meta: Meta) {
        if let Body::Directory(directory) = &mut self.slots[id].body {
            directory.meta = Some((level, meta));
        }
        self.show(id);
    }

    /// The directory and those above it will be in the image.
    fn show(&mut self, mut id: SlotId) {
        while let Body::Directory(directory) = &mut self.slots[id].body
            && !directory.shows
        {
            directory.shows = true;
            id = self.slots[id].parent;
        }
    }

    /// Whether anything at or below the slot is there to be in the image.
    pub(super) fn shows(&self, id: SlotId) -> bool {
        match &self.slots[id].body {
            Body::Inode(_) => true,
            Body::Directory(directory) => directory.shows,
        }
    }

    /// Finds out anew which directories show: a graft may have taken entries away.
    fn look_again(&mut self) {
        let mut order = vec![ROOT];
        let mut next = 0;
        while let Some(&id) = order.get(next) {
            next += 1;
            if let Body::Directory(directory) = &mut self.slots[id].body {
                directory.shows = directory.meta.is_some() || directory.implied;
                order.extend(directory.children.values());
            }
        }
        for &id in order.iter().rev() {
            if self.shows(id) {
                let parent = self.slots[id].parent;
                if let Body::Directory(directory) = &mut self.slots[parent].body {
                    directory.shows = true;
                }
            }
        }
    }

    /// The finished tree; directories that no entry named get `unnamed`'s metadata. `None` where an
    /// inode never came.
    pub(super) fn into_tree(mut self, unnamed: &Meta) -> Option<Tree> {
        self.look_again();
        let root = self.directory(ROOT).and_then(|d| d.meta.take());
        let mut tree = Tree::new(root.map_or_else(|| unnamed.clone(), |(_, meta)| meta));
        let mut nodes: Vec<Option<NodeId>> = vec![None; self.inodes.len()];
        let mut stack = vec![(ROOT, Tree::ROOT)];
        while let Some((slot, node)) = stack.pop() {
            let Some(directory) = self.directory(slot) else { continue };
            let mut entries = Vec::new();
            for (name, child) in std::mem::take(&mut directory.children) {
                if !self.shows(child) {
                    continue;
                }
                let id = match &mut self.slots[child].body {
                    Body::Directory(directory) => {
                        let meta = directory.meta.take();
                        let meta = meta.map_or_else(|| unnamed.clone(), |(_, meta)| meta);
                        let id = tree.add(Node { meta, kind: Kind::directory() });
                        stack.push((child, id));
                        id
                    }
                    &mut Body::Inode(inode) => {
                        let inode = self.same(inode);
                        match nodes[inode] {
                            Some(id) => id,
                            None => {
                                let known =
                                    std::mem::replace(&mut self.inodes[inode], Inode::Awaited);
                                let Inode::Known(known) = known else { return None };
                                *nodes[inode].insert(tree.add(known))
                            }
                        }
                    }
                };
                entries.push(ext4::Entry { name, node: id });
            }
            tree.node_mut(node).kind = Kind::Directory(entries);
        }
        Some(tree)
    }
}

impl Directory {
    /// The lowest layer that names it or has an entry in it.
    fn lowest(&self) -> Level {
        [self.entered, self.named]
            .into_iter()
            .filter(|&level| level > 0)
            .min()
            .unwrap_or(Level::MAX)
    }

    /// Whether a higher layer hides what `level` has at `name`.
    pub(super) fn hides(&self, level: Level, name: &[u8]) -> bool {
        level < self.opaque || self.hidden.get(name).is_some_and(|&hidden| level < hidden)
    }
}
