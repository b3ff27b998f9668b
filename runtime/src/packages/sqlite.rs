//! The rows of one table of a SQLite 3 file: as much of its format (sqlite.org/fileformat2.html) as
//! rpm's database needs. Changes that lie in a write-ahead log beside it are not seen.

/// Trees of tables are at most this deep; a page of 512 bytes has at least two children.
const DEPTH_MAX: usize = 40;
/// A table has at most this many rows: a distribution has fewer packages.
const ROWS_MAX: usize = 200_000;
/// What is in a row behind these many values is not for us.
const VALUES_MAX: usize = 8;
const HEADER_BYTES: usize = 100;
const MAGIC: &[u8] = b"SQLite format 3\0";
const INTERIOR: u8 = 5;
const LEAF: u8 = 13;

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Integer(i64),
    /// A text's or a blob's.
    Bytes(Vec<u8>),
    /// Nothing, or a number with a point.
    Other,
}

/// A file in memory.
struct Database<'b> {
    bytes: &'b [u8],
    page_bytes: usize,
    /// Of each page, without what other programs keep at its end.
    usable: usize,
    /// Pages and bytes that may still be looked at: who names them twice does not get them twice.
    pages_left: usize,
    bytes_left: usize,
}

/// All rows of the table `name`; `None` where there is no such table. The error says what is wrong.
pub(super) fn rows(bytes: &[u8], name: &str) -> Result<Option<Vec<Vec<Value>>>, &'static str> {
    if bytes.len() < HEADER_BYTES || !bytes.starts_with(MAGIC) {
        return Err("it is no SQLite database");
    }
    let page_bytes = match u16::from_be_bytes([bytes[16], bytes[17]]) {
        1 => 65_536,
        n if n >= 512 && n.is_power_of_two() => usize::from(n),
        _ => return Err("its pages have no valid size"),
    };
    let usable = page_bytes - usize::from(bytes[20]);
    if usable < 480 {
        return Err("its pages have no valid size");
    }
    let pages_left = bytes.len() / page_bytes;
    let mut database = Database { bytes, page_bytes, usable, pages_left, bytes_left: bytes.len() };
    // Of each table: type, name, its indexed table's name, first page, how it was made.
    let root = database.table(1)?.into_iter().find_map(|row| match row.as_slice() {
        [Value::Bytes(kind), Value::Bytes(found), _, Value::Integer(page), ..]
            if kind == b"table" && found == name.as_bytes() =>
        {
            usize::try_from(*page).ok()
        }
        _ => None,
    });
    root.map(|root| database.table(root)).transpose()
}

impl<'b> Database<'b> {
    fn table(&mut self, root: usize) -> Result<Vec<Vec<Value>>, &'static str> {
        let mut rows = Vec::new();
        self.walk(root, 0, &mut rows)?;
        Ok(rows)
    }

    fn page(&mut self, number: usize) -> Result<&'b [u8], &'static str> {
        self.pages_left = self.pages_left.checked_sub(1).ok_or("its pages go round in circles")?;
        let start = number.checked_sub(1).and_then(|n| n.checked_mul(self.page_bytes));
        let page = start.and_then(|start| self.bytes.get(start..start + self.page_bytes));
        page.ok_or("a page is missing")
    }

    fn walk(
        &mut self,
        number: usize,
        depth: usize,
        rows: &mut Vec<Vec<Value>>,
    ) -> Result<(), &'static str> {
        if depth > DEPTH_MAX {
            return Err("its pages go round in circles");
        }
        let page = self.page(number)?;
        let head = if number == 1 { HEADER_BYTES } else { 0 };
        let cells = usize::from(number_at(page, head + 3, 2)? as u16);
        match page[head] {
            LEAF => {
                for cell in 0..cells {
                    let at = number_at(page, head + 8 + 2 * cell, 2)? as usize;
                    let payload = self.payload(page, at)?;
                    if rows.len() == ROWS_MAX {
                        return Err("it has too many rows");
                    }
                    rows.push(record(&payload)?);
                }
            }
            INTERIOR => {
                for cell in 0..cells {
                    let at = number_at(page, head + 12 + 2 * cell, 2)? as usize;
                    self.walk(number_at(page, at, 4)? as usize, depth + 1, rows)?;
                }
                self.walk(number_at(page, head + 8, 4)? as usize, depth + 1, rows)?;
            }
            _ => return Err("a page is not a table's"),
        }
        Ok(())
    }

    /// The row of the leaf's cell at `at`: what does not fit is in pages of its own.
    fn payload(&mut self, page: &[u8], mut at: usize) -> Result<Vec<u8>, &'static str> {
        let length = varint(page, &mut at)?;
        let _row = varint(page, &mut at)?;
        let length = usize::try_from(length).map_err(|_| "a row is too long")?;
        self.bytes_left = self.bytes_left.checked_sub(length).ok_or("a row is too long")?;
        let most = self.usable - 35;
        let least = (self.usable - 12) * 32 / 255 - 23;
        let here = if length <= most {
            length
        } else {
            let here = least + (length - least) % (self.usable - 4);
            if here <= most { here } else { least }
        };
        let mut payload = page.get(at..at + here).ok_or("a row is cut short")?.to_vec();
        if here < length {
            let mut next = number_at(page, at + here, 4)? as usize;
            while payload.len() < length {
                let page = self.page(next)?;
                next = number_at(page, 0, 4)? as usize;
                let more = (length - payload.len()).min(self.usable - 4);
                payload.extend_from_slice(&page[4..4 + more]);
            }
        }
        Ok(payload)
    }
}

