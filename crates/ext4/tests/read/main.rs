//! Reading images back: our own, those of `mke2fs -d`, and damaged ones.

mod damaged;
mod made;
mod written;

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use ext4::Xattr;
use ext4::read::{Inode, Kind, Reader, Result, Walk};

/// All that can be read about one path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    inode: Inode,
    xattrs: Vec<Xattr>,
    target: Option<Vec<u8>>,
    /// The stretches of content that have blocks: where they begin, and their bytes.
    content: Vec<(u64, Vec<u8>)>,
}

type Tree = BTreeMap<Vec<u8>, Seen>;

/// Reads a whole image.
fn read_all<R: Read + Seek>(image: R) -> Result<Tree> {
    let mut reader = Reader::open(image)?;
    let mut walk = Walk::new(reader.root()?);
    let mut tree = Tree::new();
    while let Some(found) = walk.next(&mut reader)? {
        let inode = found.inode;
        let xattrs = reader.xattrs(&inode)?;
        let target = match inode.kind {
            Kind::Symlink => Some(reader.target(&inode)?),
            _ => None,
        };
        let content = match inode.kind {
            Kind::File => content(&mut reader, &inode)?,
            _ => Vec::new(),
        };
        tree.insert(found.path, Seen { inode, xattrs, target, content });
    }
    Ok(tree)
}

fn content<R: Read + Seek>(reader: &mut Reader<R>, inode: &Inode) -> Result<Vec<(u64, Vec<u8>)>> {
    const PIECE: usize = 4 << 10;
    let mut content = reader.content(inode)?;
    let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
    while content.position() < content.size() {
        if content.skip_hole(u64::MAX)? > 0 {
            continue;
        }
        let (at, mut piece) = (content.position(), vec![0; PIECE]);
        let count = content.read(&mut piece).map_err(ext4::read::Error::Io)?;
        piece.truncate(count);
        match pieces.last_mut() {
            Some((start, bytes)) if *start + bytes.len() as u64 == at => bytes.extend(piece),
            _ => pieces.push((at, piece)),
        }
    }
    assert_eq!(content.position(), inode.size);
    Ok(pieces)
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8 | 1
    })
    .take(bytes)
    .collect()
}
