//! Canonical JSON, the bytes that are signed (TUF specification 1.0.33, 4.2.1, and OLPC's page).

use serde_json::Value;

/// `value` in the one form that everybody signs: keys sorted by code point, no white space, in
/// strings only `"` and `\` escaped. `None` where it holds a number that is no 64-bit integer.
pub fn canonical(value: &Value) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    write(value, &mut out).then_some(out)
}

fn write(value: &Value, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Null => out.extend(b"null"),
        Value::Bool(true) => out.extend(b"true"),
        Value::Bool(false) => out.extend(b"false"),
        Value::Number(number) if number.is_f64() => return false,
        Value::Number(number) => out.extend(number.to_string().as_bytes()),
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                if !write(item, out) {
                    return false;
                }
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            // UTF-8 sorts as code points do; serde_json may be built to keep the file's order.
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            out.push(b'{');
            for (i, name) in names.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                string(name, out);
                out.push(b':');
                if !write(&fields[name], out) {
                    return false;
                }
            }
            out.push(b'}');
        }
    }
    true
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_form() {
        let value: Value =
            serde_json::from_str(r#" { "b":[1,-2,true,null], "a":"\u00e4\n\"\\/", "B":{} } "#)
                .unwrap();
        let want = "{\"B\":{},\"a\":\"ä\n\\\"\\\\/\",\"b\":[1,-2,true,null]}";
        assert_eq!(canonical(&value).unwrap(), want.as_bytes());
        for number in ["1.5", "1e3", "18446744073709551616"] {
            assert!(canonical(&serde_json::from_str(number).unwrap()).is_none(), "{number}");
        }
    }
}
