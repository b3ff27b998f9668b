//! Users and groups from the image's own files: no name service, the program is static.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Who a command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, the main one included.
    pub(crate) groups: Vec<u32>,
    pub(crate) name: Vec<u8>,
    pub(crate) home: Vec<u8>,
}

/// The two files are read this far.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Linux: `NGROUPS_MAX`.
const GROUPS_MAX: usize = 65_536;

/// Finds `user`: `name`, `uid`, either with `:group` or `:gid` behind it; `None` is root.
pub(crate) fn find(user: Option<&[u8]>) -> Option<Account> {
    find_in(user.unwrap_or(b"0"), &read("/etc/passwd"), &read("/etc/group"))
}

/// An image need not have either file; numbers work without. It may have anything else there, a
/// FIFO that nobody writes to, say: that is as good as no file.
fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(path.as_ref(), flags, Mode::empty())
        && let file = File::from(file)
        && file.metadata().is_ok_and(|m| m.is_file())
    {
        let _ = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes);
    }
    bytes
}

fn find_in(user: &[u8], passwd: &[u8], group: &[u8]) -> Option<Account> {
    let (user, wanted_group) = match user.iter().position(|&b| b == b':') {
        Some(at) => (&user[..at], Some(&user[at + 1..])),
        None => (user, None),
    };
    // passwd(5): name:password:uid:gid:text:home:shell
    let entry = lines(passwd).find_map(|fields| {
        let (name, uid) = (fields.first()?, number(fields.get(2)?)?);
        let is_it = *name == user || number(user) == Some(uid);
        let home = fields.get(5).copied().unwrap_or_default();
        is_it.then_some((*name, uid, number(fields.get(3)?)?, home))
    });
    // A number needs no entry; its group then is root's, as in containers.
    let (name, uid, gid, home) = match entry {
        Some(entry) => entry,
        None => (user, number(user)?, 0, &b"/"[..]),
    };
    let home = if home.is_empty() { b"/" } else { home };
    let mut account =
        Account { uid, gid, groups: Vec::new(), name: name.to_vec(), home: home.to_vec() };
    // group(5): name:password:gid:member,member
    match wanted_group {
        Some(wanted) => {
            account.gid = lines(group)
                .find_map(|fields| {
                    (*fields.first()? == wanted).then(|| number(fields.get(2)?)).flatten()
                })
                .or_else(|| number(wanted))?;
            account.groups.push(account.gid);
        }
        None => {
            account.groups.push(gid);
            account.groups.extend(lines(group).filter_map(|fields| {
                let is_in = fields.get(3)?.split(|&b| b == b',').any(|member| member == name);
                number(fields.get(2)?).filter(|&g| is_in && g != gid)
            }));
            account.groups.truncate(GROUPS_MAX);
        }
    }
    Some(account)
}

fn lines(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|&b| b == b'\n').map(|line| line.split(|&b| b == b':').collect())
}

fn number(text: &[u8]) -> Option<u32> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // The highest is "no change" for the kernel.
    str::from_utf8(text).ok()?.parse().ok().filter(|&n| n != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:7:8:,,,:/home/ann:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:\nwheel:x:3:bob,ann\nann:x:8:ann\nvideo:x:44:annette\n";

    fn numbers(user: &str) -> Option<(u32, u32, Vec<u32>)> {
        find_in(user.as_bytes(), PASSWD, GROUP).map(|a| (a.uid, a.gid, a.groups))
    }

    #[test]
    fn only_regular_files_are_read_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.expect("mkfifo runs").success());
        for other in [fifo.as_path(), dir.path(), Path::new("/dev/zero"), Path::new("/no/such")] {
            assert_eq!(read(other), b"", "{}", other.display());
        }
        let file = dir.path().join("passwd");
        std::fs::write(&file, PASSWD).expect("a file");
        assert_eq!(read(&file), PASSWD);
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(numbers("ann"), Some((7, 8, vec![8, 3])));
        assert_eq!(numbers("7"), Some((7, 8, vec![8, 3])));
        assert_eq!(numbers("ann:video"), Some((7, 44, vec![44])));
        assert_eq!(numbers("ann:99"), Some((7, 99, vec![99])));
        assert_eq!(numbers("1000"), Some((1000, 0, vec![0])));
        assert_eq!(numbers("1000:1000"), Some((1000, 1000, vec![1000])));
        for bad in ["", "bob", "ann:nobody", "-1", "4294967295", "99999999999", ":0", "ann:"] {
            assert_eq!(numbers(bad), None, "{bad}");
        }
        let ann = find_in(b"7", PASSWD, GROUP).expect("ann");
        assert_eq!((&ann.name[..], &ann.home[..]), (&b"ann"[..], &b"/home/ann"[..]));
    }
}
