//! Bytes, numbers and times as text for people.

use jiff::tz::TimeZone;
use vault::snapshot::{Entry, Kind, Time};

/// Text that is safe on a terminal: control characters, those that change the direction of writing, and bytes that are not
/// UTF-8 are written as `\x1b` or `\u{202e}`. Safe text is not changed, so escaping twice does no harm.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if !is_dangerous(c) {
                text.push(c);
            } else if c.is_ascii() {
                text.extend(["\\x", &format!("{:02x}", u32::from(c))]);
            } else {
                text.extend(["\\u{", &format!("{:x}}}", u32::from(c))]);
            }
        }
        for byte in chunk.invalid() {
            text.extend(["\\x", &format!("{byte:02x}")]);
        }
    }
    text
}

/// Whether a terminal might obey a character instead of showing it, or show what stands around it elsewhere.
pub fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A number of bytes: `17 B`, `1.2 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = "";
    for name in UNITS {
        // Rounded up to the next unit where it would show as 1024.0.
        if tenths < 10_235 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        unit = name;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// A number with its digits in groups: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and the word for what it counts.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A length of time: `0.4 s`, `12 s`, `3:05 min`, `1:02:03 h`.
pub fn duration(duration: std::time::Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{secs} s"),
        60..3600 => format!("{}:{:02} min", secs / 60, secs % 60),
        _ => format!("{}:{:02}:{:02} h", secs / 3600, secs / 60 % 60, secs % 60),
    }
}

/// A time in this zone, as `format` says; the bare number of seconds where no calendar reaches.
pub fn time(time: Time, zone: &TimeZone, format: &str) -> String {
    timestamp(time).map_or_else(
        || format!("@{}", time.secs),
        |timestamp| timestamp.to_zoned(zone.clone()).strftime(format).to_string(),
    )
}

/// The calendar's form of a time, where a calendar reaches.
pub fn timestamp(time: Time) -> Option<jiff::Timestamp> {
    let nanos = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    jiff::Timestamp::from_nanosecond(nanos).ok()
}

/// The letter and the permissions of an entry, as `ls -l` shows them.
pub fn permissions(entry: &Entry) -> String {
    let kind = match entry.kind {
        Kind::Directory(_) | Kind::Implied(_) => 'd',
        Kind::File(..) => '-',
        Kind::Symlink(_) => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::BlockDevice(..) => 'b',
        Kind::CharDevice(..) => 'c',
        Kind::LeftOut(..) => '?',
    };
    let mode = entry.meta.mode;
    let mut text = String::from(kind);
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => set,
            (false, true) => unset,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_nothing_else() {
        for (bytes, text) in [
            (&b"plain name"[..], "plain name"),
            ("\u{e9}\u{1f600}".as_bytes(), "\u{e9}\u{1f600}"),
            (b"\x1b[31m\n\t\x07\x7f", "\\x1b[31m\\x0a\\x09\\x07\\x7f"),
            ("a\u{202e}b\u{2066}".as_bytes(), "a\\u{202e}b\\u{2066}"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            (b"\xff\xe2\x80", "\\xff\\xe2\\x80"),
            (b"back\\slash", "back\\slash"),
        ] {
            assert_eq!(escape(bytes), text);
            assert_eq!(escape(text.as_bytes()), text, "escaping twice changes it");
        }
    }

    #[test]
    fn sizes_have_at_most_four_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(123), "123");
    }

    #[test]
    fn times_out_of_the_calendar_are_numbers() {
        assert_eq!(time(Time { secs: -1, nanos: 0 }, &TimeZone::UTC, "%F %T"), "1969-12-31 23:59:59");
        assert_eq!(time(Time { secs: i64::MAX, nanos: 0 }, &TimeZone::UTC, "%F"), format!("@{}", i64::MAX));
    }
}
