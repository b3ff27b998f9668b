//! What is in a cache, and its removal.
//!
//! Each thing goes by one `unlink` or `rename`, so a prune that is killed has removed some things
//! and damaged none. Before, it holds the thing's exclusive lock and looks at its time of last use
//! once more: what another process holds ([`Cache::hold`]) stays. Notes go after what they name.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bundle::Digest;
use serde::{Deserialize, Serialize};

use super::{Cache, DRAFT_PREFIX, is_still, random};
use crate::{Error, Result, date};

/// A kernel's or a source's draft that nobody wrote to for so long has no writer any more.
const DRAFT_AGE_SECONDS: u64 = 24 * 60 * 60;
/// A directory that is being removed.
const GONE_PREFIX: &str = ".gone-";

/// What a thing in the cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Of an image: a layer, a manifest, a configuration.
    Blob,
    /// The beginning of a blob.
    Part,
    /// Debian packages, installed.
    Bootstrap,
    /// What a step of a recipe made.
    Step,
    /// An image between two steps.
    Image,
    /// A kernel's bundle.
    Kernel,
    /// A kernel's sources.
    Source,
    /// What a killed process left.
    Rest,
}

/// One thing in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// What a person would call it, with an image's or a kernel's name where it is known.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// The space that it takes, in bytes.
    pub bytes: u64,
    /// When it was last used, in seconds since 1970.
    pub last_used: u64,
}

/// All that is in a cache.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// The largest first.
    pub items: Vec<Item>,
    keys: PathBuf,
    blobs: PathBuf,
}

/// What a prune did, or would do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pruned {
    /// What is gone.
    pub removed: Vec<Item>,
    /// What would be gone if another process did not use it.
    pub in_use: Vec<Item>,
}

impl Pruned {
    /// The space that it gave back, in bytes.
    pub fn freed_bytes(&self) -> u64 {
        self.removed.iter().map(|item| item.bytes).sum()
    }
}

/// What notes say, of either kind: a bootstrap has `blob` and `name`, an image the rest.
#[derive(Deserialize)]
struct Note {
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    digest: Option<Digest>,
    #[serde(default)]
    blobs: Vec<Digest>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    blob: Option<Digest>,
    #[serde(default)]
    step: bool,
}

impl Inventory {
    /// Looks at all of `cache`.
    ///
    /// # Errors
    /// Where it can not be read.
    pub fn read(cache: &Cache) -> Result<Inventory> {
        let (blobs, keys) = (cache.blobs(), cache.keys());
        let names = names(&keys, cache)?;
        let mut items = Vec::new();
        for path in entries(&blobs)? {
            let hex = file_name(&path);
            let named = names.get(&hex).cloned();
            // A draft is swept by who opens the cache, if anybody.
            if !hex.starts_with(DRAFT_PREFIX) {
                let (kind, name) = named.unwrap_or((Kind::Blob, format!("sha256:{hex}")));
                items.extend(item(kind, name, path));
            }
        }
        for path in entries(&cache.parts())? {
            let name = format!("sha256:{}", file_name(&path));
            items.extend(item(Kind::Part, name, path));
        }
        for path in entries(&cache.images())? {
            let name = file_name(&path);
            let kind = if name.starts_with('.') { Kind::Rest } else { Kind::Image };
            items.extend(item(kind, name, path));
        }
        for path in entries(&cache.dir().join("kernel"))? {
            items.extend(kernel(path));
        }
        for path in entries(&cache.dir().join("sources"))? {
            let name = file_name(&path);
            let kind = if name.starts_with('.') { Kind::Rest } else { Kind::Source };
            items.extend(item(kind, name, path));
        }
        items.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        Ok(Inventory { items, keys, blobs })
    }

