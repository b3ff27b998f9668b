//! Mistakes in a recipe or another TOML file, shown where they stand: file, line, column, the line, a caret.

mod value;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::Error;

pub use value::{
    At, KEY_BYTES_MAX, Key, Value, boolean, integer, string, strings, unknown_key, wrong_type,
};

/// Where in a text something stands, in bytes.
pub type Span = std::ops::Range<usize>;

/// More mistakes than these are only counted: the report fits on one screen.
const SHOWN_MAX: usize = 6;
/// A longer line is cut around the caret.
const LINE_CHARS_MAX: usize = 100;
/// Two words this many edits apart may be meant to be the same.
const EDITS_MAX: usize = 2;

/// The mistakes found so far in one text.
#[derive(Debug)]
pub struct Faults<'t> {
    text: &'t str,
    file: PathBuf,
    all: Vec<(Span, String)>,
    broken: bool,
    /// Keys that seem to be there, misspelt.
    meant: Vec<String>,
}

impl<'t> Faults<'t> {
    /// None yet in `text`; `file` is its name.
    pub fn new(text: &'t str, file: &Path) -> Self {
        Faults { text, file: file.to_path_buf(), all: Vec::new(), broken: false, meant: Vec::new() }
    }

    /// Records a mistake at `span`.
    pub fn add(&mut self, span: Span, message: impl Into<String>) {
        self.all.push((span, message.into()));
    }

    /// Records that the text is not TOML: keys may then seem to be missing that are not.
    pub fn add_broken(&mut self, span: Span, message: &str) {
        self.broken = true;
        self.add(span, message);
    }

    /// Whether the text is not TOML.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Remembers that `key` is there under a wrong name: then it is not missing, too.
    pub fn mean(&mut self, key: &str) {
        self.meant.push(key.to_string());
    }

    /// Whether `key` seems to be there under a wrong name.
    pub fn means(&self, key: &str) -> bool {
        self.meant.iter().any(|meant| meant == key)
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Records that `found` is none of the values that are `known`.
    pub fn not_one_of(&mut self, span: Span, found: &str, known: &[&str]) {
        let list = known.join(", ");
        let guess = closest(found, known).map(|k| format!("; did you mean {k:?}?"));
        self.add(span, format!("{found:?} is none of: {list}{}", guess.unwrap_or_default()));
    }

    /// All of it as one error, in the text's order.
    pub fn into_error(mut self) -> Error {
        self.all.sort_by_key(|(span, _)| span.start);
        let mut report = String::new();
        for (span, message) in self.all.iter().take(SHOWN_MAX) {
            if !report.is_empty() {
                report.push('\n');
            }
            show(&mut report, self.text, &self.file, span, message);
        }
        if self.all.len() > SHOWN_MAX {
            let _ = write!(report, "\n… and {} more", self.all.len() - SHOWN_MAX);
        }
        Error::input(report)
    }
}

fn show(report: &mut String, text: &str, file: &Path, span: &Span, message: &str) {
    let start = floor(text, span.start);
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let number = text[..start].matches('\n').count() + 1;
    let line = text[line_start..].lines().next().unwrap_or("");
    let column = text[line_start..start].chars().count();
    let end = floor(text, span.end).clamp(start, line_start + line.len().max(start - line_start));
    let width = text[start..end].chars().count().max(1);
    let _ = write!(report, "{}:{number}:{}: {message}", file.display(), column + 1);
    if span.is_empty() && start == 0 {
        return; // It is about the whole file.
    }
    let skip = column.saturating_sub(LINE_CHARS_MAX / 2);
    let shown: String = line.chars().skip(skip).take(LINE_CHARS_MAX).collect();
    let shown = shown.replace(|c: char| c.is_control(), " ");
    let margin = number.to_string();
    let carets = "^".repeat(width.min(LINE_CHARS_MAX.saturating_sub(column - skip)).max(1));
    let blank = " ".repeat(margin.len());
    let _ = write!(
        report,
        "\n  {margin} | {shown}\n  {blank} | {:indent$}{carets}",
        "",
        indent = column - skip
    );
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// The one of `known` that `word` may have been meant to be.
pub fn closest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let far = |k: &str| distance(word, k);
    let best = known.iter().copied().min_by_key(|k| far(k))?;
    // A short word is within two edits of anything.
    let allowed = EDITS_MAX.min(word.chars().count().max(best.len()) / 2);
    (far(best) <= allowed).then_some(best)
}

/// The edit distance: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
