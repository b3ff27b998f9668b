//! Kconfig fragments: read strictly, put together, and compared with what Kconfig made of them.
//!
//! A fragment holds `CONFIG_X=value` and `# CONFIG_X is not set` lines, empty lines and comments.
//! Kconfig drops silently what it does not know or whose dependencies are missing, and turns on
//! what something else selects; [`Request::differences`] finds both.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::options::OFF;
use crate::{Error, Result};

/// Differences that an error names; the rest is counted.
const SHOWN_MAX: usize = 20;

/// The options that a kernel's fragments ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    options: BTreeMap<String, Wanted>,
}

/// An option that a fragment asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Its value, `n` where it is to be off.
    pub value: String,
    /// `file:line`.
    pub at: String,
    /// The comment above it in the same paragraph, if there is one: the reason.
    pub reason: String,
}

/// An option that is not as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    name: String,
    wanted: String,
    found: Option<String>,
    at: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { name, wanted, found, at } = self;
        write!(f, "{at}: CONFIG_{name}")?;
        match found.as_deref() {
            Some(found) if wanted == OFF => {
                write!(f, " is not to be set, but something selects it: {found}")
            }
            Some(found) => write!(f, "={wanted} was asked for, but it is {found}"),
            None => write!(f, "={wanted} was asked for, but it is not set"),
        }
    }
}

impl Request {
    /// Adds the fragment `text`, which is called `file` in errors.
    ///
    /// # Errors
    /// A line that is none of the four kinds, an option that is there twice in this fragment or
    /// has another value in another one: fragments do not overrule each other.
    pub(super) fn add(&mut self, file: &str, text: &str) -> Result<()> {
        let mut reason = Reason::default();
        for (number, line) in text.lines().enumerate() {
            let at = format!("{file}:{}", number + 1);
            let option = option(line).map_err(|e| e.within(&at))?;
            reason.see(line, option.is_some());
            let Some((name, value)) = option else { continue };
            let wanted = Wanted { value: value.to_string(), at, reason: reason.text.clone() };
            if let Some(other) = self.options.get(name) {
                let same_file = other.at.rsplit_once(':').is_some_and(|(f, _)| f == file);
                if same_file || other.value != wanted.value {
                    return Err(Error::input(format!(
                        "{}: CONFIG_{name}={} is already CONFIG_{name}={} at {}",
                        wanted.at, wanted.value, other.value, other.at
                    )));
                }
                continue;
            }
            self.options.insert(name.to_string(), wanted);
        }
        Ok(())
    }

    /// All of it as one fragment, sorted by name.
    pub(super) fn merged(&self) -> String {
        self.merged_with(&[])
    }

    /// The same with other values for some options, or with more.
    pub(super) fn merged_with(&self, other: &[(String, String)]) -> String {
        let mine = self.options.iter().map(|(name, wanted)| (name, &wanted.value));
        let mut all: BTreeMap<&String, &String> = mine.collect();
        all.extend(other.iter().map(|(name, value)| (name, value)));
        all.into_iter().map(|(name, value)| line(name, value)).collect()
    }

    /// All that is asked for, by name.
    pub(super) fn options(&self) -> &BTreeMap<String, Wanted> {
        &self.options
    }

    /// Options asked for.
    pub(super) fn len(&self) -> usize {
        self.options.len()
    }

    /// What is otherwise in `config`, a `.config` that Kconfig wrote.
    ///
    /// # Errors
    /// Where `config` is not one.
    pub(super) fn differences(&self, config: &str) -> Result<Vec<Difference>> {
        let mut found = BTreeMap::new();
        for (number, line) in config.lines().enumerate() {
            let option = option(line).map_err(|e| e.within(format!(".config:{}", number + 1)))?;
            found.extend(option.filter(|(_, value)| *value != OFF));
        }
        let differs = |(name, wanted): (&String, &Wanted)| {
            let found = found.get(name.as_str()).copied();
            (found.unwrap_or(OFF) != wanted.value).then(|| Difference {
                name: name.clone(),
                wanted: wanted.value.clone(),
                found: found.map(str::to_string),
                at: wanted.at.clone(),
            })
        };
        Ok(self.options.iter().filter_map(differs).collect())
    }

