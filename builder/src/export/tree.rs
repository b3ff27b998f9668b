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
    let mut walk = Walk::new(reader.root().map_err(damaged)?);
    let mut seen: HashMap<u32, (Vec<u8>, u16)> = HashMap::new();
    while let Some(found) = walk.next(&mut reader).map_err(damaged)? {
        interrupt::check()?;
        let (path, inode) = (found.path, found.inode);
        let (mut link_to, mut more) = (None, false);
        if inode.links > 1 && inode.kind != Kind::Directory {
            let (first, names) = seen.entry(inode.number).or_insert_with(|| (path.clone(), 0));
            *names += 1;
            link_to = (*names > 1).then(|| first.clone());
            more = *names < inode.links;
        }
        each(&Item { path, inode, link_to, more }, &mut reader)?;
    }
    Ok(())
}

pub(super) fn damaged(e: ext4::read::Error) -> Error {
    Error::input("the bundle's image can not be read").because(e)
}
