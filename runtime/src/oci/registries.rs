//! How registries are reached: the file `registries.toml`.
//!
//! ```toml
//! [host."docker.io"]
//! mirrors = ["mirror.example:5000", "harbor.example/hub"]   # asked in this order, then the host
//! tags_from_mirrors = true                                  # default: false
//!
//! [host."mirror.example:5000"]
//! plain_http = true                                         # default: for loopback only
//! ca = "mirror-ca.pem"                                      # roots besides the system's
//! ```
//!
//! A mirror is a host, perhaps with a path that goes before the repository's name. It is not
//! trusted: it is asked for digests only, and what it sends is checked. What a *tag* means only the
//! host itself says, unless `tags_from_mirrors` hands that to whoever runs the mirrors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::RegistryReference;
use crate::fault::{At, Faults, Key, Value, boolean, string, strings, unknown_key, wrong_type};
use crate::{Error, Result};

/// Names a file to use instead of `$XDG_CONFIG_HOME/imgtool/registries.toml`.
pub const REGISTRIES_VARIABLE: &str = "IMGTOOL_REGISTRIES";
/// The file is at most this many bytes long.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// A host has at most this many mirrors.
const MIRRORS_MAX: usize = 16;

const HOST_KEYS: [&str; 4] = ["mirrors", "tags_from_mirrors", "plain_http", "ca"];

/// What a person says about registries; empty says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries {
    /// By host in lower case, perhaps with a port.
    hosts: BTreeMap<String, Host>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) mirrors: Vec<Place>,
    pub(super) tags_from_mirrors: bool,
    plain_http: Option<bool>,
    pub(super) ca: Option<PathBuf>,
}

/// A host, and what goes before a repository's name there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: String,
    /// Empty, or without slashes around it.
    pub(super) prefix: String,
}

impl Registries {
    /// Those of `file`, else of `$IMGTOOL_REGISTRIES`, else of
    /// `$XDG_CONFIG_HOME/imgtool/registries.toml` (`~/.config` by default) where that is there.
    ///
    /// # Errors
    /// As [`Registries::read`]; a file that was named has to be there.
    pub fn of_user(file: Option<&Path>) -> Result<Registries> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(file) = file.map(Path::to_path_buf).or_else(|| set(REGISTRIES_VARIABLE)) {
            return Self::read(&file);
        }
        let config =
            set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        match config.map(|dir| dir.join("imgtool/registries.toml")).filter(|file| file.exists()) {
            Some(file) => Self::read(&file),
            None => Ok(Self::default()),
        }
    }

    /// Those of one file.
    ///
    /// # Errors
    /// [`crate::Class::Input`] with every mistake in it, each with its line.
    pub fn read(file: &Path) -> Result<Registries> {
        let about = |e| Error::io(file.display(), e);
        if std::fs::metadata(file).map_err(about)?.len() > FILE_BYTES_MAX {
            let why = format!("{}: longer than {FILE_BYTES_MAX} bytes", file.display());
            return Err(Error::input(why));
        }
        let bytes = std::fs::read(file).map_err(about)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::input(format!("{}: it is not UTF-8 text", file.display())))?;
        Self::parse(&text, file)
    }

    /// Checks `text`; `file` is its name in errors, and `ca` is relative to its directory.
    ///
    /// # Errors
    /// As [`Registries::read`].
    pub fn parse(text: &str, file: &Path) -> Result<Registries> {
        let mut faults = Faults::new(text, file);
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            faults.add_broken(error.span().unwrap_or(0..0), error.message());
        }
        let directory = file.parent().unwrap_or(Path::new(""));
        let mut registries = Registries::default();
        for (key, value) in document.get_ref() {
            if key.get_ref() != "host" {
                unknown_key(key, "the top of the file", &["host"], &mut faults);
                continue;
            }
            let DeValue::Table(hosts) = value.get_ref() else {
                wrong_type(key, value, "tables, as in [host.\"docker.io\"]", &mut faults);
                continue;
            };
            for (name, value) in hosts {
                if let Some((name, host)) = read_host(name, value, directory, &mut faults) {
                    registries.hosts.insert(name, host);
                }
            }
        }
        if faults.is_empty() { Ok(registries) } else { Err(faults.into_error()) }
    }

    /// What is said about `host`.
    pub(super) fn host(&self, host: &str) -> Host {
        self.hosts.get(&host.to_ascii_lowercase()).cloned().unwrap_or_default()
    }

    /// Whether `host` (perhaps with a port) is spoken to in plain http: where that was said, and on
    /// this machine where nothing was.
    pub(super) fn is_plain(&self, host: &str) -> bool {
        let said = self.hosts.get(&host.to_ascii_lowercase()).and_then(|host| host.plain_http);
        said.unwrap_or_else(|| is_loopback(host))
    }
}