    /// Removes what was last used before `before` (seconds since 1970) and is not in use; with
    /// `dry_run` only says so.
    ///
    /// # Errors
    /// Where something can not be removed; what went before is gone.
    pub fn prune(&self, before: u64, dry_run: bool) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for item in &self.items {
            crate::interrupt::check()?;
            match remove(item, before, dry_run).map_err(|e| Error::io(item.path.display(), e))? {
                Removal::Done => pruned.removed.push(item.clone()),
                Removal::InUse => pruned.in_use.push(item.clone()),
                Removal::Stays => {}
            }
        }
        if !dry_run {
            self.sweep_notes()?;
        }
        Ok(pruned)
    }

    /// Removes the notes on what is not there any more.
    fn sweep_notes(&self) -> Result<()> {
        for path in entries(&self.keys)? {
            let Ok(file) = File::open(&path) else { continue };
            let Ok(note) = serde_json::from_reader::<_, Note>(io::BufReader::new(&file)) else {
                continue;
            };
            let Some(of) = note.blob.or(note.digest) else { continue };
            // One that was written meanwhile is another file.
            if !self.blobs.join(of.hex()).exists() && is_still(&path, &file).unwrap_or(false) {
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }
}

enum Removal {
    Done,
    InUse,
    Stays,
}

fn remove(item: &Item, before: u64, dry_run: bool) -> io::Result<Removal> {
    let before = match item.kind {
        Kind::Rest => before.min(date::now().saturating_sub(DRAFT_AGE_SECONDS)),
        _ => before,
    };
    let guarded = guard(&item.path);
    let file = match File::open(&guarded) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Removal::Stays),
        file => file?,
    };
    let gone = file_name(&item.path).starts_with(GONE_PREFIX);
    if last_used(&item.path) >= before && !gone {
        return Ok(Removal::Stays);
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Removal::InUse),
        Err(TryLockError::Error(e)) => return Err(e),
    }
    // Used between the first look and the lock, or another's by now.
    if (last_used(&item.path) >= before && !gone) || !is_still(&guarded, &file).unwrap_or(false) {
        return Ok(Removal::Stays);
    }
    if dry_run {
        return Ok(Removal::Done);
    }
    if fs::symlink_metadata(&item.path)?.is_dir() {
        let parent = item.path.parent().unwrap_or(Path::new("."));
        let grave = parent.join(format!("{GONE_PREFIX}{:016x}", random()));
        fs::rename(&item.path, &grave)?;
        fs::remove_dir_all(&grave)?;
    } else {
        fs::remove_file(&item.path)?;
    }
    Ok(Removal::Done)
}

/// The file whose lock says that `path` is in use: for a kernel's working directory that of its
/// builder, otherwise itself.
fn guard(path: &Path) -> PathBuf {
    match path.extension() {
        Some(extension) if extension == "work" => path.with_extension("lock"),
        _ => path.to_path_buf(),
    }
}

/// What the notes call blobs, by their digest's hex.
fn names(keys: &Path, cache: &Cache) -> Result<BTreeMap<String, (Kind, String)>> {
    let mut names = BTreeMap::new();
    for path in entries(keys)? {
        let Ok(key) = format!("sha256:{}", file_name(&path)).parse::<Digest>() else { continue };
        let note = cache.note(&key).and_then(|json| serde_json::from_slice::<Note>(&json).ok());
        let Some(note) = note else { continue };
        if let Some(blob) = note.blob {
            let name = note.name.filter(|name| !name.is_empty());
            let name = name.unwrap_or_else(|| format!("bootstrap {}", blob.short()));
            let kind = if note.step { Kind::Step } else { Kind::Bootstrap };
            names.insert(blob.hex(), (kind, name));
        }
        let Some(image) = note.image else { continue };
        let mut put = |blob: Digest, what: String| {
            names.entry(blob.hex()).or_insert((Kind::Blob, format!("{image} {what}")));
        };
        for (i, blob) in note.blobs.iter().enumerate() {
            put(*blob, format!("layer {}", i + 1));
        }
        note.digest.into_iter().for_each(|digest| put(digest, "manifest".to_string()));
    }
    Ok(names)
}

