//! The sequence of entries in an archive.

use std::io::{self, BufRead};

use crate::{Error, Result};
use ext4::{Time, Xattr};

use super::header::{self, Header, Wrong};
use super::pax::{self, Pax};
use super::sparse::{self, Form, Lines, Run};
use super::{BLOCK_BYTES, METADATA_BYTES_MAX};

/// An entry's metadata; a file's content is read with [`Reader::content`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name as it is in the archive, not checked in any way.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The low 12 bits of the mode.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of so many bytes.
    File {
        /// The content's length.
        size: u64,
    },
    /// Another name for the file at this path.
    HardLink(Vec<u8>),
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
    /// A character device: major, minor.
    CharDevice(u32, u32),
    /// A block device: major, minor.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// Reads entries from an uncompressed archive.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Of the current entry: content not yet read, and the padding behind it.
    content: u64,
    padding: u64,
    /// Of the content: bytes before the next hole, and what comes then.
    before_hole: u64,
    runs: std::vec::IntoIter<Run>,
    /// Names the entry in errors.
    current: Vec<u8>,
    ended: bool,
}

/// Names from GNU headers and pax headers that precede an entry.
#[derive(Default)]
struct Before {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the archive in `input`.
    pub fn new(input: R) -> Self {
        Reader {
            input,
            content: 0,
            padding: 0,
            before_hole: 0,
            runs: Vec::new().into_iter(),
            current: Vec::new(),
            ended: false,
        }
    }

