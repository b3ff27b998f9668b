//! Trees of files as a stream: what `imgrun cp` sends through a command's standard streams.
//!
//! ```text
//! "imgcopy1" then entries, parents first, and at last a kind of 0
//! entry: [kind u8][mode u32][mtime s i64][mtime ns u32][name: len u16, bytes] and
//!   1 directory  nothing
//!   2 file       [size u64] then pieces [offset u64][len u32][bytes], ended by a len of 0
//!   3 symlink    [target: len u16, bytes]
//!   4 passed over: a device, FIFO or socket
//! ```
//! Numbers are little-endian. A name is relative to what is copied, which itself has none; its parts
//! are separated by `/`. What lies between pieces is a hole.
//!
//! The receiver believes nothing: no name leaves the place that was chosen, no symlink is followed
//! on the way to one (openat2(2), `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`), nothing that is
//! there already is written through.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, SeekFrom, Timespec, Timestamps};
use rustix::io::Errno;

const MAGIC: &[u8; 8] = b"imgcopy1";
const END: u8 = 0;
const DIRECTORY: u8 = 1;
const FILE: u8 = 2;
const SYMLINK: u8 = 3;
const PASSED_OVER: u8 = 4;
/// Linux: `PATH_MAX`.
const NAME_BYTES_MAX: usize = 4096;
/// Directories in one another, at most.
const DEPTH_MAX: usize = 256;
/// Bytes of a piece, at most.
const PIECE_BYTES: usize = 256 * 1024;
/// A file that has no size is read to its end, where that comes within this, bytes.
const MADE_BYTES_MAX: u64 = 16 << 20;
const SPECIAL_BITS: u32 = 0o7000;

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Directories, files and symlinks.
    pub entries: u64,
    /// Bytes of data, holes not counted.
    pub bytes: u64,
    /// Devices, FIFOs and sockets that were passed over.
    pub passed_over: u64,
}

/// Sends what is at `path`, a symlink as itself.
///
/// # Errors
/// Where something can not be read: the stream then has no end, and the receiver notices.
pub fn send(path: &Path, out: &mut impl Write) -> io::Result<Copied> {
    let mut copied = Copied::default();
    out.write_all(MAGIC)?;
    send_entry(path, Vec::new(), 0, out, &mut copied)?;
    out.write_all(&[END])?;
    out.flush()?;
    Ok(copied)
}

