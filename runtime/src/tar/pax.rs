//! Extended headers: `length keyword=value\n`, again and again.

use std::collections::BTreeSet;

use ext4::{Time, Xattr};

use super::header::Wrong;
use super::sparse;

/// An entry has at most this many extended attributes; a block would not hold more.
const XATTRS_MAX: usize = 512;

/// What an extended header says of the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: Option<sparse::Records>,
}

/// Reads an extended header.
pub(super) fn parse(text: &[u8]) -> Result<Pax, Wrong> {
    let mut pax = Pax::default();
    let mut libarchive = Vec::new();
    for record in records(text)? {
        let (keyword, value) = record;
        match keyword {
            b"path" => pax.path = Some(name(value)?),
            b"linkpath" => pax.link = Some(name(value)?),
            b"size" => pax.size = Some(decimal(value)?),
            b"uid" => pax.uid = Some(decimal(value)?),
            b"gid" => pax.gid = Some(decimal(value)?),
            b"mtime" => pax.mtime = Some(time(value)?),
            b"SCHILY.devmajor" | b"SCHILY.devminor" | b"SCHILY.realsize" | b"SUN.holesdata" => {
                return Err("a pax keyword that readers disagree on");
            }
            _ => {
                if let Some(keyword) = keyword.strip_prefix(b"GNU.sparse.") {
                    pax.sparse.get_or_insert_default().take(keyword, value)?;
                } else if let Some(name) = keyword.strip_prefix(b"SCHILY.xattr.") {
                    pax.xattrs.push(Xattr { name: name.into(), value: value.into() });
                } else if let Some(name) = keyword.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let (name, value) = (percent_decode(name)?, base64_decode(value)?);
                    libarchive.push(Xattr { name: name.into(), value: value.into() });
                }
            }
        }
    }
    if pax.xattrs.len() + libarchive.len() > XATTRS_MAX {
        return Err("it has more than 512 extended attributes");
    }
    if libarchive.iter().any(|xattr: &Xattr| xattr.name.contains(&0)) {
        return Err("an extended attribute's name holds a NUL");
    }
    // libarchive writes both forms of an attribute; the plain one is as good.
    for xattr in libarchive {
        if pax.xattrs.iter().all(|x| x.name != xattr.name) {
            pax.xattrs.push(xattr);
        }
    }
    Ok(pax)
}

/// A global header changes how all later entries are read, and readers disagree how: only comments
/// (`git archive` writes its commit there) are taken.
pub(super) fn check_global(text: &[u8]) -> Result<(), Wrong> {
    match records(text)?.iter().all(|(keyword, _)| *keyword == b"comment") {
        true => Ok(()),
        false => Err("a global pax header carries more than a comment"),
    }
}

type Record<'t> = (&'t [u8], &'t [u8]);

fn records(mut text: &[u8]) -> Result<Vec<Record<'_>>, Wrong> {
    const MALFORMED: Wrong = "a pax record is malformed";
    let mut records = Vec::new();
    let mut seen = BTreeSet::new();
    while !text.is_empty() {
        let blank = text.iter().position(|&b| b == b' ').ok_or(MALFORMED)?;
        let length = decimal(&text[..blank]).map_err(|_| MALFORMED)?;
        let length = usize::try_from(length).map_err(|_| MALFORMED)?;
        if length <= blank + 1 || length > text.len() {
            return Err(MALFORMED);
        }
        let (record, rest) = text.split_at(length);
        let record = record[blank + 1..].strip_suffix(b"\n").ok_or(MALFORMED)?;
        let equals = record.iter().position(|&b| b == b'=').ok_or(MALFORMED)?;
        let (keyword, value) = (&record[..equals], &record[equals + 1..]);
        if keyword.is_empty() || keyword.contains(&0) {
            return Err(MALFORMED);
        }
        let repeats = matches!(keyword, b"GNU.sparse.offset" | b"GNU.sparse.numbytes");
        if !seen.insert(keyword) && !repeats {
            return Err("a pax keyword is there twice");
        }
        records.push((keyword, value));
        text = rest;
    }
    Ok(records)
}

