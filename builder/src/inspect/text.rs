//! Names, modes and values as text for people.

use std::fmt::Write as _;

use ext4::Xattr;
use ext4::read::Kind;

/// A name on one line and harmless to a terminal: control characters, backslashes and what is not
/// UTF-8 become escapes (`\n`, `\x1b`), as do characters that reorder text (`\u{202e}`).
pub fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\\' => text.push_str("\\\\"),
                c if c.is_ascii_control() => push_byte(&mut text, c as u8),
                c if c.is_control() || is_invisible(c) => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        for &byte in chunk.invalid() {
            push_byte(&mut text, byte);
        }
    }
    text
}

fn push_byte(text: &mut String, byte: u8) {
    // Writing into a string does not fail.
    let _ = write!(text, "\\x{byte:02x}");
}

/// Line separators and characters that change the direction of what follows.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Type and permissions as `ls -l` shows them: `-rwsr-xr-x`.
pub fn mode_text(kind: Kind, mode: u16) -> String {
    let mut text = String::from(match kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::CharDevice { .. } => 'c',
        Kind::BlockDevice { .. } => 'b',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// One or two words for people.
pub fn kind_text(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::CharDevice { .. } => "char device",
        Kind::BlockDevice { .. } => "block device",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    }
}

/// `major:minor`, of devices.
pub fn device_text(kind: Kind) -> Option<String> {
    match kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            Some(format!("{major}:{minor}"))
        }
        _ => None,
    }
}

/// `user.mime_type="text/plain"`, the value in hexadecimal where it is no text.
pub fn xattr_text(xattr: &Xattr) -> String {
    let is_text = xattr.value.iter().all(|&b| b == b' ' || b.is_ascii_graphic());
    let value = match is_text {
        true => format!("\"{}\"", escaped(&xattr.value)),
        false => format!("0x{}", hex(&xattr.value)),
    };
    format!("{}={value}", escaped(&xattr.name))
}

/// Two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_harmless() {
        let table: [(&[u8], &str); 7] = [
            (b"plain name", "plain name"),
            ("gr\u{fc}n".as_bytes(), "gr\u{fc}n"),
            (b"a\nb\t\x1b[31m\x7f", "a\\nb\\t\\x1b[31m\\x7f"),
            (b"dev\\x2ddisk", "dev\\\\x2ddisk"),
            (b"\xff\xc3", "\\xff\\xc3"),
            ("\u{202e}gpj.exe".as_bytes(), "\\u{202e}gpj.exe"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
        ];
        for (name, text) in table {
            assert_eq!(escaped(name), text);
        }
    }

    #[test]
    fn modes_are_those_of_ls() {
        assert_eq!(mode_text(Kind::File, 0o4755), "-rwsr-xr-x");
        assert_eq!(mode_text(Kind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text(Kind::Fifo, 0o7000), "p--S--S--T");
    }
}