fn send_entry(
    path: &Path,
    name: Vec<u8>,
    depth: usize,
    out: &mut impl Write,
    copied: &mut Copied,
) -> io::Result<()> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let metadata = fs::symlink_metadata(path).map_err(named)?;
    let kind = match metadata.file_type() {
        t if t.is_dir() => DIRECTORY,
        t if t.is_file() => FILE,
        t if t.is_symlink() => SYMLINK,
        _ => PASSED_OVER,
    };
    if depth > DEPTH_MAX {
        return Err(named(io::Error::other("too many directories in one another")));
    }
    let mut head = vec![kind];
    head.extend_from_slice(&(metadata.mode() & 0o7777).to_le_bytes());
    head.extend_from_slice(&metadata.mtime().to_le_bytes());
    head.extend_from_slice(&(metadata.mtime_nsec() as u32).to_le_bytes());
    put_text(&mut head, &name).map_err(named)?;
    if kind == PASSED_OVER {
        copied.passed_over += 1;
        return out.write_all(&head);
    }
    copied.entries += 1;
    match kind {
        DIRECTORY => {
            out.write_all(&head)?;
            let entries: io::Result<Vec<_>> = fs::read_dir(path).map_err(named)?.collect();
            let mut names: Vec<_> = entries.map_err(named)?.iter().map(|e| e.file_name()).collect();
            names.sort();
            for child in names {
                let mut below = name.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(child.as_bytes());
                send_entry(&path.join(&child), below, depth + 1, out, copied)?;
            }
            Ok(())
        }
        FILE => {
            let file = open_file(path).map_err(named)?;
            let made = if metadata.size() == 0 { made(&file).map_err(named)? } else { Vec::new() };
            let size = metadata.size().max(made.len() as u64);
            head.extend_from_slice(&size.to_le_bytes());
            out.write_all(&head)?;
            let sent = match made.is_empty() {
                true => send_data(&file, size, out, copied),
                false => send_made(&made, out, copied),
            };
            sent.map_err(named)
        }
        _ => {
            let target = fs::read_link(path).map_err(named)?;
            put_text(&mut head, target.as_os_str().as_bytes()).map_err(named)?;
            out.write_all(&head)
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// What there is to read of a file that says it is empty: the kernel makes those of /proc and /sys
/// while they are read. Nothing, of one that is empty.
fn made(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MADE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MADE_BYTES_MAX {
        true => Err(io::Error::other("a file without a size and without an end")),
        false => Ok(bytes),
    }
}

fn send_made(bytes: &[u8], out: &mut impl Write, copied: &mut Copied) -> io::Result<()> {
    let mut at = 0;
    for piece in bytes.chunks(PIECE_BYTES) {
        out.write_all(&(at as u64).to_le_bytes())?;
        out.write_all(&(piece.len() as u32).to_le_bytes())?;
        out.write_all(piece)?;
        at += piece.len();
    }
    copied.bytes += bytes.len() as u64;
    out.write_all(&[0; 12])
}

fn send_data(file: &File, size: u64, out: &mut impl Write, copied: &mut Copied) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < size {
        // Where a file system knows of no holes, all is data.
        let (start, end) = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => (start, rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size)),
            Err(Errno::NXIO) => break,
            Err(_) => (at, size),
        };
        at = start;
        while at < end {
            let most = buffer.len().min((end - at) as usize);
            let n = file.read_at(&mut buffer[..most], at)?;
            if n == 0 {
                // It became shorter under us.
                return out.write_all(&[0; 12]);
            }
            out.write_all(&at.to_le_bytes())?;
            out.write_all(&(n as u32).to_le_bytes())?;
            out.write_all(&buffer[..n])?;
            at += n as u64;
            copied.bytes += n as u64;
        }
    }
    out.write_all(&[0; 12])
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) -> io::Result<()> {
    if text.len() > NAME_BYTES_MAX {
        return Err(io::Error::other("a path that is too long"));
    }
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text);
    Ok(())
}

/// Takes what [`send`] sends, as `cp -R` would: into `to` under the name `name` where `to` is a
/// directory, else as `to`, whose parent must be there. What is there is replaced, but for
/// directories, which take in more. Set-user-id, set-group-id and sticky bits are only taken over
/// if `special_bits`.
///
/// # Errors
/// Where the stream ends early or is none, names leave their place, or something can not be
/// written; what came before is there.
pub fn receive(
    to: &Path,
    name: &[u8],
    special_bits: bool,
    input: &mut impl Read,
) -> io::Result<Copied> {
    let (parent, top) = match fs::metadata(to) {
        Ok(there) if there.is_dir() => (to, name),
        _ => {
            let parent = to.parent().filter(|p| !p.as_os_str().is_empty());
            let top = to.file_name().ok_or_else(|| wrong("no name to copy to"))?;
            (parent.unwrap_or(Path::new(".")), top.as_bytes())
        }
    };
    let mut magic = [0; 8];
    input.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(wrong("this is no stream of files"));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(parent, flags, Mode::empty())
        .map_err(|e| io::Error::other(format!("{}: {e}", parent.display())))?;
    let mask = if special_bits { 0o7777 } else { 0o7777 & !SPECIAL_BITS };
    let mut receiver = Receiver { root, top, mask, directories: Vec::new() };
    let mut copied = Copied::default();
    while let Some(entry) = read_entry(input)? {
        receiver.take(&entry, input, &mut copied).map_err(|e| {
            // It goes to a terminal, in one line.
            let name = String::from_utf8_lossy(&entry.name).escape_debug().to_string();
            io::Error::new(e.kind(), format!("{}: {e}", if name.is_empty() { "." } else { &name }))
        })?;
    }
    receiver.finish(None)?;
    Ok(copied)
}

struct Entry {
    kind: u8,
    mode: u32,
    modified: Timespec,
    name: Vec<u8>,
}

