//! Where everything is in a packed file: what the manifest and the frame table say together.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use crate::assemble::{Buffers, Form};
use crate::member::{glue, glue_raw_bytes, head, head_bytes, head_raw_bytes};
use crate::zstd_frame::{
    SKIPPABLE_HEADER_BYTES, seek_table, seek_table_bytes, stored, stored_bytes, table_frame, zeros,
};
use crate::{BLOCK_BYTES, Digest, Error, FileEntry, Frame, Manifest, Result, table};

/// A bundle's manifest and its frame table, checked against each other.
///
/// Every byte of the packed file is either of a [`Frame::Data`] or follows from these two. So
/// whoever trusts the manifest can check each frame by itself and in any order.
#[derive(Clone, Debug)]
pub struct Outline {
    json: Vec<u8>,
    manifest: Manifest,
    pieces: Vec<Piece>,
    packed_bytes: u64,
}

/// A frame in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it is.
    pub frame: Frame,
    /// The number in [`Manifest::files`] of the file that it is of.
    pub file: usize,
    /// Where in that file its raw bytes begin: a multiple of [`BLOCK_BYTES`].
    pub raw_at: u64,
    /// Where in the packed file it begins.
    pub packed_at: u64,
}

impl Outline {
    /// Of a manifest, which the caller trusts or got from the file itself, and the frame table that
    /// it names.
    ///
    /// # Errors
    /// Where either is not one, the table has another digest than the manifest says, or they
    /// disagree: frames that reach over the end of a file, are missing or left over.
    pub fn new(json: Vec<u8>, table: &[u8]) -> Result<Self> {
        let manifest = Manifest::parse(&json)?;
        let found = Digest::of(table);
        if found != manifest.frames.digest {
            let what = "the frame table".to_string();
            return Err(Error::Digest { what, expected: manifest.frames.digest, found });
        }
        let packed_bytes = packed_bytes(&manifest, json.len())?;
        let pieces = place(&manifest, json.len(), table::parse(table)?)?;
        Ok(Outline { json, manifest, pieces, packed_bytes })
    }

    /// Of the packed `file`, whose manifest is `json` (see [`read_manifest`](crate::read_manifest)).
    /// Checks every byte that is in no [`Frame::Data`]; [`Outline::assemble`] checks those.
    ///
    /// # Errors
    /// As [`Outline::new`]; where the file is longer or shorter than its manifest says, or differs
    /// in a byte from what [`pack`](crate::pack) writes.
    pub fn read(json: Vec<u8>, file: &mut (impl Read + Seek)) -> Result<Self> {
        let manifest = Manifest::parse(&json)?;
        let length = file.seek(SeekFrom::End(0))?;
        let expected = packed_bytes(&manifest, json.len())?;
        if length != expected {
            let why = if length < expected { "it is cut short" } else { "bytes follow its end" };
            return Err(Error::format(format!(
                "it has {length} bytes, its manifest says {expected}: {why}"
            )));
        }
        let table_at = Self::table_place(&manifest, json.len())?.start;
        let outline = Self::new(json, &read_at(file, table_at, manifest.frames.size)?)?;
        outline.compare(file)?;
        Ok(outline)
    }

    /// Where in the packed file the frame table is, by what a manifest of `json_bytes` says.
    ///
    /// # Errors
    /// Where no file can be as long as that, or no table.
    pub fn table_place(manifest: &Manifest, json_bytes: usize) -> Result<Range<u64>> {
        let after = seek_table_bytes(seek_entries(manifest)?);
        let end = packed_bytes(manifest, json_bytes)? - after;
        Ok(end - manifest.frames.size..end)
    }

    /// Of the packed `file`, whoever made it: see [`Outline::read`].
    ///
    /// # Errors
    /// As [`read_manifest`](crate::read_manifest) and [`Outline::read`].
    pub fn open(file: &mut (impl Read + Seek)) -> Result<Self> {
        file.rewind()?;
        Self::read(crate::read_manifest(file)?, file)
    }

