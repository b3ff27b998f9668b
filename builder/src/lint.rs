//! Hygiene: what must not be in an image that others are given. Findings have names, and a recipe
//! can take one on itself: `[lint] allow = ["machine-id"]`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ext4::read::{Found, Inode, Kind, Reader, Walk};
use serde::Serialize;

use crate::image::Image;
use crate::{Error, Result};

/// A file that is looked into is looked into up to here.
const LOOK_BYTES_MAX: u64 = 256 << 10;
/// A path of the host with no more names than this, the root counted, may as well be the image's own.
const HOST_PATH_NAMES_MIN: usize = 2;
/// Where files are that a recipe's steps leave rather than packages.
const OWN_DIRS: [&str; 6] = ["etc/", "usr/local/", "opt/", "srv/", "root/", "home/"];
/// So many findings are shown; the rest is only counted.
const SHOWN_MAX: usize = 20;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// An identity that all machines of the image would share.
    MachineId,
    /// The same for ssh: who has the image can pretend to be its machines.
    SshHostKeys,
    /// Name servers of wherever the image was built.
    ResolvConf,
    /// A password by which one can log in, or none where one is asked for.
    Passwords,
    /// Keys and tokens of somebody.
    Credentials,
    /// A file that anybody in the machine can change, or a directory where anybody can replace
    /// others' files.
    WorldWritable,
    /// What package managers keep for themselves.
    PackageCaches,
    /// A path of the machine that the image was built on.
    HostPaths,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 8] = [
        Rule::MachineId,
        Rule::SshHostKeys,
        Rule::ResolvConf,
        Rule::Passwords,
        Rule::Credentials,
        Rule::WorldWritable,
        Rule::PackageCaches,
        Rule::HostPaths,
    ];

    /// Its name in recipes: `machine-id`.
    pub fn name(self) -> &'static str {
        match self {
            Rule::MachineId => "machine-id",
            Rule::SshHostKeys => "ssh-host-keys",
            Rule::ResolvConf => "resolv-conf",
            Rule::Passwords => "passwords",
            Rule::Credentials => "credentials",
            Rule::WorldWritable => "world-writable",
            Rule::PackageCaches => "package-caches",
            Rule::HostPaths => "host-paths",
        }
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What it offends.
    pub rule: Rule,
    /// Where, and what is wrong.
    pub text: String,
}

/// Looks through `image` and fails where something is found that is not in `allowed`. `host` are paths
/// of this machine that nobody else should read: [`host_paths`].
///
/// # Errors
/// [`crate::Class::Input`] with every finding.
pub fn check(image: &mut Image, allowed: &[String], host: &[String]) -> Result<()> {
    let mut findings = look(image.file(), host)?;
    findings.retain(|finding| !allowed.iter().any(|name| name == finding.rule.name()));
    if findings.is_empty() {
        return Ok(());
    }
    let line = |f: &Finding| format!("{}: {}", f.rule.name(), f.text);
    let mut lines: Vec<String> = findings.iter().take(SHOWN_MAX).map(line).collect();
    if findings.len() > SHOWN_MAX {
        lines.push(format!("… and {} more", findings.len() - SHOWN_MAX));
    }
    let mut names: Vec<String> = findings.iter().map(|f| format!("{:?}", f.rule.name())).collect();
    names.dedup();
    let count = match findings.len() {
        1 => "one thing".to_string(),
        n => format!("{n} things"),
    };
    Err(Error::input(format!("the image has {count} in it that should not be given to others"))
        .detail(lines.join("\n"))
        .hint(format!(
            "remove it by a step, or say in the recipe: [lint] allow = [{}]",
            names.join(", ")
        )))
}

/// The paths of this machine that tell who built an image and where: the recipe's directory, and the
/// home of the user. Short ones (`/work`, `/root`) mean something in images, too.
pub fn host_paths(recipe: &Path) -> Vec<String> {
    let directory = std::path::absolute(recipe).ok().and_then(|p| Some(p.parent()?.to_path_buf()));
    let home = std::env::var_os("HOME").map(Into::into);
    let long = |path: &std::path::PathBuf| path.components().count() > HOST_PATH_NAMES_MIN;
    let all = directory.into_iter().chain(home).filter(long);
    all.filter_map(|path| path.to_str().map(str::to_string)).collect()
}

