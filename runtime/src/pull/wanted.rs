//! What the user names, and which bundle of a catalog that is.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use bundle::{Arch, Digest, Kind, Name, Reference, Version};

use crate::catalog::{Catalog, Entry};
use crate::{Error, Result};

/// Names in the hint of an error, at most.
const LISTED_MAX: usize = 8;

/// `NAME`, `NAME@VERSION`, `NAME:VERSION` or `NAME@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The bundle's name.
    pub name: Name,
    /// Which of its versions.
    pub which: Which,
}

/// Which of a bundle's versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest.
    Newest,
    /// The newest that is this version, or begins with it and `.`, `-`, `+` or `~`: `12` takes `12.9`.
    Channel(Version),
    /// This one.
    Version(Version),
    /// The one whose packed file has this digest.
    Digest(Digest),
}

impl FromStr for Wanted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |e: bundle::Error| {
            Error::usage(e.to_string()).hint("NAME, NAME@VERSION or NAME@sha256:DIGEST is wanted")
        };
        let (name, which) = match text.split_once(['@', ':']) {
            None => (text, Which::Newest),
            Some((name, digest)) if digest.starts_with("sha256:") => {
                (name, Which::Digest(digest.parse().map_err(wrong)?))
            }
            Some((name, version)) => (name, Which::Version(version.parse().map_err(wrong)?)),
        };
        Ok(Wanted { name: name.parse().map_err(wrong)?, which })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.which {
            Which::Newest => write!(f, "{}", self.name),
            Which::Channel(version) => write!(f, "{} {version}.*", self.name),
            Which::Version(version) => write!(f, "{}:{version}", self.name),
            Which::Digest(digest) => write!(f, "{}@{digest}", self.name),
        }
    }
}

impl Wanted {
    /// The entry of `catalog` for `arch`: of several the newest by version, digits counting as
    /// numbers. What was withdrawn is only looked at to say so.
    ///
    /// # Errors
    /// [`crate::Class::Input`] where there is none, or only withdrawn ones.
    pub fn choose<'c>(&self, catalog: &'c Catalog, arch: Arch) -> Result<&'c Entry> {
        let named: Vec<&Entry> =
            catalog.entries.iter().filter(|e| e.name == self.name && e.arch == arch).collect();
        let fits: Vec<&Entry> = named.iter().copied().filter(|e| self.fits(e)).collect();
        let usable = fits.iter().copied().filter(|e| e.about.yanked.is_none());
        if let Some(entry) = usable.max_by(|a, b| order(&a.version, &b.version)) {
            return Ok(entry);
        }
        if let Some(entry) = fits.last() {
            let why = entry.about.yanked.as_deref().unwrap_or_default();
            let error = Error::input(format!("{} was withdrawn: {why}", entry.title()));
            let others = named.iter().copied().filter(|e| e.about.yanked.is_none());
            return Err(match others.max_by(|a, b| order(&a.version, &b.version)) {
                Some(other) => error.hint(format!("there is {}:{}", other.name, other.version)),
                None => error,
            });
        }
        Err(self.not_there(catalog, &named, arch))
    }

    /// Whether `catalog` has anything of this name, for any architecture.
    pub fn is_named_in(&self, catalog: &Catalog) -> bool {
        catalog.entries.iter().any(|e| e.name == self.name)
    }

    fn fits(&self, entry: &Entry) -> bool {
        match &self.which {
            Which::Newest => true,
            Which::Channel(channel) => is_in(&entry.version, channel),
            Which::Version(version) => entry.version == *version,
            Which::Digest(digest) => entry.digest == *digest,
        }
    }

    fn not_there(&self, catalog: &Catalog, named: &[&Entry], arch: Arch) -> Error {
        let error = Error::input(format!("the catalog has no {self} for {arch}"));
        let mut others: Vec<String> = if named.is_empty() {
            let here = catalog.entries.iter().filter(|e| e.arch == arch);
            here.filter(|e| e.about.kind == Kind::Image).map(|e| e.name.to_string()).collect()
        } else {
            named.iter().rev().map(|e| format!("{}:{}", e.name, e.version)).collect()
        };
        others.dedup();
        others.truncate(LISTED_MAX);
        match others.is_empty() {
            true => error,
            false => error.hint(format!("it has {}", others.join(", "))),
        }
    }
}

