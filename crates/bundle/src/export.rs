//! The packed file again, from the files that were taken out of it.
//!
//! All but the data frames follows from the manifest and the frame table. What a data frame's packed
//! bytes were is known by digest only. zstd is deterministic: the same version gives the same bytes
//! at the same level. So frames are compressed again, at the level that gives the right bytes, and
//! checked; those for which none does (another zstd made them) have to come from elsewhere.

use std::io::Write;

use zstd::bulk::Compressor;

use crate::member::{glue, head};
use crate::zstd_frame::{stored, zeros};
use crate::{Digest, Error, Frame, Outline, Piece};

/// The levels that are tried, those that packers use first.
const LEVELS: [i32; 22] =
    [3, 19, 9, 1, 12, 6, 15, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17, 18, 20, 21, 22];
/// Frames for which no level gave the right bytes before we stop to try.
const STRANGE_MAX: usize = 3;

impl Outline {
    /// Writes the packed file to `out`. `raw` fills an empty buffer with a data frame's raw bytes;
    /// `packed` gets the packed bytes of one that can not be made again. Both are checked.
    ///
    /// # Errors
    /// Theirs and `out`'s; [`Error::Digest`] where their bytes are not the frame's.
    pub fn export<E: From<Error>>(
        &self,
        out: &mut impl Write,
        mut raw: impl FnMut(&Piece, &mut Vec<u8>) -> Result<(), E>,
        mut packed: impl FnMut(&Piece) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let mut write = |bytes: &[u8]| out.write_all(bytes).map_err(|e| E::from(e.into()));
        let mut again = Again { level: None, strange: 0 };
        let mut buffer = Vec::new();
        write(&head(self.json())?)?;
        let mut pieces = self.pieces().iter().peekable();
        let files = &self.manifest().files;
        for index in 0..=files.len() {
            write(&stored(&glue(files, index)?))?;
            while let Some(piece) = pieces.next_if(|piece| piece.file == index) {
                let frame = match piece.frame {
                    Frame::Zero { raw_bytes } => {
                        write(&zeros(u64::from(raw_bytes)))?;
                        continue;
                    }
                    frame @ Frame::Data { .. } => frame,
                };
                let Frame::Data { raw: raw_digest, packed: packed_digest, .. } = frame else {
                    continue;
                };
                let what = || format!("the frame at byte {}", piece.packed_at);
                buffer.clear();
                raw(piece, &mut buffer)?;
                check(&buffer, raw_digest, what)?;
                let bytes = match again.compress(&buffer, packed_digest)? {
                    Some(bytes) => bytes,
                    None => packed(piece)?,
                };
                check(&bytes, packed_digest, what)?;
                write(&bytes)?;
            }
        }
        write(&self.tail())
    }
}

fn check(bytes: &[u8], expected: Digest, what: impl Fn() -> String) -> Result<(), Error> {
    let found = Digest::of(bytes);
    if found == expected { Ok(()) } else { Err(Error::Digest { what: what(), expected, found }) }
}

/// Compressing as somebody has before us.
struct Again {
    /// The level that was right last, and its compressor.
    level: Option<(i32, Compressor<'static>)>,
    strange: usize,
}

impl Again {
    /// The packed bytes with the digest `expected`, if some level gives them.
    fn compress(&mut self, raw: &[u8], expected: Digest) -> Result<Option<Vec<u8>>, Error> {
        let known = self.level.as_ref().map(|(level, _)| *level);
        if let Some((_, compressor)) = &mut self.level {
            let bytes = compressor.compress(raw)?;
            if Digest::of(&bytes) == expected {
                return Ok(Some(bytes));
            }
        }
        if self.strange >= STRANGE_MAX {
            return Ok(None);
        }
        for level in LEVELS.into_iter().filter(|level| Some(*level) != known) {
            let mut compressor = crate::pack::compressor(level)?;
            let bytes = compressor.compress(raw)?;
            if Digest::of(&bytes) == expected {
                self.level = Some((level, compressor));
                return Ok(Some(bytes));
            }
        }
        self.strange += 1;
        Ok(None)
    }
}
