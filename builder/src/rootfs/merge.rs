//! The tree while layers are laid under it.

use std::collections::BTreeMap;

use ext4::{Kind, Meta, Node, NodeId, Tree};

use super::path::Path;

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
}

#[derive(Debug)]
pub(super) enum Inode {
    Known(Node),
    /// A hard link whose target comes later.
    Awaited,
    /// A hard link whose target has come.
    Same(InodeId),
}

/// Where an entry belongs.
#[derive(Debug)]
pub(super) enum Place {
    /// Nowhere: a higher layer hides it.
    Hidden,
    /// In this directory; perhaps something is there already.
    At { parent: SlotId, there: Option<SlotId> },
    /// Below something of its own layer that is no directory.
    Through,
}

#[derive(Debug)]
pub(super) struct Merge {
    slots: Vec<Slot>,
    inodes: Vec<Inode>,
}

pub(super) const ROOT: SlotId = 0;

impl Merge {
    pub(super) fn new() -> Self {
        let root = Slot { level: Level::MAX, body: Body::Directory(Directory::default()) };
        Merge { slots: vec![root], inodes: Vec::new() }
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

    pub(super) fn add_inode(&mut self, inode: Inode) -> InodeId {
        self.inodes.push(inode);
        self.inodes.len() - 1
    }

    pub(super) fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[self.same(id)]
    }

    pub(super) fn set_inode(&mut self, id: InodeId, inode: Inode) {
        self.inodes[id] = inode;
    }

    /// The inode that `id` ends at, links to links resolved.
    pub(super) fn same(&self, mut id: InodeId) -> InodeId {
        while let Inode::Same(next) = self.inodes[id] {
            id = next;
        }
        id
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
        for parent in parents {
            let Some(directory) = self.directory(at) else { return Place::Hidden };
            if directory.hides(level, parent) {
                return Place::Hidden;
            }
            let next = match directory.children.get(parent) {
                Some(&child) => child,
                None => self.insert(at, parent, level, Body::Directory(Directory::default())),
            };
            let slot = &mut self.slots[next];
            match &mut slot.body {
                Body::Directory(directory) => {
                    directory.implied |= !is_marker;
                    at = next;
                }
                Body::Inode(_) if slot.level == level => return Place::Through,
                Body::Inode(_) => return Place::Hidden,
            }
        }
        match self.directory(at) {
            Some(directory) if !directory.hides(level, name) => {
                Place::At { parent: at, there: directory.children.get(name).copied() }
            }
            _ => Place::Hidden,
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
        self.slots.push(Slot { level, body });
        if let Body::Directory(directory) = &mut self.slots[parent].body {
            directory.children.insert(name.into(), id);
        }
        id
    }

    /// Whether anything at or below the slot will be in the image.
    pub(super) fn shows(&self, id: SlotId) -> bool {
        match &self.slots[id].body {
            Body::Inode(_) => true,
            Body::Directory(directory) => {
                let is_named = directory.meta.is_some() || directory.implied;
                is_named || directory.children.values().any(|&c| self.shows(c))
            }
        }
    }

    /// The finished tree. Directories that no entry named get `unnamed`'s metadata.
    pub(super) fn into_tree(mut self, unnamed: &Meta) -> Tree {
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
                                // Flatten has refused links without a target before this.
                                let Inode::Known(known) = known else { continue };
                                *nodes[inode].insert(tree.add(known))
                            }
                        }
                    }
                };
                entries.push(ext4::Entry { name, node: id });
            }
            tree.node_mut(node).kind = Kind::Directory(entries);
        }
        tree
    }
}

impl Directory {
    /// Whether a higher layer hides what `level` has at `name`.
    pub(super) fn hides(&self, level: Level, name: &[u8]) -> bool {
        level < self.opaque || self.hidden.get(name).is_some_and(|&hidden| level < hidden)
    }
}