/// The first values of a row.
fn record(payload: &[u8]) -> Result<Vec<Value>, &'static str> {
    let mut at = 0;
    let head = usize::try_from(varint(payload, &mut at)?).map_err(|_| "a row is damaged")?;
    let (mut values, mut value_at) = (Vec::new(), head);
    while at < head && values.len() < VALUES_MAX {
        let kind = varint(payload, &mut at)?;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            _ => kind.saturating_sub(12) / 2,
        };
        let length = usize::try_from(length).map_err(|_| "a row is damaged")?;
        let end = value_at.checked_add(length).ok_or("a row is damaged")?;
        let bytes = payload.get(value_at..end).ok_or("a row is cut short")?;
        value_at = end;
        values.push(match kind {
            8 | 9 => Value::Integer(kind as i64 - 8),
            1..=6 => {
                let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
                Value::Integer(bytes.iter().fold(sign, |n, byte| n << 8 | i64::from(*byte)))
            }
            12.. => Value::Bytes(bytes.to_vec()),
            _ => Value::Other,
        });
    }
    Ok(values)
}

/// A number of `length` bytes, the highest first.
fn number_at(page: &[u8], at: usize, length: usize) -> Result<u32, &'static str> {
    let bytes = page.get(at..at.saturating_add(length)).ok_or("a page is damaged")?;
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

/// Seven bits of each byte, the highest first, up to one without its eighth; all of the ninth.
fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, &'static str> {
    let mut number = 0_u64;
    for n in 0..9 {
        let byte = *bytes.get(*at).ok_or("a row is cut short")?;
        *at += 1;
        if n == 8 {
            return Ok(number << 8 | u64::from(byte));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What SQLite, as Python has it, makes of `script`.
    fn made(script: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let run = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])";
        let made = Command::new("python3").args(["-c", run]).arg(&path).arg(script).output();
        let made = made.expect("python3: run tests/setup tests");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn rows_of_all_lengths_come_back() {
        for page in [512, 4096, 65_536] {
            let bytes = made(&format!(
                "pragma page_size={page}; create table other(x); \
                 create table t(n integer primary key, size integer, b blob); \
                 with recursive c(i) as (select 1 union all select i + 1 from c where i < 700) \
                 insert into t select i, i * i * i, randomblob(i * 31) from c;"
            ));
            let found = rows(&bytes, "t").unwrap().unwrap();
            assert_eq!(found.len(), 700);
            for (row, i) in found.iter().zip(1_i64..) {
                let [_, size, Value::Bytes(blob)] = &row[..] else { panic!("{row:?}") };
                assert_eq!((size, blob.len() as i64), (&Value::Integer(i * i * i), i * 31));
            }
            assert_eq!(rows(&bytes, "other").unwrap(), Some(vec![]));
            assert_eq!(rows(&bytes, "none").unwrap(), None);
        }
    }

    #[test]
    fn a_row_of_nothing_and_rows_that_are_one_take_little_memory() {
        let mut row = vec![0; 70_000];
        row[..3].copy_from_slice(&[0x84, 0xa2, 0x70]); // 70,000, all of it kinds of values: nothing
        assert_eq!(record(&row).unwrap().len(), VALUES_MAX);
        // Every cell of every page is the same one.
        const PAGE: usize = 65_536;
        const LEAVES: usize = 9;
        let mut bytes = vec![0; (1 + LEAVES) * PAGE];
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes[17] = 1;
        bytes[HEADER_BYTES] = INTERIOR;
        bytes[HEADER_BYTES + 4] = LEAVES as u8 - 1;
        bytes[HEADER_BYTES + 11] = 2;
        for leaf in 0..LEAVES {
            if leaf > 0 {
                let (cell, at) = (HEADER_BYTES + 10 + 2 * leaf, 1000 + 8 * leaf);
                bytes[cell..cell + 2].copy_from_slice(&(at as u16).to_be_bytes());
                bytes[at + 3] = 2 + leaf as u8;
            }
            let page = &mut bytes[(1 + leaf) * PAGE..][..PAGE];
            page[0] = LEAF;
            page[3..5].copy_from_slice(&32_000_u16.to_be_bytes());
            for cell in 0..32_000 {
                page[8 + 2 * cell..][..2].copy_from_slice(&65_000_u16.to_be_bytes());
            }
            page[65_000..65_003].copy_from_slice(&[1, 1, 1]);
        }
        assert_eq!(rows(&bytes, "t"), Err("it has too many rows"));
    }

    #[test]
    fn damaged_files_give_errors_or_rows() {
        let bytes = made(
            "pragma page_size=512; create table t(b blob); with recursive c(i) as (select 1 union \
             all select i + 1 from c where i < 60) insert into t select randomblob(i * 20) from c;",
        );
        let mut state = 7_u64;
        let mut errors = 0;
        for round in 0..3_000 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + round % 4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % damaged.len();
                damaged[at] = (state >> 20) as u8;
            }
            damaged.truncate(bytes.len() - (round % 3) * 700);
            errors += usize::from(rows(&damaged, "t").is_err());
        }
        assert!(errors > 100, "{errors}");
        for short in [0, 15, 16, 99, 100, 511] {
            assert!(rows(&bytes[..short], "t").is_err());
        }
    }
}
