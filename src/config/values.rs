//! Values before they have a meaning, and how each kind of key reads one.
//!
//! TOML gives typed values; the environment and the flags give words, which may become anything. So `port = "3000"`
//! is wrong in a file, where a number was as easy to write, and right in `SERVER_PORT=3000`. Sizes and durations
//! are read from text everywhere, because there the text carries the unit. A reader's error says what is expected.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::units::{ByteCount, Factor};

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw {
    /// Text without a type: from the environment, `.env` or a flag.
    Word(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i128),
    /// A TOML float.
    Float(f64),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array.
    List(Vec<Raw>),
    /// A TOML table inside an array, or anything else that no key takes.
    Other,
}

/// The longest value that an error repeats, in characters.
const SHOWN_CHARACTERS_MAX: usize = 120;

impl Raw {
    /// A whole number within `range`.
    pub(super) fn number<T>(&self, range: RangeInclusive<T>) -> Result<T, String>
    where
        T: TryFrom<i128> + PartialOrd + Display,
    {
        let number = match self {
            Raw::Integer(number) => Some(*number),
            Raw::Word(text) => whole_number(text),
            _ => None,
        };
        number
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
    }

    /// A number of bytes within `range`.
    pub(super) fn size(&self, range: RangeInclusive<u64>) -> Result<u64, String> {
        let bytes = match self {
            Raw::Integer(number) => u64::try_from(*number).ok(),
            Raw::Word(text) | Raw::Text(text) => size(text),
            _ => None,
        };
        bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
            let range = size_range(&range);
            format!(
                "expected a size {range}: bytes as a whole number, or with a unit such as \"512MiB\" or \"1GB\""
            )
        })
    }

    /// A time span within `range`; a plain whole number counts seconds.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Result<Duration, String> {
        let duration = match self {
            Raw::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            Raw::Word(text) | Raw::Text(text) => duration(text),
            _ => None,
        };
        duration.filter(|duration| range.contains(duration)).ok_or_else(|| {
            let [least, most] = [range.start(), range.end()].map(|end| humantime::format_duration(*end));
            format!(
                "expected a duration from {least} to {most}: seconds as a whole number, or with a unit such as \
                 \"30s\" or \"250ms\""
            )
        })
    }

    /// A number with up to three digits behind a point, within `range`.
    pub(super) fn factor(&self, range: RangeInclusive<Factor>) -> Result<Factor, String> {
        let factor = match self {
            Raw::Integer(number) => number.to_string().parse().ok(),
            // The shortest text that is this float, which is what was written.
            Raw::Float(number) => number.to_string().parse().ok(),
            Raw::Word(text) => text.parse().ok(),
            _ => None,
        };
        factor.filter(|factor| range.contains(factor)).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            format!("expected a number from {least} to {most}, with up to three digits behind the point")
        })
    }

    /// Yes or no.
    pub(super) fn boolean(&self) -> Result<bool, String> {
        match self {
            Raw::Boolean(value) => Ok(*value),
            Raw::Word(text) if ["true", "1"].contains(&text.trim().to_ascii_lowercase().as_str()) => Ok(true),
            Raw::Word(text) if ["false", "0"].contains(&text.trim().to_ascii_lowercase().as_str()) => {
                Ok(false)
            }
            _ => Err("expected true or false".to_owned()),
        }
    }

    /// Text, without the white space around it.
    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Raw::Word(text) | Raw::Text(text) => Ok(text.trim()),
            _ => Err("expected text".to_owned()),
        }
    }

    /// Several values: a TOML array, or words between commas.
    pub(super) fn list(&self) -> Result<Vec<Raw>, String> {
        match self {
            Raw::List(values) => Ok(values.clone()),
            Raw::Word(text) => {
                // Brackets and quotes as `maas config` prints them are fine too.
                let text = text.trim();
                let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
                let word = |part: &str| Raw::Word(part.trim().trim_matches('"').to_owned());
                Ok(if bare.trim().is_empty() { Vec::new() } else { bare.split(',').map(word).collect() })
            }
            _ => Err("expected a list: [1024, \"4KiB\"] in a file, 1024,4KiB in the environment".to_owned()),
        }
    }

    /// The word that asks for what the program would choose by itself.
    pub(super) fn is_auto(&self) -> bool {
        matches!(self, Raw::Word(text) | Raw::Text(text) if text.trim() == "auto")
    }
}