struct Receiver<'a> {
    root: OwnedFd,
    top: &'a [u8],
    mask: u32,
    /// Those that are being filled, each in the one before it. Their modes and times are set once
    /// something outside them comes: what is put into them would change those.
    directories: Vec<Entry>,
}

impl Receiver<'_> {
    fn take(
        &mut self,
        entry: &Entry,
        input: &mut impl Read,
        copied: &mut Copied,
    ) -> io::Result<()> {
        check_name(&entry.name)?;
        if entry.kind == PASSED_OVER {
            copied.passed_over += 1;
            return Ok(());
        }
        self.finish(Some(&entry.name))?;
        let (parent, name) = self.place(&entry.name)?;
        copied.entries += 1;
        match entry.kind {
            DIRECTORY => {
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                // Not through a symlink that was there.
                drop(open_beneath(parent.as_fd(), name, OFlags::DIRECTORY | OFlags::PATH)?);
                let (kind, mode, modified) = (entry.kind, entry.mode, entry.modified);
                self.directories.push(Entry { kind, mode, modified, name: entry.name.clone() });
                Ok(())
            }
            FILE => replace(parent.as_fd(), name, |draft| {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = File::from(rustix::fs::openat(&parent, draft, flags, Mode::RUSR)?);
                receive_data(&file, input, copied)?;
                let mode = Mode::from_raw_mode(entry.mode & self.mask);
                rustix::fs::fchmod(&file, mode)?;
                Ok(rustix::fs::futimens(&file, &times(entry.modified))?)
            }),
            SYMLINK => replace(parent.as_fd(), name, |draft| {
                let target = read_text(input)?;
                rustix::fs::symlinkat(&target[..], &parent, draft)?;
                let (times, flags) = (times(entry.modified), AtFlags::SYMLINK_NOFOLLOW);
                Ok(rustix::fs::utimensat(&parent, draft, &times, flags)?)
            }),
            _ => Err(wrong("an entry of a kind that this version does not know")),
        }
    }

    /// The directory that a name lies in, and its last part.
    fn place<'n>(&'n self, name: &'n [u8]) -> io::Result<(OwnedFd, &'n [u8])> {
        if name.is_empty() {
            return Ok((open_beneath(self.root.as_fd(), b".", OFlags::PATH)?, self.top));
        }
        let at = name.iter().rposition(|&b| b == b'/');
        let parent = at.map_or(self.top.to_vec(), |at| [self.top, b"/", &name[..at]].concat());
        let last = at.map_or(name, |at| &name[at + 1..]);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok((open_beneath(self.root.as_fd(), &parent, flags)?, last))
    }

    /// Finishes the directories that `next` is not in; all of them, where nothing comes next. So
    /// there are never more of them than a name has parts.
    fn finish(&mut self, next: Option<&[u8]>) -> io::Result<()> {
        while let Some(entry) =
            self.directories.pop_if(|last| next.is_none_or(|next| !is_in(next, &last.name)))
        {
            let (parent, name) = self.place(&entry.name)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = open_beneath(parent.as_fd(), name, flags)?;
            rustix::fs::futimens(&directory, &times(entry.modified))?;
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(entry.mode & self.mask))?;
        }
        Ok(())
    }
}

/// Whether `name` lies below the directory `directory`; all others are below the one without a name.
fn is_in(name: &[u8], directory: &[u8]) -> bool {
    match directory {
        b"" => !name.is_empty(),
        _ => name.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/")),
    }
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps { last_access: modified, last_modification: modified }
}

/// Opens what no symlink and no `..` leads to.
fn open_beneath(root: impl AsFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?)
}

