//! Entries below a path that a lower layer makes a symlink: they belong where it points.

use std::collections::VecDeque;

use ext4::{Kind, Node};

use super::detour::{FOLLOWED_MAX, Symlink};
use super::merge::{Body, Directory, Inode, Merge, ROOT, SlotId};
use super::path::{DEPTH_MAX, Wrong};

/// A directory's own level is that of the highest layer with entries in it; those of others may be
/// hidden.
const IN_PART: Wrong = "a higher layer hides a part of it";

/// Merges the directory `moved`, which was at `link` until a symlink took its place, into the
/// directory that the symlink names.
///
/// # Errors
/// Where that is not simple: see the detours.
pub(super) fn graft(merge: &mut Merge, link: &Symlink, moved: SlotId) -> Result<(), Wrong> {
    let destination = resolve(merge, link, moved)?;
    join(merge, destination, moved)
}

fn resolve(merge: &mut Merge, link: &Symlink, moved: SlotId) -> Result<SlotId, Wrong> {
    let level = merge.slot(moved).level;
    let mut ahead: VecDeque<Box<[u8]>> = link.path.names().iter().cloned().collect();
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
        let Some(directory) = merge.directory(at) else { return Err("it is a loop") };
        // For entries of some levels it is hidden, for others perhaps not.
        if directory.hides(link.level, &name) {
            return Err("a higher layer hides its target");
        }
        let child = match directory.children.get(&name) {
            Some(&child) => child,
            None => merge.insert(at, &name, level, Body::Directory(Directory::default())),
        };
        let slot = merge.slot(child);
        let inode = match slot.body {
            Body::Directory(_) => {
                reached.push(child);
                if reached.len() > DEPTH_MAX {
                    return Err("it leads deeper than 1024 directories");
                }
                continue;
            }
            Body::Inode(_) if slot.level > link.level => {
                return Err("a higher layer replaces its target");
            }
            Body::Inode(inode) => inode,
        };
        let Inode::Known(Node { kind: Kind::Symlink(target), .. }) = merge.inode(inode) else {
            return Err("its target is no directory");
        };
        followed += 1;
        if followed > FOLLOWED_MAX {
            return Err("it leads through too many symlinks");
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
fn join(merge: &mut Merge, destination: SlotId, source: SlotId) -> Result<(), Wrong> {
    // Pairs of directories; a list rather than a recursion, since grafts can nest deeply.
    let mut pairs = vec![(destination, source)];
    while let Some((destination, source)) = pairs.pop() {
        if destination == source {
            continue;
        }
        let Some(source) = merge.directory(source).map(std::mem::take) else { continue };
        let source = join_one(merge, destination, source)?;
        for (name, child) in source.children {
            if is_hidden(merge, destination, &name, child)? {
                continue;
            }
            let Some(directory) = merge.directory(destination) else { continue };
            let there = match directory.children.get(&name).copied() {
                None => {
                    merge.adopt(destination, name, child);
                    continue;
                }
                Some(there) => there,
            };
            let is_directory = |id| matches!(merge.slot(id).body, Body::Directory(_));
            if is_directory(there) && is_directory(child) {
                pairs.push((there, child));
            } else if merge.lowest(child) > merge.slot(there).level {
                merge.adopt(destination, name, child);
            } else if merge.lowest(there) < merge.slot(child).level {
                return Err(IN_PART);
            }
        }
    }
    Ok(())
}

/// Lays the directories themselves together, and hides what each hides of the other. Gives the
/// source back with the children that are still to be placed.
fn join_one(
    merge: &mut Merge,
    destination: SlotId,
    mut source: Directory,
) -> Result<Directory, Wrong> {
    let Some(directory) = merge.directory(destination) else { return Ok(source) };
    if source.meta.as_ref().map(|m| m.0) > directory.meta.as_ref().map(|m| m.0) {
        directory.meta = source.meta.take();
    }
    directory.implied |= source.implied;
    directory.opaque = directory.opaque.max(source.opaque);
    for (name, level) in std::mem::take(&mut source.hidden) {
        let hidden = directory.hidden.entry(name).or_default();
        *hidden = level.max(*hidden);
    }
    let present: Vec<_> = directory.children.iter().map(|(n, &c)| (n.clone(), c)).collect();
    for (name, child) in present {
        if is_hidden(merge, destination, &name, child)?
            && let Some(directory) = merge.directory(destination)
        {
            directory.children.remove(&name);
        }
    }
    Ok(source)
}

/// Whether all of `child` is hidden as `name` in `directory`. What is of one layer alone is hidden
/// or not; of a directory in many layers a part may be.
fn is_hidden(
    merge: &mut Merge,
    directory: SlotId,
    name: &[u8],
    child: SlotId,
) -> Result<bool, Wrong> {
    let (highest, lowest) = (merge.slot(child).level, merge.lowest(child));
    let Some(directory) = merge.directory(directory) else { return Ok(false) };
    if directory.hides(highest, name) {
        Ok(true)
    } else if directory.hides(lowest, name) {
        Err(IN_PART)
    } else {
        Ok(false)
    }
}
