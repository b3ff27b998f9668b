//! The recipe's wire form: which keys there are and of what type, each value with its place.

use toml::de::{DeTable, DeValue};

use super::action::Step;
use super::fault::{Faults, KEY_BYTES_MAX, closest};
use super::step;

pub(super) use super::fault::{
    At, Key, Value, boolean, integer, string, strings, unknown_key, wrong_type,
};

pub(super) const RECIPE_KEYS: [&str; 13] = [
    "name",
    "version",
    "arch",
    "init",
    "kernel",
    "source_date_epoch",
    "size",
    "reserve",
    "label",
    "source",
    "test",
    "step",
    "lint",
];
pub(super) const SOURCE_KEYS: [&str; 3] = ["bootstrap", "oci", "tarball"];
const LINT_KEYS: [&str; 1] = ["allow"];
pub(super) const BOOTSTRAP_KEYS: [&str; 4] = ["suite", "variant", "components", "packages"];

pub(super) const TEST_KEYS: [&str; 6] =
    ["name", "command", "exit", "equals", "contains", "timeout"];

/// Every section: its name, as a person would write it, and its keys.
const SECTIONS: [(&str, &[&str]); 6] = [
    ("the top of the file", &RECIPE_KEYS),
    ("[source]", &SOURCE_KEYS),
    ("[source.bootstrap]", &BOOTSTRAP_KEYS),
    ("[[test]]", &TEST_KEYS),
    ("[lint]", &LINT_KEYS),
    ("a [[step]]", &step::KEYS),
];

/// What was written; nothing is checked but the types.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) name: Option<At<String>>,
    pub(super) version: Option<At<String>>,
    pub(super) arch: Option<At<Vec<At<String>>>>,
    pub(super) init: Option<At<String>>,
    pub(super) kernel: Option<At<String>>,
    pub(super) source_date_epoch: Option<At<i64>>,
    pub(super) size: Option<At<String>>,
    pub(super) reserve: Option<At<String>>,
    pub(super) label: Option<At<String>>,
    /// Whether there is a table `source` at all, right or wrong.
    pub(super) has_source: bool,
    pub(super) source: Option<WireSource>,
    pub(super) tests: Vec<At<WireTest>>,
    pub(super) steps: Vec<Step>,
    /// The names of findings that the recipe takes on itself.
    pub(super) allow: Option<At<Vec<At<String>>>>,
}

pub(super) enum WireSource {
    Bootstrap(At<WireBootstrap>),
    Oci(At<String>),
    Tarball(At<String>),
}

#[derive(Default)]
pub(super) struct WireBootstrap {
    pub(super) suite: Option<At<String>>,
    pub(super) variant: Option<At<String>>,
    pub(super) components: Option<At<Vec<At<String>>>>,
    pub(super) packages: Option<At<Vec<At<String>>>>,
}

#[derive(Default)]
pub(super) struct WireTest {
    pub(super) name: Option<At<String>>,
    pub(super) command: Option<At<Vec<At<String>>>>,
    pub(super) exit: Option<At<i64>>,
    pub(super) equals: Option<At<String>>,
    pub(super) contains: Option<At<String>>,
    pub(super) timeout: Option<At<String>>,
}

/// Reads `text` as far as it can be read and records what is wrong with it.
pub(super) fn read(text: &str, faults: &mut Faults) -> Wire {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        faults.add_broken(error.span().unwrap_or(0..0), error.message());
    }
    let mut wire = Wire::default();
    for (key, value) in document.get_ref() {
        match key.get_ref().as_ref() {
            "name" => wire.name = string(key, value, faults),
            "version" => wire.version = string(key, value, faults),
            "arch" => wire.arch = strings(key, value, faults),
            "init" => wire.init = string(key, value, faults),
            "kernel" => wire.kernel = string(key, value, faults),
            "source_date_epoch" => wire.source_date_epoch = integer(key, value, faults),
            "size" => wire.size = string(key, value, faults),
            "reserve" => wire.reserve = string(key, value, faults),
            "label" => wire.label = string(key, value, faults),
            "source" => {
                wire.has_source = true;
                wire.source = source(key, value, faults);
            }
            "test" => wire.tests = tests(key, value, faults),
            "step" => wire.steps = step::read_all(key, value, faults),
            "lint" => wire.allow = lint(key, value, faults),
            _ => unknown(key, 0, faults),
        }
    }
    wire
}

