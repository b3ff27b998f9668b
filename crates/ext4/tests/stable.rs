//! What a file more changes in an image: little, since numbers follow from paths.

use std::io::Cursor;

use ext4::{BLOCK_BYTES, Kind, Meta, Node, NodeId, Options, Tree, Writer};

/// A tree of directories, most of them small and a few large, as in a distribution.
struct Files {
    tree: Tree,
    directories: Vec<NodeId>,
}

impl Files {
    fn new(directories: usize) -> Self {
        let mut files =
            Files { tree: Tree::new(Meta::with_mode(0o755)), directories: vec![Tree::ROOT] };
        let mut state = 1u64;
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % limit
        };
        for i in 1..directories {
            let parent = files.directories[below(i as u64) as usize];
            let directory = files.add(parent, &format!("directory {i}"), Kind::directory());
            files.directories.push(directory);
            let count = [1, 2, 5, 10, 30][below(5) as usize] * if below(200) == 0 { 50 } else { 1 };
            for j in 0..below(count) {
                files.add(directory, &format!("file number {j}"), Kind::Fifo);
            }
        }
        files
    }

    fn add(&mut self, parent: NodeId, name: &str, kind: Kind) -> NodeId {
        let node = self.tree.add(Node { meta: Meta::with_mode(0o755), kind });
        self.tree.link(parent, name.as_bytes(), node).unwrap();
        node
    }

    fn image(&self, options: Options) -> Vec<u8> {
        let writer = Writer::new(Cursor::new(Vec::new()), options).unwrap();
        writer.finish(&self.tree).unwrap().0.into_inner()
    }
}

/// Versions of an image have different UUIDs.
fn options(version: u8) -> Options {
    Options { uuid: [version; 16], checksum_seed: Some(7), ..Options::default() }
}

fn different(a: &[u8], b: &[u8]) -> usize {
    let blocks = a.chunks(BLOCK_BYTES).zip(b.chunks(BLOCK_BYTES));
    blocks.filter(|(a, b)| a != b).count() + a.len().abs_diff(b.len()) / BLOCK_BYTES
}

#[test]
fn a_file_more_changes_few_blocks() {
    let files = Files::new(2000);
    let before = files.image(options(1));
    let used = before.chunks(BLOCK_BYTES).filter(|block| block.iter().any(|&b| b != 0)).count();
    assert!(used > 2500, "{used}");
    let mut counts = Vec::new();
    for at in (0..2000).step_by(37) {
        let mut more = Files { tree: files.tree.clone(), directories: files.directories.clone() };
        more.add(files.directories[at], "a new file", Kind::Fifo);
        counts.push(different(&before, &more.image(options(2))));
    }
    counts.sort_unstable();
    let average = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    let worst = counts[counts.len() - 1];
    // Superblock, group descriptors, an inode bitmap, the directory, its inode: five at least.
    assert!(average < 10.0 && worst <= 40, "of {used}: {average} {counts:?}");
}

/// The directory blocks of an image without contents, sorted, and its inode tables without what
/// says where things are: one directory block more moves all that follow.
fn metadata(image: &[u8]) -> (Vec<&[u8]>, Vec<Vec<u8>>) {
    const INODE_BYTES: usize = 256;
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    // The first group's descriptor: where the bitmaps of all groups begin, and the inode tables.
    let (bitmaps, tables) = (word(BLOCK_BYTES), word(BLOCK_BYTES + 8));
    let blocks: Vec<&[u8]> = image.chunks(BLOCK_BYTES).collect();
    let mut directories = blocks[129..bitmaps].to_vec();
    directories.sort_unstable();
    let inodes = blocks[tables..].iter().map(|block| {
        let mut block = block.to_vec();
        for inode in block.chunks_mut(INODE_BYTES) {
            inode[40..100].fill(0);
            inode[124..126].fill(0);
            inode[130..132].fill(0);
        }
        block
    });
    (directories, inodes.collect())
}

#[test]
fn a_package_more_changes_few_blocks() {
    let files = Files::new(2000);
    let before = files.image(options(1));
    let mut more = Files { tree: files.tree.clone(), directories: files.directories.clone() };
    let new = more.add(files.directories[77], "new", Kind::directory());
    for i in 0..20 {
        let parent = [new, files.directories[100 + i]][i % 2];
        more.add(parent, &format!("new {i}"), Kind::Fifo);
    }
    let after = more.image(options(2));
    let ((directories, inodes), (old_directories, old_inodes)) =
        (metadata(&after), metadata(&before));
    let is_new = |block: &&&[u8]| old_directories.binary_search(block).is_err();
    let counts = [
        directories.iter().filter(is_new).count(),
        inodes.iter().zip(&old_inodes).filter(|(new, old)| new != old).count(),
    ];
    let all = [directories.len(), inodes.len()];
    assert!(counts[0] < 120 && counts[1] < 60, "{counts:?} of {all:?}");
}

#[test]
fn exact_counts_leave_no_spare() {
    let files = Files::new(100);
    let taken = files.tree.len() as u32 + 9;
    let count = |inodes| {
        let options = Options { inodes, ..options(1) };
        let reader = ext4::read::Reader::open(Cursor::new(files.image(options))).unwrap();
        let volume = reader.volume();
        assert_eq!(volume.inodes - volume.free_inodes, taken);
        volume.inodes
    };
    assert_eq!(count(Some(taken)), taken.next_multiple_of(16));
    assert_eq!(count(Some(1)), taken.next_multiple_of(16));
    assert_eq!(count(Some(10_000)), 10_000);
    assert!((taken..2 * taken).contains(&count(None)));
}
