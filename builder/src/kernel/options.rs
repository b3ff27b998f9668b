//! A whole configuration as a value, from wherever one is, and how two differ.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use bundle::Kind;
use serde::Serialize;

use super::config::CONFIG_BYTES_MAX;
use super::fragment::option;
use crate::{Error, Result};

/// What a bundle begins with: a zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// What is off.
pub(super) const OFF: &str = "n";

/// The options of a configuration that are not off: names without `CONFIG_`, values as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, String>);

/// An option that two configurations have otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its name, without `CONFIG_`.
    pub name: String,
    /// Its value in the first, `n` where it is off or unknown.
    pub from: String,
    /// Its value in the second.
    pub to: String,
}

impl Options {
    /// Reads a `.config`.
    ///
    /// # Errors
    /// Where a line is no option and no comment.
    pub fn parse(config: &str) -> Result<Options> {
        let mut options = BTreeMap::new();
        for (number, line) in config.lines().enumerate() {
            let option = option(line).map_err(|e| e.within(format!(".config:{}", number + 1)))?;
            let set = option.filter(|(_, value)| *value != OFF);
            options.extend(set.map(|(name, value)| (name.to_string(), value.to_string())));
        }
        Ok(Options(options))
    }

    /// Reads the file `path`: a kernel's bundle or a `.config`.
    ///
    /// # Errors
    /// Where it is neither.
    pub fn of_file(path: &Path) -> Result<Options> {
        let failed = |e| Error::io(path.display(), e);
        let mut head = Vec::new();
        File::open(path).map_err(failed)?.take(4).read_to_end(&mut head).map_err(failed)?;
        let config = match head == ZSTD_MAGIC {
            true => of_bundle(path)?,
            false => super::read_text(path)?,
        };
        Options::parse(&config).map_err(|e| e.within(path.display()))
    }

    /// The value of an option, `n` where it is off.
    pub fn value(&self, name: &str) -> &str {
        self.0.get(name).map_or(OFF, String::as_str)
    }

    /// How many are on.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is on.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What changes from `self` to `other`, by name.
    pub fn changes(&self, other: &Options) -> Vec<Change> {
        let names: std::collections::BTreeSet<&String> =
            self.0.keys().chain(other.0.keys()).collect();
        let change = |name: &String| {
            let (from, to) = (self.value(name).to_string(), other.value(name).to_string());
            (from != to).then(|| Change { name: name.clone(), from, to })
        };
        names.into_iter().filter_map(change).collect()
    }
}

/// The configuration in the kernel bundle `path`.
pub(super) fn of_bundle(path: &Path) -> Result<String> {
    member(path, "config")
}

/// The text called `name` in the kernel bundle `path`.
pub(super) fn member(path: &Path, name: &str) -> Result<String> {
    let about = |e: bundle::Error| Error::input(path.display().to_string()).because(e);
    let file = File::open(path).map_err(|e| Error::io(path.display(), e))?;
    let mut contents = bundle::unpack(file).map_err(about)?;
    if contents.manifest().kind != Kind::Kernel {
        return Err(Error::input(format!("{} is no kernel's bundle", path.display())));
    }
    while let Some(file) = contents.upcoming() {
        if file.name != name {
            contents.copy_next(&mut std::io::sink()).map_err(about)?;
            continue;
        }
        if file.size > CONFIG_BYTES_MAX {
            return Err(Error::input(format!("{}: its {name} is too long", path.display())));
        }
        let mut text = Vec::new();
        contents.copy_next(&mut text).map_err(about)?;
        return String::from_utf8(text)
            .map_err(|e| Error::input(format!("{}: its {name}", path.display())).because(e));
    }
    Err(Error::input(format!("{} holds no {name}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_configurations_are_compared() {
        let parse = |text| Options::parse(text).unwrap();
        let one = parse("CONFIG_A=y\nCONFIG_B=1\n# CONFIG_C is not set\n# a comment\n");
        let two = parse("CONFIG_A=y\nCONFIG_B=2\nCONFIG_C=m\n");
        let change = |name: &str, from: &str, to: &str| Change {
            name: name.into(),
            from: from.into(),
            to: to.into(),
        };
        assert_eq!(one.changes(&two), [change("B", "1", "2"), change("C", "n", "m")]);
        assert_eq!(two.changes(&parse(""))[0], change("A", "y", "n"));
        assert_eq!((one.len(), one.changes(&one).len()), (2, 0));
        assert!(Options::parse("no option\n").is_err());
    }
}
