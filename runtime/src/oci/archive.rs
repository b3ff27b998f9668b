//! The members of a plain tar, found by their headers: an archive is read in place.
//!
//! Strict, as what we accept is read in one way only: ustar, GNU and pax headers (`path` and
//! `size`, nothing else that changes what a member is), regular files and directories. Links are
//! listed, as docker's archives hold some for old readers, but can not be opened. Odd or repeated
//! names, sparse files and anything unknown are refused.
//!
//! Formats: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual,
//! "Basic Tar Format".

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const BLOCK: u64 = 512;
/// An archive has at most this many members.
const MEMBERS_MAX: usize = 65_536;
/// A long name or a pax header is at most this many bytes.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;
/// A member's name is at most this many bytes.
const NAME_BYTES_MAX: usize = 1024;

/// An indexed tar file.
#[derive(Debug)]
pub(super) struct Archive {
    file: PathBuf,
    members: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    File(Member),
    Directory,
    Link,
}

/// Where a regular member's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl Archive {
    /// Reads the headers of the tar `file`.
    ///
    /// # Errors
    /// Where it is no plain tar, or not a strict one.
    pub(super) fn open(file: &Path) -> Result<Archive> {
        let about = |e| Error::io(file.display(), e);
        let opened = File::open(file).map_err(about)?;
        let metadata = opened.metadata().map_err(about)?;
        if !metadata.is_file() {
            return Err(Error::input(format!("{}: it is not a regular file", file.display())));
        }
        let scan = Scan { file: opened, bytes: metadata.len(), at: 0 };
        let members = scan.members().map_err(|e| e.within(file.display()))?;
        Ok(Archive { file: file.to_path_buf(), members })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Where the content of the regular member `name` is.
    ///
    /// # Errors
    /// Where there is none: without the archive's own name.
    pub(super) fn member(&self, name: &str) -> Result<Member> {
        match self.members.get(name) {
            Some(Entry::File(member)) => Ok(*member),
            Some(Entry::Directory) => Err(Error::input(format!("member {name:?} is a directory"))),
            Some(Entry::Link) => {
                Err(Error::input(format!("member {name:?} is a link; it is not followed")))
            }
            None => Err(Error::input(format!("there is no member {name:?}"))),
        }
    }
}

struct Scan {
    file: File,
    bytes: u64,
    at: u64,
}

/// What headers before a member's own say of it.
#[derive(Default)]
struct Extension {
    name: Option<String>,
    size: Option<u64>,
}

impl Scan {
    fn members(mut self) -> Result<BTreeMap<String, Entry>> {
        let mut members = BTreeMap::new();
        let mut extension = Extension::default();
        loop {
            let header = self.header()?;
            if header.iter().all(|&b| b == 0) {
                if self.header()?.iter().any(|&b| b != 0) {
                    return Err(Error::input("a member follows a zero block"));
                }
                if extension.name.is_some() || extension.size.is_some() {
                    return Err(Error::input("its last header belongs to no member"));
                }
                return Ok(members);
            }
            let stored = number(&header[124..136]).ok_or_else(|| bad("size", &header))?;
            match header[156] {
                b'x' => self.pax(stored, &mut extension)?,
                b'g' => self.global_pax(stored)?,
                b'L' => self.gnu_name(stored, &mut extension)?,
                kind => {
                    let said = std::mem::take(&mut extension);
                    let (name, entry) = self.member(&header, kind, stored, said)?;
                    if members.insert(name.clone(), entry).is_some() && entry != Entry::Directory {
                        return Err(Error::input(format!("member {name:?} is there twice")));
                    }
                    if members.len() > MEMBERS_MAX {
                        return Err(Error::input(format!(
                            "it has more than {MEMBERS_MAX} members"
                        )));
                    }
                }
            }
        }
    }