/// As TOML writes it, shortened, and without credentials.
impl Display for Raw {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Raw::Word(text) | Raw::Text(text) => {
                let hidden = hide_credentials(text);
                match hidden.char_indices().nth(SHOWN_CHARACTERS_MAX) {
                    Some((end, _)) => write!(out, "{:?}…", &hidden[..end]),
                    None => write!(out, "{hidden:?}"),
                }
            }
            Raw::Integer(number) => write!(out, "{number}"),
            Raw::Float(number) => write!(out, "{number:?}"),
            Raw::Boolean(value) => write!(out, "{value}"),
            Raw::List(values) => {
                let shown: Vec<String> = values.iter().take(8).map(Raw::to_string).collect();
                let more = if values.len() > 8 { ", …" } else { "" };
                write!(out, "[{}{more}]", shown.join(", "))
            }
            Raw::Other => out.write_str("{…}"),
        }
    }
}

/// Replaces what stands before the last `@` of a URL by `***`. It hides too much rather than too little: a password
/// with a `/` in it makes the text no URL, and is a password all the same.
pub fn hide_credentials(text: &str) -> String {
    let Some(end) = text.rfind('@') else { return text.to_owned() };
    let start = text[..end].find("://").map_or(0, |scheme| scheme + "://".len());
    format!("{}***{}", &text[..start], &text[end..])
}

fn whole_number(text: &str) -> Option<i128> {
    let text = text.trim();
    let digits = text.strip_prefix('-').unwrap_or(text);
    // `parse` alone would also take a plus sign, which no other source of numbers has.
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    // A fraction of a byte is no size, though the parser of units would round it down.
    if text.contains('.') && !text.contains(|letter: char| letter.is_ascii_alphabetic()) {
        return None;
    }
    text.parse::<ByteCount>().ok().map(|size| size.0)
}

fn duration(text: &str) -> Option<Duration> {
    match whole_number(text) {
        Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
        None => humantime::parse_duration(text.trim()).ok(),
    }
}

