//! Other people's readers: Python's tarfile, GNU tar and bsdtar.
//!
//! A view of an archive is a line an entry, as `ls -l` has it: mode, owners, size or device, name,
//! and a link's target; and the contents of all plain files one behind the other.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bundle::Digest;
use imgrun::tar::{Kind, Reader};

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) lines: Vec<String>,
    pub(crate) content: Option<Digest>,
}

/// Ours.
pub(crate) fn ours(bytes: &[u8]) -> imgrun::Result<View> {
    let mut reader = Reader::new(bytes);
    let (mut lines, mut content) = (Vec::new(), Vec::new());
    while let Some(entry) = reader.next_entry()? {
        let (letter, size, link) = match &entry.kind {
            Kind::File { size } => ('-', size.to_string(), String::new()),
            Kind::HardLink(to) => ('h', "0".into(), format!(" link to {}", shown(to))),
            Kind::Symlink(to) => ('l', "0".into(), format!(" -> {}", shown(to))),
            Kind::Directory => ('d', "0".into(), String::new()),
            Kind::CharDevice(major, minor) => ('c', format!("{major},{minor}"), String::new()),
            Kind::BlockDevice(major, minor) => ('b', format!("{major},{minor}"), String::new()),
            Kind::Fifo => ('p', "0".into(), String::new()),
        };
        if let Kind::File { size } = entry.kind {
            read(&mut reader, size, &mut content)?;
        }
        let mut path = &entry.path[..];
        while letter == 'd' && path.ends_with(b"/") {
            path = &path[..path.len() - 1];
        }
        let (mode, uid, gid) = (permissions(entry.mode), entry.uid, entry.gid);
        lines.push(format!("{letter}{mode} {uid}/{gid} {size} {}{link}", shown(path)));
    }
    Ok(View { lines, content: Some(Digest::of(&content)) })
}

fn read(reader: &mut Reader<&[u8]>, size: u64, content: &mut Vec<u8>) -> imgrun::Result<()> {
    const SIZE_MAX: u64 = 16 << 40;
    if size > SIZE_MAX {
        // The image refuses it before a byte is looked at.
        return Err(imgrun::Error::input("it is longer than 16 TiB"));
    }
    let mut left = size;
    while left > 0 {
        let hole = reader.hole();
        content.resize(content.len() + hole as usize, 0);
        let mut piece = reader.content()?;
        content.extend_from_slice(piece.bytes());
        left -= hole + piece.bytes().len() as u64;
    }
    Ok(())
}

fn permissions(mode: u16) -> String {
    let mut text: Vec<u8> =
        (0..9).map(|i| if mode >> (8 - i) & 1 == 1 { b"rwxrwxrwx"[i] } else { b'-' }).collect();
    for (bit, place, letter) in [(0o4000, 2, b's'), (0o2000, 5, b's'), (0o1000, 8, b't')] {
        if mode & bit != 0 {
            let executable = text[place] == b'x';
            text[place] = if executable { letter } else { letter.to_ascii_uppercase() };
        }
    }
    String::from_utf8(text).unwrap()
}

fn shown(bytes: &[u8]) -> String {
    let byte = |&b: &u8| match b {
        b' '..=b'~' if b != b'\\' && b != b'"' => char::from(b).to_string(),
        _ => format!("\\{b:03o}"),
    };
    bytes.iter().map(byte).collect()
}

fn run(command: &mut Command) -> Option<Output> {
    let output = command.env("LC_ALL", "C").env("TZ", "UTC").output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e} (see tests/setup)"));
    output.status.success().then_some(output)
}

/// Python's views, a value for each file; `None` where it refuses one.
pub(crate) fn python(files: &[PathBuf]) -> Vec<Option<View>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tar/view.py");
    let output = run(Command::new("python3").arg(script).args(files)).expect(script);
    let text = String::from_utf8(output.stdout).unwrap();
    let views: Vec<_> = text
        .split_inclusive("\n.\n")
        .map(|text| {
            let mut lines: Vec<String> = text.lines().map(String::from).collect();
            lines.pop();
            let last = lines.pop()?;
            let digest = last.strip_prefix("digest ")?;
            let content = Some(format!("sha256:{digest}").parse().unwrap());
            Some(View { lines, content })
        })
        .collect();
    assert_eq!(views.len(), files.len(), "{text}");
    views
}

/// GNU tar's; it can not give a sparse file's content to a pipe.
pub(crate) fn gnu(file: &Path) -> Option<View> {
    let list = ["-tvPf", "--numeric-owner", "--quoting-style=c"];
    let output = run(Command::new("tar").arg(list[0]).arg(file).args(&list[1..]))?;
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| line_of(line, &[0, 1, 2], 5)).collect();
    let sparse = file.to_string_lossy().contains("sparse");
    let content = match sparse {
        true => None,
        false => Some(Digest::of(run(Command::new("tar").arg("-xOPf").arg(file))?.stdout)),
    };
    Some(View { lines, content })
}

/// libarchive's.
pub(crate) fn bsdtar(file: &Path) -> Option<View> {
    let output = run(Command::new("bsdtar").arg("-tvf").arg(file).arg("--numeric-owner"))?;
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| line_of(line, &[0, 2, 3, 4], 8)).collect();
    let content = Digest::of(run(Command::new("bsdtar").arg("-xOf").arg(file))?.stdout);
    Some(View { lines, content: Some(content) })
}

/// The wanted columns of a listing (owners perhaps in two), and all from column `name` on.
fn line_of(line: &str, columns: &[usize], name: usize) -> String {
    let mut rest = line;
    let mut words = Vec::new();
    for _ in 0..name {
        let (word, after) = rest.trim_start().split_once(' ').unwrap_or((rest, ""));
        words.push(word);
        rest = after;
    }
    let wanted: Vec<&str> = columns.iter().map(|&i| words[i].trim_end_matches('+')).collect();
    let (mode, owners, size) = match wanted[..] {
        [mode, uid, gid, size] => (mode, format!("{uid}/{gid}"), size),
        [mode, owners, size] => (mode, owners.to_string(), size),
        _ => panic!("{columns:?}"),
    };
    let mut path = rest.replace('"', "");
    while mode.starts_with('d') && path.ends_with('/') {
        path.pop();
    }
    format!("{mode} {owners} {size} {path}")
}
