//! `sync.toml`: what a host follows.
//!
//! ```toml
//! keep = 2                    # versions of each name that stay; at least 2
//! limit_rate = "5M"           # bytes a second
//!
//! [[follow]]
//! name = "debian"
//! channel = "12"              # the newest of 12, 12.9, 12-1…; without it the newest of all
//! arch = "x86_64"             # this machine's without it
//! kernel = "generic-6.1"      # instead of the one that each image was built with
//! ```

use std::fs;
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use bundle::{Arch, Name, Version};
use serde::Deserialize;

use crate::feed::toml_place;
use crate::pull::{Wanted, Which, parse_rate};
use crate::{Error, KEEP_DEFAULT, Result};

const FILE: &str = "sync.toml";
/// For all users of this machine.
const SYSTEM: &str = "/etc/imgrun/sync.toml";
/// A configuration is at most this long.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What to follow, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Versions of each name that stay: the present one and the one before at least.
    pub keep: usize,
    /// Bytes a second, at most.
    pub limit_rate: Option<NonZeroU64>,
    /// Names.
    pub follow: Vec<Follow>,
}

/// A name that is followed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    /// The image's or kernel's name.
    pub name: Name,
    /// Only versions that are this, or begin with it.
    pub channel: Option<Version>,
    /// For which machine.
    #[serde(default = "Arch::host")]
    pub arch: Arch,
    /// A kernel's name.
    pub kernel: Option<Name>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    keep: Option<usize>,
    limit_rate: Option<String>,
    #[serde(default)]
    follow: Vec<Follow>,
}

impl Follow {
    /// As a question to a catalog.
    pub(super) fn wanted(&self) -> Wanted {
        let which = self.channel.clone().map_or(Which::Newest, Which::Channel);
        Wanted { name: self.name.clone(), which }
    }

    /// Whether both follow the same.
    pub(super) fn is_same(&self, other: &Follow) -> bool {
        (&self.name, &self.channel, self.arch) == (&other.name, &other.channel, other.arch)
    }
}

impl Config {
    /// From `file`, else `~/.config/imgrun/sync.toml`, else `/etc/imgrun/sync.toml`.
    ///
    /// # Errors
    /// [`crate::Class::Input`] where there is none, or it makes no sense.
    pub fn read(file: Option<&Path>) -> Result<Self> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        let users = home.map(|home| home.join("imgrun").join(FILE));
        let places = match file {
            Some(file) => vec![file.to_path_buf()],
            None => users.into_iter().chain([PathBuf::from(SYSTEM)]).collect(),
        };
        for path in &places {
            let about = |e| Error::io(path.display(), e);
            match fs::metadata(path) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(about(e)),
                Ok(metadata) if metadata.len() > CONFIG_BYTES_MAX => {
                    return Err(Error::input(format!("{}: too long", path.display())));
                }
                Ok(_) => {
                    let text = fs::read_to_string(path).map_err(about)?;
                    let parsed = Self::parse(&text);
                    return parsed.map_err(|e| Error::input(format!("{}: {e}", path.display())));
                }
            }
        }
        let first = places.first().map(|path| path.display().to_string()).unwrap_or_default();
        Err(Error::input(format!("{first}: there is nothing to follow"))
            .hint("imgrun sync --help shows what such a file looks like"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wire: Wire = toml::from_str(text).map_err(|e| toml_place(text, &e))?;
        let limit_rate = wire.limit_rate.map(|rate| parse_rate(&rate)).transpose();
        let limit_rate = limit_rate.map_err(|e| format!("limit_rate: {e}"))?;
        let keep = wire.keep.unwrap_or(KEEP_DEFAULT);
        if keep < 2 {
            return Err("keep: the version before stays, so at least 2".to_string());
        }
        if wire.follow.is_empty() {
            return Err("it follows nothing: [[follow]] and a name".to_string());
        }
        for (i, follow) in wire.follow.iter().enumerate() {
            if wire.follow[..i].iter().any(|other| other.is_same(follow)) {
                return Err(format!("{} is followed twice", follow.name));
            }
        }
        Ok(Config { keep, limit_rate, follow: wire.follow })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let follow = "[[follow]]\nname = \"t\"\n";
        assert_eq!(Config::parse(follow).unwrap().keep, 2);
        let with = format!("limit_rate = \"2M\"\n{follow}channel = \"12\"\n{follow}");
        let config = Config::parse(&with).unwrap();
        assert_eq!((config.follow.len(), config.limit_rate), (2, NonZeroU64::new(2 << 20)));
        for (text, words) in [
            (String::new(), "follows nothing"),
            (format!("{follow}{follow}"), "t is followed twice"),
            (format!("keep = 1\n{follow}"), "at least 2"),
            (format!("limit_rate = \"5\"\n{follow}"), "limit_rate: at least"),
            (format!("{follow}chanel = \"1\"\n"), "line 3: unknown field `chanel`"),
            ("[[follow]]\nname = \"T\"\n".into(), "line 2: name \"T\" is not valid"),
        ] {
            let error = Config::parse(&text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
