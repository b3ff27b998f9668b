//! The packed file again.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bundle::{Digest, HashingWriter, Piece};

use super::{Store, Stored};
use crate::{Cancel, Error, Progress, Result, Unit};

impl Store {
    /// Writes the packed file that `stored` came from to `out`, byte for byte. Packed bytes are not
    /// kept, they would take a third more space: they are made again ([`bundle::Outline::export`]);
    /// `packed` gets those of a frame for which that does not work.
    ///
    /// # Errors
    /// [`crate::Class::Trust`] where the bundle is damaged, and what `packed` fails with. There is no
    /// file then.
    pub fn export(
        &self,
        stored: &Stored,
        out: &Path,
        packed: impl FnMut(&Piece) -> Result<Vec<u8>>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<u64> {
        let about = |e| Error::io(out.display(), e);
        let outline = self.outline_of(stored.digest).map_err(|why| damaged(stored, &why))?;
        let files = outline.manifest().files.iter().map(|entry| {
            let path = stored.path(&entry.name);
            File::open(&path).map_err(|e| damaged(stored, &format!("{}: {e}", path.display())))
        });
        let files = files.collect::<Result<Vec<_>>>()?;
        let stage = progress.stage(
            format!("export {}", stored.title()),
            Unit::Bytes,
            Some(outline.packed_bytes()),
        );
        let parent = out.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let draft = tempfile::Builder::new().prefix(".imgrun-").tempfile_in(parent);
        let draft = draft.map_err(about)?;
        let mut writer = HashingWriter::new(BufWriter::new(draft.as_file()));
        let raw = |piece: &Piece, buffer: &mut Vec<u8>| {
            cancel.check()?;
            stage.add(piece.frame.packed_bytes());
            buffer.resize(piece.frame.raw_bytes() as usize, 0);
            let read = files[piece.file].read_exact_at(buffer, piece.raw_at);
            read.map_err(|e| damaged(stored, &e.to_string()))
        };
        outline.export(&mut writer, raw, packed).map_err(|e| match cancel.is_cancelled() {
            true => Error::interrupted(),
            false => e.within(stored.title()),
        })?;
        let (mut inner, digest, bytes) = writer.finish();
        inner.flush().map_err(about)?;
        drop(inner);
        check(stored, digest)?;
        draft.as_file().sync_all().map_err(about)?;
        // Temporary files are private; this one is as any other.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        draft.as_file().set_permissions(mode).map_err(about)?;
        draft.persist(out).map_err(|e| about(e.error))?;
        stage.finish(Unit::Bytes.amount(bytes));
        Ok(bytes)
    }
}

fn check(stored: &Stored, found: Digest) -> Result<()> {
    let expected = stored.digest;
    match found == expected {
        true => Ok(()),
        false => Err(damaged(stored, &format!("it gives {found}, not {expected}"))),
    }
}

fn damaged(stored: &Stored, why: &str) -> Error {
    Error::trust(format!("{} is damaged here: {why}", stored.title()))
        .hint(format!("imgrun verify --repair {}", stored.digest.short()))
}
