//! Paths of entries: relative, without `..`, split into names.

use crate::tar::Entry;

/// A path is at most this long, as for the kernel.
const PATH_BYTES_MAX: usize = 4096;
/// A path has at most this many names.
pub(super) const DEPTH_MAX: usize = 1024;
/// A name is at most this long.
const NAME_BYTES_MAX: usize = 255;

/// A checked path: names without `/`, NUL, `.` and `..`. The root is no names at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Path(Vec<Name>);

/// A name in a path.
pub(super) type Name = Box<[u8]>;

/// Why a path is refused.
pub(super) type Wrong = &'static str;

impl Path {
    /// Splits `path`, dropping `.` and doubled slashes.
    pub(super) fn parse(path: &[u8]) -> Result<Self, Wrong> {
        if path.first() == Some(&b'/') {
            return Err("its path is absolute");
        }
        if path.len() > PATH_BYTES_MAX {
            return Err("its path is longer than 4096 bytes");
        }
        let mut names = Vec::new();
        for name in path.split(|&b| b == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err("its path leads out of the tree by `..`"),
                _ if name.len() > NAME_BYTES_MAX => {
                    return Err("a name in its path is longer than 255 bytes");
                }
                _ if name.contains(&0) => return Err("its path holds a NUL"),
                _ => names.push(Box::from(name)),
            }
        }
        if names.len() > DEPTH_MAX { Err("its path is deeper than 1024") } else { Ok(Path(names)) }
    }

    pub(super) fn of(names: &[Name]) -> Path {
        Path(names.to_vec())
    }

    pub(super) fn join(parents: &[Name], name: &[u8]) -> Path {
        Path(parents.iter().cloned().chain([Box::from(name)]).collect())
    }

    /// `self`, and `more` below it.
    pub(super) fn append(&self, more: &[Name]) -> Result<Path, Wrong> {
        let names: Vec<Name> = self.0.iter().chain(more).cloned().collect();
        if names.iter().map(|name| name.len() + 1).sum::<usize>() > PATH_BYTES_MAX {
            return Err("its path is longer than 4096 bytes");
        }
        if names.len() > DEPTH_MAX { Err("its path is deeper than 1024") } else { Ok(Path(names)) }
    }

    pub(super) fn names(&self) -> &[Name] {
        &self.0
    }

    /// The names before the last, and the last; `None` for the root.
    pub(super) fn split(&self) -> Option<(&[Name], &[u8])> {
        self.0.split_last().map(|(last, parents)| (parents, &**last))
    }
}

/// What an entry of a layer is besides a file.
pub(super) enum Marker<'p> {
    /// Hides this name of lower layers.
    Whiteout(&'p [u8]),
    /// Hides all that lower layers have in the directory.
    Opaque,
    /// Bookkeeping of aufs that means nothing to anyone else.
    Ignored,
}

/// Whether the last name of a path is a whiteout (image-spec, `layer.md`, "Whiteouts").
pub(super) fn marker(name: &[u8]) -> Option<Result<Marker<'_>, Wrong>> {
    let rest = name.strip_prefix(b".wh.")?;
    Some(match rest {
        b".wh..opq" => Ok(Marker::Opaque),
        _ if rest.starts_with(b".wh.") => Ok(Marker::Ignored),
        b"" | b"." | b".." => Err("a whiteout of no name"),
        _ => Ok(Marker::Whiteout(rest)),
    })
}

/// Whether an entry lies in a directory that aufs kept for itself; below other whiteouts nothing
/// can lie.
pub(super) fn is_aufs(parents: &[Name]) -> Result<bool, Wrong> {
    match parents.iter().find(|name| name.starts_with(b".wh.")) {
        None => Ok(false),
        Some(name) if name.starts_with(b".wh..wh.") => Ok(true),
        Some(_) => Err("it lies below a whiteout"),
    }
}

/// Names an entry in an error.
pub(super) fn refuse(entry: &Entry, why: impl std::fmt::Display) -> crate::Error {
    let path = String::from_utf8_lossy(&entry.path);
    crate::Error::input(format!("entry {path:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_inside_the_tree() {
        let names = |p: &[u8]| Path::parse(p).map(|p| p.0.join(&b'|'));
        assert_eq!(names(b"./a//b/./c/"), Ok(b"a|b|c".to_vec()));
        assert_eq!(names(b"."), Ok(vec![]));
        assert_eq!(names(b"..a/b.."), Ok(b"..a|b..".to_vec()));
        let long = [b'a'; 256];
        let deep = b"a/".repeat(1025);
        for wrong in [&b"/a"[..], b"..", b"a/../b", b"a/..", b"a\0b", &long, &deep] {
            assert!(names(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }
}