/// Makes a file or symlink under another name and, when it is whole, puts it in the place of what is
/// at `name`. A directory is not replaced.
fn replace(
    parent: BorrowedFd<'_>,
    name: &[u8],
    make: impl FnOnce(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let own = rustix::process::getpid().as_raw_nonzero();
    let draft = format!(".imgrun-{own}-{count}.part").into_bytes();
    // What a killed process of our number left.
    match rustix::fs::unlinkat(parent, &draft[..], AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let made =
        make(&draft).and_then(|()| Ok(rustix::fs::renameat(parent, &draft[..], parent, name)?));
    made.inspect_err(|_| {
        let _ = rustix::fs::unlinkat(parent, &draft[..], AtFlags::empty());
    })
}

fn receive_data(file: &File, input: &mut impl Read, copied: &mut Copied) -> io::Result<()> {
    let size = read_u64(input)?;
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let at = read_u64(input)?;
        let len = read_u32(input)? as usize;
        if len == 0 {
            return file.set_len(size);
        }
        if len > PIECE_BYTES || at.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(wrong("a piece that is not in its file"));
        }
        input.read_exact(&mut buffer[..len])?;
        file.write_all_at(&buffer[..len], at)?;
        copied.bytes += len as u64;
    }
}

/// `None` at the end of the stream.
fn read_entry(input: &mut impl Read) -> io::Result<Option<Entry>> {
    let mut kind = [0];
    input.read_exact(&mut kind)?;
    if kind[0] == END {
        return Ok(None);
    }
    let mode = read_u32(input)?;
    let seconds = read_u64(input)? as i64;
    let nanos = read_u32(input)?;
    if nanos >= 1_000_000_000 {
        return Err(wrong("a time that is none"));
    }
    let modified = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Ok(Some(Entry { kind: kind[0], mode, modified, name: read_text(input)? }))
}

fn check_name(name: &[u8]) -> io::Result<()> {
    let part =
        |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
    let parts = name.split(|&b| b == b'/');
    if name.is_empty() || (parts.clone().all(part) && parts.count() <= DEPTH_MAX) {
        return Ok(());
    }
    Err(wrong("a name that leads elsewhere"))
}

fn read_text(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut len = [0; 2];
    input.read_exact(&mut len)?;
    let len = usize::from(u16::from_le_bytes(len));
    if len > NAME_BYTES_MAX {
        return Err(wrong("a path that is too long"));
    }
    let mut text = vec![0; len];
    input.read_exact(&mut text)?;
    Ok(text)
}

