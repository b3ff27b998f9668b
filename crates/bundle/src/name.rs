//! Names and versions: they become file names, URLs and tags, so their alphabet is small.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// Names and versions are at most this long.
pub(crate) const NAME_BYTES_MAX: usize = 64;

macro_rules! checked_text {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let allowed: fn(u8) -> bool = $allowed;
                let ok = !text.is_empty()
                    && text.len() <= NAME_BYTES_MAX
                    && text.as_bytes()[0].is_ascii_alphanumeric()
                    && text.bytes().all(|c| c.is_ascii_digit() || allowed(c));
                if !ok {
                    let text = text.chars().take(2 * NAME_BYTES_MAX).collect();
                    return Err(Error::Value { what: $what, text, rule: $rule });
                }
                Ok($type(text.to_string()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

checked_text!(
    /// A bundle's name: `debian`, `generic-6.1`.
    Name,
    "name",
    "lower-case letters, digits and . _ - are allowed, a letter or digit first, 64 at most",
    |c| matches!(c, b'a'..=b'z' | b'.' | b'_' | b'-')
);

checked_text!(
    /// A bundle's version: `12.11`, `2026.11.20-1`, `6.1.192`.
    Version,
    "version",
    "letters, digits and . _ + ~ - are allowed, a letter or digit first, 64 at most",
    |c| matches!(c, b'a'..=b'z' | b'A'..=b'Z' | b'.' | b'_' | b'+' | b'~' | b'-')
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_file_names_everywhere() {
        for good in ["debian", "generic-6.1", "a", "9p", "a_b"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        let long = "a".repeat(65);
        for bad in ["", ".", "..", ".a", "-a", "a/b", "A", "a b", "a\0", "ä", &long] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