    /// That there are no [`Request::differences`].
    ///
    /// # Errors
    /// [`Class::Input`](crate::Class::Input), naming each option, its file and its line.
    pub(super) fn check(&self, config: &str) -> Result<()> {
        let differences = self.differences(config)?;
        if differences.is_empty() {
            return Ok(());
        }
        let count = differences.len();
        let mut text = format!("{count} of {} kernel options did not come out", self.len());
        for difference in differences.iter().take(SHOWN_MAX) {
            text.push_str(&format!("\n  {difference}"));
        }
        if count > SHOWN_MAX {
            text.push_str(&format!("\n  … and {} more", count - SHOWN_MAX));
        }
        Err(Error::input(text)
            .hint("the option may not exist in this version, or need another one: see its Kconfig"))
    }
}

/// The line of a fragment that gives the option `name` this value.
pub(super) fn line(name: &str, value: &str) -> String {
    match value {
        OFF => format!("# CONFIG_{name} is not set\n"),
        value => format!("CONFIG_{name}={value}\n"),
    }
}

/// The comment that a line stands under.
#[derive(Default)]
struct Reason {
    text: String,
    /// Whether an option has come since.
    used: bool,
}

impl Reason {
    fn see(&mut self, line: &str, is_option: bool) {
        let line = line.trim().trim_start_matches('#').trim();
        if is_option {
            self.used = true;
        } else if line.is_empty() || self.used {
            *self = Reason { text: line.to_string(), used: false };
        } else {
            if !self.text.is_empty() {
                self.text.push(' ');
            }
            self.text.push_str(line);
        }
    }
}

