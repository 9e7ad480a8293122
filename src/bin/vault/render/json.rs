//! JSON Lines, shaped like restic's: `message_type` says what a line is.
//!
//! A name that is not UTF-8 stands in its field lossily, and exactly, in base 64, in the field of that name with `_b64`.

use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::Value;
use vault::snapshot::Time;

use super::text;

/// Adds a path as the field `key` of an object; and as `<key>_b64` if it is not UTF-8.
pub fn path_fields(object: &mut Value, key: &str, path: &[u8]) {
    let Value::Object(map) = object else { return };
    map.insert(key.to_owned(), String::from_utf8_lossy(path).into());
    if std::str::from_utf8(path).is_err() {
        map.insert(format!("{key}_b64"), base64(path).into());
    }
}

/// A time as RFC 3339 writes it.
pub fn time_text(time: Time, zone: &TimeZone) -> String {
    text::timestamp(time).map_or_else(
        || format!("@{}", time.secs),
        |timestamp| timestamp.display_with_offset(zone.to_offset(timestamp)).to_string(),
    )
}

/// One line. JSON allows any character above U+001F raw; those that a terminal would obey are escaped all the same.
pub fn to_line(value: &impl Serialize) -> String {
    let mut line = String::new();
    // It fails only for maps whose keys are no text.
    for c in serde_json::to_string(value).unwrap_or_default().chars() {
        if text::is_dangerous(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                line.extend(["\\u", &format!("{unit:04x}")]);
            }
        } else {
            line.push(c);
        }
    }
    line
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = bits >> (18 - 6 * place) & 63;
            text.push(if place <= group.len() { char::from(DIGITS[digit as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(b"\xff\xfe\xfb"), "//77");
    }

    #[test]
    fn only_names_that_are_not_utf8_have_an_exact_form() {
        let mut value = json!({});
        path_fields(&mut value, "path", b"a\xff");
        assert_eq!(value, json!({"path": "a\u{fffd}", "path_b64": "Yf8="}));
        let mut value = json!({});
        path_fields(&mut value, "path", "\u{e9}".as_bytes());
        assert_eq!(value, json!({"path": "\u{e9}"}));
    }

    #[test]
    fn a_line_has_no_character_that_a_terminal_obeys_and_reads_back_the_same() {
        let value = json!({"path": "a\u{1b}\u{202e}\u{9b}\u{7f}\u{e0001}b\n"});
        let line = to_line(&value);
        assert!(!line.chars().any(text::is_dangerous), "{line:?}");
        assert_eq!(serde_json::from_str::<Value>(&line).ok(), Some(value));
    }
}
