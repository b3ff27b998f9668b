//! The end of an image: everything that is known only when the tree is.

use std::collections::HashMap;
use std::io::{Seek, Write};
use std::ops::Range;

use crate::block::{INODE_BYTES, blocks_for};
use crate::crc32c::crc32c;
use crate::dir::{self, Named, Place};
use crate::extent;
use crate::file::Run;
use crate::group::{self, Geometry, Usage, Wanted};
use crate::inode::{self, Inode, checksum_seed};
use crate::journal::Journal;
use crate::number::Numbers;
use crate::superblock;
use crate::xattr::{self, Placed};
use crate::{BLOCK_BYTES, Error, Kind, Meta, NodeId, Result, Tree, Writer};

/// A symlink's target up to this length lies in the inode, with a terminating zero.
const FAST_SYMLINK_BYTES_MAX: usize = 59;
/// One inode for so many bytes, where a volume's size is given.
const BYTES_PER_INODE: u64 = 16 << 10;

/// What an image has become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The image's length.
    pub bytes: u64,
    /// Free space in it.
    pub free_bytes: u64,
    /// Inodes taken, reserved ones included.
    pub inodes: u64,
    /// Where in the image, in bytes and ascending, another region begins: contents, what is about
    /// single files, directories, the journal, bitmaps, inode tables, free blocks. See the crate's
    /// page.
    pub seams: Vec<u64>,
}

impl<W: Write + Seek> Writer<W> {
    /// Writes directories, inodes, bitmaps, descriptors and the superblock for `tree`.
    /// Nodes that nothing links to are left out.
    ///
    /// # Errors
    /// Where the tree can not be stored or does not fit, or writing fails.
    pub fn finish(mut self, tree: &Tree) -> Result<(W, Summary)> {
        let seed = self.options.checksum_seed.unwrap_or(crc32c(!0, &self.options.uuid));
        let size = self.options.size_bytes;
        let told = self.options.inodes.map(u64::from);
        let told = told.or(size.map(|bytes| bytes / BYTES_PER_INODE));
        let numbers = Numbers::assign(tree, told)?;
        let contents = 1 + self.descriptor_room..self.stream.next();
        let unused = unused(tree, &numbers, contents.clone())?;
        let mut inodes = Inodes::new(tree, &numbers, seed);
        let mut seams = vec![contents.start, contents.end];
        inodes.place_xattrs(&mut self)?;
        inodes.place_files(&mut self)?;
        seams.push(self.stream.next());
        inodes.place_directories(&mut self)?;
        seams.push(self.stream.next());
        let journal = self.place_journal(&mut inodes, seed)?;
        seams.push(self.stream.next());

        let geometry = Geometry::compute(&Wanted {
            descriptor_room: self.descriptor_room,
            tables: self.stream.next(),
            inodes: told.unwrap_or(0).max(numbers.slots()),
            blocks: size.map(|bytes| bytes / BLOCK_BYTES as u64),
            reserve: blocks_for(self.options.reserve_bytes),
            unused,
        })?;
        inodes.directories.sort_unstable();
        let usage = Usage { inodes: numbers.bitmap(), directories: inodes.directories };
        let table = inodes.table;
        let descriptors = group::write_bitmaps(&mut self.stream, &geometry, &usage, seed)?;
        seams.push(self.stream.next());
        group::write_inodes(&mut self.stream, &geometry, table)?;
        seams.push(self.stream.next());
        seams.dedup();
        let free_inodes = geometry.inodes() - numbers.taken();
        let front = superblock::front(
            &self.options,
            &geometry,
            free_inodes,
            journal.as_ref(),
            &descriptors,
        );
        let out = self.stream.finish(&front, geometry.blocks)?;
        let summary = Summary {
            bytes: geometry.blocks * BLOCK_BYTES as u64,
            free_bytes: geometry.free() * BLOCK_BYTES as u64,
            inodes: numbers.taken(),
            seams: seams.into_iter().map(|block| block * BLOCK_BYTES as u64).collect(),
        };
        Ok((out, summary))
    }

