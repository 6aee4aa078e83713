//! Quantities with their units written out: `"1h30m"`, `"64KiB"`. A number without a unit is never
//! guessed at.
//!
//! The one grammar for configuration, commands and arguments. An error says what is wrong and, if
//! it can be told, what would be right.

use core::fmt::{self, Write as _};

use crate::time::Duration;

/// Duration units from long to short, in nanoseconds.
const DURATIONS: [(&str, u64); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

/// Size units, in bytes.
const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Why a text is no quantity: what is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitError {
    /// "`30` has no unit"
    pub wrong: String,
    /// Text to write instead, if it can be told.
    pub instead: Option<String>,
}

/// "`30` has no unit; write \"1h30m\""
impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.wrong)?;
        match &self.instead {
            Some(instead) => write!(f, "; write \"{instead}\""),
            None => Ok(()),
        }
    }
}

impl core::error::Error for UnitError {}

impl UnitError {
    fn new(wrong: impl Into<String>, instead: Option<String>) -> Self {
        Self {
            wrong: wrong.into(),
            instead,
        }
    }
}

/// Whole numbers with units, long ones first, each at most once: `1h30m`, `100ms`.
///
/// # Errors
/// What is wrong, for the person who wrote it.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut last: Option<usize> = None;
    if text.is_empty() {
        return Err(UnitError::new("it is empty", None));
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() || (unit.is_empty() && !tail.is_empty()) {
            return Err(UnitError::new(
                "it is not a whole number with its unit",
                decimal_duration(text),
            ));
        }
        if unit.is_empty() {
            return Err(UnitError::new(
                format!("{} has no unit", quoted(number)),
                bare_duration(number, &text[..text.len() - rest.len()]),
            ));
        }
        let Some(index) = DURATIONS.iter().position(|(name, _)| *name == unit) else {
            return Err(UnitError::new(
                format!("{} is not a unit of time", quoted(unit)),
                duration_unit_meant(unit).map(|unit| format!("{number}{unit}")),
            ));
        };
        if last.is_some_and(|last| last >= index) {
            return Err(UnitError::new(
                "its units do not go from long to short, each once",
                None,
            ));
        }
        last = Some(index);
        total = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(DURATIONS[index].1))
            .and_then(|nanos| total.checked_add(nanos))
            .ok_or_else(|| UnitError::new("it is longer than 584 years", None))?;
        rest = tail;
    }
    Ok(Duration::from_nanos(total))
}

/// `1.5s`, `0,5 s` and `10 sec` as whole numbers.
fn decimal_duration(text: &str) -> Option<String> {
    let compact: String = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| if c == ',' { '.' } else { c })
        .collect();
    let split = compact.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = compact.split_at(split);
    let unit = duration_unit_meant(unit).unwrap_or(unit);
    let nanos = DURATIONS.iter().find(|(name, _)| *name == unit)?.1;
    let value: f64 = number.parse().ok()?;
    if !(value > 0.0 && value * (nanos as f64) < 1e18) {
        return None;
    }
    let micros = (value * nanos as f64 / 1e3).round() as u64;
    (micros > 0).then(|| format_duration(Duration::from_micros(micros)))
}

/// A number alone: in the unit that follows what came before, seconds otherwise.
fn bare_duration(number: &str, before: &str) -> Option<String> {
    let unit = match before.chars().last() {
        None => "s",
        Some('h') => "m",
        Some('m') => "s",
        _ => return None,
    };
    Some(format!("{before}{number}{unit}"))
}

/// What people write for units elsewhere.
fn duration_unit_meant(unit: &str) -> Option<&'static str> {
    Some(match unit {
        "sec" | "secs" | "second" | "seconds" | "S" => "s",
        "min" | "mins" | "minute" | "minutes" | "M" => "m",
        "hour" | "hours" | "hr" | "hrs" | "H" => "h",
        "day" | "days" | "D" => "d",
        "msec" | "msecs" | "millisecond" | "milliseconds" | "MS" | "millis" => "ms",
        "usec" | "usecs" | "microsecond" | "microseconds" | "micros" => "us",
        _ => return None,
    })
}

/// The shortest text that reads back the same: `1h30m`. Below a microsecond is lost: nothing is
/// configured that finely.
pub fn format_duration(duration: Duration) -> String {
    let mut nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let mut out = String::new();
    for (unit, size) in DURATIONS {
        if nanos >= size {
            let _ = write!(out, "{}{unit}", nanos / size);
            nanos %= size;
        }
    }
    if out.is_empty() {
        out.push_str("0s");
    }
    out
}

/// A stranger's word for use in a message: in backticks, escaped, and cut when it is long.
fn quoted(word: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    match word.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("`{}…`", word[..end].escape_debug()),
        None => format!("`{}`", word.escape_debug()),
    }
}

