//! Publishing in pieces: what a depot has of a bundle already is not uploaded again.
//!
//! The frames that no published version of that name and architecture has go up as one object; the
//! chunk index says where all of them are (`imgrun::depot::Chunked` reads that). Both are created
//! once, the index last, and all of it is read back as one file before the catalog names it.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bundle::{Chunks, Digest, Frame, HashingWriter, Known, Outline};
use imgrun::Unit;
use imgrun::catalog::Entry;
use imgrun::depot::{Chunked, chunks_key, frames_key};
use imgrun::interrupt;

use super::{Draft, Publisher};
use crate::depot::{Body, Put, Writable};
use crate::{Class, Error, Result};

/// The frames of so many versions, those published last, are used again.
const VERSIONS_MAX: usize = 8;

impl Publisher<'_> {
    /// The depot as a reader sees it, whether files are whole or in pieces.
    pub(super) fn reader(&self) -> Chunked<&dyn Writable> {
        Chunked::new(self.depot)
    }

    /// Uploads what no version in `published` has of `draft`, and its index.
    pub(super) fn upload_chunks(&self, draft: &Draft, published: &[Entry]) -> Result<()> {
        let packed = File::open(&draft.file).map_err(|e| Error::io(draft.file.display(), e))?;
        let outline =
            Outline::open(&mut &packed).map_err(|e| Error::from(e).within(draft.file.display()))?;
        let mut known = self.known(&draft.entry, published)?;
        self.upload_frames(draft, &outline, &packed, &mut known)?;
        let index = Chunks::new(outline, &known)?.to_bytes();
        // Who was faster has written another one, perhaps, which is as good: it is read back.
        self.depot.put_new(&chunks_key(&draft.entry.key()), Body::Bytes(&index))?;
        Ok(())
    }

    /// The frames that the depot has of earlier versions.
    fn known(&self, entry: &Entry, published: &[Entry]) -> Result<Known> {
        let like = |other: &&Entry| other.name == entry.name && other.arch == entry.arch;
        let mut versions: Vec<&Entry> = published.iter().filter(like).collect();
        versions.sort_by(|a, b| b.about.published.cmp(&a.about.published));
        let reader = self.reader();
        let mut known = Known::new();
        for version in versions.into_iter().take(VERSIONS_MAX) {
            let chunks = match reader.chunks(&version.key()) {
                // A version that is damaged is nothing to build upon, and no reason to stop.
                Err(e) if e.class() == Class::Trust => {
                    self.progress.note(format!("passed over: {e}"));
                    continue;
                }
                chunks => chunks?,
            };
            // That it is whole, too, does not help: frames are read from objects.
            if let Some(chunks) = chunks
                && self.are_there(chunks.objects().iter().map(frames_key))?
            {
                known.extend(chunks.known());
            }
        }
        Ok(known)
    }

    /// Uploads the frames that are not `known`, as one object, and makes them known.
    fn upload_frames(
        &self,
        draft: &Draft,
        outline: &Outline,
        packed: &File,
        known: &mut Known,
    ) -> Result<()> {
        let beside = draft.file.parent().filter(|dir| *dir != Path::new(""));
        let beside = beside.unwrap_or(Path::new("."));
        let about = |e| Error::io(format!("a temporary file in {}", beside.display()), e);
        // It may get as long as the bundle: where that is there is room, in /tmp there may be none.
        let mut object = tempfile::Builder::new();
        let object = object.prefix(".imgtool-").suffix(".partial").tempfile_in(beside);
        let object = object.map_err(about)?;
        let mut writer = HashingWriter::new(object.as_file());
        let (mut new, mut at) = (HashMap::new(), 0);
        let mut buffer = Vec::new();
        for piece in outline.pieces() {
            interrupt::check()?;
            let Frame::Data { packed: digest, .. } = piece.frame else { continue };
            if known.contains_key(&digest) || new.contains_key(&digest) {
                continue;
            }
            buffer.resize(piece.frame.packed_bytes() as usize, 0);
            let read = packed.read_exact_at(&mut buffer, piece.packed_at);
            read.map_err(|e| Error::io(draft.file.display(), e))?;
            if Digest::of(&buffer) != digest {
                let file = draft.file.display();
                return Err(Error::input(format!("{file}: it changed while it was published")));
            }
            writer.write_all(&buffer).map_err(about)?;
            new.insert(digest, at);
            at += buffer.len() as u64;
        }
        let (_, digest, size) = writer.finish();
        if new.is_empty() {
            return Ok(());
        }
        known.extend(new.into_iter().map(|(frame, at)| (frame, (digest, at))));
        let title = format!("upload new frames of {}", draft.entry.path());
        let stage = self.progress.stage(title, Unit::Bytes, Some(size));
        let body = Body::File { path: object.path(), size, stage: &stage };
        let put = self.depot.put_new(&frames_key(&digest), body)?;
        let all = Unit::Bytes.amount(draft.entry.size);
        let was = if put == Put::Created { "uploaded" } else { "was there" };
        stage.finish(format!("{was}: {} of {all}", Unit::Bytes.amount(size)));
        Ok(())
    }

    /// The files that the index of `entry` and its objects are, where it has one.
    pub(super) fn chunk_keys(&self, key: &str) -> Result<Vec<String>> {
        let Some(chunks) = self.reader().chunks(key)? else { return Ok(Vec::new()) };
        let objects = chunks.objects();
        Ok([chunks_key(key)].into_iter().chain(objects.iter().map(frames_key)).collect())
    }

    fn are_there(&self, keys: impl Iterator<Item = String>) -> Result<bool> {
        for key in keys {
            if self.depot.size(&key)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
