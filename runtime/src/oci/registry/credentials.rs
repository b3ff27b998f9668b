//! Who we are to a registry: the files in which skopeo, podman and docker keep log-ins.
//!
//! Format: containers-auth.json(5); docker's `config.json` is the same as far as it is read here.
//! Where a file names a helper for a host, that is asked (`helper.rs`), when a registry wants a
//! log-in and not before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::helper;
use crate::{Error, Result};

/// A file of log-ins is at most this long.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The log-ins that this user has.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The earlier one counts.
    files: Vec<Logins>,
}

/// What one file says.
#[derive(Clone, Default)]
struct Logins {
    /// By host or `host/path`.
    logins: BTreeMap<String, Login>,
    /// Helpers by host.
    helpers: BTreeMap<String, String>,
    /// The helper for all other hosts.
    store: Option<String>,
}

/// Who we are.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    Password {
        user: String,
        password: String,
    },
    /// A token to get tokens with.
    Identity(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
}

impl std::fmt::Debug for Credentials {
    /// The places, never the passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.files.iter().flat_map(|file| file.logins.keys())).finish()
    }
}

impl Credentials {
    /// None: every registry is asked as a stranger.
    pub fn none() -> Self {
        Self::default()
    }

    /// Those of `$REGISTRY_AUTH_FILE` if that is set; else those of
    /// `$XDG_RUNTIME_DIR/containers/auth.json` and then `~/.docker/config.json`.
    ///
    /// # Errors
    /// Where a file is there and can not be read, or is not what it should be.
    pub fn of_user() -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(file) = set("REGISTRY_AUTH_FILE") {
            return Self::read(&file);
        }
        let runtime = set("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
        let docker = set("DOCKER_CONFIG")
            .or_else(|| set("HOME").map(|home| home.join(".docker")))
            .map(|dir| dir.join("config.json"));
        let mut all = Self::none();
        for file in [runtime, docker].into_iter().flatten().filter(|file| file.exists()) {
            all.files.extend(Self::read(&file)?.files);
        }
        Ok(all)
    }

    /// Those of one file.
    ///
    /// # Errors
    /// Where it can not be read, or is not what it should be.
    pub fn read(file: &Path) -> Result<Self> {
        let about = |e| Error::io(file.display(), e);
        if std::fs::metadata(file).map_err(about)?.len() > FILE_BYTES_MAX {
            return Err(Error::input(format!("{}: it is too long", file.display())));
        }
        let json = std::fs::read(file).map_err(about)?;
        Self::parse(&json).map_err(|e| e.within(file.display()))
    }

    fn parse(json: &[u8]) -> Result<Self> {
        let file: File = serde_json::from_slice(json).map_err(|e| {
            // The parser's own message could quote a password.
            let (line, column) = (e.line(), e.column());
            Error::input(format!("it is no file of log-ins (line {line}, column {column})"))
        })?;
        let mut logins = BTreeMap::new();
        for (place, entry) in file.auths {
            if let Some(login) = login(entry).map_err(|e| e.within(&place))? {
                logins.insert(normal(&place), login);
            }
        }
        let helpers = file.cred_helpers.into_iter();
        let helpers = helpers.map(|(place, helper)| (normal(&place), helper)).collect();
        let store = file.creds_store.filter(|store| !store.is_empty());
        Ok(Credentials { files: vec![Logins { logins, helpers, store }] })
    }

    /// The log-in for a repository. In each file the host's helper goes before the store, and that
    /// before the entries, of which the one with the longest path counts. May run a program.
    ///
    /// # Errors
    /// Where a helper fails.
    pub(super) fn find(&self, host: &str, repository: &str) -> Result<Option<Login>> {
        for file in &self.files {
            let helper = file.helpers.get(host).or(file.store.as_ref());
            if let Some(helper) = helper
                && let Some(login) = helper::ask(helper, host)?
            {
                return Ok(Some(login));
            }
            if let Some(login) = file.entry(host, repository) {
                return Ok(Some(login.clone()));
            }
        }
        Ok(None)
    }
}