/// All findings, by rule and path.
///
/// # Errors
/// Where the image can not be read.
pub fn look(image: &File, host: &[String]) -> Result<Vec<Finding>> {
    let mut reader = Reader::open(image).map_err(damaged)?;
    // What the image has itself is its own: a user's home, say.
    let mut host = host.to_vec();
    host.retain(|path| reader.find(path.as_bytes(), true).is_err());
    let mut walk = Walk::new(reader.root().map_err(damaged)?);
    let mut findings = Vec::new();
    while let Some(found) = walk.next(&mut reader).map_err(damaged)? {
        imgrun::interrupt::check()?;
        if found.inode.kind != Kind::Symlink {
            findings.extend(judge(&found, &mut reader)?);
            findings.extend(host_path(&found, &host, &mut reader)?);
        }
    }
    findings.sort();
    Ok(findings)
}

fn judge(found: &Found, reader: &mut Reader<&File>) -> Result<Vec<Finding>> {
    let Found { path, inode } = found;
    let path = String::from_utf8_lossy(path).replace(|c: char| c.is_control(), "?");
    let mut all = Vec::new();
    let mut add = |rule, why: &str| all.push(Finding { rule, text: format!("/{path}{why}") });
    let is_file = inode.kind == Kind::File;
    if inode.mode & 0o002 != 0 {
        match inode.kind {
            Kind::File => add(Rule::WorldWritable, ": anybody can write to it"),
            Kind::Directory if inode.mode & 0o1000 == 0 => {
                add(Rule::WorldWritable, ": anybody can replace what others have there");
            }
            _ => {}
        }
    }
    if !is_file || inode.size == 0 {
        return Ok(all);
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
    match (parent, name) {
        ("etc", "machine-id") | ("var/lib/dbus", "machine-id") => {
            let id = text(inode, reader)?;
            if is_machine_id(&id) {
                add(Rule::MachineId, ": an identity; empty, each machine makes its own");
            }
        }
        ("etc/ssh", _) if name.starts_with("ssh_host_") && name.ends_with("_key") => {
            add(Rule::SshHostKeys, ": a key that all machines would share");
        }
        ("etc", "resolv.conf") => {
            let text = text(inode, reader)?;
            if text.lines().any(|line| line.trim().starts_with("nameserver")) {
                add(Rule::ResolvConf, ": it names name servers");
            }
        }
        ("etc", "shadow" | "passwd") => {
            for user in with_password(&text(inode, reader)?) {
                add(Rule::Passwords, &format!(": {user}"));
            }
        }
        _ if is_cache(parent, name) => add(Rule::PackageCaches, ""),
        _ if may_be_secret(parent, name) => {
            if let Some(what) = credential(name, &text(inode, reader)?) {
                add(Rule::Credentials, &format!(": {what}"));
            }
        }
        _ => {}
    }
    Ok(all)
}

/// A path of the host in a file that people and steps write: settings, scripts, what is built.
fn host_path(
    found: &Found,
    host: &[String],
    reader: &mut Reader<&File>,
) -> Result<Option<Finding>> {
    let Found { path, inode } = found;
    let is_own = OWN_DIRS.iter().any(|dir| path.starts_with(dir.as_bytes()));
    if !is_own || inode.kind != Kind::File || inode.size == 0 || host.is_empty() {
        return Ok(None);
    }
    let text = text(inode, reader)?;
    let Some(named) = host.iter().find(|host| names_path(&text, host)) else { return Ok(None) };
    let path = String::from_utf8_lossy(path).replace(|c: char| c.is_control(), "?");
    let text = format!("/{path}: it names {named}, which is on the machine that builds");
    Ok(Some(Finding { rule: Rule::HostPaths, text }))
}

/// Whether `path` or something below it is named in `text`; `/home/al` is not in `/home/alice`.
fn names_path(text: &str, path: &str) -> bool {
    text.match_indices(path).any(|(at, _)| {
        let next = text[at + path.len()..].chars().next();
        !next.is_some_and(|c| c.is_alphanumeric() || "-_.".contains(c))
    })
}

fn is_machine_id(text: &str) -> bool {
    let text = text.trim();
    text.len() == 32 && text.bytes().all(|c| c.is_ascii_hexdigit())
}

/// Users of a `passwd(5)` or `shadow(5)` who can log in by a password, and how.
fn with_password(text: &str) -> Vec<String> {
    let mut users = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (Some(user), Some(hash)) = (fields.next(), fields.next()) else { continue };
        match hash {
            "" => users.push(format!("{user} needs no password")),
            "x" => {}
            _ if hash.starts_with(['*', '!']) => {}
            _ => users.push(format!("{user} has a password")),
        }
    }
    users
}