pub(super) fn name(value: &[u8]) -> Result<Vec<u8>, Wrong> {
    match value {
        b"" => Err("a pax name is empty"),
        _ if value.contains(&0) => Err("a pax name holds a NUL"),
        _ => Ok(value.to_vec()),
    }
}

pub(super) fn decimal(value: &[u8]) -> Result<u64, Wrong> {
    if value.is_empty() {
        return Err("a pax number is empty");
    }
    value.iter().try_fold(0u64, |sum, &digit| match digit {
        b'0'..=b'9' => sum
            .checked_mul(10)
            .and_then(|sum| sum.checked_add(u64::from(digit - b'0')))
            .filter(|&sum| i64::try_from(sum).is_ok())
            .ok_or("a pax number overflows"),
        _ => Err("a pax number is not decimal"),
    })
}

/// Seconds with an optional sign and fraction; digits after the ninth are cut off.
fn time(value: &[u8]) -> Result<Time, Wrong> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |&b| b == b'.');
    let seconds = decimal(parts.next().unwrap_or_default())? as i64;
    let fraction = parts.next().unwrap_or(b"0");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err("a pax time is not decimal");
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Ok(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

fn percent_decode(text: &[u8]) -> Result<Vec<u8>, Wrong> {
    const WRONG: Wrong = "a LIBARCHIVE.xattr name is not URL-encoded";
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or(WRONG)?;
        let digits = std::str::from_utf8(digits).map_err(|_| WRONG)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(WRONG);
        }
        out.push(u8::from_str_radix(digits, 16).map_err(|_| WRONG)?);
        rest = after;
    }
    Ok(out)
}

fn base64_decode(text: &[u8]) -> Result<Vec<u8>, Wrong> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for &c in text.iter().take_while(|&&c| c != b'=') {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err("a LIBARCHIVE.xattr value is not base64"),
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let at = |seconds, nanoseconds| Ok(Time { seconds, nanoseconds });
        assert_eq!(time(b"1350244992.023960108"), at(1_350_244_992, 23_960_108));
        assert_eq!(time(b"-1.5"), at(-2, 500_000_000));
        assert_eq!(time(b"-1"), at(-1, 0));
        assert_eq!(time(b"0.0000000019"), at(0, 1));
        for wrong in [&b""[..], b"-", b"1.x", b"1e9", b"9223372036854775808"] {
            assert!(time(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn records_are_exact() {
        let pax = parse(b"12 path=a/b\n15 size=000123\n").unwrap();
        assert_eq!((pax.path.as_deref(), pax.size), (Some(&b"a/b"[..]), Some(123)));
        for wrong in [
            &b"12 path=a/b"[..],
            b"11 path=a/b\n",
            b"13 path=a/b\n",
            b"0 \n",
            b"9 path=\n",
            b"11 path=a\0\n",
            b"10 size=-1\n",
            b"28 size=18446744073709551616\n",
            b"12 path=a/b\n12 path=a/c\n",
            b"path=a\n",
            b"8 =abc\n",
            b"22 GNU.sparse.minus=1\n",
            b"22 GNU.sparse.major=1\n22 GNU.sparse.major=1\n",
        ] {
            assert!(parse(wrong).is_err(), "{:?}", String::from_utf8_lossy(wrong));
        }
    }

    #[test]
    fn both_forms_of_attributes() {
        let text = b"30 LIBARCHIVE.xattr.user.a%20=YWI=\n";
        let text = [format!("{} ", text.len()).as_bytes(), &text[3..]].concat();
        let pax = parse(&text).unwrap();
        assert_eq!((&*pax.xattrs[0].name, &*pax.xattrs[0].value), (&b"user.a "[..], &b"ab"[..]));
    }
}
