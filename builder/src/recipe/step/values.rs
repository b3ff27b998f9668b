//! A step's values: paths, owners, times, texts.

use std::time::Duration;

use toml::de::DeValue;

use super::super::action::{Content, Owner, Put};
use super::super::fault::{Faults, closest};
use super::super::variables::{self, VARIABLES};
use super::super::wire::{self, At, Key, Value};
use super::{COMMAND_TIME_DEFAULT, Reader};

/// A command may take this long at most: a day.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Linux opens no longer path.
const PATH_BYTES_MAX: usize = 4095;

impl Reader<'_, '_, '_> {
    pub(super) fn timeout(&mut self) -> Duration {
        let Some(at) = self.get("timeout", wire::string) else { return COMMAND_TIME_DEFAULT };
        let digits = at.value.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = at.value.split_at(digits);
        let seconds = match unit {
            "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            _ => None,
        };
        let seconds = seconds.and_then(|s: u64| number.parse::<u64>().ok()?.checked_mul(s));
        let time = seconds.map(Duration::from_secs);
        match time.filter(|time| !time.is_zero() && *time <= COMMAND_TIME_MAX) {
            Some(time) => time,
            None => {
                self.faults.add(at.span, "a time up to 24h is wanted, as in 90s, 10m or 2h");
                COMMAND_TIME_DEFAULT
            }
        }
    }

    pub(super) fn content(&mut self) -> Option<Content> {
        let raw = self.get("raw", wire::boolean).unwrap_or(false);
        let at = self.needed("content")?;
        if let (Some(word), false) = (variables::unknown(&at.value), raw) {
            let why = format!(
                "{{{word}}} is no variable; there are: {}; or say raw = true, and braces mean nothing",
                braced()
            );
            self.faults.add(at.span, why);
        }
        Some(Content { text: at.value, raw })
    }

    pub(super) fn put(&mut self) -> Put {
        let mode = self.get("mode", wire::string).and_then(|at| {
            let octal = at.value.len() >= 3 && at.value.len() <= 4;
            let octal = octal && at.value.bytes().all(|c| (b'0'..=b'7').contains(&c));
            if !octal {
                self.faults.add(at.span, "an octal mode is wanted, as in \"0755\"");
            }
            u16::from_str_radix(&at.value, 8).ok().filter(|_| octal)
        });
        let owner = self.get("owner", wire::string).and_then(|at| self.owner_of(&at));
        Put { mode, owner }
    }

    pub(super) fn owner_of(&mut self, at: &At<String>) -> Option<Owner> {
        let (user, group) = match at.value.split_once(':') {
            Some((user, group)) => (user, Some(group.to_string())),
            None => (at.value.as_str(), None),
        };
        let ok = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if ok(user) && group.as_deref().is_none_or(ok) {
            return Some(Owner { user: user.to_string(), group });
        }
        let why = "a user and perhaps a group are wanted, as in \"root\" or \"agent:users\"";
        self.faults.add(at.span.clone(), why);
        None
    }

    /// An absolute path without `.` and `..`; `into` allows a `/` at its end.
    pub(super) fn path(&mut self, key: &str, into: bool) -> Option<String> {
        let at = self.needed(key)?;
        self.check_path(at, into)
    }

    pub(super) fn path_if(&mut self, key: &str) -> Option<String> {
        let at = self.get(key, wire::string)?;
        self.check_path(at, false)
    }

    pub(super) fn paths(&mut self, key: &'static str) -> Option<Vec<String>> {
        let all = match self.entry(key)?.1.get_ref() {
            DeValue::Array(_) => self.strings(key)?,
            _ => vec![self.get(key, wire::string)?],
        };
        if all.is_empty() {
            self.fault(key, "at least one path is wanted");
        }
        let paths: Vec<_> = all.into_iter().filter_map(|at| self.check_path(at, false)).collect();
        (!paths.is_empty()).then_some(paths)
    }

    pub(super) fn check_path(&mut self, at: At<String>, into: bool) -> Option<String> {
        self.check_variables(&at);
        let text = at.value;
        let trimmed =
            text.strip_prefix('/').map(|t| if into { t.trim_end_matches('/') } else { t });
        let why = match trimmed {
            None => "an absolute path is wanted, as in \"/etc/motd\"",
            Some("") if into => return Some("/".to_string()),
            Some("") => "a path below / is wanted",
            Some(_) if text.contains('\0') => "a path has no NUL in it",
            Some(_) if text.len() > PATH_BYTES_MAX => "a path has at most 4095 bytes",
            Some(t) if t.ends_with('/') => "a path without / at its end is wanted",
            Some(t) if t.split('/').any(|name| matches!(name, "" | "." | "..")) => {
                "a path without `.`, `..` and `//` is wanted"
            }
            Some(_) => return Some(text),
        };
        self.faults.add(at.span, format!("{text:?}: {why}"));
        None
    }

    pub(super) fn check_variables(&mut self, at: &At<String>) {
        if let Some(word) = variables::unknown(&at.value) {
            let guess = closest(word, &VARIABLES).map(|g| format!("; did you mean {{{g}}}?"));
            let hint = guess.unwrap_or_else(|| format!("; there are: {}", braced()));
            self.faults.add(at.span.clone(), format!("{{{word}}} is no variable{hint}"));
        }
    }

    /// A string that the step can not do without, its variables checked.
    pub(super) fn text(&mut self, key: &str) -> Option<At<String>> {
        let at = self.needed(key)?;
        self.check_variables(&at);
        Some(at)
    }

    pub(super) fn needed(&mut self, key: &str) -> Option<At<String>> {
        if self.entry(key).is_none() {
            let example = match key {
                "to" => "to = \"/opt/app\"",
                "target" => "target = \"/usr/bin/python3\"",
                _ => "content = \"hello\\n\"",
            };
            self.missing(key, example);
            return None;
        }
        self.get(key, wire::string)
    }

    pub(super) fn missing(&mut self, key: &str, example: &str) {
        if !self.faults.is_broken() && !self.faults.means(key) {
            let why = format!("`{key}` is missing beside `{}`, as in {example}", self.verb);
            self.fault(self.verb, &why);
        }
    }

    pub(super) fn not_empty(&mut self, at: At<String>, what: &str) -> Option<String> {
        if at.value.trim().is_empty() || at.value.contains('\0') {
            self.faults.add(at.span, format!("{what} is wanted"));
            return None;
        }
        Some(at.value)
    }

    pub(super) fn strings(&mut self, key: &'static str) -> Option<Vec<At<String>>> {
        self.get(key, wire::strings).map(|at| at.value)
    }

    pub(super) fn get<T>(
        &mut self,
        key: &str,
        read: impl Fn(&Key<'_>, &Value<'_>, &mut Faults) -> Option<T>,
    ) -> Option<T> {
        let (key, value) = self.entry(key)?;
        read(key, value, self.faults)
    }

    pub(super) fn fault(&mut self, key: &str, why: &str) {
        let span = self.entry(key).map_or(0..0, |(key, _)| key.span());
        self.faults.add(span, why);
    }
}

fn braced() -> String {
    VARIABLES.map(|name| format!("{{{name}}}")).join(" ")
}
