//! The disk that receives what a machine writes.

use std::fs::File;
use std::path::Path;

use crate::{Error, Result};

/// Makes a sparse file of `bytes` at `path` with an empty ext4 file system in it.
///
/// It has no journal: it is thrown away with the machine, and nobody mounts it after a hard stop.
///
/// # Errors
/// `Host` where the file can not be written.
pub(crate) fn format_upper(path: &Path, bytes: u64) -> Result<()> {
    let failed = |e: ext4::Error| {
        Error::host(format!("{}: formatting the upper disk", path.display())).because(e)
    };
    let file = File::create_new(path).map_err(|e| Error::io(path.display(), e))?;
    let options = ext4::Options {
        size_bytes: Some(bytes),
        label: "upper".to_string(),
        ..ext4::Options::default()
    };
    let writer = ext4::Writer::new(file, options).map_err(failed)?;
    let tree = ext4::Tree::new(ext4::Meta::with_mode(0o755));
    let (file, summary) = writer.finish(&tree).map_err(failed)?;
    // What lies behind the last table is a hole.
    file.set_len(summary.bytes).map_err(|e| Error::io(path.display(), e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::UPPER_BYTES_DEFAULT;

    #[test]
    fn an_upper_disk_is_large_and_costs_little() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upper.ext4");
        format_upper(&path, UPPER_BYTES_DEFAULT).unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.len(), UPPER_BYTES_DEFAULT);
        assert!(metadata.blocks() * 512 < 4 << 20, "{} KiB", metadata.blocks() / 2);
    }
}
