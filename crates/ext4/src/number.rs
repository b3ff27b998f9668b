//! Inode numbers, parents and link counts: what a walk over the tree tells.
//!
//! Numbers follow from paths, so that a file added to the next version of an image leaves nearly
//! all others where they were, and with them the directory blocks and inode tables that hold the
//! numbers. Each directory's names have a home, a block of the inode table that the hash of the
//! directory's path chooses (a large directory's names have several); a file's place in it comes
//! from its name. Who finds a place taken gets the next free one. In the walk's order the earlier
//! comes first, directories before all; a file with several names is where its first name puts it.
//!
//! A quarter of the table is left free, so that few are moved on, and homes are chosen by "jump"
//! hashing: of the places in a table that grows by a part, only that part is new.

use std::collections::VecDeque;

use crate::block::INODES_PER_BLOCK;
use crate::superblock::FIRST_INODE;
use crate::tree::{LINKS_MAX, check_name};
use crate::{Error, Kind, NodeId, Result, Tree};

const ROOT_INODE: u32 = 2;
/// Names of a directory that share a home, at most on average: half a block, for more of them in one
/// place push many others out of theirs.
const NAMES_PER_HOME: usize = INODES_PER_BLOCK as usize / 2;
/// The table grows by steps of 1/16 to 1/32, so that a few files more are no step at all.
const TABLE_STEPS: u64 = 32;

/// What the walk found.
pub(crate) struct Numbers {
    /// By node: its inode's number, 0 where nothing links to it.
    number: Vec<u32>,
    /// By node: for directories, their parent.
    parent: Vec<NodeId>,
    /// By node: how many names it has; for directories, `.` and their children's `..` too.
    links: Vec<u32>,
    /// The nodes that are linked to, but for the root, in the walk's order.
    order: Vec<NodeId>,
    /// The inodes that the numbers are from.
    slots: u64,
}

impl Numbers {
    /// Walks the tree level by level, then gives out numbers from 1 to `inodes`, or to more where
    /// the tree needs them. `None`: as many as it needs, and some spare ones.
    pub(crate) fn assign(tree: &Tree, inodes: Option<u64>) -> Result<Self> {
        let mut numbers = Numbers {
            number: vec![0; tree.len()],
            parent: vec![Tree::ROOT; tree.len()],
            links: vec![0; tree.len()],
            order: Vec::with_capacity(tree.len()),
            slots: 0,
        };
        let (homes, wishes) = numbers.walk(tree)?;
        numbers.slots = slots(numbers.taken(), inodes);
        let blocks = numbers.slots / INODES_PER_BLOCK;
        let homes: Vec<u64> =
            homes.iter().map(|key| jump(*key, blocks) * INODES_PER_BLOCK).collect();
        let mut places = Places::new(numbers.slots);
        // Directories choose first: when one moves, so does the `..` of all in it.
        for directories in [true, false] {
            let now = |(_, wish): &(_, &Wish)| wish.is_directory == directories;
            for (node, wish) in numbers.order.iter().zip(&wishes).filter(now) {
                let slot = homes[wish.home as usize] + u64::from(wish.place);
                numbers.number[node.index()] = places.take(slot as u32) + 1;
            }
        }
        Ok(numbers)
    }

    /// Finds all that is linked to; the keys of all homes, and what each node wishes for in order.
    fn walk(&mut self, tree: &Tree) -> Result<(Vec<u64>, Vec<Wish>)> {
        let mut homes = Vec::new();
        let mut wishes = Vec::with_capacity(tree.len());
        self.number[Tree::ROOT.index()] = ROOT_INODE;
        self.links[Tree::ROOT.index()] = 2;
        let mut queue = VecDeque::from([(Tree::ROOT, 0)]);
        while let Some((directory, path)) = queue.pop_front() {
            let Kind::Directory(entries) = &tree.node(directory).kind else { continue };
            // A power of two: a directory seldom grows out of it, and half its names stay then.
            let parts = entries.len().div_ceil(NAMES_PER_HOME).next_power_of_two() as u64;
            let first = homes.len() as u32;
            homes.extend((0..parts).map(|part| hash(path, &part.to_le_bytes())));
            for entry in entries {
                check_name(&entry.name)?;
                if entry.node.index() >= tree.len() {
                    return Err(Error::Tree("an entry names a node that is not there"));
                }
                let name = hash(path, &entry.name);
                let is_new = self.links[entry.node.index()] == 0;
                let is_directory = self.visit(tree, directory, entry.node, &entry.name)?;
                if is_new {
                    let home = first + ((name >> 32) & (parts - 1)) as u32;
                    let place = (name % INODES_PER_BLOCK) as u8;
                    wishes.push(Wish { home, place, is_directory });
                    self.order.push(entry.node);
                }
                if is_directory {
                    queue.push_back((entry.node, name));
                }
            }
        }
        Ok((homes, wishes))
    }

    /// Counts a name of `node`; true where it is a directory to walk.
    fn visit(&mut self, tree: &Tree, parent: NodeId, node: NodeId, name: &[u8]) -> Result<bool> {
        let at = node.index();
        let is_directory = matches!(tree.node(node).kind, Kind::Directory(_));
        if is_directory && self.links[at] > 0 {
            return Err(Error::Tree("a directory has two names"));
        }
        self.links[at] += 1;
        if is_directory {
            self.links[at] += 1;
            self.links[parent.index()] += 1;
            self.parent[at] = parent;
        } else if self.links[at] > LINKS_MAX {
            return Err(Error::name(name, "its file has more than 65,000 names"));
        }
        Ok(is_directory)
    }