    /// The next entry; what is left of the last one's content is skipped. `None` at the end, when
    /// the input has been read to its end, too.
    ///
    /// # Errors
    /// On everything that the module's table refuses, and where the input fails or is cut.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip_content()?;
        let mut before = Before::default();
        while !self.ended {
            let Some(block) = self.header_block()? else {
                self.ended = true;
                if before.is_any() {
                    return Err(self.wrong("the archive ends after a header for a next entry"));
                }
                break;
            };
            let header = Header::parse(block).map_err(|why| self.wrong(why))?;
            self.current = header.path();
            match header.type_flag() {
                b'x' => {
                    let text = self.metadata(&header)?;
                    let pax = pax::parse(&text).map_err(|why| self.wrong(why))?;
                    self.once(before.pax.replace(pax).is_some())?;
                }
                b'g' if before.is_any() => {
                    return Err(self.wrong("a global header between a header and its entry"));
                }
                b'g' => {
                    let text = self.metadata(&header)?;
                    pax::check_global(&text).map_err(|why| self.wrong(why))?;
                }
                b'L' => {
                    let name = self.long_name(&header)?;
                    self.once(before.long_name.replace(name).is_some())?;
                }
                b'K' => {
                    let name = self.long_name(&header)?;
                    self.once(before.long_link.replace(name).is_some())?;
                }
                _ => return self.entry(&header, before).map(Some),
            }
        }
        Ok(None)
    }

    /// The bytes of the hole that is next in the current file's content, passing it; zero where
    /// data is next. Only sparse files have holes.
    pub fn hole(&mut self) -> u64 {
        if self.before_hole > 0 {
            return 0;
        }
        self.runs.next().map_or(0, |run| {
            self.before_hole = run.data;
            run.hole
        })
    }

    /// The next piece of the current file's content; empty at its end and where a hole is next.
    ///
    /// # Errors
    /// Where the input fails or is cut.
    pub fn content(&mut self) -> Result<Piece<'_, R>> {
        let length = if self.before_hole == 0 {
            0
        } else {
            let available = fill(&mut self.input).map_err(|e| read_error(&self.current, e))?;
            if available == 0 {
                return Err(self.wrong("the archive is cut in its content"));
            }
            available.min(usize::try_from(self.before_hole).unwrap_or(usize::MAX))
        };
        Ok(Piece { reader: self, length })
    }

    fn entry(&mut self, header: &Header, before: Before) -> Result<Entry> {
        let mut pax = before.pax.unwrap_or_default();
        let records = pax.sparse.take();
        let make = || -> Result<(Entry, Option<Form>), Wrong> {
            let mut real_name = None;
            let mut form = None;
            if let Some(mut records) = records {
                if !matches!(header.type_flag(), 0 | b'0') {
                    return Err("GNU.sparse records on what is no plain file");
                }
                if pax.path.as_ref().is_some_and(|path| records.stands_in(path)) {
                    pax.path = None;
                }
                real_name = records.name.take();
                form = Some(records.form()?);
            }
            let names = [&before.long_name, &pax.path, &real_name];
            if names.iter().filter(|name| name.is_some()).count() > 1
                || pax.link.is_some() && before.long_link.is_some()
            {
                return Err("it has a pax name and a GNU name");
            }
            let path = before.long_name.or(pax.path).or(real_name);
            let path = path.unwrap_or_else(|| header.path());
            self.current = path.clone();
            if path.is_empty() {
                return Err("its name is empty");
            }
            let link = before.long_link.or(pax.link).unwrap_or_else(|| header.link().to_vec());
            let size = pax.size.map_or_else(|| header.size(), Ok)?;
            let id = |pax: Option<u64>, header: Result<u64, Wrong>| {
                let id = pax.map_or(header, Ok)?;
                u32::try_from(id).map_err(|_| "an owner's number is over 32 bits")
            };
            let time = |seconds| Time { seconds, nanoseconds: 0 };
            if header.type_flag() == b'S' && pax.size.is_some() {
                return Err("a pax size on an old GNU sparse file");
            }
            let entry = Entry {
                kind: kind(header, &path, link, size)?,
                mode: header.mode()?,
                uid: id(pax.uid, header.uid())?,
                gid: id(pax.gid, header.gid())?,
                mtime: pax.mtime.map_or_else(|| header.mtime().map(time), Ok)?,
                xattrs: pax.xattrs,
                path,
            };
            Ok((entry, form))
        };
        let (mut entry, form) = make().map_err(|why| self.wrong(why))?;
        if let Kind::File { size } = &mut entry.kind {
            *size = match form {
                None if header.type_flag() == b'S' => self.old_sparse(header, *size)?,
                None => self.expect(*size).map(|()| *size)?,
                Some(form) => self.pax_sparse(form, *size)?,
            };
        }
        Ok(entry)
    }

    /// Expects a sparse file of which `stored` bytes follow; returns its real size.
    fn old_sparse(&mut self, header: &Header, stored: u64) -> Result<u64> {
        let (size, mut map, mut more) = header.sparse().map_err(|why| self.wrong(why))?;
        while more {
            let mut block = [0; BLOCK_BYTES];
            if !self.fill_block(&mut block)? {
                return Err(self.wrong("the archive is cut in its sparse map"));
            }
            more = header::extension(&block, &mut map).map_err(|why| self.wrong(why))?;
        }
        self.expect(stored)?;
        self.spread(sparse::runs(&map, size, stored), size)
    }

    /// The same for the pax forms, where a map may be part of what is stored.
    fn pax_sparse(&mut self, form: Form, stored: u64) -> Result<u64> {
        self.expect(stored)?;
        let (map, size) = match form {
            Form::Inline { map, size } => (map, size),
            Form::InContent { size } => (self.sparse_lines()?, size),
        };
        self.spread(sparse::runs(&map, size, self.content), size)
    }

    fn sparse_lines(&mut self) -> Result<Vec<sparse::Piece>> {
        let mut lines = Lines::default();
        loop {
            let mut block = [0; BLOCK_BYTES];
            if self.content < BLOCK_BYTES as u64 || !self.fill_block(&mut block)? {
                return Err(self.wrong("its sparse map is cut"));
            }
            self.content -= BLOCK_BYTES as u64;
            if let Some(map) = lines.block(&block).map_err(|why| self.wrong(why))? {
                return Ok(map);
            }
        }
    }

    fn spread(&mut self, runs: Result<Vec<Run>, Wrong>, size: u64) -> Result<u64> {
        if i64::try_from(size).is_err() {
            return Err(self.wrong("its size overflows"));
        }
        self.runs = runs.map_err(|why| self.wrong(why))?.into_iter();
        self.before_hole = 0;
        Ok(size)
    }

    /// The next header block; `None` at the end marker or the end of the input.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>> {
        let mut block = [0; BLOCK_BYTES];
        if !self.fill_block(&mut block)? {
            return Ok(None);
        }
        if block != [0; BLOCK_BYTES] {
            return Ok(Some(block));
        }
        // After the end only zeros may follow: a header behind one zero block is read by some
        // readers and not by others.
        loop {
            let bytes = self.input.fill_buf().map_err(|e| read_error(&self.current, e))?;
            if bytes.is_empty() {
                return Ok(None);
            }
            if bytes.iter().any(|&b| b != 0) {
                return Err(self.wrong("bytes follow the end of the archive"));
            }
            let length = bytes.len();
            self.input.consume(length);
        }
    }

    /// Fills `block`, or gives false where the input ends before its first byte.
    fn fill_block(&mut self, block: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.wrong("the archive is cut in a header after it")),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(read_error(&self.current, e)),
            }
        }
        Ok(true)
    }

    /// The content of a header that describes the next entry.
    fn metadata(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.size().map_err(|why| self.wrong(why))?;
        if size > METADATA_BYTES_MAX {
            return Err(self.wrong("its metadata is larger than 1 MiB"));
        }
        self.expect(size)?;
        let mut text = vec![0; size as usize];
        if !text.is_empty() && !self.fill_block(&mut text)? {
            return Err(self.wrong("the archive is cut in its metadata"));
        }
        (self.content, self.before_hole) = (0, 0);
        self.skip_content()?;
        Ok(text)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>> {
        let mut name = self.metadata(header)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        if name.is_empty() || name.contains(&0) {
            return Err(self.wrong("its GNU long name is empty or holds a NUL"));
        }
        Ok(name)
    }

    fn expect(&mut self, size: u64) -> Result<()> {
        if i64::try_from(size).is_err() {
            return Err(self.wrong("its size overflows"));
        }
        (self.content, self.before_hole) = (size, size);
        self.padding = size.wrapping_neg() % BLOCK_BYTES as u64;
        Ok(())
    }

    fn skip_content(&mut self) -> Result<()> {
        let mut left = self.content + self.padding;
        while left > 0 {
            let available = fill(&mut self.input).map_err(|e| read_error(&self.current, e))?;
            if available == 0 {
                return Err(self.wrong("the archive is cut in its content"));
            }
            let n = available.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.input.consume(n);
            left -= n as u64;
        }
        (self.content, self.padding, self.before_hole) = (0, 0, 0);
        self.runs = Vec::new().into_iter();
        Ok(())
    }

    fn once(&self, there: bool) -> Result<()> {
        if there { Err(self.wrong("it has two headers of the same kind")) } else { Ok(()) }
    }

    fn wrong(&self, why: Wrong) -> Error {
        Error::input(format!("entry {:?}: {why}", String::from_utf8_lossy(&self.current)))
    }
}

