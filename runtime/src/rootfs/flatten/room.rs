//! Whether there is room for an entry that is no directory, and what becomes of a directory that it
//! replaces.

use std::io::{Seek, Write};

use ext4::{Kind, Node};

use super::super::detour::Symlink;
use super::super::merge::{Body, Inode, Place, Slot, SlotId};
use super::super::path::{Name, Path, refuse};
use super::{Flatten, Graft, through};
use crate::Result;
use crate::tar::{Entry, Kind as TarKind};

impl<W: Write + Seek> Flatten<'_, W> {
    /// Where an entry that is no directory goes; `None` where a higher layer hides it.
    pub(super) fn room(&mut self, path: &Path, entry: &Entry) -> Result<Option<SlotId>> {
        let Some((parents, name)) = path.split() else { return Ok(None) };
        let (parent, there) = match self.merge.place(self.level, parents, name, false) {
            Place::Hidden { parents: hidden } => {
                self.hide(parents, hidden);
                return Ok(None);
            }
            Place::Through => return Err(through(entry)),
            Place::At { parent, there } => (parent, there),
        };
        let Some(there) = there else { return Ok(Some(parent)) };
        if let Slot { level, body: Body::Inode(_), .. } = self.merge.slot(there) {
            let is_again = *level == self.level;
            return Ok((is_again && !self.ungraft(path, entry, parent)).then_some(parent));
        }
        let symlink = self.symlink(path, entry);
        let slot = self.merge.slot(there);
        let Body::Directory(directory) = &slot.body else { return Ok(None) };
        let hidden = match directory.meta {
            Some((named, _)) => named > self.level,
            None => slot.level > self.level && symlink.is_none() && self.merge.shows(there),
        };
        if hidden {
            if let Some(symlink) = symlink {
                self.shadows.replace(symlink, directory.entered, directory.named);
            }
            // It is no directory, so nothing that lies deeper is part of the directory above it.
            self.merge.hide(parent, name, self.level);
            return Ok(None);
        }
        if directory.meta.is_none() && slot.level > self.level {
            if let Some(symlink) = symlink {
                self.grafted.insert(path.clone(), self.grafts.len());
                self.grafts.push(Some(Graft { symlink, moved: there }));
            }
            return Ok(Some(parent));
        }
        if directory.children.values().any(|&child| self.merge.shows(child)) {
            return Err(refuse(entry, "it replaces a directory that has entries in this layer"));
        }
        Ok(Some(parent))
    }

    /// The entry at `path` as a symlink, where it is one or a hard link to one of its layer.
    pub(super) fn symlink(&mut self, path: &Path, entry: &Entry) -> Option<Symlink> {
        let target = match &entry.kind {
            TarKind::Symlink(target) => target.to_vec(),
            TarKind::HardLink(target) => self.linked_symlink(target)?,
            _ => return None,
        };
        let (path, origin) = (path.clone(), self.origin.clone());
        Some(Symlink { path, target, level: self.level, origin })
    }

    fn linked_symlink(&mut self, target: &[u8]) -> Option<Vec<u8>> {
        let target = self.path(target).ok()?;
        let slot = self.merge.find(&target)?;
        match *self.merge.slot(slot) {
            Slot { level, body: Body::Inode(inode), .. } if level == self.level => {
                match self.merge.inode(inode) {
                    Inode::Known(Node { kind: Kind::Symlink(target), .. }) => Some(target.to_vec()),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// An entry in `parents` is hidden; the first `hidden` of them are.
    pub(super) fn hide(&mut self, parents: &[Name], hidden: Option<usize>) {
        if let Some(hidden) = hidden {
            self.shadows.pass(parents, hidden);
        }
    }

    /// The last entry of a path wins: where a symlink of this layer took the place of a higher
    /// layer's directory and something else comes now, the directory takes it back.
    fn ungraft(&mut self, path: &Path, entry: &Entry, parent: SlotId) -> bool {
        if let Some(symlink) = self.symlink(path, entry) {
            if let Some(Some(graft)) = self.grafted.get(path).map(|&at| &mut self.grafts[at]) {
                graft.symlink = symlink;
            }
            return false;
        }
        let graft = self.grafted.remove(path).and_then(|at| self.grafts[at].take());
        let (Some(graft), Some((_, name))) = (graft, path.split()) else { return false };
        self.merge.adopt(parent, name.into(), graft.moved);
        self.merge.hide(parent, name, self.level);
        true
    }
}
