//! Hard links whose target is not in the tree: it comes later, or a higher layer hides it.

use std::collections::HashMap;

use super::merge::InodeId;
use super::path::Path;

/// The links that wait, and what of the current layer they may turn out to want.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Targets that have not come yet, with the inode that waits and the link's name.
    awaited: HashMap<Path, (InodeId, String)>,
    /// Targets that came in the current layer, with the inode that waited.
    arrived: HashMap<Path, InodeId>,
    /// Entries of the current layer that higher layers hide.
    passed: HashMap<Path, Passed>,
    /// Entries of the current layer that passed before a link to them came.
    wanted: HashMap<Path, InodeId>,
}

#[derive(Debug)]
enum Passed {
    /// It had content of its own.
    Content,
    /// It was a hard link to this.
    Link(Path),
    /// A link from above had waited for it, and this is the inode now.
    Inode(InodeId),
}

/// Where the target of a link is to be looked for.
pub(super) enum Target {
    /// At this path, which the current layer has not hidden.
    Path(Path),
    /// In the inode that a second pass over the layer will fill, once there is one.
    Wanted(Path, Option<InodeId>),
}

impl Links {
    /// A new layer begins; what the last one hid does not matter any more.
    pub(super) fn begin_layer(&mut self) {
        self.passed.clear();
        self.arrived.clear();
    }

    pub(super) fn pass_content(&mut self, path: Path) {
        self.passed.insert(path, Passed::Content);
    }

    /// In the end something at `path` is not hidden.
    pub(super) fn show(&mut self, path: &Path) {
        self.passed.remove(path);
    }

    pub(super) fn pass_link(&mut self, path: Path, target: Path) {
        let end = self.end(target);
        self.passed.insert(path, Passed::Link(end));
    }

    pub(super) fn pass_inode(&mut self, path: Path, inode: InodeId) {
        self.passed.insert(path, Passed::Inode(inode));
    }

    /// Where hidden links of the current layer lead from `target` on.
    pub(super) fn target(&mut self, target: Path) -> Target {
        let end = self.end(target.clone());
        let found = match self.passed.get(&end) {
            Some(Passed::Inode(inode)) => Target::Wanted(end.clone(), Some(*inode)),
            Some(Passed::Content) => {
                let inode = self.wanted.get(&end).copied();
                Target::Wanted(end.clone(), inode)
            }
            Some(Passed::Link(_)) | None => Target::Path(end.clone()),
        };
        // The next one who asks gets there at once.
        if let Some(Passed::Link(next)) = self.passed.get_mut(&target) {
            *next = end;
        }
        found
    }

    fn end(&self, target: Path) -> Path {
        let mut at = target;
        // Links can lead in a circle, but not through more links than there are.
        for _ in 0..=self.passed.len() {
            match self.passed.get(&at) {
                Some(Passed::Link(next)) => at = next.clone(),
                _ => break,
            }
        }
        at
    }

    pub(super) fn want(&mut self, path: Path, inode: InodeId) {
        self.wanted.insert(path, inode);
    }

    pub(super) fn take_wanted(&mut self) -> HashMap<Path, InodeId> {
        std::mem::take(&mut self.wanted)
    }

    /// The inode that waits for `path`, where one does.
    pub(super) fn awaited(&self, path: &Path) -> Option<InodeId> {
        self.awaited.get(path).map(|(inode, _)| *inode)
    }

    pub(super) fn wait(&mut self, target: Path, inode: InodeId, link: &str) {
        self.awaited.insert(target, (inode, link.to_string()));
    }

    /// The target has come: the inode that waits for it, or waited. In one layer it may come once
    /// more: the last one is what counts.
    pub(super) fn arrive(&mut self, path: &Path) -> Option<InodeId> {
        if let Some((inode, _)) = self.awaited.remove(path) {
            self.arrived.insert(path.clone(), inode);
            return Some(inode);
        }
        self.arrived.get(path).copied()
    }

    /// The target can not come any more: the link that waits for it, where one does.
    pub(super) fn expire(&mut self, path: &Path) -> Option<String> {
        self.awaited.remove(path).map(|(_, link)| link)
    }

    /// A link whose target never came: the first by name.
    pub(super) fn unresolved(&self) -> Option<&str> {
        self.awaited.values().map(|(_, link)| link.as_str()).min()
    }
}
