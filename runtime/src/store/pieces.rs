//! Frames that bundles in the store hold already.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bundle::{Digest, Frame, MANIFEST_BYTES_MAX, Outline};

use super::{FRAMES, MANIFEST, Store};
use crate::Result;

/// Where a frame's raw bytes lie in the store. The file stays readable, even if its bundle is
/// removed meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// A file of a bundle.
    pub(crate) file: Arc<File>,
    /// Where in it.
    pub(crate) at: u64,
}

impl Place {
    /// The bytes that are there: to be checked by whoever asks. False where they can not be read.
    pub(crate) fn read(&self, bytes: u64, buffer: &mut Vec<u8>) -> bool {
        buffer.resize(bytes as usize, 0);
        self.file.read_exact_at(buffer, self.at).is_ok()
    }
}

impl Store {
    /// Where the frames `wanted`, by the digests of their raw bytes, lie in the store's bundles.
    /// Only their tables are read: what is there may be damaged. Of a bundle that is known to be
    /// damaged the caller knows what its table was.
    pub(crate) fn places(
        &self,
        wanted: &HashSet<Digest>,
        damaged: Option<(Digest, &Outline)>,
    ) -> Result<HashMap<Digest, Place>> {
        let mut found = HashMap::new();
        for digest in self.digests()? {
            let dir = self.bundles().join(digest.hex());
            let known = damaged.filter(|(damaged, _)| *damaged == digest);
            let own = if known.is_some() { None } else { outline(&dir) };
            // One that is damaged, or removed just now, has nothing for us.
            let Some(outline) = known.map(|(_, outline)| outline).or(own.as_ref()) else {
                continue;
            };
            let mut files: HashMap<usize, Option<Arc<File>>> = HashMap::new();
            for piece in outline.pieces() {
                let Frame::Data { raw, .. } = piece.frame else { continue };
                if !wanted.contains(&raw) || found.contains_key(&raw) {
                    continue;
                }
                let name = &outline.manifest().files[piece.file].name;
                let open = || File::open(dir.join(name)).ok().map(Arc::new);
                let file = files.entry(piece.file).or_insert_with(open);
                if let Some(file) = file.clone() {
                    found.insert(raw, Place { file, at: piece.raw_at });
                }
            }
        }
        Ok(found)
    }
}

/// What the files `manifest.json` and `frames` in `dir` say, if that makes sense.
pub(super) fn outline(dir: &Path) -> Option<Outline> {
    let path = dir.join(MANIFEST);
    if path.metadata().ok()?.len() > MANIFEST_BYTES_MAX {
        return None;
    }
    Outline::new(fs::read(path).ok()?, &fs::read(dir.join(FRAMES)).ok()?).ok()
}