fn is_cache(parent: &str, name: &str) -> bool {
    match parent {
        "var/lib/apt/lists" => name != "lock",
        "var/lib/apt/lists/partial" | "var/cache/apk" | "etc/apk/cache" => true,
        "var/cache/apt" => name.ends_with(".bin"),
        "var/cache/apt/archives" => name.ends_with(".deb"),
        _ => ["var/cache/dnf", "var/cache/yum", "var/cache/libdnf5"].iter().any(|dir| {
            parent.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }),
    }
}

/// Whether a file is where people keep secrets: homes, and `/etc/ssl/private`.
fn may_be_secret(parent: &str, name: &str) -> bool {
    const NAMES: [&str; 10] = [
        ".netrc",
        ".npmrc",
        ".pypirc",
        ".git-credentials",
        "credentials",
        "config.json",
        ".dockercfg",
        "hosts.yml",
        "application_default_credentials.json",
        "auth.json",
    ];
    let home = parent == "root" || parent.starts_with("root/") || parent.starts_with("home/");
    let key = name.starts_with("id_") && !name.ends_with(".pub") || name.ends_with(".pem");
    home && (NAMES.contains(&name) || key) || parent == "etc/ssl/private"
}

/// What secret a file's text is.
fn credential(name: &str, text: &str) -> Option<&'static str> {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match name {
        _ if has(&["PRIVATE KEY-----"]) => Some("a private key"),
        ".netrc" if has(&["password"]) => Some("a password"),
        ".npmrc" if has(&["_authToken", "_password", "_auth="]) => Some("a token"),
        ".pypirc" if has(&["password"]) => Some("a password"),
        ".git-credentials" if has(&["://"]) => Some("a password"),
        "credentials" if has(&["aws_secret_access_key", "token"]) => Some("an access key"),
        "config.json" | ".dockercfg" | "auth.json" if has(&["\"auth\"", "\"identitytoken\""]) => {
            Some("a registry's password")
        }
        "hosts.yml" if has(&["oauth_token"]) => Some("a token"),
        "application_default_credentials.json" if has(&["refresh_token", "private_key"]) => {
            Some("an access key")
        }
        _ => None,
    }
}

/// The beginning of a file.
fn text(inode: &Inode, reader: &mut Reader<&File>) -> Result<String> {
    let mut bytes = Vec::new();
    let content = reader.content(inode).map_err(damaged)?;
    content.take(LOOK_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| Error::io("the image", e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn damaged(e: ext4::read::Error) -> Error {
    Error::bug(format!("the image can not be read back: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_told_from_none() {
        let shadow = "root:*:1:0\na:!:1\nb:$y$j9T$x:1\nc::1\nd:!$y$x:1\n";
        assert_eq!(with_password(shadow), ["b has a password", "c needs no password"]);
        assert_eq!(with_password("root:x:0:0\n"), [""; 0]);
    }

    #[test]
    fn paths_of_the_host_are_whole() {
        assert!(names_path("cd /home/al/src\n", "/home/al") && names_path("/home/al", "/home/al"));
        assert!(!names_path("/home/alice /home/al-2", "/home/al"));
        assert_eq!(host_paths(Path::new("/a/r.toml")).iter().filter(|p| *p == "/a").count(), 0);
        assert!(host_paths(Path::new("/a/b/r.toml")).contains(&"/a/b".to_string()));
    }

    #[test]
    fn secrets_are_where_people_keep_them() {
        assert!(may_be_secret("root/.ssh", "id_ed25519") && may_be_secret("home/a", ".netrc"));
        assert!(!may_be_secret("root/.ssh", "id_ed25519.pub"));
        assert!(!may_be_secret("usr/share/doc", ".netrc"));
        assert_eq!(credential("x", "-----BEGIN OPENSSH PRIVATE KEY-----"), Some("a private key"));
        assert_eq!(credential(".npmrc", "registry=x"), None);
        assert!(is_cache("var/cache/dnf/x", "y") && !is_cache("var/cache/dnfx", "y"));
    }
}
