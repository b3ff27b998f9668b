//! One 512-byte header block.

use super::BLOCK_BYTES;
use super::sparse::{self, Piece};

/// Why a header block is not one. The reader adds the archive and the entry.
pub(super) type Wrong = &'static str;

/// A header block whose checksum is right.
pub(super) struct Header {
    block: [u8; BLOCK_BYTES],
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// No magic: no prefix, no device numbers to trust.
    V7,
    /// POSIX: a prefix of 155 bytes.
    Ustar,
    /// Schily's: a prefix of 131 bytes, times after it.
    Star,
    /// GNU: times where the prefix would be.
    Gnu,
}

impl Header {
    /// Reads a block whose checksum is right.
    pub(super) fn parse(block: [u8; BLOCK_BYTES]) -> Result<Self, Wrong> {
        if !sum_is_right(&block)? {
            return Err("the header's checksum is wrong");
        }
        let form = match (&block[257..263], &block[263..265]) {
            (b"ustar ", b" \0") => Form::Gnu,
            (b"ustar\0", _) if block[508..512] == *b"tar\0" => Form::Star,
            (b"ustar\0", _) => Form::Ustar,
            _ => Form::V7,
        };
        // Some readers take a prefix wherever they find one.
        if form == Form::V7 && block[257..].iter().any(|&b| b != 0) {
            return Err("an old header with more in it than there should be");
        }
        Ok(Header { block, form })
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block[156]
    }

    /// Prefix and name joined.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        let prefix = match self.form {
            Form::Ustar => text(&self.block[345..500]),
            Form::Star => text(&self.block[345..476]),
            Form::V7 | Form::Gnu => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> &[u8] {
        text(&self.block[157..257])
    }

    pub(super) fn mode(&self) -> Result<u16, Wrong> {
        Ok((unsigned(&self.block[100..108])? & 0o7777) as u16)
    }

    pub(super) fn uid(&self) -> Result<u64, Wrong> {
        unsigned(&self.block[108..116])
    }

    pub(super) fn gid(&self) -> Result<u64, Wrong> {
        unsigned(&self.block[116..124])
    }

    pub(super) fn size(&self) -> Result<u64, Wrong> {
        unsigned(&self.block[124..136])
    }

    /// Seconds since 1970.
    pub(super) fn mtime(&self) -> Result<i64, Wrong> {
        number(&self.block[136..148])
    }

    /// Of an old GNU sparse file: its real size, the map so far, and whether extension blocks follow.
    pub(super) fn sparse(&self) -> Result<(u64, Vec<Piece>, bool), Wrong> {
        if self.form != Form::Gnu {
            return Err("a sparse file whose header is not GNU's");
        }
        let mut map = Vec::new();
        let more = extended(&self.block[386..482], self.block[482], &mut map)?;
        Ok((unsigned(&self.block[483..495])?, map, more))
    }

    pub(super) fn device(&self) -> Result<(u32, u32), Wrong> {
        let part = |bytes| u32::try_from(unsigned(bytes)?).map_err(|_| "a device number overflows");
        Ok((part(&self.block[329..337])?, part(&self.block[337..345])?))
    }
}

/// Reads an extension block of an old GNU sparse map; true where another follows.
pub(super) fn extension(block: &[u8; BLOCK_BYTES], map: &mut Vec<Piece>) -> Result<bool, Wrong> {
    extended(&block[..504], block[504], map)
}

fn extended(pieces: &[u8], flag: u8, map: &mut Vec<Piece>) -> Result<bool, Wrong> {
    match (sparse::old_pieces(pieces, unsigned, map)?, flag) {
        (_, 0) => Ok(false),
        (true, 1) => Ok(true),
        _ => Err("its sparse map goes on after its end"),
    }
}

/// Whether a block's checksum is right. Writers have summed signed and unsigned bytes; both are
/// taken. The sum's own field counts as blanks.
pub(super) fn sum_is_right(block: &[u8; BLOCK_BYTES]) -> Result<bool, Wrong> {
    let told = octal(&block[148..156])? as i64;
    let outside = |i: usize| !(148..156).contains(&i);
    let sum = |value: fn(u8) -> i64| -> i64 {
        let bytes = block.iter().enumerate();
        bytes.map(|(i, &b)| if outside(i) { value(b) } else { 32 }).sum()
    };
    Ok(told == sum(i64::from) || told == sum(|b| i64::from(b as i8)))
}

/// The bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

fn unsigned(field: &[u8]) -> Result<u64, Wrong> {
    u64::try_from(number(field)?).map_err(|_| "a number is negative")
}

/// Octal digits, or base-256 where the first bit is set: two's complement, big-endian.
fn number(field: &[u8]) -> Result<i64, Wrong> {
    if field[0] & 0x80 == 0 {
        return i64::try_from(octal(field)?).map_err(|_| "a number overflows");
    }
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (i, &byte) in field.iter().enumerate() {
        // The first byte's top bit is the marker; its next one is the sign.
        let byte = if i == 0 && !negative { byte & 0x7f } else { byte };
        value = value << 8 | i128::from(byte);
    }
    i64::try_from(value).map_err(|_| "a number overflows")
}

/// Digits with blanks before and a blank or NUL after; an empty field is zero.
fn octal(field: &[u8]) -> Result<u64, Wrong> {
    let is_blank = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !is_blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    if digits[end..].iter().any(|b| !is_blank(b)) {
        return Err("a number is followed by other text");
    }
    digits[..end].iter().try_fold(0u64, |value, &digit| match digit {
        b'0'..=b'7' if value >> 61 == 0 => Ok(value << 3 | u64::from(digit - b'0')),
        b'0'..=b'7' => Err("a number overflows"),
        _ => Err("a number is not octal"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Ok(0o644));
        assert_eq!(number(b"   644 \0"), Ok(0o644));
        assert_eq!(number(&[0; 8]), Ok(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 1, 0, 0]), Ok(65_536));
        assert_eq!(number(&[0xff; 12]), Ok(-1));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]), Ok(-256));
        assert!(number(&[0x80, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0]).is_err());
        for wrong in [&b"0000648\0"[..], b"-000001\0", b"12 34\0\0\0", b"777777777777777777777777"]
        {
            assert!(number(wrong).is_err(), "{wrong:?}");
        }
    }
}
