//! Writes ext4 file systems: a tree in, image bytes out.
//!
//! Ranked goals: every image is one that `e2fsck -fn` and the kernel accept without a word; the
//! same input gives the same bytes; file contents stream through in constant memory and are
//! written once, where they stay; no root, no mount, no unsafe code.
//!
//! ```
//! use ext4::{Kind, Meta, Node, Options, Tree, Writer};
//! use std::io::{Cursor, Write};
//!
//! let mut writer = Writer::new(Cursor::new(Vec::new()), Options::default())?;
//! let mut file = writer.file();
//! file.write_all(b"hello\n")?;
//! let data = file.finish()?;
//!
//! let mut tree = Tree::new(Meta::with_mode(0o755));
//! let hello = tree.add(Node { meta: Meta::with_mode(0o644), kind: Kind::File(data) });
//! tree.link(Tree::ROOT, b"hello.txt", hello)?;
//! let (image, summary) = writer.finish(&tree)?;
//! assert_eq!(image.into_inner().len() as u64, summary.bytes);
//! # Ok::<(), ext4::Error>(())
//! ```
//!
//! # Layout of an image
//!
//! Blocks are 4 KiB, groups 128 MiB. From front to back:
//!
//! | what | blocks |
//! |---|---|
//! | superblock (at byte 1024) | 1 |
//! | group descriptors, 64 bytes a group, then free room for them to grow | room for 1 TiB |
//! | file contents, in the order they were written; zero blocks are holes | as needed |
//! | extent tree blocks, long symlinks, attribute blocks | as needed |
//! | directory blocks, all together | as needed |
//! | journal, where one is asked for | as asked |
//! | block bitmaps, inode bitmaps, inode tables of all groups (`flex_bg`) | as needed |
//! | free blocks | the reserve |
//!
//! Metadata comes last because its size is known only when the tree is. There are no backup
//! superblocks (`sparse_super2` with none): an image is a copy of something that can be built
//! again, and they would cut file contents every 128 MiB.
//!
//! Features: `ext_attr dir_index sparse_super2 [has_journal]`, `filetype extent 64bit flex_bg`,
//! `large_file huge_file dir_nlink extra_isize metadata_csum`. The on-disk format is described in
//! the kernel's `Documentation/filesystems/ext4/`.

mod block;
mod crc32c;
mod dir;
mod error;
mod extent;
mod file;
mod finish;
mod group;
mod hash;
mod inode;
mod journal;
mod number;
mod options;
mod put;
pub mod read;
mod superblock;
mod tree;
mod writer;
mod xattr;

pub use error::{Error, Result};
pub use file::{Data, FileWriter, Run};
pub use finish::Summary;
pub use inode::check;
pub use options::Options;
pub use tree::{Entry, Kind, Meta, Node, NodeId, Time, Tree, Xattr};
pub use writer::Writer;

/// Bytes in a block.
pub const BLOCK_BYTES: usize = 4096;
