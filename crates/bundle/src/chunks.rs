//! A bundle in pieces: which objects hold its frames, where the next version shares most of them.
//!
//! A store may keep a bundle not as one file but as **objects** of packed data frames, one behind the
//! other, each object named by its SHA-256. A new version adds one object with the frames that no
//! version before had, and a **chunk index**:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `imgchunk` |
//! | 4 | the number 1 |
//! | 4, and so many | length of the manifest, and its very bytes |
//! | 4, and so many | length of the frame table, and its bytes |
//! | 4, and 32 for each | number of objects, and their digests |
//! | 4 and 8 for each data frame, in the file's order | number of its object, and where in that it begins |
//!
//! All numbers are little-endian. Nobody signs it, and nobody has to: what is wrong in it leads to
//! bytes that are not those that the signed manifest and the frame table promise. With it the packed
//! file can be read as if it were there, in any range ([`Chunks::read`]).

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::outline::Fixed;
use crate::{Digest, Error, FRAMES_MAX, Frame, MANIFEST_BYTES_MAX, Outline, Result};

const MAGIC: &[u8; 8] = b"imgchunk";
const VERSION: u32 = 1;
/// A frame table is at most this long.
const TABLE_BYTES_MAX: u64 = 72 * FRAMES_MAX as u64 + 16;
/// A chunk index is at most this long.
pub const CHUNKS_BYTES_MAX: u64 =
    MANIFEST_BYTES_MAX + TABLE_BYTES_MAX + (32 + 12) * FRAMES_MAX as u64 + 24;

/// An object is at most so long: file systems and buckets end a little above.
const OBJECT_BYTES_MAX: u64 = 1 << 42;

/// Where packed frames are, by their digest: the object, and the offset in it.
pub type Known = HashMap<Digest, (Digest, u64)>;

/// Where every byte of a packed file is, if it is not in one file.
#[derive(Clone, Debug)]
pub struct Chunks {
    outline: Outline,
    /// By object and offset, for each data frame in the file's order.
    places: Vec<(Digest, u64)>,
    /// All of the packed file, ascending, without gaps.
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    at: u64,
    bytes: u64,
    from: From,
}

#[derive(Clone, Debug)]
enum From {
    /// What follows from manifest and table.
    Here(Fixed),
    /// An object, from an offset on.
    Object(Digest, u64),
}

impl Chunks {
    /// Of a bundle all of whose data frames are `known`.
    ///
    /// # Errors
    /// Where one is not.
    pub fn new(outline: Outline, known: &Known) -> Result<Self> {
        let frames = outline.pieces().iter().filter_map(|piece| packed(&piece.frame));
        let places: Option<Vec<_>> =
            frames.map(|(digest, _)| known.get(&digest).copied()).collect();
        let places = places.ok_or_else(|| Error::format("a frame is in no object"))?;
        Self::placed(outline, places)
    }

    fn placed(outline: Outline, places: Vec<(Digest, u64)>) -> Result<Self> {
        let mut parts: Vec<Part> = Vec::new();
        outline.each_fixed(&mut |at, fixed| {
            parts.push(Part { at, bytes: fixed.packed_bytes(), from: From::Here(fixed) });
            Ok(())
        })?;
        let data = outline.pieces().iter().filter(|piece| !piece.frame.is_zero());
        for (piece, (object, at)) in data.zip(&places) {
            let bytes = piece.frame.packed_bytes();
            parts.push(Part { at: piece.packed_at, bytes, from: From::Object(*object, *at) });
        }
        parts.sort_by_key(|part| part.at);
        Ok(Chunks { outline, places, parts })
    }

