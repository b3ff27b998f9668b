//! Entries below a path that a lower layer makes a symlink: they belong where it points.

use std::collections::VecDeque;

use ext4::{Kind, Node};

use super::merge::{Body, Directory, Inode, Merge, ROOT, SlotId};
use super::path::{DEPTH_MAX, Path};
use crate::{Error, Result};

/// Symlinks followed for one path, as for the kernel.
const FOLLOWED_MAX: usize = 40;

/// Merges the directory `moved`, which was at `link` until a symlink took its place, into the
/// directory that the symlink names.
pub(super) fn graft(merge: &mut Merge, link: &Path, moved: SlotId) -> Result<()> {
    let destination = resolve(merge, link, moved)?;
    join(merge, destination, moved);
    Ok(())
}

fn resolve(merge: &mut Merge, link: &Path, moved: SlotId) -> Result<SlotId> {
    let wrong = |why: &str| {
        let path = String::from_utf8_lossy(&link.names().join(&b'/')).into_owned();
        Error::input(format!("entries below the symlink {path:?} have no place: {why}"))
    };
    let level = merge.slot(moved).level;
    let mut ahead: VecDeque<Box<[u8]>> = link.names().iter().cloned().collect();
    let mut reached = vec![ROOT];
    let mut followed = 0;
    while let Some(name) = ahead.pop_front() {
        match &*name {
            b"" | b"." => continue,
            b".." => {
                if reached.len() > 1 {
                    reached.pop();
                }
                continue;
            }
            _ => {}
        }
        let at = reached[reached.len() - 1];
        let Some(directory) = merge.directory(at) else { return Err(wrong("it is a loop")) };
        let child = match directory.children.get(&name) {
            Some(&child) => child,
            None => merge.insert(at, &name, level, Body::Directory(Directory::default())),
        };
        let inode = match merge.slot(child).body {
            Body::Directory(_) => {
                reached.push(child);
                if reached.len() > DEPTH_MAX {
                    return Err(wrong("it leads deeper than 1024 directories"));
                }
                continue;
            }
            Body::Inode(inode) => inode,
        };
        let Inode::Known(Node { kind: Kind::Symlink(target), .. }) = merge.inode(inode) else {
            return Err(wrong("its target is no directory"));
        };
        followed += 1;
        if followed > FOLLOWED_MAX {
            return Err(wrong("it leads through too many symlinks"));
        }
        if target.first() == Some(&b'/') {
            reached.truncate(1);
        }
        for name in target.split(|&b| b == b'/').rev() {
            ahead.push_front(name.into());
        }
    }
    Ok(reached[reached.len() - 1])
}

/// Lays `source` and `destination` together: of two entries the one of the higher layer stays.
fn join(merge: &mut Merge, destination: SlotId, source: SlotId) {
    // Pairs of directories; a list rather than a recursion, since grafts can nest deeply.
    let mut pairs = vec![(destination, source)];
    while let Some((destination, source)) = pairs.pop() {
        if destination == source {
            continue;
        }
        let Some(source) = merge.directory(source).map(std::mem::take) else { continue };
        let source = join_one(merge, destination, source);
        for (name, child) in source.children {
            let level = merge.slot(child).level;
            let Some(directory) = merge.directory(destination) else { continue };
            if directory.hides(level, &name) {
                continue;
            }
            match directory.children.get(&name).copied() {
                None => merge.adopt(destination, name, child),
                Some(there) => {
                    let is_directory = |id| matches!(merge.slot(id).body, Body::Directory(_));
                    if is_directory(there) && is_directory(child) {
                        pairs.push((there, child));
                    } else if level > merge.slot(there).level {
                        merge.adopt(destination, name, child);
                    }
                }
            }
        }
    }
}

/// Lays the directories themselves together, and hides what each hides of the other. Gives the
/// source back with the children that are still to be placed.
fn join_one(merge: &mut Merge, destination: SlotId, mut source: Directory) -> Directory {
    let Some(directory) = merge.directory(destination) else { return source };
    if source.meta.as_ref().map(|m| m.0) > directory.meta.as_ref().map(|m| m.0) {
        directory.meta = source.meta.take();
    }
    directory.implied |= source.implied;
    directory.implied |= source.implied;
    directory.opaque = directory.opaque.max(source.opaque);
    for (name, level) in std::mem::take(&mut source.hidden) {
        let hidden = directory.hidden.entry(name).or_default();
        *hidden = level.max(*hidden);
    }
    let present: Vec<_> = directory.children.iter().map(|(n, &c)| (n.clone(), c)).collect();
    for (name, child) in present {
        let level = merge.slot(child).level;
        if let Some(directory) = merge.directory(destination)
            && directory.hides(level, &name)
        {
            directory.children.remove(&name);
        }
    }
    source
}
