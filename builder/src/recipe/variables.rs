//! `{version}` and the like in a step's words.
//!
//! They stand in paths, targets, names of packages and in the contents that a recipe writes, but
//! not in commands: there `${version}` is the shell's own, and the variables are in the
//! environment instead (`IMGTOOL_VERSION`). A word in braces that is no variable is an error, never
//! passed through; contents that are full of braces say `raw = true`.

use bundle::{Arch, Name, Version};

/// The names of the variables.
pub const VARIABLES: [&str; 4] = ["name", "version", "arch", "deb_arch"];

/// What the variables stand for.
#[derive(Clone, Debug)]
pub struct Variables {
    values: [String; 4],
}

impl Variables {
    /// Those of a recipe called `name` that is built for `arch`.
    pub fn new(name: &Name, version: &Version, arch: Arch) -> Self {
        let deb_arch = arch.oci_name().to_string();
        Variables { values: [name.to_string(), version.to_string(), arch.to_string(), deb_arch] }
    }

    /// `text` with every variable replaced.
    pub fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((at, word)) = next(rest) {
            filled.push_str(&rest[..at]);
            match VARIABLES.iter().position(|name| *name == word) {
                Some(which) => filled.push_str(&self.values[which]),
                None => filled.push_str(&rest[at..at + word.len() + 2]),
            }
            rest = &rest[at + word.len() + 2..];
        }
        filled + rest
    }

    /// Each name and what it stands for.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        VARIABLES.into_iter().zip(self.values.iter().map(String::as_str))
    }
}

/// The first word in braces of `text` that is no variable.
pub(super) fn unknown(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some((at, word)) = next(rest) {
        if !VARIABLES.contains(&word) {
            return Some(word);
        }
        rest = &rest[at + word.len() + 2..];
    }
    None
}

/// The next `{word}` in `text` and where its brace is; a word is letters, digits and `_`.
fn next(text: &str) -> Option<(usize, &str)> {
    let mut from = 0;
    while let Some(at) = text[from..].find('{').map(|at| at + from) {
        let inside = &text[at + 1..];
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = inside.find(|c| !is_word(c)).unwrap_or(inside.len());
        if end > 0 && inside[end..].starts_with('}') {
            return Some((at, &inside[..end]));
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_braces_are_variables_or_errors() {
        let name = "a".parse().unwrap();
        let variables = Variables::new(&name, &"1.2".parse().unwrap(), Arch::X86_64);
        assert_eq!(variables.fill("{name}-{version}-{arch}/{deb_arch}"), "a-1.2-x86_64/amd64");
        assert_eq!(variables.fill("{{version}} { name } {}"), "{1.2} { name } {}");
        assert_eq!(unknown("{version}{arch} {\"json\": {}}"), None);
        assert_eq!(unknown("x{versoin}"), Some("versoin"));
        assert_eq!(unknown("{{x}}"), Some("x"));
        assert_eq!(unknown("${HOME}"), Some("HOME"));
    }
}
