//! What the caller may choose about an image.

/// How an image is made. The default is an image of computed size for a read-only root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The image's size in bytes, rounded down to whole blocks. `None`: what the content needs,
    /// and [`Options::reserve_bytes`].
    pub size_bytes: Option<u64>,
    /// Free space to leave where the size is computed.
    pub reserve_bytes: u64,
    /// At least this many inodes. What the tree needs is always there; a volume that will be
    /// written to wants more. `None`: one for every 16 KiB where the size is given, else a third
    /// more than the tree needs, which keep numbers stable from one version to the next.
    pub inodes: Option<u32>,
    /// The file system's UUID.
    pub uuid: [u8; 16],
    /// What seeds every checksum of metadata (`metadata_csum_seed`). Images with the same seed have
    /// the same bytes where they have the same directories and inodes. `None`: the UUID does.
    pub checksum_seed: Option<u32>,
    /// The seed of directory hashes. It orders the names in large directories, so versions of one
    /// image better share it.
    pub hash_seed: [u8; 16],
    /// The volume's label, at most 16 bytes are kept.
    pub label: String,
    /// A journal of about 1/64 of the size: for volumes that are written to and kept. Without one
    /// a hard stop can leave a volume that only `e2fsck` mounts again.
    pub journal: bool,
    /// Blocks that only root may use, in percent of all.
    pub reserved_percent: u8,
}
