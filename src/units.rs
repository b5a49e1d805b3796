//! Units that names and configuration speak in: [`ByteCount`] parses `64MiB` and prints both forms, [`Factor`] is
//! `1.25` without rounding.

use std::fmt;
use std::str::FromStr;

/// A number of bytes. Parsed from an integer (`1048576`) or a number with a unit: `KiB`, `MiB`, `GiB`, `TiB` are
/// powers of 1024, `KB`, `MB`, `GB`, `TB` powers of 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(pub u64);

/// The text is not a byte count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a size: write bytes as a whole number, or a number with a unit such as \"512MiB\" or \"1GB\""
)]
pub struct ParseByteCountError(pub String);

impl ByteCount {
    /// 2^10 bytes.
    pub const KIB: u64 = 1 << 10;
    /// 2^20 bytes.
    pub const MIB: u64 = 1 << 20;
    /// 2^30 bytes.
    pub const GIB: u64 = 1 << 30;
}

/// Part of the service, whose configuration is text: it takes a library to read units.
#[cfg(feature = "server")]
impl FromStr for ByteCount {
    type Err = ParseByteCountError;

    fn from_str(text: &str) -> Result<ByteCount, ParseByteCountError> {
        let refuse = || ParseByteCountError(text.to_owned());
        let trimmed = text.trim();
        // Whole numbers go past bytesize, which computes in floats and would round above 2^53.
        if trimmed.bytes().all(|byte| byte.is_ascii_digit()) {
            return trimmed.parse().map(ByteCount).map_err(|_| refuse());
        }
        trimmed.parse::<bytesize::ByteSize>().map(|size| ByteCount(size.as_u64())).map_err(|_| refuse())
    }
}

impl ByteCount {
    /// The number in the largest binary unit not above it, `1 GiB` or `953.67 MiB`; nothing below 1 KiB, where the
    /// number itself is as short.
    pub fn in_binary_unit(self) -> Option<String> {
        const UNITS: [(u64, &str); 4] =
            [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let (unit, name) = UNITS.iter().find(|(unit, _)| self.0 >= *unit)?;
        if self.0.is_multiple_of(*unit) {
            return Some(format!("{} {name}", self.0 / unit));
        }
        #[expect(clippy::cast_precision_loss, reason = "two digits are printed")]
        let rounded = self.0 as f64 / *unit as f64;
        Some(format!("{rounded:.2} {name}"))
    }
}

/// Prints the exact number of bytes and, where it is shorter to read, the binary unit: `1073741824 (1 GiB)`.
impl fmt::Display for ByteCount {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.in_binary_unit() {
            Some(short) => write!(out, "{} ({short})", self.0),
            None => write!(out, "{}", self.0),
        }
    }
}

/// How many times as much, in thousandths, so that what is configured is what is printed. Parsed from `1.25`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Factor(u32);

impl Factor {
    /// A factor of so many thousandths.
    pub const fn thousandths(thousandths: u32) -> Factor {
        Factor(thousandths)
    }

    /// So many times `amount`, rounded up.
    pub fn of(self, amount: u64) -> u64 {
        let product = u128::from(amount) * u128::from(self.0);
        u64::try_from(product.div_ceil(1000)).unwrap_or(u64::MAX)
    }

    /// As a number.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// This less `other`; nothing where that is more.
    #[must_use]
    pub fn saturating_sub(self, other: Factor) -> Factor {
        Factor(self.0.saturating_sub(other.0))
    }

    /// So many times `amount`, rounded down.
    pub fn of_rounded_down(self, amount: u64) -> u64 {
        let product = u128::from(amount) * u128::from(self.0);
        u64::try_from(product / 1000).unwrap_or(u64::MAX)
    }
}

/// A whole number, with up to three digits behind a point.
impl FromStr for Factor {
    type Err = ();

    fn from_str(text: &str) -> Result<Factor, ()> {
        let (whole, digits) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
        let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let digits = if digits.len() > 3 { digits.trim_end_matches('0') } else { digits };
        if !are_digits(whole) || !are_digits(digits) || digits.len() > 3 {
            return Err(());
        }
        let behind: u32 = format!("{digits:0<3}").parse().map_err(|_| ())?;
        let whole: u32 = whole.parse().map_err(|_| ())?;
        whole.checked_mul(1000).and_then(|whole| whole.checked_add(behind)).map(Factor).ok_or(())
    }
}

/// With a digit behind the point at least, as TOML has it: `1.5`, `2.0`.
impl fmt::Display for Factor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let behind = format!("{:03}", self.0 % 1000);
        let behind = behind.trim_end_matches('0');
        write!(out, "{}.{}", self.0 / 1000, if behind.is_empty() { "0" } else { behind })
    }
}

/// How much of `whole` a part is; 0 where there is nothing.
#[expect(clippy::cast_precision_loss, reason = "a ratio needs few digits")]
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "server")]
    fn sizes_parse_as_integers_and_with_either_kind_of_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("10240", 10240),
            ("18446744073709551615", u64::MAX),
            ("512MiB", 512 << 20),
            ("1GB", 1_000_000_000),
            ("1.5 KiB", 1536),
            ("64 gib", 64 << 30),
        ] {
            assert_eq!(text.parse(), Ok(ByteCount(bytes)), "{text}");
        }
    }

    #[test]
    #[cfg(feature = "server")]
    fn what_is_no_size_is_refused_with_its_text() {
        for text in ["", "-1", "1.5.2", "12 parsecs", "MiB", "18446744073709551616"] {
            let refused = text.parse::<ByteCount>().expect_err(text);
            assert!(refused.to_string().contains(&format!("{text:?}")), "{refused}");
        }
    }

    #[test]
    fn sizes_print_both_units() {
        assert_eq!(ByteCount(1 << 30).to_string(), "1073741824 (1 GiB)");
        assert_eq!(ByteCount(1_000_000_000).to_string(), "1000000000 (953.67 MiB)");
        assert_eq!(ByteCount(512).to_string(), "512");
    }

    #[test]
    fn factors_are_read_and_printed_without_rounding() {
        for (text, thousandths, shown) in
            [("1.25", 1250, "1.25"), ("2", 2000, "2.0"), ("0.001", 1, "0.001"), (" 1.5000 ", 1500, "1.5")]
        {
            let factor: Factor = text.parse().expect(text);
            assert_eq!((factor, factor.to_string().as_str()), (Factor::thousandths(thousandths), shown));
        }
        for text in ["", ".", "1.", ".5", "-1", "1.2345", "1e3", "9999999999", "inf"] {
            assert!(text.parse::<Factor>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_factor_of_something_is_rounded_up_and_down_where_asked_for_and_never_wraps() {
        assert_eq!(Factor::thousandths(1500).of(3), 5);
        assert_eq!(Factor::thousandths(1000).of(u64::MAX), u64::MAX);
        assert_eq!(Factor::thousandths(2000).of(u64::MAX), u64::MAX);
        assert_eq!(Factor::thousandths(800).of(0), 0);
        assert_eq!(Factor::thousandths(800).of_rounded_down(4), 3);
        assert_eq!(Factor::thousandths(2000).of_rounded_down(u64::MAX), u64::MAX);
    }
}
