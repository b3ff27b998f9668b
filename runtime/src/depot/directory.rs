//! `file:`: a directory.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Depot, check_key};
use crate::{Error, Result};

/// A directory that holds files under their keys.
#[derive(Clone, Debug)]
pub struct Directory {
    dir: PathBuf,
}

impl Directory {
    /// At `path`, or `//path` as URLs have it. It need not be there yet.
    ///
    /// # Errors
    /// Where the path is empty or names a host.
    pub fn new(path: &str) -> Result<Self> {
        let local = match path.strip_prefix("//") {
            Some(rest) if rest.starts_with('/') => rest,
            Some(_) => return Err(Error::usage(format!("file:{path}: it names a host"))),
            None => path,
        };
        if local.is_empty() {
            return Err(Error::usage("file: it names no directory"));
        }
        let dir = std::path::absolute(local).map_err(|e| Error::io(local, e))?;
        Ok(Directory { dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the file under `key` is.
    ///
    /// # Errors
    /// For what is no key.
    pub fn path(&self, key: &str) -> Result<PathBuf> {
        check_key(key)?;
        Ok(self.dir.join(key))
    }

    fn open(&self, key: &str) -> Result<Option<(File, u64)>> {
        let path = self.path(key)?;
        let about = |e| Error::io(path.display(), e);
        let file = match File::open(&path) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            opened => opened.map_err(about)?,
        };
        let metadata = file.metadata().map_err(about)?;
        if !metadata.is_file() {
            return Err(Error::input(format!("{}: it is no file", path.display())));
        }
        Ok(Some((file, metadata.len())))
    }
}

impl Depot for Directory {
    fn title(&self) -> String {
        format!("file:{}", self.dir.display())
    }

    fn read(&self, key: &str, range: Range<u64>, out: &mut dyn Write) -> Result<Option<u64>> {
        let Some((mut file, _)) = self.open(key)? else { return Ok(None) };
        let about = |e| Error::io(format!("{}: {key}", self.title()), e);
        file.seek(SeekFrom::Start(range.start)).map_err(about)?;
        let mut part = file.take(range.end.saturating_sub(range.start));
        let copied = std::io::copy(&mut part.by_ref(), out).map_err(about)?;
        Ok(Some(copied))
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        Ok(self.open(key)?.map(|(_, size)| size))
    }
}