/// The option that a line sets, without `CONFIG_`, and its value; `None` for other good lines.
pub(super) fn option(line: &str) -> Result<Option<(&str, &str)>> {
    let wrong = |why: &str| Err(Error::input(format!("{why}: {line:?}")));
    let line_trimmed = line.trim();
    let (name, value) = match line_trimmed.strip_prefix('#') {
        Some(comment) => {
            let comment = comment.trim_start();
            match comment.strip_suffix(" is not set").and_then(|c| c.strip_prefix("CONFIG_")) {
                Some(name) => (name, OFF),
                // What is commented out is either to be off or to go.
                None if comment.starts_with("CONFIG_") && comment.contains('=') => {
                    return wrong("\"# CONFIG_… is not set\" turns an option off, not");
                }
                None => return Ok(None),
            }
        }
        None if line_trimmed.is_empty() => return Ok(None),
        None => match line_trimmed.strip_prefix("CONFIG_").and_then(|l| l.split_once('=')) {
            Some((name, value)) => (name, value),
            None => return wrong("CONFIG_NAME=value is wanted, not"),
        },
    };
    if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
        return wrong("not a name of an option");
    }
    let text = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
    let word = !value.is_empty() && value.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    if !text && !word {
        return wrong("a value is y, m, n, a number or \"text\", not");
    }
    Ok(Some((name, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fragments: &[&str]) -> Result<Request> {
        let mut request = Request::default();
        for (i, text) in fragments.iter().enumerate() {
            request.add(&format!("f{i}"), text)?;
        }
        Ok(request)
    }

    #[test]
    fn fragments_are_put_together() {
        let merged = request(&[
            "# why\nCONFIG_B=y\n\n# CONFIG_C is not set\n",
            "CONFIG_A=\"x # y\"\nCONFIG_B=y\nCONFIG_N=-1\nCONFIG_H=0x10\nCONFIG_D=n\n",
        ]);
        assert_eq!(
            merged.unwrap().merged(),
            "CONFIG_A=\"x # y\"\nCONFIG_B=y\n# CONFIG_C is not set\n# CONFIG_D is not set\n\
             CONFIG_H=0x10\nCONFIG_N=-1\n"
        );
    }

    #[test]
    fn a_comment_is_the_reason_of_its_paragraph() {
        let text = "# file\n# head\nCONFIG_A=y\nCONFIG_B=y\n# why\n# CONFIG_C is not set\n\n\
                    CONFIG_D=y\n# gone\n#\nCONFIG_E=y\n";
        let request = request(&[text]).unwrap();
        let reasons: Vec<_> =
            request.options().iter().map(|(n, w)| (n.as_str(), w.reason.as_str())).collect();
        let wanted = [("A", "file head"), ("B", "file head"), ("C", "why"), ("D", ""), ("E", "")];
        assert_eq!(reasons, wanted);
    }

    #[test]
    fn bad_fragments_are_refused_by_line() {
        let cases: &[(&[&str], &str)] = &[
            (&["\nCONFIG_A"], "f0:2: CONFIG_NAME=value is wanted"),
            (&["A=y"], "f0:1: CONFIG_NAME=value is wanted"),
            (&["CONFIG_=y"], "f0:1: not a name"),
            (&["CONFIG_A B=y"], "f0:1: not a name"),
            (&["CONFIG_A="], "f0:1: a value is"),
            (&["CONFIG_A=y # because"], "f0:1: a value is"),
            (&["CONFIG_A=\"x"], "f0:1: a value is"),
            (&["# CONFIG_A=y"], "f0:1: \"# CONFIG_"),
            (&["CONFIG_A=y\nCONFIG_A=y"], "f0:2: CONFIG_A=y is already CONFIG_A=y at f0:1"),
            (&["CONFIG_A=y", "# CONFIG_A is not set"], "f1:1: CONFIG_A=n is already CONFIG_A=y"),
            (&["CONFIG_A=1", "CONFIG_A=2"], "f1:1: CONFIG_A=2 is already CONFIG_A=1 at f0:1"),
        ];
        for (fragments, wanted) in cases {
            let error = request(fragments).unwrap_err().to_string();
            assert!(error.starts_with(wanted), "{fragments:?}: {error}");
        }
    }

    #[test]
    fn what_did_not_come_out_is_found() {
        let cases = [
            ("CONFIG_A=y", "CONFIG_A=y", None),
            ("CONFIG_A=\"a b\"", "CONFIG_A=\"a b\"", None),
            ("# CONFIG_A is not set", "", None),
            ("# CONFIG_A is not set", "# CONFIG_A is not set", None),
            ("CONFIG_A=n", "# CONFIG_A is not set", None),
            ("CONFIG_A=y", "", Some("f0:1: CONFIG_A=y was asked for, but it is not set")),
            (
                "CONFIG_A=y",
                "# CONFIG_A is not set",
                Some("f0:1: CONFIG_A=y was asked for, but it is not set"),
            ),
            ("CONFIG_A=y", "CONFIG_A=m", Some("f0:1: CONFIG_A=y was asked for, but it is m")),
            (
                "CONFIG_A=64",
                "CONFIG_A=8192",
                Some("f0:1: CONFIG_A=64 was asked for, but it is 8192"),
            ),
            (
                "CONFIG_A=y",
                "CONFIG_AB=y",
                Some("f0:1: CONFIG_A=y was asked for, but it is not set"),
            ),
            (
                "# CONFIG_A is not set",
                "CONFIG_A=y",
                Some("f0:1: CONFIG_A is not to be set, but something selects it: y"),
            ),
        ];
        for (wanted, found, difference) in cases {
            let differences = request(&[wanted]).unwrap().differences(found).unwrap();
            let text: Vec<String> = differences.iter().map(ToString::to_string).collect();
            assert_eq!(text, Vec::from_iter(difference), "{wanted} / {found}");
        }
    }

    #[test]
    fn the_error_names_every_option() {
        let request = request(&["CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\n"]).unwrap();
        let error = request.check("CONFIG_B=y").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("2 of 3 kernel options did not come out\n"), "{text}");
        assert!(text.contains("f0:1: CONFIG_A") && text.contains("f0:3: CONFIG_C"), "{text}");
        assert!(request.check("CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y").is_ok());
    }
}
