//! Services: what `systemctl enable` does to links (`systemd.unit(5)`, "[Install]"), and OpenRC's
//! runlevels where there is no systemd.

use crate::recipe::UnitState;
use crate::{Error, Result};

use super::view::{Body, Node, View};

/// Where units are, the first wins; what an administrator sets goes to the first.
const UNIT_DIRS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const OWN_DIR: &str = UNIT_DIRS[0];
const RUNLEVEL: &str = "/etc/runlevels/default";
/// Units that bring others along, at most.
const UNITS_MAX: usize = 100;

/// What a unit says about its installation.
#[derive(Debug, Default, PartialEq, Eq)]
struct Install {
    wanted_by: Vec<String>,
    required_by: Vec<String>,
    alias: Vec<String>,
    also: Vec<String>,
    default_instance: Option<String>,
}

/// Makes `unit` be what `state` says at boot.
pub(super) fn set(view: &mut View, unit: &str, state: UnitState) -> Result<()> {
    if let Some(name) = unit.strip_suffix(".service")
        && find(view, unit)?.is_none()
        && view.place(&format!("/etc/init.d/{name}"), true)?.node.is_some()
        && view.place(RUNLEVEL, true)?.node.is_some()
    {
        return openrc(view, name, state);
    }
    match state {
        UnitState::Enabled => {
            // `systemctl enable` would leave it masked, and with that never started.
            unmask(view, unit)?;
            enable(view, unit)
        }
        UnitState::Disabled => {
            known(view, unit)?;
            disable(view, unit)
        }
        UnitState::Masked => {
            disable(view, unit)?;
            view.symlink(&format!("{OWN_DIR}/{unit}"), "/dev/null")
        }
    }
}

fn openrc(view: &mut View, name: &str, state: UnitState) -> Result<()> {
    let link = format!("{RUNLEVEL}/{name}");
    if state == UnitState::Enabled {
        return view.symlink(&link, &format!("/etc/init.d/{name}"));
    }
    let place = view.place(&link, false)?;
    if place.node.is_some() { view.remove(&place.path) } else { Ok(()) }
}

/// Whether there is a link to nothing in place of a unit's file.
fn is_masked(view: &mut View, path: &str) -> Result<bool> {
    let node = view.place(path, false)?.node;
    Ok(matches!(node, Some(Node { body: Body::Symlink(target), .. }) if target == b"/dev/null"))
}

/// Removes the administrator's mask.
fn unmask(view: &mut View, unit: &str) -> Result<()> {
    let own = format!("{OWN_DIR}/{unit}");
    if !is_masked(view, &own)? {
        return Ok(());
    }
    let place = view.place(&own, false)?;
    view.remove(&place.path)
}

/// The file of a unit: that of its template where it is an instance.
fn find(view: &mut View, unit: &str) -> Result<Option<String>> {
    let template = unit.split_once('@').and_then(|(name, rest)| {
        let (_, ending) = rest.rsplit_once('.')?;
        Some(format!("{name}@.{ending}"))
    });
    for name in [Some(unit.to_string()), template].into_iter().flatten() {
        for dir in UNIT_DIRS {
            let path = format!("{dir}/{name}");
            // A mask leads to /dev/null, which images need not have.
            if view.place(&path, true)?.node.is_some() || is_masked(view, &path)? {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

fn known(view: &mut View, unit: &str) -> Result<String> {
    find(view, unit)?.ok_or_else(|| {
        Error::input(format!("service {unit}: the image has no such unit"))
            .hint("a `packages` step before this one may install it")
    })
}

fn enable(view: &mut View, unit: &str) -> Result<()> {
    let mut ahead = vec![unit.to_string()];
    let mut done: Vec<String> = Vec::new();
    while let Some(unit) = ahead.pop() {
        if done.contains(&unit) {
            continue;
        }
        if done.len() == UNITS_MAX {
            return Err(Error::input(format!("service {unit}: it brings too many others along")));
        }
        let path = known(view, &unit)?;
        if is_masked(view, &path)? {
            return Err(Error::input(format!("service {unit}: {path} masks it"))
                .hint("a step `remove` before this one takes the mask away"));
        }
        let text = view.read(&path)?.unwrap_or_default();
        let install = parse(&String::from_utf8_lossy(&text));
        let unit_name = match (&install.default_instance, unit.split_once("@.")) {
            (Some(instance), Some((name, ending))) => format!("{name}@{instance}.{ending}"),
            _ => unit.clone(),
        };
        if install == Install::default() {
            return Err(Error::input(format!("service {unit}: {path} has no [Install] section"))
                .hint("such units are started by others; there is nothing to enable"));
        }
        let targets = [("wants", &install.wanted_by), ("requires", &install.required_by)];
        for (kind, targets) in targets {
            for target in targets {
                view.symlink(&format!("{OWN_DIR}/{target}.{kind}/{unit_name}"), &path)?;
            }
        }
        for alias in &install.alias {
            view.symlink(&format!("{OWN_DIR}/{alias}"), &path)?;
        }
        ahead.extend(install.also);
        done.push(unit);
    }
    Ok(())
}

/// Removes every link below the administrator's directory that starts `unit`.
fn disable(view: &mut View, unit: &str) -> Result<()> {
    let dir = view.place(OWN_DIR, true)?;
    for child in view.children(&dir.path)? {
        let path = [&dir.path, &b"/"[..], &child].concat();
        let place = view.place_of(&path, false)?;
        match place.node {
            Some(Node { body: Body::Symlink(target), .. }) => {
                let alias = target.ends_with(format!("/{unit}").as_bytes());
                if alias || (child == unit.as_bytes() && target == b"/dev/null") {
                    view.remove(&place.path)?;
                }
            }
            Some(Node { body: Body::Directory, .. })
                if child.ends_with(b".wants") || child.ends_with(b".requires") =>
            {
                let link = [&path, &b"/"[..], unit.as_bytes()].concat();
                let place = view.place_of(&link, false)?;
                if place.node.is_some() {
                    view.remove(&place.path)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads the `[Install]` section; an empty value forgets those before.
fn parse(text: &str) -> Install {
    let mut install = Install::default();
    let mut inside = false;
    let joined = text.replace("\\\n", " ");
    for line in joined.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[Install]";
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| inside) else { continue };
        let list = match key.trim() {
            "WantedBy" => &mut install.wanted_by,
            "RequiredBy" => &mut install.required_by,
            "Alias" => &mut install.alias,
            "Also" => &mut install.also,
            "DefaultInstance" => {
                install.default_instance = Some(value.trim().to_string());
                continue;
            }
            _ => continue,
        };
        let words: Vec<_> = value.split_whitespace().map(str::to_string).collect();
        if words.is_empty() {
            list.clear();
        }
        // A name is no path: nothing gets out of the directory of links.
        list.extend(words.into_iter().filter(|w| !w.contains('/') && !w.starts_with('.')));
    }
    install
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn install_sections_are_read() {
        let text = "[Unit]\nWantedBy=no\n[Install]\n# no\nWantedBy=a.target \\\n b.target\n\
                    Also=ssh.socket ../x\nAlias=sshd.service\nDefaultInstance=tty1\n";
        let install = parse(text);
        assert_eq!(install.wanted_by, ["a.target", "b.target"]);
        assert_eq!(
            (install.also, install.alias),
            (vec!["ssh.socket".into()], vec!["sshd.service".into()])
        );
        assert_eq!(install.default_instance.as_deref(), Some("tty1"));
        assert_eq!(parse("[Install]\nWantedBy=a\nWantedBy=\n"), Install::default());
    }
}