fn read_host(
    key: &Key,
    value: &Value,
    directory: &Path,
    faults: &mut Faults,
) -> Option<(String, Host)> {
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(key, value, "a table, as in [host.\"docker.io\"]", faults);
        return None;
    };
    let mut host = Host::default();
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "mirrors" => host.mirrors = mirrors(strings(key, value, faults)?, faults),
            "tags_from_mirrors" => host.tags_from_mirrors = boolean(key, value, faults)?,
            "plain_http" => host.plain_http = boolean(key, value, faults),
            "ca" => host.ca = string(key, value, faults).map(|at| directory.join(at.value)),
            _ => unknown_key(key, "[host.\"…\"]", &HOST_KEYS, faults),
        }
    }
    let name = key.get_ref().as_ref();
    match place(name) {
        Ok(place) if place.prefix.is_empty() => Some((place.host.to_ascii_lowercase(), host)),
        Ok(_) => {
            faults.add(key.span(), format!("{name:?} is no host: it has a path"));
            None
        }
        Err(why) => {
            faults.add(key.span(), why);
            None
        }
    }
}

fn mirrors(list: At<Vec<At<String>>>, faults: &mut Faults) -> Vec<Place> {
    if list.value.len() > MIRRORS_MAX {
        faults.add(list.span, format!("more than {MIRRORS_MAX} mirrors"));
    }
    let places = list
        .value
        .into_iter()
        .filter_map(|at| place(&at.value).map_err(|why| faults.add(at.span, why)).ok());
    places.collect()
}

/// `HOST[:PORT][/PATH]`: what a reference may begin with.
fn place(text: &str) -> Result<Place, String> {
    let wrong = |why: &str| format!("{text:?} is no host[:port][/path]: {why}");
    let reference = format!("{text}/x").parse::<RegistryReference>().map_err(|why| {
        // Ours stands for what was written.
        wrong(why.rsplit(": ").next().unwrap_or_default())
    })?;
    let (first, prefix) = text.split_once('/').unwrap_or((text, ""));
    let first = if first == "index.docker.io" { "docker.io" } else { first };
    // A first word without a dot or a port is taken for a part of docker.io's.
    if first != reference.host {
        return Err(wrong("a host has a dot or a port, or is localhost"));
    }
    Ok(Place { host: reference.host, prefix: prefix.to_string() })
}

/// Whether `host`, perhaps with a port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Registries> {
        Registries::parse(text, Path::new("/etc/x/registries.toml"))
    }

    #[test]
    fn what_is_said_is_understood() {
        let registries = parse(
            "[host.\"docker.io\"]\nmirrors = [\"m.example:5000\", \"h.example/hub/x\"]\n\
             [host.\"m.example:5000\"]\nplain_http = true\nca = \"ca.pem\"\n\
             [host.\"localhost:1\"]\nplain_http = false\n",
        )
        .unwrap();
        let mirrors = registries.host("docker.io").mirrors;
        let place = |host: &str, prefix: &str| Place { host: host.into(), prefix: prefix.into() };
        assert_eq!(mirrors, [place("m.example:5000", ""), place("h.example", "hub/x")]);
        assert!(!registries.host("docker.io").tags_from_mirrors);
        assert_eq!(registries.host("m.example:5000").ca, Some("/etc/x/ca.pem".into()));
        let table = [
            ("m.example:5000", true),
            ("M.example:5000", true),
            ("m.example", false),
            ("docker.io", false),
            ("localhost:1", false),
            ("localhost:2", true),
            ("127.0.0.1", true),
        ];
        for (host, plain) in table {
            assert_eq!(registries.is_plain(host), plain, "{host}");
        }
        assert_eq!(parse("").unwrap(), Registries::default());
    }

    #[test]
    fn mistakes_are_shown_where_they_stand() {
        let table = [
            ("[hots]\n", ":1:2: unknown key `hots`; did you mean `host`?"),
            ("[host.\"a.b\"]\nmirors = []\n", ":2:1: unknown key `mirors`; did you mean `mirrors`"),
            ("[host.\"a.b\"]\nplain_http = 1\n", "`plain_http` is a whole number; it has to be"),
            ("[host.\"a.b\"]\nmirrors = [\"https://m\"]\n", "write it without https://"),
            ("[host.\"a.b\"]\nmirrors = [\"mirror\"]\n", "a host has a dot or a port"),
            ("[host.\"a.b\"]\nmirrors = [\"m.b/x:1\"]\n", "\"m.b/x:1\" is no host"),
            ("[host.\"a.b/c\"]\n", "it has a path"),
            ("[host.a]\n", "a host has a dot or a port"),
            ("host = 1\n", "has to be tables"),
            ("[host", ":1:"),
        ];
        for (text, sentence) in table {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(sentence), "{text:?}: {error}");
            assert!(error.starts_with("/etc/x/registries.toml:"), "{error}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["r.example", "localhost.example", "10.0.0.1:80", "[::2]", "127.0.0.1.example"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
