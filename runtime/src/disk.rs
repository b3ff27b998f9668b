//! The disk that receives what a machine writes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The disk that receives what a machine writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upper {
    /// The file.
    pub path: PathBuf,
    /// It outlives the machine: what the guest writes and syncs is on the host's disk then, and a
    /// hard stop leaves a file system that can be mounted. Else all of it is thrown away.
    pub kept: bool,
}

impl Upper {
    /// Makes the file, where there is none, with an empty ext4 file system of `bytes` in it.
    ///
    /// # Errors
    /// `Host` where the file can not be written.
    pub(crate) fn prepare(&self, bytes: u64) -> Result<()> {
        if self.kept && self.path.exists() {
            return Ok(());
        }
        let mut draft = self.path.clone().into_os_string();
        draft.push(".part");
        let draft = PathBuf::from(draft);
        let failed = |e| Error::io(draft.display(), e);
        // What a format that was killed left.
        match fs::remove_file(&draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let file = format(&draft, bytes, "upper", self.kept)?;
        if self.kept {
            // Under its name it is whole, whatever becomes of the host.
            file.sync_all().map_err(failed)?;
        }
        fs::rename(&draft, &self.path).map_err(failed)?;
        if self.kept { sync_directory_of(&self.path) } else { Ok(()) }
    }
}

/// Where the disk `upper` of a machine that begins from a snapshot is until that is a machine of its
/// own.
pub(crate) fn draft(upper: &Path) -> PathBuf {
    upper.with_extension("draft")
}

/// Makes a sparse file of `bytes` at `path` with an empty ext4 file system in it.
pub(crate) fn format(path: &Path, bytes: u64, label: &str, journal: bool) -> Result<File> {
    let failed =
        |e: ext4::Error| Error::host(format!("{}: formatting a disk", path.display())).because(e);
    let file = File::create_new(path).map_err(|e| Error::io(path.display(), e))?;
    let options = ext4::Options {
        size_bytes: Some(bytes),
        label: label.to_string(),
        journal,
        ..ext4::Options::default()
    };
    let writer = ext4::Writer::new(file, options).map_err(failed)?;
    let tree = ext4::Tree::new(ext4::Meta::with_mode(0o755));
    let (file, summary) = writer.finish(&tree).map_err(failed)?;
    // What lies behind the last table is a hole.
    file.set_len(summary.bytes).map_err(|e| Error::io(path.display(), e))?;
    Ok(file)
}

/// Makes a name in a directory last.
pub(crate) fn sync_directory_of(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(path);
    let sync = File::open(dir).and_then(|dir| dir.sync_all());
    sync.map_err(|e| Error::io(dir.display(), e))
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
        let upper = Upper { path: path.clone(), kept: false };
        upper.prepare(UPPER_BYTES_DEFAULT).unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.len(), UPPER_BYTES_DEFAULT);
        assert!(metadata.blocks() * 512 < 4 << 20, "{} KiB", metadata.blocks() / 2);
    }

    #[test]
    fn a_kept_disk_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let upper = Upper { path: dir.path().join("upper.ext4"), kept: true };
        std::fs::write(dir.path().join("upper.ext4.part"), b"killed here").unwrap();
        upper.prepare(64 << 20).unwrap();
        let made = upper.path.metadata().unwrap().modified().unwrap();
        upper.prepare(64 << 20).unwrap();
        assert_eq!(upper.path.metadata().unwrap().modified().unwrap(), made);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