/// A piece of content, consumed when it is dropped.
pub struct Piece<'r, R: BufRead> {
    reader: &'r mut Reader<R>,
    length: usize,
}

impl<R: BufRead> Piece<'_, R> {
    /// The bytes.
    pub fn bytes(&mut self) -> &[u8] {
        // Filled just before, so this returns what is buffered and can not fail.
        self.reader.input.fill_buf().map_or(&[], |bytes| &bytes[..self.length.min(bytes.len())])
    }
}

impl<R: BufRead> Drop for Piece<'_, R> {
    fn drop(&mut self) {
        self.reader.input.consume(self.length);
        self.reader.content -= self.length as u64;
        self.reader.before_hole -= self.length as u64;
    }
}

impl Before {
    fn is_any(&self) -> bool {
        self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some()
    }
}

fn fill(input: &mut impl BufRead) -> io::Result<usize> {
    loop {
        match input.fill_buf() {
            Ok(bytes) => return Ok(bytes.len()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// A layer's reader hides an [`Error`] of ours (a wrong digest, say) in an I/O error: bring it out.
fn read_error(entry: &[u8], e: io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(error) => error,
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Error::input(format!(
            "the archive is cut after entry {:?}",
            String::from_utf8_lossy(entry)
        )),
        Err(e) => Error::io(format!("after entry {:?}", String::from_utf8_lossy(entry)), e),
    }
}

fn kind(header: &Header, path: &[u8], link: Vec<u8>, size: u64) -> Result<Kind, Wrong> {
    let slash = path.ends_with(b"/");
    let sized = |kind| if size == 0 { Ok(kind) } else { Err("a size on what holds no content") };
    let linked = |kind: fn(Vec<u8>) -> Kind| match &link[..] {
        b"" => Err("a link without a target"),
        _ if link.contains(&0) => Err("a link's target holds a NUL"),
        _ => sized(kind(link.clone())),
    };
    match header.type_flag() {
        0 if slash => sized(Kind::Directory),
        b'0' | b'S' if slash => Err("a plain file whose name ends in a slash"),
        b'0' | 0 | b'S' => Ok(Kind::File { size }),
        b'1' => linked(Kind::HardLink),
        b'2' => linked(Kind::Symlink),
        b'3' => header.device().and_then(|(major, minor)| sized(Kind::CharDevice(major, minor))),
        b'4' => header.device().and_then(|(major, minor)| sized(Kind::BlockDevice(major, minor))),
        b'5' => sized(Kind::Directory),
        b'6' => sized(Kind::Fifo),
        _ => Err("an entry type that readers disagree on"),
    }
}
