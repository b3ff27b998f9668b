//! Users and groups of the image, by its own files (`passwd(5)`, `group(5)`, `shadow(5)`,
//! `subuid(5)`).

use std::fs::File;
use std::path::Path;

use ext4::read::Reader;

use crate::recipe::{Account, Owner, Put};
use crate::{Error, Result};

use super::view::{Body, Bytes, Node, View};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// The first number that is given to a person.
const FIRST_UID: u32 = 1000;
/// From here on numbers are the kernel's and systemd's.
const LAST_UID: u32 = 59_999;
/// A home is its owner's.
const HOME_MODE: u16 = 0o750;
/// What a user's name spaces may use, as `useradd` gives it out.
const SUBIDS_FIRST: u32 = 100_000;
const SUBIDS: u32 = 65_536;
const SECONDS_OF_DAY: i64 = 86_400;

/// The numbers of an owner.
pub(super) fn ids(view: &mut View, owner: &Owner) -> Result<(u32, u32)> {
    let passwd = text(view, PASSWD)?;
    let user = passwd.lines().map(fields).find(|f| f[0] == owner.user);
    let uid = match &user {
        Some(fields) => number(fields, 2),
        None if owner.user == "root" => Some(0),
        None => owner.user.parse().ok(),
    };
    let uid = uid.ok_or_else(|| nobody("user", &owner.user, PASSWD))?;
    let Some(name) = &owner.group else {
        return Ok((uid, user.and_then(|fields| number(&fields, 3)).unwrap_or(uid)));
    };
    let group = text(view, GROUP)?;
    let group = group.lines().map(fields).find(|f| f[0] == *name);
    let gid = match group {
        Some(fields) => number(&fields, 2),
        None if name == "root" => Some(0),
        None => name.parse().ok(),
    };
    Ok((uid, gid.ok_or_else(|| nobody("group", name, GROUP))?))
}

/// The home and the numbers of `user[:group]` in the image `image`.
pub(super) fn user(image: &Path, user: &str) -> Result<(String, (u32, u32))> {
    let file = File::open(image).map_err(|e| Error::io(image.display(), e))?;
    let reader = Reader::open(file).map_err(crate::inspect::failed(image))?;
    let mut view = View::new(reader, None);
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name.to_string(), Some(group.to_string())),
        None => (user.to_string(), None),
    };
    let passwd = text(&mut view, PASSWD)?;
    let line = passwd.lines().map(fields).find(|f| f[0] == name);
    let home = line.and_then(|f| f.get(5).map(|home| home.to_string()));
    let ids = ids(&mut view, &Owner { user: name, group })?;
    Ok((home.unwrap_or_else(|| "/".to_string()), ids))
}

fn nobody(what: &str, name: &str, file: &str) -> Error {
    Error::input(format!("there is no {what} {name} in the image's {file}"))
}

/// Adds a user with a group of its name, a home with what /etc/skel has, and no password.
pub(super) fn add(view: &mut View, account: &Account) -> Result<()> {
    let name = account.name.as_str();
    let (passwd, group) = (text(view, PASSWD)?, text(view, GROUP)?);
    for (file, text) in [(PASSWD, &passwd), (GROUP, &group)] {
        if text.lines().any(|line| fields(line)[0] == name) {
            return Err(Error::input(format!("user {name}: {file} has it already")));
        }
    }
    let taken = |id: u32| {
        let has = |text: &str| text.lines().any(|line| number(&fields(line), 2) == Some(id));
        has(&passwd) || has(&group)
    };
    let uid = match account.uid {
        Some(uid) if taken(uid) => {
            return Err(Error::input(format!("user {name}: the number {uid} is taken")));
        }
        Some(uid) => uid,
        None => (FIRST_UID..=LAST_UID)
            .find(|id| !taken(*id))
            .ok_or_else(|| Error::input(format!("user {name}: no number is free")))?,
    };
    let home = account.home.clone().unwrap_or_else(|| format!("/home/{name}"));
    let shell = match &account.shell {
        Some(shell) => shell.clone(),
        None if view.place("/bin/bash", true)?.node.is_some() => "/bin/bash".to_string(),
        None => "/bin/sh".to_string(),
    };
    let day = view.now().seconds / SECONDS_OF_DAY;
    add_line(view, PASSWD, &format!("{name}:x:{uid}:{uid}::{home}:{shell}"), 0o644)?;
    add_line(view, GROUP, &format!("{name}:x:{uid}:"), 0o644)?;
    // `*` is no password's hash: nobody gets in by one, but keys work.
    add_line(view, "/etc/shadow", &format!("{name}:*:{day}:0:99999:7:::"), 0o640)?;
    if view.read("/etc/gshadow")?.is_some() {
        add_line(view, "/etc/gshadow", &format!("{name}:!::"), 0o640)?;
    }
    for file in ["/etc/subuid", "/etc/subgid"] {
        if view.read(file)?.is_some() {
            let users = u32::try_from(text(view, file)?.lines().count()).unwrap_or(u32::MAX);
            let first = SUBIDS_FIRST.saturating_add(users.saturating_mul(SUBIDS));
            add_line(view, file, &format!("{name}:{first}:{SUBIDS}"), 0o644)?;
        }
    }
    for other in &account.groups {
        join(view, GROUP, other, name)?;
        if view.read("/etc/gshadow")?.is_some() {
            join(view, "/etc/gshadow", other, name)?;
        }
    }
    make_home(view, &home, uid)
}

