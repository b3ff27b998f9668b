//! What the package managers in an image say is installed: read from the image that was made, so
//! that it is what a guest will see.
//!
//! Debian's `dpkg` and Alpine's `apk` keep text files, `rpm` a SQLite database. What rpm had before
//! 4.16 (Berkeley DB) and what openSUSE has (ndb) is noticed and named, not read.

mod rpm;
mod sqlite;

use std::io::{Read, Seek};

use bundle::{Database, Package};
use ext4::read::{Inode, Kind, Reader};

use crate::{Error, Result};

/// A package database is at most this long; Debian's of 3,000 packages has 3 MB.
const DATABASE_BYTES_MAX: u64 = 64 << 20;
/// Nothing has more packages: Debian has 65,000 in all.
const PACKAGES_MAX: usize = 200_000;
/// What os-release says is at most this long.
const OS_RELEASE_BYTES_MAX: u64 = 64 << 10;

const DPKG_STATUS: &str = "/var/lib/dpkg/status";
/// One file for each package, without `Status`: images that have no dpkg.
const DPKG_STATUS_D: &str = "/var/lib/dpkg/status.d";
const APK_INSTALLED: [&str; 2] = ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"];
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];
/// rpm's is at most this long: it holds the names of all files.
const RPM_BYTES_MAX: u64 = 256 << 20;
/// One may be a symbolic link to the other.
const RPM: [&str; 2] = ["/usr/lib/sysimage/rpm/rpmdb.sqlite", "/var/lib/rpm/rpmdb.sqlite"];
const RPM_OTHERS: [&str; 3] =
    ["/var/lib/rpm/Packages", "/var/lib/rpm/Packages.db", "/usr/lib/sysimage/rpm/Packages.db"];

/// What is installed in an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// The packages, sorted, each once.
    pub packages: Vec<Package>,
    /// The `ID` of its os-release: `debian`, `alpine`; empty where there is none.
    pub distribution: String,
    /// What is there and was not read, a line each.
    pub notes: Vec<String>,
}

/// Reads the databases of the file system in `image`.
///
/// # Errors
/// Where the image can not be read or a database is too long to be one.
pub fn read(image: impl Read + Seek) -> Result<Installed> {
    let damaged = |e| Error::bug(format!("the image can not be read back: {e}"));
    let mut files = Files(Reader::open(image).map_err(damaged)?);
    let mut installed = Installed::default();
    if let Some(text) = files.text(DPKG_STATUS, DATABASE_BYTES_MAX)? {
        installed.add(dpkg(&text))?;
    }
    for text in files.texts_in(DPKG_STATUS_D)? {
        installed.add(dpkg(&text))?;
    }
    for path in APK_INSTALLED {
        if let Some(text) = files.text(path, DATABASE_BYTES_MAX)? {
            installed.add(apk(&text))?;
        }
    }
    for path in RPM {
        if let Some(bytes) = files.bytes(path, RPM_BYTES_MAX)? {
            match rpm::installed(&bytes) {
                Ok(packages) => installed.add(packages.into_iter())?,
                Err(why) => installed.notes.push(unread(path, why)),
            }
            let log = format!("{path}-wal");
            if files.find(&log)?.is_some_and(|inode| inode.size > 0) {
                installed.notes.push(unread(&log, "it was not closed: its last changes are here"));
            }
        }
    }
    for path in RPM_OTHERS {
        if files.find(path)?.is_some() {
            installed.notes.push(unread(path, "it is Berkeley DB or ndb"));
        }
    }
    installed.packages.sort();
    installed.packages.dedup();
    for path in OS_RELEASE.into_iter().rev() {
        if let Some(text) = files.text(path, OS_RELEASE_BYTES_MAX)? {
            installed.distribution = distribution(&text);
        }
    }
    Ok(installed)
}

impl Installed {
    fn add(&mut self, packages: impl Iterator<Item = Package>) -> Result<()> {
        let room = PACKAGES_MAX - self.packages.len();
        self.packages.extend(packages.take(room + 1));
        if self.packages.len() > PACKAGES_MAX {
            return Err(Error::input(format!("it has more than {PACKAGES_MAX} packages")));
        }
        Ok(())
    }
}

/// What is to be said of a database of rpm.
fn unread(path: &str, why: &str) -> String {
    format!("{path}: rpm's database is not read, {why}: the manifest does not name what is in it")
}

/// Files of an image, by path.
struct Files<R>(Reader<R>);

impl<R: Read + Seek> Files<R> {
    fn find(&mut self, path: &str) -> Result<Option<Inode>> {
        match self.0.find(path.as_bytes(), true) {
            Ok(inode) => Ok(Some(inode)),
            Err(ext4::read::Error::Path { .. }) => Ok(None),
            Err(e) => Err(failed(path, e)),
        }
    }