/// A whole number with its unit, in bytes: `64KiB`, `1MB`.
///
/// # Errors
/// What is wrong, for the person who wrote it.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let digits = compact.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = compact.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::new(
            "it is not a whole number with its unit",
            None,
        ));
    }
    if unit.is_empty() {
        return Err(UnitError::new(
            format!("{} has no unit", quoted(number)),
            number.parse().ok().map(likely_size),
        ));
    }
    let Some((_, bytes)) = SIZES.iter().find(|(name, _)| *name == unit) else {
        let meant = match unit.to_ascii_lowercase().as_str() {
            "k" | "kb" | "kib" => Some("KiB"),
            "m" | "mb" | "mib" => Some("MiB"),
            "g" | "gb" | "gib" => Some("GiB"),
            "b" | "byte" | "bytes" => Some("B"),
            _ => None,
        };
        return Err(UnitError::new(
            format!("{} is not a unit of size", quoted(unit)),
            meant.map(|unit| format!("{number}{unit}")),
        ));
    };
    if compact != text {
        return Err(UnitError::new("there is a space in it", Some(compact)));
    }
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*bytes))
        .ok_or_else(|| UnitError::new("it is larger than 16 EiB", None))
}

/// A number alone: bytes, if it is a number of bytes that somebody would write; megabytes
/// otherwise.
fn likely_size(number: u64) -> String {
    if number >= 1 << 10 {
        format_size(number)
    } else {
        format!("{number}MiB")
    }
}

/// The largest unit that fits without a remainder: `64KiB`, `1MB`.
pub fn format_size(bytes: u64) -> String {
    let (unit, size) = SIZES
        .iter()
        .filter(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size))
        .max_by_key(|(_, size)| *size)
        .unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / size)
}

/// About so many bytes, for people: `2.3KB`, `154MB`.
pub fn about_size(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut unit = "B";
    for larger in ["KB", "MB", "GB", "TB"] {
        if size < 999.5 {
            break;
        }
        size /= 1000.0;
        unit = larger;
    }
    if unit == "B" || size >= 99.95 {
        format!("{size:.0}{unit}")
    } else {
        format!("{size:.1}{unit}")
    }
}

/// So many in a time: `20/s`, `1000/m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; never 0.
    pub count: u64,
    /// In which time; never zero.
    pub per: Duration,
}

impl Rate {
    /// So many a second.
    pub const fn per_second(count: u64) -> Self {
        Self {
            count,
            per: Duration::from_secs(1),
        }
    }

    /// How long so many take at this rate.
    pub fn time_for(&self, count: u64) -> Duration {
        let nanos = u128::from(count) * self.per.as_nanos() / u128::from(self.count.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What a rate may be per.
const PER: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3600)];

/// A whole number, a slash and a unit of time: `20/s`.
///
/// # Errors
/// What is wrong, for the person who wrote it.
pub fn parse_rate(text: &str) -> Result<Rate, UnitError> {
    let (number, per) = split_rate(text)?;
    let count = number
        .parse::<u64>()
        .map_err(|_| UnitError::new("it is not a whole number in a time", None))?;
    rate(count, per)
}

/// A size, a slash and a unit of time: `64KiB/s`, counted in bytes.
///
/// # Errors
/// What is wrong, for the person who wrote it.
pub fn parse_size_rate(text: &str) -> Result<Rate, UnitError> {
    let (size, per) = split_rate(text)?;
    let bytes = parse_size(size).map_err(|mut error| {
        error.instead = error.instead.map(|size| format!("{size}/{per}"));
        error
    })?;
    rate(bytes, per)
}

fn split_rate(text: &str) -> Result<(&str, &str), UnitError> {
    text.split_once('/').ok_or_else(|| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let instead = is_number.then(|| format!("{text}/s"));
        UnitError::new("it does not say in which time", instead)
    })
}

fn rate(count: u64, per: &str) -> Result<Rate, UnitError> {
    let Some((_, seconds)) = PER.iter().find(|(unit, _)| *unit == per) else {
        let instead = duration_unit_meant(per).map(|unit| format!("{count}/{unit}"));
        let wrong = format!("{} is not a time to count in: s, m or h", quoted(per));
        return Err(UnitError::new(wrong, instead));
    };
    if count == 0 {
        return Err(UnitError::new("a rate is never 0", None));
    }
    Ok(Rate {
        count,
        per: Duration::from_secs(*seconds),
    })
}

/// The text that reads back the same: `20/s`.
pub fn format_rate(rate: Rate) -> String {
    format!("{}/{}", rate.count, per_unit(rate))
}

/// As [`format_rate`], for bytes: `64KiB/s`.
pub fn format_size_rate(rate: Rate) -> String {
    format!("{}/{}", format_size(rate.count), per_unit(rate))
}