    /// The next header, its checksum right, or a block of zeros.
    fn header(&mut self) -> Result<[u8; BLOCK as usize]> {
        let mut block = [0; BLOCK as usize];
        if self.at + BLOCK > self.bytes {
            return Err(Error::input("it is truncated: its end mark is missing"));
        }
        let read = self.file.read_exact_at(&mut block, self.at);
        read.map_err(|e| Error::io(format!("at byte {}", self.at), e))?;
        if block.iter().any(|&b| b != 0) && !crate::tar::is_header(&block) {
            if self.at > 0 {
                return Err(Error::input(format!("no tar header at byte {}", self.at)));
            }
            let error = Error::input("it is not a plain tar");
            let packed = [&b"\x1f\x8b"[..], b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"];
            let packed = packed.iter().any(|magic| block.starts_with(magic));
            let hint = "archives are read in place: decompress it first";
            return Err(if packed { error.hint(hint) } else { error });
        }
        self.at += BLOCK;
        Ok(block)
    }

    fn member(
        &mut self,
        header: &[u8; BLOCK as usize],
        kind: u8,
        stored: u64,
        extension: Extension,
    ) -> Result<(String, Entry)> {
        let name = match extension.name {
            Some(name) => name,
            None => header_name(header)?,
        };
        let bytes = extension.size.unwrap_or(stored);
        let name = check_name(&name)?;
        let entry = match kind {
            b'0' | 0 => {
                let offset = self.skip(bytes, &name)?;
                Entry::File(Member { offset, bytes })
            }
            b'1' | b'2' | b'5' if bytes != 0 => {
                return Err(Error::input(format!("member {name:?} can not have content")));
            }
            b'1' | b'2' => Entry::Link,
            b'5' => Entry::Directory,
            _ => {
                let kind = char::from(kind).escape_default();
                return Err(Error::input(format!("member {name:?} is of the kind '{kind}'")));
            }
        };
        Ok((name, entry))
    }

    /// Goes behind content of `bytes` bytes and returns where it begins.
    fn skip(&mut self, bytes: u64, what: &str) -> Result<u64> {
        let offset = self.at;
        let padded = bytes.checked_next_multiple_of(BLOCK);
        match padded.and_then(|padded| offset.checked_add(padded)) {
            Some(end) if end <= self.bytes => self.at = end,
            _ => return Err(Error::input(format!("it is truncated within {what:?}"))),
        }
        Ok(offset)
    }

    /// The content of a header that describes another one.
    fn content(&mut self, bytes: u64) -> Result<Vec<u8>> {
        if bytes > EXTENSION_BYTES_MAX {
            return Err(Error::input(format!("a header of {bytes} bytes is too long")));
        }
        let offset = self.skip(bytes, "a header")?;
        let mut content = vec![0; usize::try_from(bytes).unwrap_or(0)];
        let read = self.file.read_exact_at(&mut content, offset);
        read.map_err(|e| Error::io("a header", e))?;
        Ok(content)
    }

    fn gnu_name(&mut self, bytes: u64, extension: &mut Extension) -> Result<()> {
        let mut name = self.content(bytes)?;
        if name.pop() != Some(0) {
            return Err(Error::input("a long name without its end"));
        }
        set(&mut extension.name, text(name)?)
    }

    fn pax(&mut self, bytes: u64, extension: &mut Extension) -> Result<()> {
        for (key, value) in pax_records(&self.content(bytes)?)? {
            match key.as_str() {
                "path" => set(&mut extension.name, value)?,
                "size" => {
                    let digits = !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit());
                    let size = value.parse().ok().filter(|_| digits);
                    let size = size.ok_or_else(|| Error::input("a pax size that is none"))?;
                    set(&mut extension.size, size)?;
                }
                key if key.starts_with("GNU.sparse") => {
                    return Err(Error::input("it has a sparse member"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn global_pax(&mut self, bytes: u64) -> Result<()> {
        for (key, _) in pax_records(&self.content(bytes)?)? {
            if key == "path" || key == "size" || key == "linkpath" || key.starts_with("GNU.sparse")
            {
                return Err(Error::input(format!("a global pax header sets {key:?}")));
            }
        }
        Ok(())
    }
}

/// Two headers that say the same thing of a member are read differently by different readers.
fn set<T>(place: &mut Option<T>, value: T) -> Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::input("two headers name the same member")),
    }
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::input("a name that is not UTF-8"))
}

fn bad(field: &str, header: &[u8]) -> Error {
    let name = String::from_utf8_lossy(cut(&header[..100])).into_owned();
    Error::input(format!("member {name:?} has a bad {field}"))
}

/// A field up to its first NUL.
fn cut(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or(field)
}

/// A number as octal text, or as GNU tar's big-endian one.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] == 0x80 {
        let (high, low) = field[1..].split_at(field.len() - 9);
        let low = u64::from_be_bytes(low.try_into().ok()?);
        return high.iter().all(|&b| b == 0).then_some(low);
    }
    let text = std::str::from_utf8(cut(field)).ok()?.trim_matches(' ');
    let octal = !text.is_empty() && text.bytes().all(|c| (b'0'..=b'7').contains(&c));
    if octal { u64::from_str_radix(text, 8).ok() } else { None }
}

