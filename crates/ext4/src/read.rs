//! Reads ext4 file systems from any bytes: every byte of metadata is checked before it is believed.
//!
//! Whatever the image holds, the answer is right or an error, found in bounded time and memory:
//! maps of files can not loop or overlap, a directory is entered once, and all sizes are held
//! against the image's. Where the file system has metadata checksums each one is checked; contents
//! have none.
//!
//! Read are extent trees of any depth, maps of blocks, linear and hashed directories, inline data, attributes
//! wherever they are, blocks of 1 to 64 KiB, inodes of 128 bytes and more, with and without
//! `64bit`, `flex_bg` and `metadata_csum`: ext2 and ext3, too. Refused by name are encrypted files,
//! `meta_bg`, and a journal that was not replayed.
//!
//! ```
//! # use ext4::{Kind, Meta, Node, Options, Tree, Writer};
//! # use std::io::{Cursor, Read, Write};
//! # let mut writer = Writer::new(Cursor::new(Vec::new()), Options::default())?;
//! # let mut file = writer.file();
//! # file.write_all(b"hello\n")?;
//! # let data = file.finish()?;
//! # let mut tree = Tree::new(Meta::with_mode(0o755));
//! # let hello = tree.add(Node { meta: Meta::with_mode(0o644), kind: Kind::File(data) });
//! # tree.link(Tree::ROOT, b"hello.txt", hello)?;
//! # let (image, _) = writer.finish(&tree)?;
//! let mut reader = ext4::read::Reader::open(image)?;
//! let inode = reader.find(b"/hello.txt", true)?;
//! let mut text = String::new();
//! reader.content(&inode)?.read_to_string(&mut text)?;
//! assert_eq!((inode.mode, &text[..]), (0o644, "hello\n"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blocks;
mod content;
mod directory;
mod error;
mod extents;
mod get;
mod indirect;
mod inode;
mod path;
mod volume;
mod walk;
mod xattr;

use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;

pub use content::Content;
pub use directory::Entry;
pub use error::{Error, Result};
pub use inode::{Inode, Kind};
pub use volume::Volume;
pub use walk::{Found, Walk};

use crate::Xattr;
use crate::crc32c::crc32c;
use blocks::Blocks;
use content::Map;
use directory::Visit;
use extents::Extents;
use indirect::Indirect;
use volume::Layout;

const ROOT_INODE: u32 = 2;
/// A directory with more names is not listed: it would take a gigabyte of memory.
pub const ENTRIES_MAX: usize = 4 << 20;
/// What Linux gives out as one attribute's value.
const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;
/// Attributes of one file take no more memory than this.
const XATTRS_BYTES_MAX: usize = 16 << 20;
/// A file has at most 2^32 blocks.
const FILE_BLOCKS_MAX: u64 = 1 << 32;
/// An inode holds this much of a symlink's target, or of inline data.
const IN_INODE_BYTES: usize = 60;

/// A file system in `R`, which stays as it is.
#[derive(Debug)]
pub struct Reader<R> {
    blocks: Blocks<R>,
    volume: Volume,
    layout: Layout,
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the superblock.
    ///
    /// # Errors
    /// Where there is no file system, it is cut, damaged, or of a kind that is not read.
    pub fn open(mut source: R) -> Result<Self> {
        let given = source.seek(SeekFrom::End(0))?;
        let mut superblock = Vec::with_capacity(volume::BYTES);
        source.seek(SeekFrom::Start(volume::OFFSET))?;
        source.by_ref().take(volume::BYTES as u64).read_to_end(&mut superblock)?;
        let (volume, layout) = volume::parse(&superblock)?;
        let needed = volume.blocks.saturating_mul(volume.block_bytes);
        if given < needed {
            return Err(Error::Truncated { needed, given });
        }
        let blocks = Blocks::new(source, volume.block_bytes as usize, volume.blocks);
        Ok(Reader { blocks, volume, layout })
    }

    /// What the superblock says.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The root directory.
    ///
    /// # Errors
    /// As [`Reader::inode`].
    pub fn root(&mut self) -> Result<Inode> {
        match self.inode(ROOT_INODE)? {
            root if root.kind == Kind::Directory => Ok(root),
            _ => Err(Error::inode(ROOT_INODE, "the root is no directory")),
        }
    }

