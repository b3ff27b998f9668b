//! What rpm says is installed: headers in a SQLite database, the format of rpm since 4.16.
//!
//! A header is an index and a store (rpm's documentation, "Package format"): two lengths, then for each
//! tag its number, its type, where its data begin in the store and how many they are.

use bundle::{Database, Package};

use super::sqlite::{self, Value};

/// In a header.
const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const ARCH: u32 = 1022;
const STRING: u32 = 6;
const INT32: u32 = 4;
const INDEX_BYTES: usize = 16;
/// Names and versions are at most this long.
const TEXT_BYTES_MAX: usize = 4096;
/// Keys that are trusted are listed as packages, too.
const KEY: &str = "gpg-pubkey";

/// The packages in the database `bytes`; the error says what is wrong.
pub(super) fn installed(bytes: &[u8]) -> Result<Vec<Package>, &'static str> {
    let rows = sqlite::rows(bytes, "Packages")?.ok_or("it has no packages")?;
    let mut packages = Vec::new();
    for row in rows {
        let Some(Value::Bytes(header)) = row.get(1) else { return Err("a package has no header") };
        packages.push(package(header).ok_or("a package's header is damaged")?);
    }
    packages.retain(|package| package.name != KEY);
    Ok(packages)
}

fn package(header: &[u8]) -> Option<Package> {
    let number = |at: usize| {
        let bytes = header.get(at..at.checked_add(4)?)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let count = number(0)? as usize;
    let store = header.get(count.checked_mul(INDEX_BYTES)?.checked_add(8)?..)?;
    let find = |tag: u32, kind: u32| {
        let mut entries = (0..count).map(|entry| 8 + entry * INDEX_BYTES);
        let at = entries.find(|at| number(*at) == Some(tag) && number(*at + 4) == Some(kind))?;
        store.get(number(at + 8)? as usize..)
    };
    let text = |tag: u32| {
        let text = find(tag, STRING)?.split(|byte| *byte == 0).next()?;
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= TEXT_BYTES_MAX)?;
        // They are printed, a line each.
        (!text.contains(char::is_control)).then(|| text.to_string())
    };
    let (version, release) = (text(VERSION)?, text(RELEASE)?);
    let epoch = match find(EPOCH, INT32) {
        Some(bytes) => format!("{}:", u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?)),
        None => String::new(),
    };
    Some(Package {
        database: Database::Rpm,
        name: text(NAME)?,
        version: format!("{epoch}{version}-{release}"),
        arch: text(ARCH).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header that holds `name`, and 1 as all else.
    fn header(name: &str) -> Vec<u8> {
        let tags = [(NAME, 2), (VERSION, 0), (RELEASE, 0), (ARCH, 0)];
        let mut header = [4_u32, 3 + name.len() as u32].map(u32::to_be_bytes).concat();
        for (tag, at) in tags {
            header.extend([tag, STRING, at, 1].map(u32::to_be_bytes).concat());
        }
        header.extend([b"1\0", name.as_bytes(), b"\0"].concat());
        header
    }

    #[test]
    fn names_are_a_line_at_most() {
        assert_eq!(package(&header("vim")).unwrap().name, "vim");
        for wrong in ["a\nb", "\u{1b}[2J", &"x".repeat(TEXT_BYTES_MAX + 1)] {
            assert_eq!(package(&header(wrong)), None, "{wrong:?}");
        }
    }
}