/// The name in a header: with ustar's prefix, which GNU's format uses otherwise.
fn header_name(header: &[u8; BLOCK as usize]) -> Result<String> {
    let name = text(cut(&header[..100]).to_vec())?;
    if header[257..263] != *b"ustar\0" || header[345] == 0 {
        return Ok(name);
    }
    Ok(format!("{}/{name}", text(cut(&header[345..500]).to_vec())?))
}

/// The name without a leading `./` or trailing `/`, if all else is plain.
fn check_name(name: &str) -> Result<String> {
    let plain = name.strip_prefix("./").unwrap_or(name);
    let plain = plain.strip_suffix('/').unwrap_or(plain);
    let root = name == "./" || name == ".";
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    let long = name.len() > NAME_BYTES_MAX;
    if !root && (long || plain.split('/').any(odd) || plain.contains(char::is_control)) {
        let shown: String = name.chars().take(80).collect();
        return Err(Error::input(format!("member {shown:?} has a name that is not allowed")));
    }
    Ok(plain.to_string())
}

/// The records of a pax header: `<length> <key>=<value>\n` each.
fn pax_records(mut rest: &[u8]) -> Result<Vec<(String, String)>> {
    let wrong = || Error::input("a malformed pax header");
    let mut records = Vec::new();
    while !rest.is_empty() {
        let space = rest.iter().take(8).position(|&b| b == b' ').ok_or_else(wrong)?;
        let digits = std::str::from_utf8(&rest[..space]).map_err(|_| wrong())?;
        let length: usize = digits.parse().map_err(|_| wrong())?;
        if !digits.bytes().all(|c| c.is_ascii_digit()) || length > rest.len() || length < space + 3
        {
            return Err(wrong());
        }
        let record = rest[space + 1..length].strip_suffix(b"\n").ok_or_else(wrong)?;
        let equals = record.iter().position(|&b| b == b'=').ok_or_else(wrong)?;
        let key = text(record[..equals].to_vec())?;
        // Times, owners and attributes may hold any bytes; none of them matters here.
        let value = String::from_utf8_lossy(&record[equals + 1..]).into_owned();
        records.push((key, value));
        rest = &rest[length..];
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member with a ustar header.
    fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        checksum(&mut header);
        let mut bytes = header.to_vec();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn checksum(header: &mut [u8]) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }

    fn open(parts: &[Vec<u8>]) -> Result<Archive> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar");
        std::fs::write(&file, [parts.concat(), vec![0; 1024]].concat()).unwrap();
        Archive::open(&file)
    }

    #[test]
    fn members_are_found_whatever_names_them() {
        let parts = [
            member("./", b'5', b""),
            member("dir/", b'5', b""),
            member("dir/", b'5', b""),
            member("./dir/a", b'0', b"hello"),
            member("long", b'L', b"dir/b\0"),
            member("b", b'0', &[7; 1000]),
            member("pax", b'x', b"14 path=dir/c\n11 mtime=1\n"),
            member("c", b'0', b""),
            member("link", b'2', b""),
            member("global", b'g', b"13 comment=x\n"),
        ];
        let archive = open(&parts).unwrap();
        assert_eq!(archive.member("dir/a").unwrap(), Member { offset: 2048, bytes: 5 });
        assert_eq!(archive.member("dir/b").unwrap().bytes, 1000);
        assert_eq!(archive.member("dir/c").unwrap().bytes, 0);
        for (name, why) in [("link", "is a link"), ("dir", "is a directory"), ("x", "no member")] {
            let error = archive.member(name).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn odd_archives_are_refused() {
        let table = [
            (vec![member("../a", b'0', b"")], "\"../a\" has a name"),
            (vec![member("/a", b'0', b"")], "\"/a\" has a name"),
            (vec![member("a//b", b'0', b"")], "has a name"),
            (vec![member("a\nb", b'0', b"")], "has a name"),
            (vec![member("", b'0', b"")], "has a name"),
            (vec![member("a", b'0', b"1"), member("./a", b'0', b"2")], "\"a\" is there twice"),
            (vec![member("a", b'2', b"1")], "can not have content"),
            (vec![member("a", b'S', b"")], "of the kind 'S'"),
            (vec![member("a", b'3', b"")], "of the kind '3'"),
            (vec![member("p", b'x', b"12 path=a/c\n99 size=1\n")], "malformed pax"),
            (vec![member("p", b'x', b"10 path=b\n10 path=c\n")], "two headers name"),
            (vec![member("p", b'x', b"10 size=-\n")], "a pax size that is none"),
            (vec![member("p", b'x', b"22 GNU.sparse.major=1\n")], "a sparse member"),
            (vec![member("p", b'g', b"10 size=1\n")], "a global pax header sets"),
            (vec![member("p", b'x', b"10 path=b\n")], "belongs to no member"),
            (vec![member("l", b'L', b"name")], "a long name without its end"),
            (vec![vec![0; 512], member("a", b'0', b"")], "follows a zero block"),
            (vec![member("a", b'0', b""), vec![1; 512]], "no tar header at byte 512"),
            (vec![b"\x1f\x8b".repeat(256)], "not a plain tar"),
        ];
        for (parts, why) in table {
            let error = open(&parts).unwrap_err();
            assert_eq!(error.class(), crate::Class::Input);
            assert!(error.to_string().contains(why), "{why}: {error}");
        }
        let mut huge = member("a", b'0', b"");
        huge[124..136].copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
        checksum(&mut huge[..512]);
        assert!(open(&[huge]).unwrap_err().to_string().contains("truncated within \"a\""));
    }

    #[test]
    fn every_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar");
        let whole = [member("a", b'0', &[1; 700]), vec![0; 1024]].concat();
        for cut in 0..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            assert!(Archive::open(&file).is_err(), "{cut}");
        }
    }

    #[test]
    fn whatever_the_bytes_a_member_is_within_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar");
        let parts = [
            member("pax", b'x', b"14 path=dir/c\n10 size=7\n"),
            member("c", b'0', b"content"),
            member("long", b'L', b"dir/b\0"),
            member("b", b'0', &[7; 700]),
            vec![0; 1024],
        ];
        let good = parts.concat();
        let mut state = 7_u64;
        let mut accepted = 0;
        for _ in 0..3000 {
            let mut bad = good.clone();
            for _ in 0..2 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % bad.len();
                bad[at] = (state >> 20) as u8;
            }
            // Otherwise nearly every change would end at the checksum.
            for header in [0, 1024, 2048, 3072] {
                checksum(&mut bad[header..header + 512]);
            }
            std::fs::write(&file, &bad).unwrap();
            let Ok(archive) = Archive::open(&file) else { continue };
            accepted += 1;
            for entry in archive.members.values() {
                if let Entry::File(member) = entry {
                    assert!(member.offset + member.bytes <= bad.len() as u64);
                }
            }
        }
        assert!(accepted > 0);
    }
}