    /// The inode `number`, from 1 on.
    ///
    /// # Errors
    /// Where there is no such inode in use, or it is damaged.
    pub fn inode(&mut self, number: u32) -> Result<Inode> {
        if number == 0 || number > self.volume.inodes {
            return Err(Error::inode(number, "there is no inode of this number"));
        }
        let per_group = self.layout.inodes_per_group;
        let (group, index) = ((number - 1) / per_group, (number - 1) % per_group);
        let table = self.inode_table(group)?;
        let inode_bytes = self.layout.inode_bytes;
        let block_bytes = self.blocks.block_bytes;
        let offset = u64::from(index) * inode_bytes as u64;
        let block = table.saturating_add(offset / block_bytes as u64);
        let at = (offset % block_bytes as u64) as usize;
        let raw = &self.blocks.block(block)?[at..at + inode_bytes];
        Inode::parse(number, raw, &self.layout, block_bytes)
    }

    /// Where a group's inode table begins, from its descriptor.
    fn inode_table(&mut self, group: u32) -> Result<u64> {
        let bytes = self.layout.descriptor_bytes;
        let per_block = self.blocks.block_bytes / bytes;
        // Descriptors follow the superblock's block.
        let first = volume::OFFSET / self.volume.block_bytes + 1;
        let block = first + u64::from(group) / per_block as u64;
        let at = group as usize % per_block * bytes;
        let descriptor = &self.blocks.block(block)?[at..at + bytes];
        if let Some(seed) = self.layout.seed {
            let crc = crc32c(crc32c(seed, &group.to_le_bytes()), &descriptor[..0x1e]);
            let crc = crc32c(crc32c(crc, &[0; 2]), &descriptor[0x20..]);
            if get::u16(descriptor, 0x1e) != crc as u16 {
                return Err(Error::group(group.into(), "its descriptor's checksum is wrong"));
            }
        }
        Ok(if bytes >= 64 {
            get::split_u64(descriptor, 0x08, 0x28)
        } else {
            get::u32(descriptor, 0x08).into()
        })
    }