fn size_range(range: &RangeInclusive<u64>) -> String {
    let short = |bytes: u64| ByteCount(bytes).in_binary_unit().unwrap_or_else(|| bytes.to_string());
    match *range.end() {
        u64::MAX => format!("of at least {}", short(*range.start())),
        end => format!("from {} to {}", short(*range.start()), short(end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Raw {
        Raw::Word(text.to_owned())
    }

    fn text(text: &str) -> Raw {
        Raw::Text(text.to_owned())
    }

    #[test]
    fn numbers_come_from_words_and_integers_within_their_bounds() {
        assert_eq!(word(" 3000 ").number(0..=u16::MAX), Ok(3000));
        assert_eq!(Raw::Integer(65535).number(0..=u16::MAX), Ok(65535));
        let refused = "expected a whole number from 1 to 65535";
        let wrong = [word("-1"), word(""), word("+5"), word("1e3"), word("65536"), word("0"), text("3000")];
        for raw in wrong.into_iter().chain([Raw::Boolean(true), Raw::Float(1.0), Raw::Integer(-1)]) {
            assert_eq!(raw.number(1..=u16::MAX), Err(refused.to_owned()), "{raw:?}");
        }
        assert!(word("99999999999999999999999999999999999999999999").number(0..=u64::MAX).is_err());
    }

    #[test]
    fn sizes_come_with_and_without_units_from_every_source() {
        for raw in [word("512MiB"), text("512MiB"), text("536870912"), Raw::Integer(512 << 20)] {
            assert_eq!(raw.size(1..=1 << 40), Ok(512 << 20), "{raw:?}");
        }
        assert_eq!(word("1GB").size(1..=u64::MAX), Ok(1_000_000_000));
        for raw in [word(""), word("-1"), word("1.5"), text("2 parsecs"), Raw::Float(1.5), Raw::Integer(-1)] {
            let refused = raw.size(1..=1 << 40).expect_err("not a size");
            assert!(refused.starts_with("expected a size from 1 to 1 TiB: "), "{refused}");
        }
        assert!(
            word("0").size(1..=u64::MAX).expect_err("0 < 1").starts_with("expected a size of at least 1: ")
        );
    }

    #[test]
    fn durations_count_seconds_or_name_their_unit() {
        let range = Duration::from_millis(1)..=Duration::from_secs(86_400);
        for (raw, milliseconds) in [
            (Raw::Integer(30), 30_000),
            (word("30"), 30_000),
            (text("30"), 30_000),
            (text("250ms"), 250),
            (word("1m 30s"), 90_000),
        ] {
            assert_eq!(raw.duration(range.clone()), Ok(Duration::from_millis(milliseconds)), "{raw:?}");
        }
        for raw in
            [word(""), word("-1"), word("0"), word("0.5"), Raw::Float(0.5), text("2days"), word("5 bananas")]
        {
            let refused = raw.duration(range.clone()).expect_err("not a duration");
            assert!(refused.starts_with("expected a duration from 1ms to 1day: "), "{raw:?} {refused}");
        }
    }

    #[test]
    fn factors_come_from_words_integers_and_floats_within_their_bounds() {
        let range = Factor::thousandths(1000)..=Factor::thousandths(16_000);
        for (raw, thousandths) in [
            (word("1.25"), 1250),
            (Raw::Float(1.1), 1100),
            (Raw::Float(16.0), 16_000),
            (Raw::Integer(2), 2000),
            (word("1"), 1000),
        ] {
            assert_eq!(raw.factor(range.clone()), Ok(Factor::thousandths(thousandths)), "{raw:?}");
        }
        for raw in [
            word("0.9"),
            word("16.001"),
            text("1.5"),
            Raw::Float(f64::NAN),
            Raw::Integer(-1),
            Raw::Float(1e300),
        ] {
            let refused = raw.factor(range.clone()).expect_err("not a factor");
            assert!(refused.starts_with("expected a number from 1.0 to 16.0, "), "{raw:?} {refused}");
        }
    }

    #[test]
    fn booleans_and_lists_have_a_form_for_words() {
        assert_eq!((word("TRUE").boolean(), word("0").boolean()), (Ok(true), Ok(false)));
        assert_eq!(Raw::Boolean(true).boolean(), Ok(true));
        for raw in [word(""), word("maybe"), text("true"), Raw::Integer(1)] {
            assert!(raw.boolean().is_err(), "{raw:?}");
        }
        assert_eq!(word("1024, 4KiB").list(), Ok(vec![word("1024"), word("4KiB")]));
        assert_eq!(word("").list(), Ok(vec![]));
        assert!(text("1024,4096").list().is_err());
    }

    #[test]
    fn values_are_shown_without_credentials_and_never_at_length() {
        assert_eq!(word("http://me:secret@host/path").to_string(), "\"http://***@host/path\"");
        assert_eq!(word("http://me:se/cr@et@host").to_string(), "\"http://***@host\"");
        assert_eq!(word("me:secret@host").to_string(), "\"***@host\"");
        assert_eq!(word("line\nbreak\u{1b}[0m").to_string(), "\"line\\nbreak\\u{1b}[0m\"");
        assert!(word(&"é".repeat(100_000)).to_string().chars().count() < 130);
        assert!(Raw::List(vec![Raw::Integer(1); 1000]).to_string().len() < 60);
    }
}