fn make_home(view: &mut View, home: &str, uid: u32) -> Result<()> {
    let place = view.place(home, true)?;
    if place.node.is_none() {
        let put = Put { mode: Some(HOME_MODE), owner: None };
        view.mkdir_of(home.as_bytes(), put)?;
    }
    own(view, home.as_bytes(), uid)?;
    let skel = view.place("/etc/skel", true)?;
    for child in view.children(&skel.path)? {
        let from = view.place_of(&[&skel.path, &b"/"[..], &child].concat(), false)?;
        let to = [home.as_bytes(), b"/", &child].concat();
        let to = view.place_of(&to, false)?;
        // Directories in it are rare; a step can copy them.
        if let (Some(node @ Node { body: Body::File(_) | Body::Symlink(_), .. }), None) =
            (from.node, &to.node)
        {
            let meta = ext4::Meta { uid, gid: uid, ..node.meta };
            view.put(&to.path, Node { meta, ..node })?;
        }
    }
    Ok(())
}

fn own(view: &mut View, path: &[u8], uid: u32) -> Result<()> {
    let place = view.place_of(path, true)?;
    match place.node {
        Some(node) => {
            let meta = ext4::Meta { uid, gid: uid, ..node.meta };
            view.put(&place.path, Node { meta, ..node })
        }
        None => Ok(()),
    }
}

fn add_line(view: &mut View, path: &str, line: &str, mode: u16) -> Result<()> {
    let place = view.place(path, true)?;
    let mut all = text(view, path)?;
    if !all.is_empty() && !all.ends_with('\n') {
        all.push('\n');
    }
    all.push_str(line);
    all.push('\n');
    match place.node {
        Some(node) => view.replace(&place.path, node.meta, all.into_bytes()),
        None => view.put_file(place, Bytes::Given(all.into_bytes()), mode, &Put::default()),
    }
}

/// Adds `name` to the last field of the line of `group`.
fn join(view: &mut View, path: &str, group: &str, name: &str) -> Result<()> {
    let old = text(view, path)?;
    if path == GROUP && !old.lines().any(|line| fields(line)[0] == group) {
        return Err(nobody("group", group, GROUP));
    }
    let line = |line: &str| match fields(line)[0] == group {
        true if line.ends_with(':') => format!("{line}{name}\n"),
        true => format!("{line},{name}\n"),
        false => format!("{line}\n"),
    };
    let new: String = old.lines().map(line).collect();
    let place = view.place(path, true)?;
    match place.node {
        Some(node) => view.replace(&place.path, node.meta, new.into_bytes()),
        None => Ok(()),
    }
}

/// A text of the image; empty where there is none.
fn text(view: &mut View, path: &str) -> Result<String> {
    let bytes = view.read(path)?.unwrap_or_default();
    String::from_utf8(bytes).map_err(|_| Error::input(format!("{path}: it is not UTF-8 text")))
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

fn number(fields: &[&str], at: usize) -> Option<u32> {
    fields.get(at)?.parse().ok()
}
