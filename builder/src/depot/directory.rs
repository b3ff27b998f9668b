//! `file:`: writing to a directory, any number of processes at once.
//!
//! A file is written under a name that no key has (`.draft-…`), synced, and only then gets its own
//! name: by link(2), which fails where there is one, or by rename(2). A kill leaves at most a draft;
//! drafts are locked by their writers, and who writes next removes those that nobody holds.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use imgrun::depot::Directory;
use imgrun::interrupt;
use tempfile::NamedTempFile;

use super::{Body, Listed, Put, Writable};
use crate::{Error, Result};

const DRAFT_PREFIX: &str = ".draft-";
/// A draft without a lock that is older than this is a dead writer's; a younger one may only not be
/// locked yet.
const DRAFT_AGE_MIN: Duration = Duration::from_secs(60);
/// Copied at a time.
const PIECE_BYTES: usize = 1 << 20;

/// A synced draft with `body` in it, in the directory of `path`.
fn draft(path: &Path, body: Body<'_>) -> Result<NamedTempFile> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let about = |e| Error::io(path.display(), e);
    fs::create_dir_all(dir).map_err(about)?;
    sweep(dir).map_err(about)?;
    // Readable by all: a web server may be another user.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut builder = tempfile::Builder::new();
    let mut draft =
        builder.prefix(DRAFT_PREFIX).permissions(mode).tempfile_in(dir).map_err(about)?;
    draft.as_file().lock().map_err(about)?;
    match body {
        Body::Bytes(bytes) => draft.write_all(bytes).map_err(about)?,
        Body::File { path: from, size, stage } => {
            let mut file = File::open(from).map_err(|e| Error::io(from.display(), e))?;
            let mut piece = vec![0; PIECE_BYTES];
            let mut copied = 0;
            loop {
                interrupt::check()?;
                let n = file.read(&mut piece).map_err(|e| Error::io(from.display(), e))?;
                if n == 0 {
                    break;
                }
                draft.write_all(&piece[..n]).map_err(about)?;
                copied += n as u64;
                stage.add(n as u64);
            }
            if copied != size {
                return Err(Error::input(format!(
                    "{}: it changes while it is read",
                    from.display()
                )));
            }
        }
    }
    draft.as_file().sync_all().map_err(about)?;
    Ok(draft)
}

/// Removes dead writers' drafts.
fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(DRAFT_PREFIX) {
            continue;
        }
        let Ok(file) = File::open(entry.path()) else { continue };
        let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age >= DRAFT_AGE_MIN && file.try_lock().is_ok() {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

impl Writable for Directory {
    fn put_new(&self, key: &str, body: Body<'_>) -> Result<Put> {
        let path = self.path(key)?;
        let about = |e| Error::io(path.display(), e);
        if path.try_exists().map_err(about)? {
            return Ok(Put::Exists);
        }
        let draft = draft(&path, body)?;
        match fs::hard_link(draft.path(), &path) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(Put::Exists),
            Err(e) => return Err(about(e)),
        }
        sync_parent(&path).map_err(about)?;
        Ok(Put::Created)
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(key)?;
        let about = |e| Error::io(path.display(), e);
        let draft = draft(&path, Body::Bytes(bytes))?;
        draft.persist(&path).map_err(|e| about(e.error))?;
        sync_parent(&path).map_err(about)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let dir = self.path(prefix.trim_end_matches('/'))?;
        let about = |e| Error::io(dir.display(), e);
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(about)?,
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry.map_err(about)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() && !name.starts_with('.') {
                let modified = metadata.modified().unwrap_or(SystemTime::now());
                let modified = modified.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
                let key = format!("{prefix}{name}");
                listed.push(Listed { key, size: metadata.len(), modified });
            }
        }
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }

    fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(path.display(), e)),
            _ => Ok(()),
        }
    }

    fn exclusive(&self) -> Option<bool> {
        Some(true)
    }
}