    fn place_journal(&mut self, inodes: &mut Inodes<'_>, seed: u32) -> Result<Option<Journal>> {
        if !self.options.journal {
            return Ok(None);
        }
        let content = self.stream.next() * BLOCK_BYTES as u64 + self.options.reserve_bytes;
        let bytes = self.options.size_bytes.unwrap_or(content);
        let blocks = Journal::blocks_for(bytes / BLOCK_BYTES as u64);
        let journal = Journal::write(&mut self.stream, blocks, &self.options.uuid, seed)?;
        inodes.put(&Inode {
            number: journal.inode,
            meta: &Meta::with_mode(0o600),
            type_bits: 0o100000,
            links: 1,
            size: journal.bytes(),
            blocks: journal.blocks,
            flags: inode::FLAG_EXTENTS,
            content: journal.content,
            xattr_block: 0,
            xattrs: Vec::new(),
        })?;
        Ok(Some(journal))
    }
}

/// The blocks of `contents` that no file of the tree has: contents written and then given up.
fn unused(tree: &Tree, numbers: &Numbers, contents: Range<u64>) -> Result<Vec<Range<u64>>> {
    let mut runs: Vec<&Run> = numbers
        .nodes()
        .filter_map(|node| match &tree.node(node).kind {
            Kind::File(data) => Some(&data.runs[..]),
            _ => None,
        })
        .flatten()
        .collect();
    runs.sort_unstable_by_key(|run| run.image_block);
    let mut unused = Vec::new();
    let mut at = contents.start;
    for run in runs {
        match run.image_block {
            start if start < at => return Err(Error::Tree("two files have the same blocks")),
            start if start > at => unused.push(at..start),
            _ => {}
        }
        at = run.image_block + u64::from(run.blocks);
    }
    if at > contents.end {
        return Err(Error::Tree("a file has blocks of another image"));
    }
    if at < contents.end {
        unused.push(at..contents.end);
    }
    Ok(unused)
}

/// The inode table under way.
struct Inodes<'t> {
    tree: &'t Tree,
    numbers: &'t Numbers,
    seed: u32,
    table: Vec<u8>,
    directories: Vec<u32>,
    /// Attributes of the nodes that have any.
    xattrs: HashMap<NodeId, Placed>,
    first_xattr_block: u64,
}

/// The part of an inode that depends on its kind.
struct Content {
    size: u64,
    blocks: u64,
    flags: u32,
    bytes: [u8; 60],
}

impl Content {
    fn none() -> Self {
        Content { size: 0, blocks: 0, flags: 0, bytes: [0; 60] }
    }
}

impl<'t> Inodes<'t> {
    fn new(tree: &'t Tree, numbers: &'t Numbers, seed: u32) -> Self {
        Inodes {
            tree,
            numbers,
            seed,
            table: vec![0; numbers.slots() as usize * INODE_BYTES],
            directories: Vec::new(),
            xattrs: HashMap::new(),
            first_xattr_block: 0,
        }
    }

    fn place_xattrs<W: Write + Seek>(&mut self, writer: &mut Writer<W>) -> Result<()> {
        let mut blocks = xattr::Blocks::default();
        for node in self.numbers.nodes() {
            let xattrs = &self.tree.node(node).meta.xattrs;
            if !xattrs.is_empty() {
                self.xattrs.insert(node, blocks.place(xattrs, inode::XATTR_ROOM)?);
            }
        }
        self.first_xattr_block = writer.stream.next();
        for block in blocks.finish(self.first_xattr_block, self.seed) {
            writer.stream.append(&block[..])?;
        }
        Ok(())
    }