    fn text(&mut self, path: &str, bytes_max: u64) -> Result<Option<String>> {
        let bytes = self.bytes(path, bytes_max)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn bytes(&mut self, path: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        match self.find(path)? {
            Some(inode) if inode.kind == Kind::File => {
                self.content(path, &inode, bytes_max).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The texts of all plain files in a directory, by name.
    fn texts_in(&mut self, path: &str) -> Result<Vec<String>> {
        let Some(directory) = self.find(path)?.filter(|inode| inode.kind == Kind::Directory) else {
            return Ok(Vec::new());
        };
        let mut texts = Vec::new();
        let mut left = DATABASE_BYTES_MAX;
        for entry in self.0.entries(&directory).map_err(|e| failed(path, e))? {
            let inode = self.0.inode(entry.inode).map_err(|e| failed(path, e))?;
            if inode.kind == Kind::File && !entry.name.ends_with(b".md5sums") {
                let text = self.content(path, &inode, left)?;
                left -= inode.size;
                texts.push(String::from_utf8_lossy(&text).into_owned());
            }
        }
        Ok(texts)
    }

    fn content(&mut self, path: &str, inode: &Inode, bytes_max: u64) -> Result<Vec<u8>> {
        if inode.size > bytes_max {
            let size = inode.size;
            return Err(Error::input(format!("{path}: {size} bytes, {bytes_max} are allowed")));
        }
        let mut bytes = Vec::with_capacity(inode.size as usize);
        let mut content = self.0.content(inode).map_err(|e| failed(path, e))?;
        content.read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
        Ok(bytes)
    }
}

fn failed(path: &str, e: ext4::read::Error) -> Error {
    Error::bug(format!("the image can not be read back: {path}: {e}"))
}

/// Paragraphs of `Field: value`, as deb-control(5) and dpkg's status file have them.
fn dpkg(text: &str) -> impl Iterator<Item = Package> {
    text.split("\n\n").filter_map(|paragraph| {
        let field = |name: &str| {
            paragraph.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        // Want, error flag, state: only what is unpacked and configured is installed.
        let state = field("Status").and_then(|status| status.split_whitespace().nth(2));
        if state.is_some_and(|state| state != "installed") {
            return None;
        }
        Some(Package {
            database: Database::Dpkg,
            name: field("Package")?.to_string(),
            version: field("Version")?.to_string(),
            arch: field("Architecture").unwrap_or_default().to_string(),
        })
    })
}

/// Paragraphs of `P:name`, `V:version`, `A:arch` and others, as apk(5) has them.
fn apk(text: &str) -> impl Iterator<Item = Package> {
    text.split("\n\n").filter_map(|paragraph| {
        let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name));
        Some(Package {
            database: Database::Apk,
            name: field("P:")?.to_string(),
            version: field("V:")?.to_string(),
            arch: field("A:").unwrap_or_default().to_string(),
        })
    })
}

/// The `ID` of an os-release(5).
fn distribution(text: &str) -> String {
    let id = text.lines().find_map(|line| line.strip_prefix("ID="));
    id.unwrap_or_default().trim().trim_matches(['"', '\'']).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(packages: impl Iterator<Item = Package>) -> Vec<String> {
        packages.map(|p| format!("{} {} {}", p.name, p.version, p.arch)).collect()
    }

    #[test]
    fn dpkg_counts_what_is_installed() {
        let status = "\
Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2+b8
Description: GNU Bourne Again SHell
 Version: 9 is not one: it is indented.
Conffiles:
 /etc/skel/.bashrc 1f98b8f3f3c8f8927eca945d59dcc1c6

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: held
Status: hold ok installed
version: 2
Architecture: all

Package: without-version
Status: install ok installed
";
        assert_eq!(titles(dpkg(status)), ["bash 5.2.15-2+b8 amd64", "held 2 all"]);
        assert_eq!(titles(dpkg("Package: tzdata\nVersion: 2024a\n")), ["tzdata 2024a "]);
        assert_eq!(titles(dpkg("")), [""; 0]);
    }

    #[test]
    fn apk_counts_what_is_installed() {
        let installed = "C:Q1abc=\nP:musl\nV:1.2.5-r0\nA:x86_64\nF:lib\n\nP:busybox\nV:1.36\n";
        assert_eq!(titles(apk(installed)), ["musl 1.2.5-r0 x86_64", "busybox 1.36 "]);
    }

    #[test]
    fn nothing_has_more_packages_than_there_are() {
        let text = "P:a\nV:1\n\n".repeat(PACKAGES_MAX);
        let mut installed = Installed::default();
        installed.add(apk(&text)).unwrap();
        installed.add(apk("")).unwrap();
        let e = installed.add(apk("P:b\nV:1\n")).unwrap_err();
        assert!(e.to_string().contains("more than 200000 packages"), "{e}");
    }

    #[test]
    fn a_distribution_is_its_id() {
        assert_eq!(distribution("NAME=\"Debian\"\nVERSION_ID=\"12\"\nID=debian\n"), "debian");
        assert_eq!(distribution("ID=\"opensuse-leap\"\n"), "opensuse-leap");
        assert_eq!(distribution(""), "");
    }
}
