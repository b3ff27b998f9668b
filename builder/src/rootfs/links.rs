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
    /// A higher layer's link waited for it, so it is in the image.
    Known(InodeId),
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

    pub(super) fn pass_known(&mut self, path: Path, inode: InodeId) {
        self.passed.insert(path, Passed::Known(inode));
    }

    pub(super) fn pass_link(&mut self, path: Path, target: Path) {
        self.passed.insert(path, Passed::Link(target));
    }

    /// Follows hidden links of the current layer from `target` on.
    pub(super) fn target(&self, target: Path) -> Target {
        let mut at = target;
        // Links can lead in a circle, but not through more links than there are.
        for _ in 0..=self.passed.len() {
            match self.passed.get(&at) {
                None => break,
                Some(Passed::Link(next)) => at = next.clone(),
                Some(&Passed::Known(inode)) => return Target::Wanted(at, Some(inode)),
                Some(Passed::Content) => {
                    let inode = self.wanted.get(&at).copied();
                    return Target::Wanted(at, inode);
                }
            }
        }
        Target::Path(at)
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

    /// The target has come, perhaps once more in the same layer: the last one is what counts.
    pub(super) fn arrive(&mut self, path: &Path) -> Option<InodeId> {
        if let Some((inode, _)) = self.awaited.remove(path) {
            self.arrived.insert(path.clone(), inode);
        }
        self.arrived.get(path).copied()
    }

    /// A link whose target never came: the first by name.
    pub(super) fn unresolved(&self) -> Option<&str> {
        self.awaited.values().map(|(_, link)| link.as_str()).min()
    }
}