    /// All of file `name`, where there is one, from the packed `file`. For small ones.
    ///
    /// # Errors
    /// Where a frame is not what it must be.
    pub fn content(&self, name: &str, file: &mut (impl Read + Seek)) -> Result<Option<Vec<u8>>> {
        let Some(index) = self.manifest.files.iter().position(|f| f.name == name) else {
            return Ok(None);
        };
        let mut content = Vec::new();
        let mut buffers = Buffers::new()?;
        for piece in self.pieces.iter().filter(|piece| piece.file == index) {
            let packed = read_at(file, piece.packed_at, piece.frame.packed_bytes())?;
            let give = |_, buffer: &mut Vec<u8>| {
                buffer.extend_from_slice(&packed);
                Ok::<Form, Error>(Form::Packed)
            };
            buffers.load(piece, give)?;
            content.extend_from_slice(&buffers.raw);
            content.resize((piece.raw_at + piece.frame.raw_bytes()) as usize, 0);
        }
        Ok(Some(content))
    }

    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest's very bytes: what is signed.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The frame table's bytes, those that [`Manifest::frames`] names.
    pub fn table(&self) -> Vec<u8> {
        table::encode(self.pieces.iter().map(|piece| &piece.frame))
    }

    /// All frames, in the packed file's order, which is that of the files.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The packed file's length.
    pub fn packed_bytes(&self) -> u64 {
        self.packed_bytes
    }

    /// The numbers of the frames whose raw bytes `have` says are nowhere at hand: what a delta has
    /// to fetch. Holes are always at hand.
    pub fn missing(&self, mut have: impl FnMut(&Digest) -> bool) -> Vec<usize> {
        let mut is_missing = |piece: &Piece| match &piece.frame {
            Frame::Data { raw, .. } => !have(raw),
            Frame::Zero { .. } => false,
        };
        (0..self.pieces.len()).filter(|&i| is_missing(&self.pieces[i])).collect()
    }

    /// What the packed file ends with, behind the last frame and the archive's end.
    pub(crate) fn tail(&self) -> Vec<u8> {
        let mut tail = table_frame(&self.table());
        let mut entries = Vec::new();
        let json_bytes = self.json.len() as u64;
        entries.push((head_bytes(json_bytes), head_raw_bytes(json_bytes)));
        let files = &self.manifest.files;
        let mut pieces = self.pieces.iter().peekable();
        for index in 0..=files.len() {
            let raw = glue_raw_bytes(files, index);
            entries.push((stored_bytes(raw), raw));
            while let Some(piece) = pieces.next_if(|piece| piece.file == index) {
                entries.push((piece.frame.packed_bytes(), piece.frame.raw_bytes()));
            }
        }
        entries.push((tail.len() as u64, 0));
        tail.extend(seek_table(entries.into_iter()));
        tail
    }

    /// Compares all that is in no data frame with the packed `file`.
    fn compare(&self, file: &mut (impl Read + Seek)) -> Result<()> {
        self.each_fixed(&mut |at, fixed| {
            let bytes = fixed.into_bytes();
            match read_at(file, at, bytes.len() as u64)? {
                found if found == bytes => Ok(()),
                _ => Err(Error::format(format!("what follows byte {at} is not what it must be"))),
            }
        })
    }

    /// Tells `see` all that is in no data frame, in order, and where in the packed file it is.
    pub(crate) fn each_fixed(&self, see: &mut dyn FnMut(u64, Fixed) -> Result<()>) -> Result<()> {
        let mut at = 0;
        let mut tell = |at: u64, fixed: Fixed| {
            let end = at + fixed.packed_bytes();
            see(at, fixed).map(|()| end)
        };
        at = tell(at, Fixed::Bytes(head(&self.json)?))?;
        let mut pieces = self.pieces.iter().peekable();
        for index in 0..=self.manifest.files.len() {
            at = tell(at, Fixed::Bytes(stored(&glue(&self.manifest.files, index)?)))?;
            while let Some(piece) = pieces.next_if(|piece| piece.file == index) {
                at = match piece.frame {
                    Frame::Zero { raw_bytes } => tell(at, Fixed::Zeros(raw_bytes))?,
                    Frame::Data { packed_bytes, .. } => at + u64::from(packed_bytes),
                };
            }
        }
        tell(at, Fixed::Bytes(self.tail())).map(|_| ())
    }
}