    /// Everything but directories: extent tree blocks and long symlinks.
    fn place_files<W: Write + Seek>(&mut self, writer: &mut Writer<W>) -> Result<()> {
        for node in self.numbers.nodes() {
            let content = match &self.tree.node(node).kind {
                Kind::Directory(_) => continue,
                Kind::File(data) => {
                    let taken = data.runs.iter().map(|run| u64::from(run.blocks)).sum();
                    self.extents(writer, node, &data.runs, data.size, taken)?
                }
                Kind::Symlink(target) => self.symlink(writer, node, target)?,
                Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                    Content { bytes: inode::device(*major, *minor)?, ..Content::none() }
                }
                Kind::Fifo | Kind::Socket => Content::none(),
            };
            self.put_node(node, content)?;
        }
        Ok(())
    }

    fn place_directories<W: Write + Seek>(&mut self, writer: &mut Writer<W>) -> Result<()> {
        let mut extents = Vec::new();
        for node in self.numbers.nodes() {
            let Kind::Directory(entries) = &self.tree.node(node).kind else { continue };
            let number = self.numbers.of(node);
            self.directories.push(number);
            let named: Vec<_> = entries
                .iter()
                .map(|entry| Named {
                    name: &entry.name,
                    inode: self.numbers.of(entry.node),
                    kind: self.tree.node(entry.node).kind.entry_type(),
                })
                .collect();
            let place = Place {
                inode: number,
                parent: self.numbers.parent(node),
                seed: checksum_seed(self.seed, number),
                hash_seed: &writer.options.hash_seed,
            };
            let laid_out = dir::layout(place, &named)?;
            let blocks = laid_out.blocks.len() as u32;
            let run = Run { file_block: 0, image_block: writer.stream.next(), blocks };
            for block in &laid_out.blocks {
                writer.stream.append(block)?;
            }
            extents.push((node, run, laid_out.indexed));
        }
        // A directory is one run, so its extents always fit into the inode.
        for (node, run, indexed) in extents {
            let taken = u64::from(run.blocks);
            let size = taken * BLOCK_BYTES as u64;
            let mut content = self.extents(writer, node, &[run], size, taken)?;
            content.flags |= if indexed { inode::FLAG_INDEX } else { 0 };
            self.put_node(node, content)?;
        }
        Ok(())
    }

    fn symlink<W: Write + Seek>(
        &self,
        writer: &mut Writer<W>,
        node: NodeId,
        target: &[u8],
    ) -> Result<Content> {
        let size = target.len() as u64;
        inode::check_target(target)?;
        if target.len() <= FAST_SYMLINK_BYTES_MAX {
            let mut content = Content { size, ..Content::none() };
            content.bytes[..target.len()].copy_from_slice(target);
            return Ok(content);
        }
        let run = Run { file_block: 0, image_block: writer.stream.next(), blocks: 1 };
        let mut block = [0; BLOCK_BYTES];
        block[..target.len()].copy_from_slice(target);
        writer.stream.append(&block)?;
        self.extents(writer, node, &[run], size, 1)
    }

    fn extents<W: Write + Seek>(
        &self,
        writer: &mut Writer<W>,
        node: NodeId,
        runs: &[Run],
        size: u64,
        taken: u64,
    ) -> Result<Content> {
        let seed = checksum_seed(self.seed, self.numbers.of(node));
        let root = extent::write(&mut writer.stream, runs, seed)?;
        let blocks = taken + root.tree_blocks;
        Ok(Content { size, blocks, flags: inode::FLAG_EXTENTS, bytes: root.bytes })
    }

    fn put_node(&mut self, node: NodeId, content: Content) -> Result<()> {
        let Content { size, mut blocks, flags, bytes } = content;
        let (xattrs, xattr_block) = match self.xattrs.remove(&node) {
            None => (Vec::new(), 0),
            Some(Placed::Inode(bytes)) => (bytes, 0),
            Some(Placed::Block(index)) => (Vec::new(), self.first_xattr_block + index as u64),
        };
        blocks += u64::from(xattr_block != 0);
        let Self { tree, numbers, .. } = *self;
        self.put(&Inode {
            number: numbers.of(node),
            meta: &tree.node(node).meta,
            type_bits: tree.node(node).kind.mode_bits(),
            links: numbers.links(node),
            size,
            blocks,
            flags,
            content: bytes,
            xattr_block,
            xattrs,
        })
    }

    fn put(&mut self, inode: &Inode<'_>) -> Result<()> {
        let at = (inode.number as usize - 1) * INODE_BYTES;
        self.table[at..at + INODE_BYTES].copy_from_slice(&inode.encode(self.seed)?);
        Ok(())
    }
}
