//! Inode numbers, parents and link counts: what a walk over the tree tells.

use std::collections::VecDeque;

use crate::superblock::FIRST_INODE;
use crate::tree::{LINKS_MAX, check_name};
use crate::{Error, Kind, NodeId, Result, Tree};

const ROOT_INODE: u32 = 2;

/// What the walk found.
pub(crate) struct Numbers {
    /// By node: its inode's number, 0 where nothing links to it.
    number: Vec<u32>,
    /// By node: for directories, their parent's number.
    parent: Vec<u32>,
    /// By node: how many names it has; for directories, `.` and their children's `..` too.
    links: Vec<u32>,
    /// The nodes that have numbers from [`FIRST_INODE`] on, in order.
    pub(crate) order: Vec<NodeId>,
}

impl Numbers {
    /// Walks the tree level by level, so that the inodes of one directory are neighbours.
    pub(crate) fn assign(tree: &Tree) -> Result<Self> {
        let mut numbers = Numbers {
            number: vec![0; tree.len()],
            parent: vec![0; tree.len()],
            links: vec![0; tree.len()],
            order: Vec::with_capacity(tree.len()),
        };
        let root = Tree::ROOT.index();
        numbers.number[root] = ROOT_INODE;
        numbers.parent[root] = ROOT_INODE;
        numbers.links[root] = 2;
        let mut queue = VecDeque::from([Tree::ROOT]);
        while let Some(directory) = queue.pop_front() {
            let Kind::Directory(entries) = &tree.node(directory).kind else { continue };
            for entry in entries {
                check_name(&entry.name)?;
                if entry.node.index() >= tree.len() {
                    return Err(Error::Tree("an entry names a node that is not there"));
                }
                if numbers.visit(tree, directory, entry.node, &entry.name)? {
                    queue.push_back(entry.node);
                }
            }
        }
        Ok(numbers)
    }

    /// Counts a name of `node`; true where it is a directory to walk.
    fn visit(&mut self, tree: &Tree, parent: NodeId, node: NodeId, name: &[u8]) -> Result<bool> {
        let at = node.index();
        let is_directory = matches!(tree.node(node).kind, Kind::Directory(_));
        if self.number[at] == 0 {
            self.number[at] = FIRST_INODE + self.order.len() as u32;
            self.order.push(node);
        } else if is_directory {
            return Err(Error::Tree("a directory has two names"));
        }
        self.links[at] += 1;
        if is_directory {
            self.links[at] += 1;
            self.links[parent.index()] += 1;
            self.parent[at] = self.number[parent.index()];
        } else if self.links[at] > LINKS_MAX {
            return Err(Error::name(name, "its file has more than 65,000 names"));
        }
        Ok(is_directory)
    }

    pub(crate) fn of(&self, node: NodeId) -> u32 {
        self.number[node.index()]
    }

    pub(crate) fn parent(&self, node: NodeId) -> u32 {
        self.parent[node.index()]
    }

    /// As `i_links_count` holds it: 1 for a directory with more than 65,000 (`dir_nlink`).
    pub(crate) fn links(&self, node: NodeId) -> u16 {
        let links = self.links[node.index()];
        if links > LINKS_MAX { 1 } else { links as u16 }
    }

    /// All nodes with a number, the root first, then ascending.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        std::iter::once(Tree::ROOT).chain(self.order.iter().copied())
    }

    /// The largest number given; reserved ones count even where nothing uses them.
    pub(crate) fn last(&self) -> u32 {
        FIRST_INODE - 1 + self.order.len() as u32
    }
}
