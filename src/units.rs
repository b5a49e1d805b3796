//! Units that names and configuration speak in: [`ByteCount`] parses `64MiB` and prints both forms.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
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
}
