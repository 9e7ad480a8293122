//! Words of the command line: sizes, rates, times, parts, levels.

use std::str::FromStr;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use vault::budget::MIN_MEMORY;
use vault::pack::Compression;
use vault::snapshot::Time;

/// Bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match parse_size(text.strip_suffix("/s").unwrap_or(text))? {
            0 => Err("a rate must be above 0".to_owned()),
            rate => Ok(Self(rate)),
        }
    }
}

/// Bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(pub u64);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match parse_size(text)? {
            memory @ MIN_MEMORY.. => Ok(Self(memory)),
            _ => Err(format!("it is at least {}M", MIN_MEMORY >> 20)),
        }
    }
}

/// A number of bytes: `1234`, `1.5G`, `64KiB`. Suffixes count in steps of 1024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: a number with K, M, G or T behind it if need be");
    let digits_len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_len);
    let shift = match suffix.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let whole = whole.checked_mul(1 << shift).ok_or_else(wrong)?;
    if fraction.is_empty() {
        return if number.ends_with('.') { Err(wrong()) } else { Ok(whole) };
    }
    if fraction.len() > 9 || fraction.contains('.') {
        return Err(wrong());
    }
    let part: u64 = fraction.parse().map_err(|_| wrong())?;
    let scale = 10u64.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
    let part = u128::from(part) * (1u128 << shift) / u128::from(scale);
    whole.checked_add(u64::try_from(part).map_err(|_| wrong())?).ok_or_else(wrong)
}

/// A label may not hold what separates it from the rest of a selector.
pub fn parse_label(text: &str) -> Result<String, String> {
    if text.chars().any(|c| matches!(c, '@' | ':' | '/') || c.is_control()) {
        return Err("a label has no '@', ':', '/' or control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// The name of a file that marks a folder, and what it begins with: `NAME` or `NAME:HEADER`.
pub fn parse_mark(text: &str) -> Result<String, String> {
    let name = text.split_once(':').map_or(text, |(name, _)| name);
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err("it is the name of a file in the folder, without a slash".to_owned());
    }
    Ok(text.to_owned())
}

/// A time as people write it: RFC 3339 with an offset, or a date with or without a time of day in `zone`.
pub fn parse_time(text: &str, zone: &TimeZone) -> Result<Time, String> {
    let timestamp = if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        timestamp
    } else {
        let civil = text
            .parse::<DateTime>()
            .or_else(|_| text.parse::<Date>().map(|date| date.at(0, 0, 0, 0)))
            .map_err(|_| format!("{text:?} is no time: try 2026-11-20 or '2026-11-20 14:10:00'"))?;
        zone.to_timestamp(civil).map_err(|error| format!("{text:?} is no time: {error}"))?
    };
    Ok(from_timestamp(timestamp))
}

/// The format's form of a time.
pub fn from_timestamp(timestamp: jiff::Timestamp) -> Time {
    let nanos = timestamp.as_nanosecond();
    let secs = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(0);
    Time { secs, nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0) }
}

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(pub Compression);

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(Compression::Off)),
            "fast" => Ok(Self(Compression::Level(1))),
            "default" => Ok(Self(Compression::Level(3))),
            "best" => Ok(Self(Compression::Level(19))),
            level => match level.parse() {
                Ok(level @ 1..=19) => Ok(Self(Compression::Level(level))),
                _ => Err("it is one of off, fast, default, best, or a number from 1 to 19".to_owned()),
            },
        }
    }
}

/// A part of the repository to read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Subset {
    /// So much of it, at random.
    Percent(f64),
    /// The n-th of so many parts.
    Part(u32, u32),
    /// So many bytes of it, at random.
    Bytes(u64),
}

impl FromStr for Subset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.parse::<f64>() {
                Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(Self::Percent(percent)),
                _ => Err("a percentage is above 0 and at most 100".to_owned()),
            };
        }
        if let Some((part, of)) = text.split_once('/') {
            return match (part.parse(), of.parse()) {
                (Ok(part), Ok(of)) if part >= 1 && part <= of => Ok(Self::Part(part, of)),
                _ => Err("a part is n/m, n from 1 to m".to_owned()),
            };
        }
        match parse_size(text)? {
            0 => Err("a part has more than 0 bytes".to_owned()),
            bytes => Ok(Self::Bytes(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_in_steps_of_1024() {
        for (text, size) in [
            ("0", 0),
            ("17", 17),
            ("1k", 1024),
            ("1.5G", 3 << 29),
            ("64KiB", 65536),
            ("2 M", 2 << 20),
            ("0.001k", 1),
        ] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "k", "1x", "-1", "1.2.3", "99999999T", "1.", ".5"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_local_unless_they_say_otherwise() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let secs = |text| parse_time(text, &zone).map(|time| time.secs);
        assert_eq!(secs("1970-01-02"), Ok(86400 - 7200));
        assert_eq!(secs("1970-01-01 02:00:01"), Ok(1));
        assert_eq!(secs("1970-01-01T00:00:01Z"), Ok(1));
        assert_eq!(parse_time("1969-12-31T23:59:59.5Z", &zone), Ok(Time { secs: -1, nanos: 500_000_000 }));
        assert!(secs("yesterday").is_err());
    }

    #[test]
    fn parts_and_levels_outside_of_their_range_are_refused() {
        assert_eq!("3/7".parse(), Ok(Subset::Part(3, 7)));
        assert_eq!("12.5%".parse(), Ok(Subset::Percent(12.5)));
        assert_eq!("1G".parse(), Ok(Subset::Bytes(1 << 30)));
        for text in ["0/7", "8/7", "0%", "101%", "NaN%", "x", "0"] {
            assert!(text.parse::<Subset>().is_err(), "{text}");
        }
        assert_eq!("19".parse(), Ok(Level(Compression::Level(19))));
        assert!("0".parse::<Level>().is_err() && "20".parse::<Level>().is_err());
    }
}
