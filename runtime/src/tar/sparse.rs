//! GNU sparse files: a map of where the data is, and the data alone.
//!
//! Spec: GNU tar's manual, "Storing Sparse Files". Four forms, one rule:
//!
//! | form | where the map is | real size | real name |
//! |---|---|---|---|
//! | old GNU, type `S` | 4 pieces in the header, 21 in each extension block behind it | in the header | the header's |
//! | pax 0.0 | `GNU.sparse.offset` and `.numbytes`, again and again | `GNU.sparse.size` | the header's |
//! | pax 0.1 | `GNU.sparse.map`, numbers between commas | `GNU.sparse.size` | `GNU.sparse.name` |
//! | pax 1.0 | decimal lines before the data, filled up to whole blocks | `GNU.sparse.realsize` | `GNU.sparse.name` |
//!
//! A map is in order, does not overlap, stays inside the real size and holds exactly the bytes that
//! are stored. Only its last piece may be empty (it marks the end) or no whole number of blocks:
//! GNU tar begins each piece at a block, others do not.

use super::BLOCK_BYTES;
use super::header::Wrong;
use super::pax::decimal;

/// A map has at most this many pieces.
const PIECES_MAX: usize = 10_000;
/// Digits of a number in a map of form 1.0: no more are needed for 63 bits.
const DIGITS_MAX: usize = 19;

/// Where data is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Zeros that are not stored, then data that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) hole: u64,
    pub(super) data: u64,
}

const TOO_MANY: Wrong = "its sparse map has more than 10,000 pieces";

/// Checks a map against the file's real `size` and the bytes that are `stored`.
pub(super) fn runs(map: &[Piece], size: u64, stored: u64) -> Result<Vec<Run>, Wrong> {
    if map.len() > PIECES_MAX {
        return Err(TOO_MANY);
    }
    let mut runs = Vec::with_capacity(map.len() + 1);
    let (mut at, mut data) = (0u64, 0u64);
    for (i, piece) in map.iter().enumerate() {
        let is_last = map[i + 1..].iter().all(|later| later.bytes == 0);
        if piece.bytes == 0 && i + 1 < map.len() {
            return Err("its sparse map has an empty piece before its end");
        }
        if !is_last && !piece.bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return Err("a piece of its sparse map is no whole number of blocks");
        }
        let hole = piece.offset.checked_sub(at).ok_or("its sparse map is not in order")?;
        let end = piece.offset.checked_add(piece.bytes).filter(|&end| end <= size);
        at = end.ok_or("its sparse map leads beyond its size")?;
        data += piece.bytes;
        runs.push(Run { hole, data: piece.bytes });
    }
    if data != stored {
        return Err("its sparse map holds another number of bytes than are stored");
    }
    runs.push(Run { hole: size - at, data: 0 });
    Ok(runs)
}

/// Reads the pieces in a header or extension block of the old form into `map`; false where the map
/// ends here.
pub(super) fn old_pieces(
    fields: &[u8],
    number: impl Fn(&[u8]) -> Result<u64, Wrong>,
    map: &mut Vec<Piece>,
) -> Result<bool, Wrong> {
    const PIECE_BYTES: usize = 24;
    for (i, field) in fields.chunks_exact(PIECE_BYTES).enumerate() {
        let (offset, bytes) = field.split_at(PIECE_BYTES / 2);
        // Readers look for the end in one of the two numbers, not in the same one.
        if offset[0] == 0 || bytes[0] == 0 {
            let is_empty = fields[i * PIECE_BYTES..].iter().all(|&b| b == 0);
            return if is_empty { Ok(false) } else { Err("its sparse map goes on after its end") };
        }
        if map.len() == PIECES_MAX {
            return Err(TOO_MANY);
        }
        map.push(Piece { offset: number(offset)?, bytes: number(bytes)? });
    }
    Ok(true)
}

/// What pax records with keywords `GNU.sparse.*` say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    /// The file's real name.
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    real_size: Option<u64>,
    version: (Option<u64>, Option<u64>),
    count: Option<u64>,
    /// Of form 0.0, while its number of bytes has not come.
    offset: Option<u64>,
    /// Of form 0.0.
    pieces: Vec<Piece>,
    /// Of form 0.1.
    map: Option<Vec<Piece>>,
}

/// A sparse file in pax form.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// 0.0 and 0.1.
    Inline { map: Vec<Piece>, size: u64 },
    /// 1.0: the map comes before the data.
    InContent { size: u64 },
}

impl Records {
    /// Takes the record `GNU.sparse.KEYWORD=VALUE`.
    pub(super) fn take(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), Wrong> {
        match keyword {
            b"name" => self.name = Some(super::pax::name(value)?),
            b"size" => self.size = Some(decimal(value)?),
            b"realsize" => self.real_size = Some(decimal(value)?),
            b"major" => self.version.0 = Some(decimal(value)?),
            b"minor" => self.version.1 = Some(decimal(value)?),
            b"numblocks" => self.count = Some(decimal(value)?),
            b"offset" if self.offset.is_none() => self.offset = Some(decimal(value)?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or("a GNU.sparse.numbytes has no offset")?;
                if self.pieces.len() == PIECES_MAX {
                    return Err(TOO_MANY);
                }
                self.pieces.push(Piece { offset, bytes: decimal(value)? });
            }
            b"map" => {
                let mut numbers = value.split(|&b| b == b',');
                let mut map = Vec::new();
                while let Some(offset) = numbers.next() {
                    let bytes = numbers.next().ok_or("its sparse map has half a piece")?;
                    if map.len() == PIECES_MAX {
                        return Err(TOO_MANY);
                    }
                    map.push(Piece { offset: decimal(offset)?, bytes: decimal(bytes)? });
                }
                self.map = Some(map);
            }
            _ => return Err("a GNU.sparse keyword that is unknown or out of order"),
        }
        Ok(())
    }