    /// A regular file's content.
    ///
    /// # Errors
    /// Where it is no regular file or its map is damaged.
    pub fn content(&mut self, file: &Inode) -> Result<Content<'_, R>> {
        match file.kind {
            Kind::File => self.stream(file),
            _ => Err(Error::inode(file.number, "it is no regular file")),
        }
    }

    /// Where a symbolic link points.
    ///
    /// # Errors
    /// Where it is no symbolic link or damaged.
    pub fn target(&mut self, link: &Inode) -> Result<Vec<u8>> {
        if link.kind != Kind::Symlink {
            return Err(Error::inode(link.number, "it is no symbolic link"));
        }
        if link.size == 0 || link.size > self.volume.block_bytes {
            return Err(Error::inode(link.number, "its target has an impossible length"));
        }
        if link.flags & inode::FLAG_ENCRYPTED != 0 {
            return Err(Error::unsupported(link.number, "an encrypted target"));
        }
        let mut target = vec![0; link.size as usize];
        let is_mapped = link.flags & (inode::FLAG_EXTENTS | inode::FLAG_INLINE) != 0;
        if !is_mapped && target.len() < IN_INODE_BYTES {
            target.copy_from_slice(&link.content()[..link.size as usize]);
        } else {
            self.stream(link)?.fill(&mut target)?;
        }
        match target.contains(&0) {
            true => Err(Error::inode(link.number, "its target holds a NUL")),
            false => Ok(target),
        }
    }

    /// The entries of a directory, sorted by name.
    ///
    /// # Errors
    /// Where it is no directory, is damaged, or has more than [`ENTRIES_MAX`] names.
    pub fn entries(&mut self, directory: &Inode) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.scan(directory, &mut |name, inode| {
            if entries.len() == ENTRIES_MAX {
                return Err(Error::unsupported(directory.number, "more than 4,194,304 names"));
            }
            entries.push(Entry { name: name.into(), inode });
            Ok(ControlFlow::Continue(()))
        })?;
        entries.sort_unstable();
        match entries.windows(2).any(|pair| pair[0].name == pair[1].name) {
            true => Err(Error::inode(directory.number, "two of its entries have one name")),
            false => Ok(entries),
        }
    }

    /// The inode that `name` leads to in a directory.
    fn lookup(&mut self, directory: &Inode, name: &[u8]) -> Result<Option<u32>> {
        let mut found = None;
        self.scan(directory, &mut |there, inode| {
            if there == name {
                found = Some(inode);
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    fn scan(&mut self, directory: &Inode, visit: &mut Visit<'_>) -> Result<()> {
        let layout = self.layout;
        if directory.kind != Kind::Directory {
            return Err(Error::inode(directory.number, "it is no directory"));
        }
        if directory.flags & inode::FLAG_ENCRYPTED != 0 {
            return Err(Error::unsupported(directory.number, "an encrypted directory"));
        }
        if directory.flags & inode::FLAG_INLINE != 0 {
            // The parent's number, then entries to the end, then more of them as an attribute.
            let more = self.inline_rest(directory)?;
            let flow = directory::scan(directory, &layout, &directory.content()[4..], visit)?;
            if flow.is_continue() {
                let _ = directory::scan(directory, &layout, &more, visit)?;
            }
            return Ok(());
        }
        let mut block = vec![0; self.blocks.block_bytes];
        if directory.size == 0 || !directory.size.is_multiple_of(block.len() as u64) {
            return Err(Error::inode(directory.number, "its size is not that of a directory"));
        }
        let mut content = self.stream(directory)?;
        while content.position() < directory.size {
            if content.hole()? > 0 {
                return Err(Error::inode(directory.number, "a directory has a hole"));
            }
            content.fill(&mut block)?;
            let entries = match layout.seed {
                Some(seed) => directory::checked(directory, &block, seed)?,
                None => &block,
            };
            if directory::scan(directory, &layout, entries, visit)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// What an inode of any kind holds.
    fn stream(&mut self, inode: &Inode) -> Result<Content<'_, R>> {
        if inode.flags & inode::FLAG_ENCRYPTED != 0 {
            return Err(Error::unsupported(inode.number, "encrypted content"));
        }
        if inode.flags & inode::FLAG_INLINE != 0 {
            let mut bytes = [inode.content(), &self.inline_rest(inode)?].concat();
            if inode.size > bytes.len() as u64 {
                return Err(Error::inode(inode.number, "its inline data is cut"));
            }
            bytes.truncate(inode.size as usize);
            return Ok(Content::inline(&mut self.blocks, bytes));
        }
        let block_bytes = self.volume.block_bytes;
        if inode.size > FILE_BLOCKS_MAX * block_bytes {
            return Err(Error::inode(inode.number, "its size is more than a file can have"));
        }
        let map = match inode.flags & inode::FLAG_EXTENTS {
            0 => Map::Indirect(Indirect::new(inode, block_bytes)),
            _ => Map::Extents(Extents::new(inode, self.layout.seed)?),
        };
        Ok(Content::mapped(&mut self.blocks, inode.size, map))
    }

    /// Inline data that did not fit into the inode's own place for it.
    fn inline_rest(&mut self, inode: &Inode) -> Result<Vec<u8>> {
        let rest = in_inode(inode)?.into_iter().find(|(name, _)| name == xattr::INLINE_DATA);
        match rest {
            Some((_, xattr::Value::Bytes(bytes))) => Ok(bytes),
            _ => Err(Error::inode(inode.number, "its inline data is not there")),
        }
    }

    /// An inode's extended attributes, ACLs among them, sorted by name; values as `getxattr(2)`
    /// gives them.
    ///
    /// # Errors
    /// Where they are damaged.
    pub fn xattrs(&mut self, inode: &Inode) -> Result<Vec<Xattr>> {
        let mut stored = in_inode(inode)?;
        if inode.xattr_block != 0 {
            let seed = self.layout.seed;
            let block = self.blocks.block(inode.xattr_block)?;
            stored.extend(xattr::in_block(block, inode.xattr_block, seed)?);
        }
        if inode.flags & inode::FLAG_INLINE != 0 {
            stored.retain(|(name, _)| name != xattr::INLINE_DATA);
        }
        let mut xattrs = Vec::with_capacity(stored.len());
        let mut room = XATTRS_BYTES_MAX;
        for (name, value) in stored {
            let value = match value {
                xattr::Value::Bytes(bytes) => bytes,
                xattr::Value::Inode(number, size) => {
                    room = room.checked_sub(size).ok_or_else(|| {
                        Error::unsupported(inode.number, "more than 16 MiB of attributes")
                    })?;
                    self.value(number, size)?
                }
            };
            let decoded = xattr::decoded(name, value);
            xattrs.push(decoded.ok_or_else(|| Error::inode(inode.number, "an ACL is none"))?);
        }
        xattrs.sort();
        Ok(xattrs)
    }

    /// An attribute's value that has an inode of its own (`ea_inode`).
    fn value(&mut self, number: u32, size: usize) -> Result<Vec<u8>> {
        let inode = self.inode(number)?;
        let is_value = inode.kind == Kind::File && inode.flags & inode::FLAG_VALUE != 0;
        if !is_value || inode.size != size as u64 || size > XATTR_VALUE_BYTES_MAX {
            return Err(Error::inode(number, "it is not the attribute's value that it should be"));
        }
        let mut value = vec![0; size];
        self.stream(&inode)?.fill(&mut value)?;
        Ok(value)
    }
}

fn in_inode(inode: &Inode) -> Result<Vec<(Vec<u8>, xattr::Value)>> {
    xattr::in_inode(inode.spare())
        .ok_or_else(|| Error::inode(inode.number, "its extended attributes do not fit into it"))
}
