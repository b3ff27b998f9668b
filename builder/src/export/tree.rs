//! The tree of an image, entry by entry, hard links told.

use std::collections::HashMap;
use std::fs::File;

use ext4::read::{Inode, Kind, Reader, Walk};
use imgrun::interrupt;

use crate::{Error, Result};

/// Something in an image.
pub(super) struct Item {
    /// Its path without a leading slash; empty for the root.
    pub(super) path: Vec<u8>,
    pub(super) inode: Inode,
    /// The first path of the same inode, where this is not the first.
    pub(super) link_to: Option<Vec<u8>>,
    /// Whether the inode has more names after this one.
    pub(super) more: bool,
}

/// Calls `each` with everything in the image, parents first, names in order.
pub(super) fn walk(
    image: File,
    mut each: impl FnMut(&Item, &mut Reader<File>) -> Result<()>,
) -> Result<()> {
    let mut reader = Reader::open(image).map_err(damaged)?;
    let names = names(&mut reader)?;
    let mut walk = Walk::new(reader.root().map_err(damaged)?);
    let mut seen: HashMap<u32, (Vec<u8>, u32)> = HashMap::new();
    while let Some(found) = walk.next(&mut reader).map_err(damaged)? {
        interrupt::check()?;
        let (path, mut inode) = (found.path, found.inode);
        let (mut link_to, mut more) = (None, false);
        if inode.kind != Kind::Directory {
            let all = names.get(&inode.number).copied().unwrap_or(1);
            inode.links = u16::try_from(all).unwrap_or(u16::MAX);
            if all > 1 {
                let (first, now) = seen.entry(inode.number).or_insert_with(|| (path.clone(), 0));
                *now += 1;
                link_to = (*now > 1).then(|| first.clone());
                more = *now < all;
            }
        }
        each(&Item { path, inode, link_to, more }, &mut reader)?;
    }
    Ok(())
}

/// How many names each inode has that has several. What an image says of that may be a lie.
fn names(reader: &mut Reader<File>) -> Result<HashMap<u32, u32>> {
    let mut walk = Walk::new(reader.root().map_err(damaged)?);
    let mut names: HashMap<u32, u32> = HashMap::new();
    while let Some(found) = walk.next(reader).map_err(damaged)? {
        interrupt::check()?;
        if found.inode.kind != Kind::Directory {
            *names.entry(found.inode.number).or_default() += 1;
        }
    }
    names.retain(|_, names| *names > 1);
    Ok(names)
}

pub(super) fn damaged(e: ext4::read::Error) -> Error {
    Error::input("the bundle's image can not be read").because(e)
}