fn read_u32(input: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_u64(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn sent(path: &Path) -> Vec<u8> {
        let mut out = Vec::new();
        send(path, &mut out).expect("it is sent");
        out
    }

    #[test]
    fn a_tree_arrives_with_modes_times_links_and_holes() {
        let dir = tempfile::tempdir().expect("a directory");
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("d/closed")).expect("directories");
        fs::write(from.join("d/closed/file"), b"text").expect("a file");
        symlink("../../etc/passwd", from.join("link")).expect("a link");
        let big = File::create(from.join("big")).expect("a file");
        big.write_all_at(b"end", 100 << 20).expect("data");
        big.set_len(200 << 20).expect("a hole");
        let mode = |path: &str, mode| {
            let path = from.join(path);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
        };
        mode("big", 0o4751);
        mode("d/closed", 0o500);
        let to = dir.path().join("to");
        let copied = receive(&to, b"x", true, &mut &sent(&from)[..]).expect("it arrives");
        assert_eq!((copied.entries, copied.passed_over), (6, 0));
        for path in ["", "d", "d/closed", "d/closed/file", "link", "big"] {
            let a = fs::symlink_metadata(from.join(path)).expect("from");
            let b = fs::symlink_metadata(to.join(path)).expect("to");
            assert_eq!(
                (a.mode(), a.mtime(), a.mtime_nsec()),
                (b.mode(), b.mtime(), b.mtime_nsec()),
                "{path}"
            );
        }
        assert_eq!(fs::read(to.join("d/closed/file")).expect("text"), b"text");
        assert_eq!(fs::read_link(to.join("link")).expect("a link"), Path::new("../../etc/passwd"));
        let big = fs::metadata(to.join("big")).expect("big");
        assert!(big.size() == 200 << 20 && big.blocks() < 1000, "{}", big.blocks());
        // Into a directory that is there, and without the special bits.
        receive(&to, b"again", false, &mut &sent(&from)[..]).expect("it arrives");
        assert_eq!(fs::metadata(to.join("again/big")).expect("big").mode() & 0o7777, 0o751);
    }

    #[test]
    fn the_stream_is_the_golden_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, b"hi").expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
        let modified = std::time::UNIX_EPOCH + std::time::Duration::new(1, 2);
        File::options()
            .write(true)
            .open(&path)
            .and_then(|f| f.set_modified(modified))
            .expect("a time");
        let golden = [
            &b"imgcopy1"[..],
            b"\x02\xa0\x01\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0",
            b"\x02\0\0\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0\x02\0\0\0hi",
            b"\0\0\0\0\0\0\0\0\0\0\0\0",
            b"\0",
        ];
        assert_eq!(sent(&path), golden.concat());
    }

    fn entry(kind: u8, name: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend([0xff, 1, 0, 0]);
        out.extend([0; 12]);
        put_text(&mut out, name).expect("a name");
        out.extend(rest);
        out
    }

    #[test]
    fn a_stream_of_directories_without_end_takes_no_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).expect("it is there");
        let mut receiver = Receiver { root, top: b"x", mask: 0o777, directories: Vec::new() };
        let modified = Timespec { tv_sec: 0, tv_nsec: 0 };
        let names = ["", "a", "a/b"].into_iter().chain(["c"; 1000]);
        for name in names {
            let entry = Entry { kind: DIRECTORY, mode: 0o750, modified, name: name.into() };
            let taken = receiver.take(&entry, &mut io::empty(), &mut Copied::default());
            taken.expect("it is taken");
            assert!(receiver.directories.len() <= 3);
        }
        receiver.finish(None).expect("it is finished");
        for name in ["x", "x/a", "x/a/b", "x/c"] {
            let metadata = fs::metadata(dir.path().join(name)).expect("it is there");
            assert_eq!((metadata.mode() & 0o777, metadata.mtime()), (0o750, 0), "{name}");
        }
    }

    #[test]
    fn a_hostile_stream_writes_nothing_elsewhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).expect("a directory");
        fs::write(outside.join("file"), b"mine").expect("a file");
        let target = outside.as_os_str().as_bytes();
        let mut link = (target.len() as u16).to_le_bytes().to_vec();
        link.extend(target);
        // A file of three bytes.
        let mut data = 3u64.to_le_bytes().to_vec();
        data.extend([0; 8]);
        data.extend(3u32.to_le_bytes());
        data.extend(b"bad");
        data.extend([0; 12]);
        let mut huge = 1u64.to_le_bytes().to_vec();
        huge.extend([0xff; 12]);
        let top = || entry(DIRECTORY, b"", b"");
        let streams: [Vec<Vec<u8>>; 8] = [
            vec![top(), entry(SYMLINK, b"a", &link), entry(FILE, b"a/file", &data)],
            vec![top(), entry(SYMLINK, b"a", &link), entry(DIRECTORY, b"a", b"")],
            vec![entry(SYMLINK, b"", &link), entry(FILE, b"file", &data)],
            vec![top(), entry(FILE, b"../outside/file", &data)],
            vec![top(), entry(FILE, b"/etc/imgcopy", &data)],
            vec![top(), entry(FILE, b"a\0b", &data)],
            vec![top(), entry(FILE, b"file", &huge)],
            vec![top(), entry(9, b"x", b"")],
        ];
        for (number, entries) in streams.into_iter().enumerate() {
            let to = dir.path().join(format!("to{number}"));
            let stream = [&MAGIC[..], &entries.concat(), &[END]].concat();
            assert!(receive(&to, b"x", false, &mut &stream[..]).is_err(), "{number}");
            assert_eq!(fs::read(outside.join("file")).expect("it is there"), b"mine");
            assert_eq!(fs::read_dir(&outside).expect("it is there").count(), 1);
        }
        let stream = [&MAGIC[..], &top(), &entry(FILE, b"a\n\x1b/b", &data)].concat();
        let error = receive(&dir.path().join("escapes"), b"x", false, &mut &stream[..]);
        let error = error.expect_err("there is no such directory").to_string();
        assert!(error.starts_with("a\\n\\u{1b}/b: "), "{error:?}");
        let whole = sent(&outside);
        for len in 0..whole.len() {
            let to = dir.path().join("cut");
            assert!(receive(&to, b"x", false, &mut &whole[..len]).is_err(), "{len}");
            let _ = fs::remove_dir_all(&to);
        }
    }
}
