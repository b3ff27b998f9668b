//! Structured payloads: `[tag u8][len u32][bytes]`, repeated. Unknown tags are skipped.

use crate::ProtocolError;

const FIELD_HEADER_BYTES: usize = 5;

pub(crate) fn put(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

/// The fields of a payload, in order; ends with an error where the payload is cut off.
pub(crate) fn fields(payload: &[u8]) -> Fields<'_> {
    Fields { rest: payload }
}

pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u8, &'a [u8]), ProtocolError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&tag, _) = self.rest.split_first()?;
        let field = self.rest.get(1..FIELD_HEADER_BYTES).and_then(|len| {
            let len = u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize;
            self.rest[FIELD_HEADER_BYTES..].split_at_checked(len)
        });
        let Some((value, rest)) = field else {
            self.rest = &[];
            return Some(Err(ProtocolError::Truncated));
        };
        self.rest = rest;
        Some(Ok((tag, value)))
    }
}

/// A number of exactly its own width.
pub(crate) fn array<const N: usize>(
    value: &[u8],
    field: &'static str,
) -> Result<[u8; N], ProtocolError> {
    value.try_into().map_err(|_| ProtocolError::Invalid { field, rule: "wrong width" })
}

pub(crate) fn u8(value: &[u8], field: &'static str) -> Result<u8, ProtocolError> {
    array(value, field).map(|[byte]| byte)
}

pub(crate) fn u16(value: &[u8], field: &'static str) -> Result<u16, ProtocolError> {
    array(value, field).map(u16::from_le_bytes)
}

pub(crate) fn u32(value: &[u8], field: &'static str) -> Result<u32, ProtocolError> {
    array(value, field).map(u32::from_le_bytes)
}

pub(crate) fn u64(value: &[u8], field: &'static str) -> Result<u64, ProtocolError> {
    array(value, field).map(u64::from_le_bytes)
}

pub(crate) fn bool(value: &[u8], field: &'static str) -> Result<bool, ProtocolError> {
    match u8(value, field)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(ProtocolError::Invalid { field, rule: "0 or 1" }),
    }
}

/// Text for people. Bytes that are not UTF-8 are replaced, control characters too: the other side
/// may be hostile, and this is shown on a terminal.
pub(crate) fn text(value: &[u8], bytes_max: usize) -> String {
    let value = &value[..value.len().min(bytes_max)];
    String::from_utf8_lossy(value)
        .chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}