    pub(crate) fn of(&self, node: NodeId) -> u32 {
        self.number[node.index()]
    }

    pub(crate) fn parent(&self, node: NodeId) -> u32 {
        self.of(self.parent[node.index()])
    }

    /// As `i_links_count` holds it: 1 for a directory with more than 65,000 (`dir_nlink`).
    pub(crate) fn links(&self, node: NodeId) -> u16 {
        let links = self.links[node.index()];
        if links > LINKS_MAX { 1 } else { links as u16 }
    }

    /// All nodes with a number, the root first, then in the walk's order.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        std::iter::once(Tree::ROOT).chain(self.order.iter().copied())
    }

    /// How many inodes are taken; reserved ones count even where nothing uses them.
    pub(crate) fn taken(&self) -> u64 {
        u64::from(FIRST_INODE) - 1 + self.order.len() as u64
    }

    /// No number is larger; whole blocks of the table.
    pub(crate) fn slots(&self) -> u64 {
        self.slots
    }

    /// The bits of all inodes up to [`Numbers::slots`], set where they are taken.
    pub(crate) fn bitmap(&self) -> Vec<u8> {
        let mut bitmap = vec![0; self.slots as usize / 8];
        let taken = self.order.iter().map(|node| self.of(*node));
        for number in (1..FIRST_INODE).chain(taken) {
            let bit = number - 1;
            bitmap[bit as usize / 8] |= 1 << (bit % 8);
        }
        bitmap
    }
}

/// Where a node's number is looked for first.
struct Wish {
    /// The home, counted from the first one.
    home: u32,
    /// The place in it.
    place: u8,
    is_directory: bool,
}

/// How many inodes the numbers are from: `taken` and a third of that, but no more than `inodes`.
fn slots(taken: u64, inodes: Option<u64>) -> u64 {
    let roomy = taken + taken / 3;
    let step = (roomy.next_power_of_two() / TABLE_STEPS).max(INODES_PER_BLOCK);
    let roomy = roomy.next_multiple_of(step).min(u32::MAX.into());
    roomy.min(inodes.unwrap_or(u64::MAX)).max(taken).next_multiple_of(INODES_PER_BLOCK)
}

/// The places of a table, counted from 0, and which are free.
struct Places {
    /// By place: itself where it is free, else one from which the next free one is found. The last
    /// is behind the table.
    next: Vec<u32>,
}

impl Places {
    fn new(slots: u64) -> Self {
        let mut next: Vec<u32> = (0..=slots as u32).collect();
        next[..FIRST_INODE as usize - 1].fill(FIRST_INODE - 1);
        Places { next }
    }

    /// Takes the first free place from `slot` on, around the end. There must be one.
    fn take(&mut self, slot: u32) -> u32 {
        let end = self.next.len() as u32 - 1;
        let place = match self.find(slot) {
            place if place == end => self.find(0),
            place => place,
        };
        self.next[place as usize] = place + 1;
        place
    }

    fn find(&mut self, mut slot: u32) -> u32 {
        while self.next[slot as usize] != slot {
            let next = self.next[slot as usize];
            // Halves the way for whoever comes next.
            self.next[slot as usize] = self.next[next as usize];
            slot = self.next[slot as usize];
        }
        slot
    }
}

/// FNV-1a, then mixed so that all bits depend on all of the name (as in splitmix64).
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mut hash = bytes.iter().fold(seed ^ 0xcbf2_9ce4_8422_2325, fnv);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

/// One of `buckets` for a key, nearly the same for nearly as many (Lamping and Veach, "A fast,
/// minimal memory, consistent hash algorithm", in integers).
fn jump(mut key: u64, buckets: u64) -> u64 {
    let (mut found, mut next) = (0, 0);
    while next < buckets {
        found = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((found + 1) << 31) / ((key >> 33) + 1);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_buckets_move_few_keys() {
        let keys = || (0u64..20_000).map(|i| hash(i, b"key"));
        let moved = keys().filter(|&key| jump(key, 1000) != jump(key, 1010)).count();
        assert!((100..300).contains(&moved), "{moved}");
        let mut counts = vec![0; 100];
        keys().for_each(|key| counts[jump(key, 100) as usize] += 1);
        assert!(counts.iter().all(|count| (130..270).contains(count)), "{counts:?}");
    }

    #[test]
    fn every_place_is_given_out_once() {
        let mut places = Places::new(64);
        let mut taken: Vec<u32> = (10..64).map(|i| places.take(i * 7 % 64)).collect();
        taken.sort_unstable();
        assert!(taken.into_iter().eq(10..64));
    }

    #[test]
    fn told_counts_are_kept() {
        assert_eq!(slots(100, Some(100)), 112);
        assert_eq!(slots(100, Some(50)), 112);
        assert_eq!(slots(100, Some(100_000)), slots(100, None));
        assert!((133_333..142_000).contains(&slots(100_000, None)));
    }
}
