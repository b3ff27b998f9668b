//! The image so far: the layers below a step, flattened, with our agent on top, kept in the cache.
//!
//! ```text
//! <cache>/images/<layout's digest>.ext4
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bundle::Init;
use imgrun::Progress;

use crate::cache::Cache;
use crate::image::{Image, Layout};
use crate::inject::{self, Agent};
use crate::source::Layer;
use crate::{Error, Result};

/// So many images are kept: those of the steps that one works at. `imgtool cache prune` takes them
/// by age, too.
const IMAGES_MAX: usize = 4;

/// The image of `layers` with `agent`, made where it is not in the cache, which then holds it.
pub(super) fn image(
    layers: &[Layer],
    agent: &Agent,
    epoch: Option<u64>,
    cache: &Cache,
    progress: &Progress,
) -> Result<PathBuf> {
    let above = agent.layer(Init::Agent, epoch.unwrap_or(0));
    let layout = Layout {
        layers: layers.to_vec(),
        above: above.map_err(|e| Error::io("the agent's layer", e))?,
        mount_points: &inject::MOUNT_POINTS,
        epoch,
        label: "image so far".to_string(),
        ..Layout::default()
    };
    let directory = cache.images();
    fs::create_dir_all(&directory).map_err(|e| Error::io(directory.display(), e))?;
    let path = directory.join(format!("{}.ext4", layout.digest().hex()));
    if cache.hold(&path).is_ok() {
        return Ok(path);
    }
    Image::flatten(&layout, &directory, progress)?.keep(&path)?;
    cache.hold(&path)?;
    evict(&directory);
    Ok(path)
}

/// Removes the oldest ones that nobody uses.
fn evict(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let whole = entries.filter(|e| !e.file_name().to_string_lossy().starts_with('.'));
    let used = |path: &PathBuf| {
        path.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let mut all: Vec<_> = whole.map(|e| e.path()).map(|path| (used(&path), path)).collect();
    all.sort();
    let too_many = all.len().saturating_sub(IMAGES_MAX);
    for (_, path) in all.iter().take(too_many) {
        // One that is in use stays: its lock is shared. Ours is held until the file is gone, or who
        // takes it in between would hold what has no name any more.
        let Ok(file) = File::open(path) else { continue };
        if file.try_lock().is_ok() {
            let _ = fs::remove_file(path);
        }
    }
}
