//! `[[step]]`: what a recipe does to its image, one thing each.
//!
//! The key that says what a step does is its verb; the others say how. [`VERBS`] is the language.

mod values;

use std::path::PathBuf;
use std::time::Duration;

use bundle::Arch;
use toml::de::DeValue;

use super::action::{Account, Action, Command, Install, Step, UnitState};
use super::fault::{Faults, closest};
use super::wire::{self, At, Key, Value};
use super::{Span, is_word};

/// A command may take this long where its step does not say otherwise.
pub const COMMAND_TIME_DEFAULT: Duration = Duration::from_secs(30 * 60);
/// A recipe has at most this many steps.
const STEPS_MAX: usize = 1000;
/// Numbers that mean "nobody" to the kernel are not given out.
const ID_MAX: i64 = 4_294_967_293;

/// Every verb and the keys that may stand beside it; `arch` may always.
pub(super) const VERBS: [(&str, &[&str]); 13] = [
    ("run", &["network", "secrets", "env", "as", "workdir", "timeout"]),
    ("packages", &["recommends", "network", "timeout"]),
    ("copy", &["to", "mode", "owner"]),
    ("write", &["content", "raw", "mode", "owner"]),
    ("append", &["content", "raw"]),
    ("mkdir", &["mode", "owner"]),
    ("symlink", &["target"]),
    ("remove", &[]),
    ("truncate", &[]),
    ("set", &["mode", "owner"]),
    ("user", &["uid", "home", "shell", "groups"]),
    ("service", &["state"]),
    ("first_boot", &[]),
];

/// Every key of a step, for hints.
pub(super) const KEYS: [&str; 30] = [
    "run",
    "packages",
    "copy",
    "write",
    "append",
    "mkdir",
    "symlink",
    "remove",
    "truncate",
    "set",
    "user",
    "service",
    "first_boot",
    "network",
    "secrets",
    "env",
    "as",
    "workdir",
    "timeout",
    "recommends",
    "to",
    "mode",
    "owner",
    "content",
    "raw",
    "target",
    "uid",
    "home",
    "shell",
    "groups",
];

/// Reads all steps.
pub(super) fn read_all(key: &Key, value: &Value, faults: &mut Faults) -> Vec<Step> {
    let DeValue::Array(list) = value.get_ref() else {
        wire::wrong_type(key, value, "a list of tables, each headed [[step]]", faults);
        return Vec::new();
    };
    if list.len() > STEPS_MAX {
        faults.add(key.span(), format!("{} steps; {STEPS_MAX} are allowed", list.len()));
        return Vec::new();
    }
    let mut steps = Vec::new();
    for item in list.iter() {
        match item.get_ref() {
            DeValue::Table(table) => {
                let entries = table.iter().collect();
                steps.extend(Reader { entries, verb: "", faults }.step(item.span()));
            }
            _ => wire::wrong_type(key, item, "a list of tables, each headed [[step]]", faults),
        }
    }
    steps
}

/// Reads one step.
struct Reader<'r, 't, 'f> {
    entries: Vec<(&'r Key<'t>, &'r Value<'t>)>,
    verb: &'static str,
    faults: &'r mut Faults<'f>,
}