fn lint(key: &Key, value: &Value, faults: &mut Faults) -> Option<At<Vec<At<String>>>> {
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(key, value, "a table, as in [lint]", faults);
        return None;
    };
    let mut allow = None;
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "allow" => allow = strings(key, value, faults),
            _ => unknown(key, 4, faults),
        }
    }
    allow
}

fn source(key: &Key, value: &Value, faults: &mut Faults) -> Option<WireSource> {
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(key, value, "a table, as in [source]", faults);
        return None;
    };
    let mut found = Vec::new();
    for (key, value) in table {
        let source = match key.get_ref().as_ref() {
            "bootstrap" => bootstrap(key, value, faults).map(WireSource::Bootstrap),
            "oci" => string(key, value, faults).map(WireSource::Oci),
            "tarball" => string(key, value, faults).map(WireSource::Tarball),
            _ => {
                unknown(key, 1, faults);
                continue;
            }
        };
        found.push((key.span(), source));
    }
    found.sort_by_key(|(span, _)| span.start);
    if found.is_empty() && !faults.is_broken() && !SOURCE_KEYS.iter().any(|k| faults.means(k)) {
        let list = SOURCE_KEYS.join(", ");
        faults.add(key.span(), format!("a source is one of: {list}"));
    }
    for (span, _) in found.iter().skip(1) {
        faults.add(span.clone(), "a second source; a recipe has exactly one");
    }
    found.into_iter().next().and_then(|(_, source)| source)
}

fn bootstrap(key: &Key, value: &Value, faults: &mut Faults) -> Option<At<WireBootstrap>> {
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(key, value, "a table, as in { suite = \"bookworm\" }", faults);
        return None;
    };
    let mut wire = WireBootstrap::default();
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "suite" => wire.suite = string(key, value, faults),
            "variant" => wire.variant = string(key, value, faults),
            "components" => wire.components = strings(key, value, faults),
            "packages" => wire.packages = strings(key, value, faults),
            _ => unknown(key, 2, faults),
        }
    }
    Some(At { value: wire, span: key.span() })
}

fn tests(key: &Key, value: &Value, faults: &mut Faults) -> Vec<At<WireTest>> {
    let DeValue::Array(list) = value.get_ref() else {
        wrong_type(key, value, "a list of tables, as in [[test]]", faults);
        return Vec::new();
    };
    list.iter().filter_map(|item| test(key, item, faults)).collect()
}

fn test(key: &Key, value: &Value, faults: &mut Faults) -> Option<At<WireTest>> {
    let DeValue::Table(table) = value.get_ref() else {
        wrong_type(key, value, "a list of tables, as in [[test]]", faults);
        return None;
    };
    let mut wire = WireTest::default();
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "name" => wire.name = string(key, value, faults),
            "command" => wire.command = strings(key, value, faults),
            "exit" => wire.exit = integer(key, value, faults),
            "equals" => wire.equals = string(key, value, faults),
            "contains" => wire.contains = string(key, value, faults),
            "timeout" => wire.timeout = string(key, value, faults),
            _ => unknown(key, 3, faults),
        }
    }
    Some(At { value: wire, span: value.span() })
}

/// A key that section number `here` does not have: what may have been meant?
fn unknown(key: &Key, here: usize, faults: &mut Faults) {
    let word = key.get_ref().as_ref();
    let (place, keys) = SECTIONS[here];
    let elsewhere = SECTIONS.iter().find(|(_, keys)| keys.contains(&word));
    let hint = if word.len() > KEY_BYTES_MAX {
        String::new()
    } else if let Some((section, _)) = elsewhere {
        format!("; it belongs to {section}")
    } else if let Some(guess) = closest(word, keys) {
        faults.mean(guess);
        format!("; did you mean `{guess}`?")
    } else {
        let all: Vec<_> = SECTIONS.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
        let guess = closest(word, &all);
        let section = SECTIONS.iter().find(|(_, keys)| guess.is_some_and(|g| keys.contains(&g)));
        match (guess, section) {
            (Some(guess), Some((section, _))) => {
                format!("; did you mean `{guess}`, which belongs to {section}?")
            }
            _ => format!("; {place} has: {}", keys.join(", ")),
        }
    };
    let word: String = word.chars().take(KEY_BYTES_MAX).collect();
    faults.add(key.span(), format!("unknown key `{word}`{hint}"));
}
