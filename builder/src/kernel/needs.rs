//! What programs need of a kernel: small tables (`kernel-configs/needs/*.toml`) and what a
//! configuration misses of them.
//!
//! ```toml
//! source = "who says so"
//! [needs]                        # nothing works without
//! "NF_TABLES | IP_NF_FILTER" = "why"
//! [advised]                      # something does not
//! "IPV6" = "why"
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use bundle::{Init, Kind};
use serde::{Deserialize, Serialize};

use super::fragment::Request;
use super::options::Options;
use super::read_text;
use crate::{Error, Result};

macro_rules! table {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../kernel-configs/needs/", $name, ".toml")))
    };
}

/// All tables, by name.
const TABLES: &[(&str, &str)] =
    &[table!("agent"), table!("docker"), table!("podman"), table!("systemd")];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    source: String,
    needs: BTreeMap<String, String>,
    #[serde(default)]
    advised: BTreeMap<String, String>,
}

/// Something that a configuration lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Who needs it: a table's name.
    pub by: String,
    /// Options, without `CONFIG_`; one of them is enough.
    pub options: Vec<String>,
    /// What for.
    pub why: String,
    /// Whether most works without.
    pub advised: bool,
    /// One of the options is a module: imgrun loads none.
    pub module: bool,
    /// The fragment that asks for one of the options.
    pub fragment: Option<String>,
}

/// The names of the tables there are.
pub fn tables() -> Vec<&'static str> {
    TABLES.iter().map(|(name, _)| *name).collect()
}

/// Who says what `table` says.
///
/// # Errors
/// [`Class::Usage`](crate::Class::Usage) where there is no such table.
pub fn source(table: &str) -> Result<String> {
    Ok(read(table)?.source)
}

/// What the image bundle `path` needs: our agent, and its systemd where that is its init.
///
/// # Errors
/// Where it is no image's bundle.
pub fn of_image(path: &Path) -> Result<Vec<&'static str>> {
    let file = File::open(path).map_err(|e| Error::io(path.display(), e))?;
    let contents =
        bundle::unpack(file).map_err(|e| Error::input(path.display().to_string()).because(e))?;
    let manifest = contents.manifest();
    if manifest.kind != Kind::Image {
        return Err(Error::input(format!("{} is no image's bundle", path.display())));
    }
    let systemd = manifest.boot.as_ref().is_some_and(|boot| boot.init == Init::Systemd);
    Ok(["agent"].into_iter().chain(systemd.then_some("systemd")).collect())
}

/// What `options` lacks of the table `table`, and which fragment in `fragments` has it.
///
/// # Errors
/// [`Class::Usage`](crate::Class::Usage) where there is no such table.
pub fn check(table: &str, options: &Options, fragments: &Path) -> Result<Vec<Missing>> {
    let Table { needs, advised, .. } = read(table)?;
    let fragments = requested(fragments);
    let all = needs.into_iter().map(|need| (need, false));
    let all = all.chain(advised.into_iter().map(|need| (need, true)));
    let missing = |((names, why), advised): ((String, String), bool)| {
        let names: Vec<String> = names.split('|').map(|name| name.trim().to_string()).collect();
        if names.iter().any(|name| options.value(name) == "y") {
            return None;
        }
        let has = |(_, request): &&(String, Request)| {
            let on = |name| request.options().get(name).is_some_and(|wanted| wanted.value == "y");
            names.iter().any(on)
        };
        Some(Missing {
            by: table.to_string(),
            module: names.iter().any(|name| options.value(name) == "m"),
            fragment: fragments.iter().find(has).map(|(name, _)| name.clone()),
            options: names,
            why,
            advised,
        })
    };
    Ok(all.filter_map(missing).collect())
}

fn read(table: &str) -> Result<Table> {
    let text = TABLES.iter().find(|(name, _)| *name == table).map(|(_, text)| text);
    let text = text.ok_or_else(|| {
        Error::usage(format!("nobody knows what {table} needs"))
            .hint(format!("there are: {}", tables().join(", ")))
    })?;
    toml::from_str(text).map_err(|e| Error::bug(format!("needs of {table}")).because(e))
}

/// The fragments in `dir` that can be read, by name. They are only good for hints.
fn requested(dir: &Path) -> Vec<(String, Request)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<(String, Request)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.strip_suffix(".config")?.to_string();
            let mut request = Request::default();
            request.add(&name, &read_text(&entry.path()).ok()?).ok()?;
            Some((name, request))
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tables_are_good() {
        for name in tables() {
            let table = read(name).unwrap();
            assert!(!table.source.is_empty() && table.needs.len() > 5, "{name}");
            for (options, why) in table.needs.iter().chain(&table.advised) {
                let good = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
                let names: Vec<&str> = options.split('|').map(str::trim).collect();
                assert!(names.iter().all(|n| !n.is_empty() && n.chars().all(good)), "{options}");
                assert!(!why.is_empty());
            }
        }
        assert!(source("lxc").unwrap_err().hint_text().unwrap().contains("docker, podman"));
    }

    #[test]
    fn what_is_missing_is_said_with_its_fragment() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("net.config"), "CONFIG_IPV6=y\n# CONFIG_SECCOMP is not set\n")
            .unwrap();
        let lines: String = ["DEVTMPFS", "CGROUPS", "INOTIFY_USER", "TIMERFD", "EPOLL", "UNIX"]
            .iter()
            .map(|name| format!("CONFIG_{name}=y\n"))
            .collect();
        let options = Options::parse(&(lines + "CONFIG_SIGNALFD=m\nCONFIG_AUTOFS4_FS=y\n"));
        let missing = check("systemd", &options.unwrap(), dir.path()).unwrap();
        let find = |name: &str| missing.iter().find(|m| m.options.iter().any(|o| o == name));
        assert!(find("CGROUPS").is_none() && find("AUTOFS_FS").is_none());
        let ipv6 = find("IPV6").unwrap();
        assert_eq!((ipv6.advised, ipv6.fragment.as_deref()), (true, Some("net")));
        assert!(find("SIGNALFD").unwrap().module && !find("SIGNALFD").unwrap().advised);
        assert_eq!(find("SECCOMP").unwrap().fragment, None);
    }
}
