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
    /// written to wants more. `None`: one for every 16 KiB where the size is given, else none more.
    pub inodes: Option<u32>,
    /// The file system's UUID. It also seeds every checksum.
    pub uuid: [u8; 16],
    /// The seed of directory hashes: 16 bytes, from the same source as the UUID.
    pub hash_seed: [u8; 16],
    /// The volume's label, at most 16 bytes are kept.
    pub label: String,
    /// A journal of about 1/64 of the size: for volumes that are written to and kept. Without one
    /// a hard stop can leave a volume that only `e2fsck` mounts again.
    pub journal: bool,
    /// Blocks that only root may use, in percent of all.
    pub reserved_percent: u8,
}