impl Reader<'_, '_, '_> {
    fn step(mut self, span: Span) -> Option<Step> {
        let mut verbs: Vec<_> = self.entries.iter().filter_map(|(key, _)| verb(key)).collect();
        verbs.sort_by_key(|(_, span)| span.start);
        let Some((first, at)) = verbs.first().cloned() else {
            self.no_verb(span);
            return None;
        };
        self.verb = first;
        for (second, span) in verbs.iter().skip(1) {
            let why = format!("`{second}` beside `{first}`: a step does one thing; make it two");
            self.faults.add(span.clone(), why);
        }
        if verbs.len() == 1 {
            self.check_keys();
        }
        let arch = self.arch();
        let action = self.action()?;
        Some(Step { action, arch, span: at })
    }

    /// No key is a verb: perhaps one is misspelt.
    fn no_verb(self, header: Span) {
        let list = VERBS.map(|(verb, _)| verb);
        for (key, _) in &self.entries {
            if let Some(guess) = closest(key.get_ref(), &list) {
                let word = key.get_ref();
                let why = format!("unknown key `{word}`; did you mean `{guess}`?");
                return self.faults.add(key.span(), why);
            }
        }
        // In some texts the header has no place: the first key tells where it is.
        let span = self.entries.iter().map(|(key, _)| key.span()).min_by_key(|s| s.start);
        let span = span.unwrap_or(header);
        self.faults.add(span, format!("what does this step do? One of: {}", list.join(", ")));
    }

    fn check_keys(&mut self) {
        let verb = self.verb;
        let known: Vec<&str> = [verb, "arch"].into_iter().chain(keys(verb)).collect();
        let mut wrong: Vec<_> = self.entries.iter().map(|(key, _)| *key).collect();
        wrong.retain(|key| !known.contains(&key.get_ref().as_ref()));
        for key in wrong {
            let word = key.get_ref().as_ref();
            let others = VERBS.iter().filter(|(_, keys)| keys.contains(&word));
            let others: Vec<_> = others.map(|(verb, _)| format!("`{verb}`")).collect();
            if others.is_empty() {
                wire::unknown_key(key, &format!("a step that does `{verb}`"), &known, self.faults);
                // What is misspelt is not missing, too.
                closest(word, &known).into_iter().for_each(|guess| self.faults.mean(guess));
            } else {
                let list = others.join(", ");
                let why = format!("`{word}` does not go with `{verb}`, but with {list}");
                self.faults.add(key.span(), why);
            }
        }
    }

    fn arch(&mut self) -> Vec<Arch> {
        let list = self.strings("arch").unwrap_or_default();
        let parse = |at: At<String>| match at.value.parse() {
            Ok(arch) => Some(arch),
            Err(e) => {
                let e: bundle::Error = e;
                self.faults.add(at.span, e.to_string());
                None
            }
        };
        list.into_iter().filter_map(parse).collect()
    }

    fn action(&mut self) -> Option<Action> {
        Some(match self.verb {
            "run" => Action::Run(self.command()?),
            "packages" => Action::Packages(self.install()?),
            "copy" => {
                let (from, to) = (self.text("copy"), self.path("to", true));
                let from = from.and_then(|at| self.not_empty(at, "a file or directory"));
                Action::Copy { from: PathBuf::from(from?), to: to?, put: self.put() }
            }
            "write" => {
                let (path, content) = (self.path("write", false), self.content());
                Action::Write { path: path?, content: content?, put: self.put() }
            }
            "append" => {
                let (path, content) = (self.path("append", false), self.content());
                Action::Append { path: path?, content: content? }
            }
            "mkdir" => Action::Mkdir { path: self.path("mkdir", false)?, put: self.put() },
            "symlink" => {
                let (path, target) = (self.path("symlink", false), self.needed("target"));
                let target = target.and_then(|at| self.not_empty(at, "where it points"));
                Action::Symlink { path: path?, target: target? }
            }
            "remove" => Action::Remove { paths: self.paths("remove")? },
            "truncate" => Action::Truncate { paths: self.paths("truncate")? },
            "set" => {
                let (paths, put) = (self.paths("set"), self.put());
                if self.entry("mode").is_none() && self.entry("owner").is_none() {
                    self.missing("mode", "mode = \"0644\", or owner");
                }
                Action::Set { paths: paths?, put }
            }
            "user" => Action::User(self.account()?),
            "first_boot" => Action::FirstBoot { packages: self.package_names("first_boot")? },
            _ => {
                let unit = self.get("service", wire::string)?;
                let unit = self.unit(unit);
                Action::Service { unit: unit?, state: self.state()? }
            }
        })
    }

    fn command(&mut self) -> Option<Command> {
        let argv = match self.entry("run")?.1.get_ref() {
            DeValue::Array(_) => {
                let words = self.strings("run")?;
                words.into_iter().map(|at| at.value).collect()
            }
            _ => {
                let script = self.get("run", wire::string)?;
                let script = self.not_empty(script, "a command")?;
                ["/bin/sh", "-eu", "-c", &script].map(str::to_string).to_vec()
            }
        };
        if argv.iter().any(|word: &String| word.contains('\0')) || argv.is_empty() {
            self.fault("run", "a command is wanted, as in run = \"make install\"");
            return None;
        }
        let mut secrets = Vec::new();
        for at in self.strings("secrets").unwrap_or_default() {
            match is_word(&at.value, "-_.") {
                true => secrets.push(at.value),
                false => self.faults.add(at.span, "a name is wanted, as in \"npm-token\""),
            }
        }
        Some(Command {
            argv,
            network: self.get("network", wire::boolean).unwrap_or(false),
            secrets,
            env: self.env(),
            user: self.get("as", wire::string).and_then(|at| self.owner_of(&at)).map(|owner| {
                owner.group.map_or(owner.user.clone(), |group| format!("{}:{group}", owner.user))
            }),
            workdir: self.path_if("workdir"),
            timeout: self.timeout(),
        })
    }

    fn env(&mut self) -> Vec<String> {
        let Some((key, value)) = self.entry("env") else { return Vec::new() };
        let DeValue::Table(table) = value.get_ref() else {
            wire::wrong_type(key, value, "a table, as in env = { CI = \"1\" }", self.faults);
            return Vec::new();
        };
        let mut env = Vec::new();
        for (name, value) in table {
            let word = name.get_ref().as_ref();
            let ok = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if word.is_empty() || !word.chars().all(ok) {
                self.faults.add(name.span(), format!("{word:?} is no name of a variable"));
            } else if let Some(at) = wire::string(name, value, self.faults) {
                env.push(format!("{word}={}", at.value));
            }
        }
        env.sort();
        env
    }

    fn package_names(&mut self, key: &'static str) -> Option<Vec<String>> {
        let mut packages = Vec::new();
        for at in self.strings(key)? {
            self.check_variables(&at);
            let word = |c: char| c.is_ascii_alphanumeric() || "+-._=~:@{}/<>".contains(c);
            let first = at.value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '{');
            if first && at.value.chars().all(word) {
                packages.push(at.value);
            } else {
                let why = format!("{:?} is no package: as in \"curl\"", at.value);
                self.faults.add(at.span, why);
            }
        }
        if packages.is_empty() {
            self.fault(key, "at least one package is wanted");
        }
        // Their order means nothing.
        packages.sort();
        packages.dedup();
        Some(packages)
    }

    fn install(&mut self) -> Option<Install> {
        Some(Install {
            packages: self.package_names("packages")?,
            recommends: self.get("recommends", wire::boolean).unwrap_or(false),
            network: self.get("network", wire::boolean).unwrap_or(true),
            timeout: self.timeout(),
        })
    }

    fn account(&mut self) -> Option<Account> {
        let name = self.get("user", wire::string)?;
        let name = self.account_name(name);
        let uid = self.get("uid", wire::integer).and_then(|at| match at.value {
            1..=ID_MAX => u32::try_from(at.value).ok(),
            _ => {
                self.faults.add(at.span, format!("a number from 1 to {ID_MAX} is wanted"));
                None
            }
        });
        let groups = self.strings("groups").unwrap_or_default();
        let groups = groups.into_iter().filter_map(|at| self.account_name(at)).collect();
        let (home, shell) = (self.passwd_path("home"), self.passwd_path("shell"));
        Some(Account { name: name?, uid, home, shell, groups })
    }

    /// A path that stands in a line of `passwd(5)`.
    fn passwd_path(&mut self, key: &'static str) -> Option<String> {
        let path = self.path_if(key)?;
        if path.contains(|c: char| c == ':' || c.is_control()) {
            self.fault(
                key,
                "a path without `:` and line breaks is wanted: it goes into /etc/passwd",
            );
            return None;
        }
        Some(path)
    }

    /// What useradd takes: letters, digits, `-` and `_`, no digit or `-` first (`useradd(8)`).
    fn account_name(&mut self, at: At<String>) -> Option<String> {
        const BYTES_MAX: usize = 32;
        let first = at.value.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        if first && at.value.len() <= BYTES_MAX && at.value.chars().all(rest) {
            return Some(at.value);
        }
        let rule = "lower-case letters, digits, - and _ are allowed, a letter first";
        self.faults.add(at.span, format!("{:?} is no name: {rule}", at.value));
        None
    }

    fn unit(&mut self, at: At<String>) -> Option<String> {
        const ENDINGS: [&str; 6] = ["service", "socket", "timer", "path", "target", "mount"];
        let ok = |c: char| c.is_ascii_alphanumeric() || "-_.@:\\".contains(c);
        if at.value.is_empty() || !at.value.chars().all(ok) || at.value.starts_with('.') {
            self.faults.add(at.span, format!("{:?} is no unit, as in \"ssh\"", at.value));
            return None;
        }
        let has_ending = at.value.rsplit_once('.').is_some_and(|(_, end)| ENDINGS.contains(&end));
        Some(if has_ending { at.value } else { format!("{}.service", at.value) })
    }

    fn state(&mut self) -> Option<UnitState> {
        let Some(at) = self.get("state", wire::string) else { return Some(UnitState::Enabled) };
        match at.value.as_str() {
            "enabled" => Some(UnitState::Enabled),
            "disabled" => Some(UnitState::Disabled),
            "masked" => Some(UnitState::Masked),
            _ => {
                self.faults.not_one_of(at.span, &at.value, &["enabled", "disabled", "masked"]);
                None
            }
        }
    }
}

impl<'r, 't> Reader<'r, 't, '_> {
    fn entry(&self, key: &str) -> Option<(&'r Key<'t>, &'r Value<'t>)> {
        self.entries.iter().find(|(k, _)| k.get_ref().as_ref() == key).copied()
    }
}

fn verb(key: &Key) -> Option<(&'static str, Span)> {
    let verb = VERBS.iter().find(|(verb, _)| *verb == key.get_ref().as_ref());
    verb.map(|(verb, _)| (*verb, key.span()))
}

fn keys(verb: &str) -> impl Iterator<Item = &'static str> {
    let found = VERBS.iter().find(|(v, _)| *v == verb);
    found.into_iter().flat_map(|(_, keys)| keys.iter().copied())
}
