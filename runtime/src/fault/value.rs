//! Values of a TOML text, each with its place, and what is wrong with them.

use toml::Spanned;
use toml::de::{DeString, DeValue};

use super::{Faults, Span, closest};

/// A longer key is not compared with the known ones.
pub const KEY_BYTES_MAX: usize = 64;

/// A value and where it stands.
#[derive(Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its bytes in the text.
    pub span: Span,
}

/// A key as it was written.
pub type Key<'t> = Spanned<DeString<'t>>;
/// What was written for it.
pub type Value<'t> = Spanned<DeValue<'t>>;

/// A key that a table of `keys` does not have; for files without sections to mistake.
pub fn unknown_key(key: &Key, place: &str, keys: &[&str], faults: &mut Faults) {
    let word: String = key.get_ref().chars().take(KEY_BYTES_MAX).collect();
    let hint = match closest(&word, keys) {
        Some(guess) => format!("; did you mean `{guess}`?"),
        None => format!("; {place} has: {}", keys.join(", ")),
    };
    faults.add(key.span(), format!("unknown key `{word}`{hint}"));
}

/// The value of `key`, where it is true or false.
pub fn boolean(key: &Key, value: &Value, faults: &mut Faults) -> Option<bool> {
    if let DeValue::Boolean(answer) = value.get_ref() {
        return Some(*answer);
    }
    wrong_type(key, value, "true or false", faults);
    None
}

/// Records that the value of `key` is no `wanted`.
pub fn wrong_type(key: &Key, value: &Value, wanted: &str, faults: &mut Faults) {
    let word = key.get_ref();
    faults.mean(word);
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    faults.add(value.span(), format!("`{word}` is {found}; it has to be {wanted}"));
}

/// The value of `key`, where it is a string.
pub fn string(key: &Key, value: &Value, faults: &mut Faults) -> Option<At<String>> {
    match value.get_ref() {
        DeValue::String(text) => Some(At { value: text.to_string(), span: value.span() }),
        _ => {
            wrong_type(key, value, "a string", faults);
            None
        }
    }
}

/// The value of `key`, where it is a list of strings.
pub fn strings(key: &Key, value: &Value, faults: &mut Faults) -> Option<At<Vec<At<String>>>> {
    let DeValue::Array(list) = value.get_ref() else {
        wrong_type(key, value, "a list of strings", faults);
        return None;
    };
    let items = list.iter().filter_map(|item| match item.get_ref() {
        DeValue::String(text) => Some(At { value: text.to_string(), span: item.span() }),
        _ => {
            wrong_type(key, item, "a list of strings", faults);
            None
        }
    });
    Some(At { value: items.collect(), span: value.span() })
}

/// The value of `key`, where it is a whole number.
pub fn integer(key: &Key, value: &Value, faults: &mut Faults) -> Option<At<i64>> {
    if let DeValue::Integer(number) = value.get_ref()
        && let Ok(number) = i64::from_str_radix(number.as_str(), number.radix())
    {
        return Some(At { value: number, span: value.span() });
    }
    wrong_type(key, value, "a whole number", faults);
    None
}