impl Logins {
    fn entry(&self, host: &str, repository: &str) -> Option<&Login> {
        let whole = format!("{host}/{repository}");
        let mut place = whole.as_str();
        loop {
            if let Some(login) = self.logins.get(place) {
                return Some(login);
            }
            place = place.rsplit_once('/')?.0;
        }
    }
}

fn login(entry: Entry) -> Result<Option<Login>> {
    if let Some(token) = entry.identitytoken.filter(|token| !token.is_empty()) {
        return Ok(Some(Login::Identity(token)));
    }
    if let Some(auth) = entry.auth.filter(|auth| !auth.is_empty()) {
        let wrong = || Error::input("its `auth` is not the base64 of user:password");
        let plain = STANDARD.decode(auth.trim()).map_err(|_| wrong())?;
        let plain = String::from_utf8(plain).map_err(|_| wrong())?;
        let (user, password) = plain.split_once(':').ok_or_else(wrong)?;
        let (user, password) = (user.to_string(), password.trim_end_matches('\0').to_string());
        return Ok(Some(Login::Password { user, password }));
    }
    let pair = entry.username.zip(entry.password);
    Ok(pair.map(|(user, password)| Login::Password { user, password }))
}

/// An entry's place as we look it up: docker writes its own as a URL.
fn normal(place: &str) -> String {
    let place = place.split_once("://").map_or(place, |(_, rest)| rest);
    let place = place.trim_end_matches('/');
    let place = place.strip_suffix("/v1").or(place.strip_suffix("/v2")).unwrap_or(place);
    let (host, path) = place.split_once('/').map_or((place, ""), |(host, path)| (host, path));
    let host = if host == "index.docker.io" { "docker.io" } else { host };
    if path.is_empty() { host.to_string() } else { format!("{host}/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::RegistryReference;

    #[test]
    fn the_longest_place_counts() {
        let json = r#"{"auths":{
            "https://index.docker.io/v1/": {"auth":"ZG9ja2VyOnB3"},
            "r.example:5000": {"auth":"aG9zdDpwOnc="},
            "r.example:5000/team": {"username":"team","password":"pw"},
            "r.example": {}
        }}"#;
        let credentials = Credentials::parse(json.as_bytes()).unwrap();
        let table = [
            ("debian", Some(("docker", "pw"))),
            ("r.example:5000/app", Some(("host", "p:w"))),
            ("r.example:5000/team/app", Some(("team", "pw"))),
            ("r.example:5000/teams/app", Some(("host", "p:w"))),
            ("r.example/app", None),
            ("x.example/app", None),
        ];
        for (reference, login) in table {
            let name: RegistryReference = reference.parse().unwrap();
            let found = credentials.find(&name.host, &name.repository).unwrap();
            let password = |(user, password): (&str, &str)| Login::Password {
                user: user.into(),
                password: password.into(),
            };
            assert!(found == login.map(password), "{reference}");
        }
        assert!(!format!("{credentials:?}").contains("pw"));
        let json = r#"{"auths":{"r.example":{"auth":"bWU6","identitytoken":"t"}}}"#;
        let credentials = Credentials::parse(json.as_bytes()).unwrap();
        assert!(credentials.find("r.example", "a").unwrap() == Some(Login::Identity("t".into())));
    }

    #[test]
    fn a_wrong_file_is_an_error_that_keeps_secrets() {
        for json in [r#"{"auths":{"a":{"auth":"c2VjcmV0"}}}"#, r#"{"auths":{"a":"c2VjcmV0"}}"#, "x"]
        {
            let error = Credentials::parse(json.as_bytes()).unwrap_err();
            assert_eq!(error.class(), crate::Class::Input);
            assert!(!error.to_string().contains("ecret"), "{error}");
            assert!(!error.to_string().contains("c2Vj"), "{error}");
        }
    }
}