/// What is in the directory of kernels: finished ones and rests, no locks, logs and counts.
fn kernel(path: PathBuf) -> Option<Item> {
    let name = file_name(&path);
    if !fs::symlink_metadata(&path).ok()?.is_dir() {
        return None;
    }
    if name.starts_with('.') || name.ends_with(".work") {
        return item(Kind::Rest, name, path);
    }
    let bundle = entries(&path).ok()?.into_iter().map(|path| file_name(&path));
    let bundle = bundle.filter_map(|file| Some(file.strip_suffix(".tar.zst")?.to_string()));
    item(Kind::Kernel, bundle.min().unwrap_or(name), path)
}

/// `None` where it is gone.
fn item(kind: Kind, name: String, path: PathBuf) -> Option<Item> {
    let bytes = size(&path)?;
    let last_used = last_used(&path);
    Some(Item { kind, name, path, bytes, last_used })
}

fn last_used(path: &Path) -> u64 {
    let time = fs::symlink_metadata(path).and_then(|found| found.modified());
    let since = time.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

/// Bytes of a file, or of all files in a directory.
fn size(path: &Path) -> Option<u64> {
    let found = fs::symlink_metadata(path).ok()?;
    if !found.is_dir() {
        return Some(found.len());
    }
    let inside = entries(path).ok()?;
    Some(inside.iter().filter_map(|path| size(path)).sum())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The paths in `dir`; none where there is no such directory.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(dir.display(), e)),
        Ok(all) => Ok(all.flatten().map(|entry| entry.path()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::Duration;

    use super::*;

    fn age(path: &Path, seconds: u64) {
        let then = UNIX_EPOCH + Duration::from_secs(date::now() - seconds);
        File::open(path).unwrap().set_times(FileTimes::new().set_modified(then)).unwrap();
    }

    #[test]
    fn only_what_is_old_and_unused_goes() {
        let dir = tempfile::tempdir().unwrap();
        let user = Cache::open(dir.path()).unwrap();
        let put = |text: &str| {
            let (digest, path) = Cache::open(dir.path()).unwrap().put(text.as_bytes()).unwrap();
            age(&path, 1000);
            (digest, path)
        };
        let (used, old, fresh) = (put("used"), put("old!!"), put("fresh"));
        let kernel = dir.path().join("kernel/ab");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(kernel.join("k-1-x86_64.tar.zst"), "kernel").unwrap();
        fs::write(dir.path().join("kernel/k-x86_64.lock"), "").unwrap();
        age(&kernel, 1000);
        assert!(Cache::open(dir.path()).unwrap().find(&fresh.0, 5).is_some());
        assert!(user.find(&used.0, 4).is_some());
        age(&used.1, 1000);

        let note = format!(r#"{{"image":"r.example/a:1","digest":"{}"}}"#, old.0);
        user.set_note(&Digest::of("key"), note.as_bytes()).unwrap();
        let all = Inventory::read(&user).unwrap();
        let names: Vec<_> = all.items.iter().map(|i| (i.kind, i.name.as_str(), i.bytes)).collect();
        assert_eq!(names[0], (Kind::Kernel, "k-1-x86_64", 6));
        assert!(names.contains(&(Kind::Blob, "r.example/a:1 manifest", 5)), "{names:?}");
        assert_eq!(all.items.len(), 4);

        let before = date::now() - 500;
        let would = all.prune(before, true).unwrap();
        assert_eq!((would.freed_bytes(), would.in_use.len()), (11, 1));
        assert_eq!(Inventory::read(&user).unwrap().items, all.items);
        let done = all.prune(before, false).unwrap();
        assert_eq!((done.freed_bytes(), done.in_use[0].bytes), (11, 4));
        assert_eq!(Inventory::read(&user).unwrap().items.len(), 2);
        assert!(user.note(&Digest::of("key")).is_none());
        assert!(dir.path().join("kernel/k-x86_64.lock").exists());

        // Nobody uses it any more; and a removal that was killed is finished.
        drop(user);
        fs::create_dir(dir.path().join("kernel/.gone-1")).unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let done = Inventory::read(&cache).unwrap().prune(u64::MAX, false).unwrap();
        assert_eq!((done.removed.len(), done.in_use.len()), (3, 0));
        assert_eq!(Inventory::read(&cache).unwrap().items, []);
    }
}