/// The kernel that an image names, by its digest.
///
/// # Errors
/// [`crate::Class::Input`] where `catalog` has it not, or it was withdrawn.
pub fn kernel_of<'c>(catalog: &'c Catalog, reference: &Reference) -> Result<&'c Entry> {
    let Reference { name, version, digest } = reference;
    let found = catalog.entries.iter().find(|e| e.digest == *digest);
    let entry = found.ok_or_else(|| {
        let short = digest.short();
        Error::input(format!("the catalog has not got the kernel {name}:{version} ({short})"))
            .hint("take another: --kernel NAME")
    })?;
    match &entry.about.yanked {
        None => Ok(entry),
        Some(why) => {
            Err(Error::input(format!("the kernel {} was withdrawn: {why}", entry.title()))
                .hint("take another: --kernel NAME"))
        }
    }
}

fn is_in(version: &Version, channel: &Version) -> bool {
    let rest = version.as_str().strip_prefix(channel.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', '+', '~']))
}

/// Numbers by value, all else by its letters; `~` is before the end of the text, as in Debian.
fn order(a: &Version, b: &Version) -> Ordering {
    let (mut a, mut b) = (a.as_str(), b.as_str());
    loop {
        let by_text = rank(a).cmp(&rank(b));
        if by_text != Ordering::Equal || a.is_empty() {
            return by_text;
        }
        if a.as_bytes()[0].is_ascii_digit() {
            let ((x, rest_a), (y, rest_b)) = (number(a), number(b));
            let by_value = x.len().cmp(&y.len()).then(x.cmp(y));
            if by_value != Ordering::Equal {
                return by_value;
            }
            (a, b) = (rest_a, rest_b);
        } else {
            (a, b) = (&a[1..], &b[1..]);
        }
    }
}

/// The first character's place among others: digits are all equal.
fn rank(text: &str) -> u8 {
    match text.as_bytes().first() {
        Some(b'~') => 0,
        None => 1,
        Some(digit) if digit.is_ascii_digit() => b'0',
        Some(other) => *other,
    }
}

/// The digits that `text` begins with, without zeros in front, and what follows.
fn number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    (digits.trim_start_matches('0'), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_an_order() {
        let ascending = ["2~rc1", "2", "2.0", "2.9", "2.10", "2.10-1", "2.10a", "10", "2026.11.20"];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                let version = |text: &str| text.parse::<Version>().unwrap();
                assert_eq!(order(&version(a), &version(b)), i.cmp(&j), "{a} {b}");
            }
        }
    }

    #[test]
    fn channels_end_at_a_word() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        for (text, is) in [("12", true), ("12.9", true), ("12-1", true), ("120", false)] {
            assert_eq!(is_in(&version(text), &version("12")), is, "{text}");
        }
    }

    #[test]
    fn names_are_read() {
        let digest = Digest::of(b"x");
        let table = [
            ("debian", Which::Newest),
            ("debian@12", Which::Version("12".parse().unwrap())),
            ("debian:12", Which::Version("12".parse().unwrap())),
            (&format!("debian@{digest}"), Which::Digest(digest)),
        ];
        for (text, which) in table {
            let wanted: Wanted = text.parse().unwrap();
            assert_eq!((wanted.name.as_str(), wanted.which), ("debian", which), "{text}");
        }
        for bad in ["", "@12", "debian@", "Debian", "debian@sha256:12", "../x"] {
            assert!(bad.parse::<Wanted>().is_err(), "{bad}");
        }
    }
}