    /// Which form it is, provided that the records are those of one form and no other.
    pub(super) fn form(self) -> Result<Form, Wrong> {
        const MIXED: Wrong = "its GNU.sparse records are those of no known form";
        if self.offset.is_some() {
            return Err(MIXED);
        }
        let map = match (self.version, self.map) {
            ((Some(1), Some(0)), None) => {
                let alone = self.size.is_none() && self.count.is_none() && self.pieces.is_empty();
                let size = self.real_size.filter(|_| alone).ok_or(MIXED)?;
                return Ok(Form::InContent { size });
            }
            ((None, None) | (Some(0), Some(1)), Some(map)) if self.pieces.is_empty() => map,
            ((None, None) | (Some(0), Some(0)), None) if self.name.is_none() => self.pieces,
            _ => return Err(MIXED),
        };
        let size = self.size.filter(|_| self.real_size.is_none()).ok_or(MIXED)?;
        if map.is_empty() || self.count != Some(map.len() as u64) {
            return Err("its sparse map has another number of pieces than GNU.sparse.numblocks");
        }
        Ok(Form::Inline { map, size })
    }

    /// Whether `path` is what GNU tar writes in the place of a long real name.
    pub(super) fn stands_in(&self, path: &[u8]) -> bool {
        let in_content = self.version == (Some(1), Some(0));
        let Some(name) = self.name.as_deref().filter(|_| in_content) else { return false };
        let base = |path: &[u8]| path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        let (directory, last) = path.split_at(base(path));
        let directory = directory.strip_suffix(b"/").unwrap_or(directory);
        directory[base(directory)..].starts_with(b"GNUSparseFile.") && last == &name[base(name)..]
    }
}

/// The lines of a map of form 1.0, taken block by block.
#[derive(Debug, Default)]
pub(super) struct Lines {
    number: Vec<u8>,
    count: Option<usize>,
    offset: Option<u64>,
    map: Vec<Piece>,
}

impl Lines {
    /// Takes a block; the map where it ends in this one.
    pub(super) fn block(&mut self, block: &[u8]) -> Result<Option<Vec<Piece>>, Wrong> {
        for &byte in block {
            if byte != b'\n' {
                if self.number.len() == DIGITS_MAX {
                    return Err("a number in its sparse map is too long");
                }
                self.number.push(byte);
                continue;
            }
            let number = decimal(&self.number)?;
            self.number.clear();
            let Some(count) = self.count else {
                let count = usize::try_from(number).ok().filter(|&count| count <= PIECES_MAX);
                match count.ok_or(TOO_MANY)? {
                    0 => return Err("its sparse map is empty"),
                    count => self.count = Some(count),
                }
                continue;
            };
            match self.offset.take() {
                None => self.offset = Some(number),
                Some(offset) => self.map.push(Piece { offset, bytes: number }),
            }
            if self.map.len() == count {
                return Ok(Some(std::mem::take(&mut self.map)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pieces: &[(u64, u64)]) -> Vec<Piece> {
        pieces.iter().map(|&(offset, bytes)| Piece { offset, bytes }).collect()
    }

    #[test]
    fn maps_become_runs_or_are_refused() {
        let good = runs(&map(&[(512, 1024), (4096, 7), (8192, 0)]), 8192, 1031).unwrap();
        let expected = [(512, 1024), (2560, 7), (4089, 0), (0, 0)];
        assert!(good.iter().map(|r| (r.hole, r.data)).eq(expected), "{good:?}");
        assert_eq!(runs(&[], 9, 0), Ok(vec![Run { hole: 9, data: 0 }]));
        let big = u64::MAX;
        for (wrong, size, stored) in [
            (&[(512, 512), (0, 512)][..], 8192, 1024),
            (&[(0, 1024), (512, 512)], 8192, 1536),
            (&[(0, 512)], 8192, 1024),
            (&[(0, 512)], 511, 512),
            (&[(big, 512)], big, 512),
            (&[(512, big)], big, big),
            (&[(0, 0), (0, 512)], 512, 512),
            (&[(0, 1), (2, 1)], 512, 2),
            (&[(512, 0)], 511, 0),
            (&[(0, 0); PIECES_MAX + 1], 511, 0),
        ] {
            let runs = runs(&map(wrong), size, stored);
            assert!(runs.is_err(), "{:?}: {runs:?}", &wrong[..wrong.len().min(3)]);
        }
    }

    #[test]
    fn lines_are_bounded() {
        let whole = |text: &[u8]| Lines::default().block(text);
        assert_eq!(whole(b"2\n0\n512\n1024\n0\n\0\0"), Ok(Some(map(&[(0, 512), (1024, 0)]))));
        assert_eq!(whole(b"2\n0\n512\n1024\n"), Ok(None));
        let wrong =
            [&b"0\n"[..], b"10001\n", b"1\n\n5\n", b"1\n-1\n5\n", b"00000000000000000001\n"];
        for wrong in wrong {
            assert!(whole(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn stand_ins_are_known_by_their_shape() {
        let name = Some(b"d/file".to_vec());
        let records = Records { name, version: (Some(1), Some(0)), ..Records::default() };
        assert!(records.stands_in(b"d/GNUSparseFile.12/file"));
        assert!(!records.stands_in(b"d/GNUSparseFile.12/other"));
        assert!(!records.stands_in(b"d/file"));
        assert!(!records.stands_in(b"file"));
    }
}
