//! Writes archives that every reader reads alike: ustar headers, and pax headers for what these
//! have no room for.

use std::io::{self, Read, Write};

use super::BLOCK_BYTES;
use super::reader::{Entry, Kind};

/// What eleven and seven octal digits hold.
const NUMBER_MAX: u64 = 0o777_7777_7777;
const ID_MAX: u32 = 0o777_7777;
/// Names in a ustar header are at most this long.
const NAME_BYTES_MAX: usize = 100;

/// Writes an archive to `W`.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Self {
        Writer { out }
    }

    /// Adds an entry without content.
    ///
    /// # Errors
    /// Where it can not be written, or is a file that has content.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.file(entry, io::empty())
    }

    /// Adds an entry; a file's content comes from `content`, which must have its size.
    ///
    /// # Errors
    /// Where it can not be written or `content` is of another size.
    pub fn file(&mut self, entry: &Entry, mut content: impl Read) -> io::Result<()> {
        let size = match &entry.kind {
            Kind::File { size } => *size,
            _ => 0,
        };
        let records = records(entry, size)?;
        if !records.is_empty() {
            let header = Header { name: b"././@PaxHeader", link: b"", flag: b'x' };
            let mode = Entry { mode: 0o644, uid: 0, gid: 0, ..entry.clone() };
            self.out.write_all(&header.block(&mode, records.len() as u64))?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.out.write_all(&header(entry).block(entry, size))?;
        let copied = io::copy(&mut content.by_ref().take(size), &mut self.out)?;
        if copied != size || content.read(&mut [0])? != 0 {
            let name = String::from_utf8_lossy(&entry.path).into_owned();
            return Err(io::Error::other(format!("{name}: its size changed while it was read")));
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK_BYTES as u64) as usize;
        self.out.write_all(&[0; BLOCK_BYTES][..(BLOCK_BYTES - over) % BLOCK_BYTES])
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Where it can not be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK_BYTES])?;
        Ok(self.out)
    }
}

/// The parts of a header that an entry's numbers do not decide.
struct Header<'e> {
    name: &'e [u8],
    link: &'e [u8],
    flag: u8,
}

fn header(entry: &Entry) -> Header<'_> {
    let (flag, link): (u8, &[u8]) = match &entry.kind {
        Kind::File { .. } => (b'0', b""),
        Kind::HardLink(target) => (b'1', target),
        Kind::Symlink(target) => (b'2', target),
        Kind::CharDevice(..) => (b'3', b""),
        Kind::BlockDevice(..) => (b'4', b""),
        Kind::Directory => (b'5', b""),
        Kind::Fifo => (b'6', b""),
    };
    Header { name: &entry.path, link, flag }
}

impl Header<'_> {
    fn block(&self, entry: &Entry, size: u64) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(NAME_BYTES_MAX)]);
        put(100, &octal(entry.mode.into(), 7));
        put(108, &octal(entry.uid.min(ID_MAX).into(), 7));
        put(116, &octal(entry.gid.min(ID_MAX).into(), 7));
        put(124, &octal(size.min(NUMBER_MAX), 11));
        put(136, &octal(seconds(entry), 11));
        put(156, &[self.flag]);
        put(157, &self.link[..self.link.len().min(NAME_BYTES_MAX)]);
        put(257, b"ustar\x0000");
        if let Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) = entry.kind {
            put(329, &octal(major.into(), 7));
            put(337, &octal(minor.into(), 7));
        }
        put(148, &[b' '; 8]);
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..154].copy_from_slice(&octal(sum.into(), 6));
        block[154] = 0;
        block
    }
}

fn octal(number: u64, digits: usize) -> Vec<u8> {
    format!("{number:0digits$o}").into_bytes()
}

/// The time where a header has room for it.
fn seconds(entry: &Entry) -> u64 {
    u64::try_from(entry.mtime.seconds).unwrap_or(0).min(NUMBER_MAX)
}

/// The pax records that an entry needs; empty where it needs none.
fn records(entry: &Entry, size: u64) -> io::Result<Vec<u8>> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| records.extend(record(key, value));
    if entry.path.len() > NAME_BYTES_MAX {
        add(b"path", &entry.path);
    }
    if let Kind::HardLink(target) | Kind::Symlink(target) = &entry.kind
        && target.len() > NAME_BYTES_MAX
    {
        add(b"linkpath", target);
    }
    if size > NUMBER_MAX {
        add(b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(b"uid", entry.uid), (b"gid", entry.gid)] {
        if id > ID_MAX {
            add(key, id.to_string().as_bytes());
        }
    }
    let time = entry.mtime;
    if time.nanoseconds != 0 || i64::try_from(seconds(entry)) != Ok(time.seconds) {
        add(b"mtime", time_text(time.seconds, time.nanoseconds).as_bytes());
    }
    for xattr in &entry.xattrs {
        if xattr.name.contains(&b'=') {
            let name = String::from_utf8_lossy(&xattr.name);
            return Err(io::Error::other(format!("an archive can not hold the attribute {name}")));
        }
        add(&[b"SCHILY.xattr.", &xattr.name[..]].concat(), &xattr.value);
    }
    Ok(records)
}

/// A time before 1970 has its fraction counted from the second after it.
fn time_text(seconds: i64, nanoseconds: u32) -> String {
    match (seconds, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        _ => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use ext4::{Time, Xattr};

    use super::*;
    use crate::tar::Reader;

    #[test]
    fn what_is_written_is_read() {
        let long = vec![b'x'; 300];
        let plain = Entry {
            path: b"a".to_vec(),
            kind: Kind::File { size: 0 },
            mode: 0o4755,
            uid: 1,
            gid: 2,
            mtime: Time { seconds: 3, nanoseconds: 0 },
            xattrs: Vec::new(),
        };
        let xattr = Xattr { name: b"user.x"[..].into(), value: b"a\0=\nb"[..].into() };
        let time = |seconds, nanoseconds| Time { seconds, nanoseconds };
        let entries = [
            plain.clone(),
            Entry { path: long.clone(), uid: u32::MAX, gid: ID_MAX + 1, ..plain.clone() },
            Entry { kind: Kind::Symlink(long.clone()), mtime: time(-5, 250), ..plain.clone() },
            Entry { kind: Kind::HardLink(b"a".to_vec()), mtime: time(-1, 0), ..plain.clone() },
            Entry { kind: Kind::CharDevice(4095, 1 << 19), xattrs: vec![xattr], ..plain.clone() },
            Entry { kind: Kind::Directory, mtime: time(1 << 34, 999_999_999), ..plain.clone() },
            Entry { kind: Kind::Fifo, ..plain.clone() },
        ];
        let mut writer = Writer::new(Vec::new());
        for entry in &entries {
            writer.entry(entry).unwrap();
        }
        let file = Entry { kind: Kind::File { size: 513 }, ..plain };
        writer.file(&file, &[7; 513][..]).unwrap();
        assert!(Writer::new(Vec::new()).file(&file, &[7; 512][..]).is_err());
        assert!(Writer::new(Vec::new()).file(&file, &[7; 514][..]).is_err());
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(&bytes[..]);
        for entry in &entries {
            assert_eq!(reader.next_entry().unwrap().as_ref(), Some(entry));
        }
        assert_eq!(reader.next_entry().unwrap(), Some(file));
        assert_eq!(reader.next_entry().unwrap(), None);
    }
}
