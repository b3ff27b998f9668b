//! The tree that becomes a file system.

use crate::{Data, Error, Result};

/// A file name is at most this long.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// A symlink's target is at most this long: it must fit a block with its terminating zero.
pub(crate) const SYMLINK_BYTES_MAX: usize = crate::BLOCK_BYTES - 1;
/// ext4's limit on names for one inode (directories are exempt, by `dir_nlink`).
pub(crate) const LINKS_MAX: u32 = 65_000;

/// Names a node of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A tree of inodes. A node linked twice is a hard link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<Node>,
}

/// An inode: its metadata and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Owner, mode, time, attributes.
    pub meta: Meta,
    /// What it is, with its content.
    pub kind: Kind,
}

/// What every kind of inode has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky: the low 12 bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification; change, access and creation times are set to it too.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
}

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// The full name: `user.mime_type`, `security.capability`.
    pub name: Box<[u8]>,
    /// The value, as `getxattr(2)` gives it.
    pub value: Box<[u8]>,
}

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory; its entries are kept sorted by name.
    Directory(Vec<Entry>),
    /// A regular file whose content has been written.
    File(Data),
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice {
        /// Major number, 12 bits.
        major: u32,
        /// Minor number, 20 bits.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number, 12 bits.
        major: u32,
        /// Minor number, 20 bits.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 1 to 255 bytes without `/` and NUL; not `.` or `..`.
    pub name: Box<[u8]>,
    /// What it names.
    pub node: NodeId,
}

impl Meta {
    /// Owned by root, dated 1970, with `mode`.
    pub fn with_mode(mode: u16) -> Self {
        Meta { mode, ..Meta::default() }
    }
}

impl Kind {
    /// An empty directory.
    pub fn directory() -> Self {
        Kind::Directory(Vec::new())
    }

    /// The type bits of `st_mode`.
    pub fn mode_bits(&self) -> u16 {
        match self {
            Kind::Fifo => 0o010000,
            Kind::CharDevice { .. } => 0o020000,
            Kind::Directory(_) => 0o040000,
            Kind::BlockDevice { .. } => 0o060000,
            Kind::File(_) => 0o100000,
            Kind::Symlink(_) => 0o120000,
            Kind::Socket => 0o140000,
        }
    }

    /// The type byte of a directory entry.
    pub(crate) fn entry_type(&self) -> u8 {
        match self {
            Kind::File(_) => 1,
            Kind::Directory(_) => 2,
            Kind::CharDevice { .. } => 3,
            Kind::BlockDevice { .. } => 4,
            Kind::Fifo => 5,
            Kind::Socket => 6,
            Kind::Symlink(_) => 7,
        }
    }
}

impl Tree {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// An empty root directory.
    pub fn new(root: Meta) -> Self {
        Tree { nodes: vec![Node { meta: root, kind: Kind::directory() }] }
    }

    /// Adds a node, without a name yet.
    pub fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId((self.nodes.len() - 1) as u32)
    }

    /// Gives `node` the name `name` in `parent`.
    ///
    /// # Errors
    /// A name that can not be one or is taken, a parent that is not a directory.
    pub fn link(&mut self, parent: NodeId, name: &[u8], node: NodeId) -> Result<()> {
        check_name(name)?;
        let Kind::Directory(entries) = &mut self.nodes[parent.index()].kind else {
            return Err(Error::name(name, "its parent is not a directory"));
        };
        match entries.binary_search_by(|e| (*e.name).cmp(name)) {
            Ok(_) => Err(Error::name(name, "it is there already")),
            Err(at) => {
                entries.insert(at, Entry { name: name.into(), node });
                Ok(())
            }
        }
    }

    /// The node named by `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The node named by `id`, to change it.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// How many nodes there are, linked or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: there is always a root.
    pub fn is_empty(&self) -> bool {
        false
    }
}

pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    let why = match name {
        b"" => "it is empty",
        b"." | b".." => "every directory has it already",
        _ if name.len() > NAME_BYTES_MAX => "it is longer than 255 bytes",
        _ if name.iter().any(|&b| b == b'/' || b == 0) => "it holds a slash or a NUL",
        _ => return Ok(()),
    };
    Err(Error::name(name, why))
}