    /// From the bytes of a chunk index.
    ///
    /// # Errors
    /// Where they are none.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = || Error::format("it is no chunk index");
        let mut rest = bytes;
        let mut take = |n: usize| {
            let (taken, left) = rest.split_at_checked(n).ok_or_else(wrong)?;
            rest = left;
            Ok::<&[u8], Error>(taken)
        };
        let number = |bytes: &[u8]| {
            bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        if take(8)? != MAGIC || number(take(4)?) != u64::from(VERSION) {
            return Err(wrong());
        }
        let n = number(take(4)?) as usize;
        let json = take(n)?.to_vec();
        let n = number(take(4)?) as usize;
        let outline = Outline::new(json, take(n)?)?;
        let n = number(take(4)?) as usize;
        let objects: Vec<Digest> = take(n.checked_mul(32).ok_or_else(wrong)?)?
            .chunks_exact(32)
            .filter_map(|digest| Some(Digest::from_bytes(digest.try_into().ok()?)))
            .collect();
        let mut places = Vec::new();
        for _ in outline.pieces().iter().filter(|piece| !piece.frame.is_zero()) {
            let object = objects.get(number(take(4)?) as usize).ok_or_else(wrong)?;
            let at = number(take(8)?);
            if at > OBJECT_BYTES_MAX {
                return Err(wrong());
            }
            places.push((*object, at));
        }
        if !rest.is_empty() {
            return Err(wrong());
        }
        Self::placed(outline, places)
    }

    /// As bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let objects = self.objects();
        let number: HashMap<&Digest, u32> = objects.iter().zip(0..).collect();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        for text in [self.outline.json(), &self.outline.table()] {
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text);
        }
        bytes.extend((objects.len() as u32).to_le_bytes());
        objects.iter().for_each(|object| bytes.extend(object.as_bytes()));
        for (object, at) in &self.places {
            bytes.extend(number.get(object).copied().unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend(at.to_le_bytes());
        }
        bytes
    }

    /// The objects that it needs, each once, in the order of their first frames.
    pub fn objects(&self) -> Vec<Digest> {
        let mut seen = std::collections::HashSet::new();
        self.places
            .iter()
            .map(|(object, _)| *object)
            .filter(|object| seen.insert(*object))
            .collect()
    }

    /// The objects that it needs, each with the number of bytes up to the end of the last frame in it.
    pub fn extents(&self) -> BTreeMap<Digest, u64> {
        let mut extents = BTreeMap::new();
        for part in &self.parts {
            if let From::Object(object, at) = &part.from {
                let end = extents.entry(*object).or_insert(0);
                *end = at.saturating_add(part.bytes).max(*end);
            }
        }
        extents
    }

    /// Where its frames are.
    pub fn known(&self) -> Known {
        let frames = self.outline.pieces().iter().filter_map(|piece| packed(&piece.frame));
        frames.map(|(digest, _)| digest).zip(self.places.iter().copied()).collect()
    }

    /// The bundle's outline: as trustworthy as whoever gave the index.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Reads the bytes `range` of the packed file, fewer where it ends before: tells `sink`, in order,
    /// which they are or where they are. Neighbours in an object are one range.
    ///
    /// # Errors
    /// Those of `sink`.
    pub fn read<E>(
        &self,
        range: Range<u64>,
        sink: &mut dyn FnMut(Bytes<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let first = self.parts.partition_point(|part| part.at + part.bytes <= range.start);
        let mut run: Option<(Digest, Range<u64>)> = None;
        for part in self.parts[first..].iter().take_while(|part| part.at < range.end) {
            let from = range.start.saturating_sub(part.at);
            let to = part.bytes.min(range.end - part.at);
            match &part.from {
                From::Here(fixed) => {
                    if let Some((object, range)) = run.take() {
                        sink(Bytes::There(object, range))?;
                    }
                    let bytes = fixed.clone().into_bytes();
                    sink(Bytes::Here(&bytes[from as usize..to as usize]))?;
                }
                From::Object(object, at) => {
                    let wanted = at.saturating_add(from)..at.saturating_add(to);
                    run = match run.take() {
                        Some((same, range)) if same == *object && range.end == wanted.start => {
                            Some((same, range.start..wanted.end))
                        }
                        before => {
                            if let Some((object, range)) = before {
                                sink(Bytes::There(object, range))?;
                            }
                            Some((*object, wanted))
                        }
                    };
                }
            }
        }
        match run {
            Some((object, range)) => sink(Bytes::There(object, range)),
            None => Ok(()),
        }
    }
}

/// A piece of a packed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes<'a> {
    /// These.
    Here(&'a [u8]),
    /// Those of an object.
    There(Digest, Range<u64>),
}

/// A data frame's packed digest and length.
pub(crate) fn packed(frame: &Frame) -> Option<(Digest, u64)> {
    match frame {
        Frame::Data { packed, .. } => Some((*packed, frame.packed_bytes())),
        Frame::Zero { .. } => None,
    }
}