/// What is in no data frame.
#[derive(Clone, Debug)]
pub(crate) enum Fixed {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The frame of a hole of so many bytes: it may be long, and is made when it is needed.
    Zeros(u32),
}

impl Fixed {
    pub(crate) fn packed_bytes(&self) -> u64 {
        match self {
            Fixed::Bytes(bytes) => bytes.len() as u64,
            Fixed::Zeros(raw_bytes) => Frame::Zero { raw_bytes: *raw_bytes }.packed_bytes(),
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        match self {
            Fixed::Bytes(bytes) => bytes,
            Fixed::Zeros(raw_bytes) => zeros(u64::from(raw_bytes)),
        }
    }
}

/// Gives every frame its place, in order.
fn place(manifest: &Manifest, json_bytes: usize, frames: Vec<Frame>) -> Result<Vec<Piece>> {
    let wrong = |file: &FileEntry, what: &str| {
        Error::format(format!("its frame table does not fit {}: {what}", file.name))
    };
    let mut pieces = Vec::with_capacity(frames.len());
    let mut frames = frames.into_iter();
    let mut packed_at = head_bytes(json_bytes as u64);
    for (index, file) in manifest.files.iter().enumerate() {
        packed_at += stored_bytes(glue_raw_bytes(&manifest.files, index));
        let first_at = packed_at;
        let mut raw_at = 0;
        while raw_at < file.size {
            let frame = frames.next().ok_or_else(|| wrong(file, "frames are missing"))?;
            pieces.push(Piece { frame, file: index, raw_at, packed_at });
            raw_at += frame.raw_bytes();
            packed_at += frame.packed_bytes();
            if raw_at > file.size {
                return Err(wrong(file, "a frame reaches over its end"));
            }
            if raw_at < file.size && !raw_at.is_multiple_of(BLOCK_BYTES) {
                return Err(wrong(file, "a frame begins inside a block"));
            }
        }
        if packed_at - first_at != file.packed {
            return Err(wrong(file, "its frames have another packed length than it"));
        }
        if file.size == 0 && file.digest != Digest::of([]) {
            return Err(wrong(file, "it is empty, its digest is not"));
        }
    }
    match frames.next() {
        None => Ok(pieces),
        Some(_) => Err(Error::format("its frame table has frames of no file")),
    }
}

/// The packed file's length, as the manifest alone says it.
fn packed_bytes(manifest: &Manifest, json_bytes: usize) -> Result<u64> {
    let files = &manifest.files;
    let glue = (0..=files.len()).map(|index| stored_bytes(glue_raw_bytes(files, index)));
    let seek_table = seek_table_bytes(seek_entries(manifest)?);
    let table = SKIPPABLE_HEADER_BYTES + manifest.frames.size;
    let fixed = head_bytes(json_bytes as u64) + glue.sum::<u64>() + table + seek_table;
    let all = files.iter().try_fold(fixed, |sum, file| sum.checked_add(file.packed));
    all.ok_or_else(|| Error::format("its manifest says that it is longer than a file can be"))
}

/// Entries of the seek table: the head, what is around the files, the frames, the frame table.
fn seek_entries(manifest: &Manifest) -> Result<u64> {
    let frames = table::frames_in(manifest.frames.size).ok_or_else(|| {
        Error::format(format!("no frame table has {} bytes", manifest.frames.size))
    })?;
    Ok(1 + manifest.files.len() as u64 + 1 + frames as u64 + 1)
}

fn read_at(file: &mut (impl Read + Seek), at: u64, bytes: u64) -> Result<Vec<u8>> {
    let mut buffer = vec![0; bytes as usize];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut buffer)?;
    Ok(buffer)
}