fn per_unit(rate: Rate) -> &'static str {
    let seconds = rate.per.as_secs();
    let unit = PER.iter().find(|(_, size)| *size == seconds);
    unit.map_or("s", |(unit, _)| unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.0KB"),
            (2306, "2.3KB"),
            (99_940, "99.9KB"),
            (99_960, "100KB"),
            (123_456, "123KB"),
            (999_700, "1.0MB"),
            (1_611_610_000, "1.6GB"),
            (u64::MAX, "18446744TB"),
        ] {
            assert_eq!(about_size(bytes), text);
        }
    }

    #[test]
    fn durations_as_the_documentation_writes_them() {
        for (text, millis) in [
            ("100ms", 100),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("1d1h1m1s1ms", 90_061_001),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(parse_duration("250us"), Ok(Duration::from_micros(250)));
    }

    #[test]
    fn what_is_not_a_duration_comes_with_what_would_be() {
        for (text, instead) in [
            ("10", Some("10s")),
            ("1h30", Some("1h30m")),
            ("5m30", Some("5m30s")),
            ("1.5s", Some("1s500ms")),
            ("0,5 s", Some("500ms")),
            ("10 s", Some("10s")),
            ("10 sec", Some("10s")),
            ("1.5 hours", Some("1h30m")),
            ("10sec", Some("10s")),
            ("5min", Some("5m")),
            ("3weeks", None),
            ("s", None),
            ("", None),
            ("-5s", None),
            ("30m1h", None),
            ("1s1s", None),
            ("99999999999999999999s", None),
            ("9999999999d", None),
            ("é5s", None),
            ("5µs", None),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error.instead.as_deref(), instead, "{text}: {}", error.wrong);
        }
    }

    #[test]
    fn an_error_reads_as_one_sentence() {
        let error = |text| parse_duration(text).unwrap_err().to_string();
        assert_eq!(error("1h30"), "`30` has no unit; write \"1h30m\"");
        assert_eq!(
            error("5 min"),
            "it is not a whole number with its unit; write \"5m\""
        );
        assert_eq!(
            error("30m1h"),
            "its units do not go from long to short, each once"
        );
        let long = parse_size(&format!("1{}", "\u{1b}".repeat(100))).unwrap_err();
        assert!(!long.wrong.contains('\u{1b}'));
        assert!(long.wrong.ends_with("…` is not a unit of size"), "{long}");
    }

    #[test]
    fn sizes_as_the_documentation_writes_them() {
        for (text, bytes) in [
            ("64KiB", 65_536),
            ("1MB", 1_000_000),
            ("1MiB", 1_048_576),
            ("1GiB", 1 << 30),
            ("512B", 512),
        ] {
            assert_eq!(parse_size(text), Ok(bytes));
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn what_is_not_a_size_comes_with_what_would_be() {
        for (text, instead) in [
            ("1048576", Some("1MiB")),
            ("96", Some("96MiB")),
            ("64k", Some("64KiB")),
            ("64 KiB", Some("64KiB")),
            ("1 mb", Some("1MiB")),
            ("10 apples", None),
            ("", None),
            ("-1B", None),
            ("1.5MiB", None),
            ("99999999999999999999B", None),
            ("99999999999999GiB", None),
        ] {
            assert_eq!(
                parse_size(text).unwrap_err().instead.as_deref(),
                instead,
                "{text}"
            );
        }
    }

    #[test]
    fn rates_say_in_which_time() {
        for (text, count, seconds) in [("20/s", 20, 1), ("1000/m", 1000, 60), ("5/h", 5, 3600)] {
            let rate = parse_rate(text).unwrap();
            assert_eq!(
                (rate.count, rate.per),
                (count, Duration::from_secs(seconds))
            );
            assert_eq!(format_rate(rate), text);
        }
        let bytes = parse_size_rate("64KiB/s").unwrap();
        assert_eq!(bytes, Rate::per_second(65_536));
        assert_eq!(format_size_rate(bytes), "64KiB/s");
        assert_eq!(bytes.time_for(32_768), Duration::from_millis(500));
        for (text, instead) in [
            ("20", Some("20/s")),
            ("20/sec", Some("20/s")),
            ("20/ms", None),
            ("0/s", None),
            ("x/s", None),
            ("/s", None),
            ("", None),
        ] {
            let error = parse_rate(text).unwrap_err();
            assert_eq!(error.instead.as_deref(), instead, "{text}: {}", error.wrong);
        }
        let error = parse_size_rate("64k/s").unwrap_err();
        assert_eq!(error.instead.as_deref(), Some("64KiB/s"));
        assert!(parse_size_rate("64/s").is_err());
    }

    proptest! {
        #[test]
        fn a_duration_reads_back(micros in 1u64..10_000_000_000_000) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_size_reads_back(bytes in 1u64..=u64::MAX) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
            let _ = (parse_rate(&text), parse_size_rate(&text));
        }

        #[test]
        fn no_nearly_right_text_panics(text in "[0-9.,smhdukKMGiB -]{0,24}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
