//! Conditions and ranges of requests about content: `If-Match`, `If-None-Match`, `Range` (RFC 9110, sections 13, 14).

use crate::pool::{Precondition, Versions};
use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue};
use std::ops::Range;

/// The versions that a request names in `If-Match` and `If-None-Match`.
pub(super) fn of(headers: &HeaderMap) -> Precondition {
    Precondition {
        if_match: versions(headers, &IF_MATCH, false),
        if_none_match: versions(headers, &IF_NONE_MATCH, true),
    }
}

/// The versions in all headers of that name; none if there is no such header. A tag that is none of ours names no
/// version. A weak tag matches only where the comparison is weak.
fn versions(headers: &HeaderMap, name: &HeaderName, weakly: bool) -> Option<Versions> {
    if !headers.contains_key(name) {
        return None;
    }
    let mut named = Vec::new();
    for value in headers.get_all(name) {
        // Our tags hold digits only, so a comma always parts two of them.
        for tag in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if tag == b"*" {
                return Some(Versions::Any);
            }
            let strong = tag.strip_prefix(b"W/").filter(|_| weakly).unwrap_or(tag);
            named.extend(version(strong));
        }
    }
    Some(Versions::OneOf(named))
}

/// The version that a strong tag of ours names: digits in quotes, as we write them.
fn version(tag: &[u8]) -> Option<u64> {
    let digits = tag.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if digits.is_empty() || digits.len() > 1 && digits[0] == b'0' || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What a `Range` header asks of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ByteRange {
    /// All: there is no range, several, or none that can be understood.
    Whole,
    Part(Range<u64>),
    /// It begins beyond the end.
    Unsatisfiable,
}

/// What `range` asks of content of `size_bytes`.
pub(super) fn range(range: &HeaderValue, size_bytes: u64) -> ByteRange {
    let text = range.to_str().unwrap_or_default().trim();
    let Some((unit, ranges)) = text.split_once('=') else { return ByteRange::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return ByteRange::Whole;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else { return ByteRange::Whole };
    // A number beyond 64 bits is beyond every end.
    let number = |text: &str| {
        let text = text.trim();
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first.trim().is_empty(), number(first), last.trim().is_empty(), number(last)) {
        // The last so many bytes.
        (true, _, _, Some(0)) => ByteRange::Unsatisfiable,
        (true, _, _, Some(suffix)) => ByteRange::Part(size_bytes.saturating_sub(suffix)..size_bytes),
        (_, Some(first), true, _) if first < size_bytes => ByteRange::Part(first..size_bytes),
        (_, Some(first), _, Some(last)) if first <= last && first < size_bytes => {
            ByteRange::Part(first..last.saturating_add(1).min(size_bytes))
        }
        (_, Some(first), true, _) if first >= size_bytes => ByteRange::Unsatisfiable,
        (_, Some(first), _, Some(last)) if first <= last => ByteRange::Unsatisfiable,
        _ => ByteRange::Whole,
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_understood_as_rfc_9110_says() {
        let of_ten = |text: &'static str| range(&HeaderValue::from_static(text), 10);
        for (text, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=2-5", 2..6),
            ("bytes=2-", 2..10),
            ("bytes=9-99999999999999999999999", 9..10),
            ("bytes=-3", 7..10),
            ("bytes=-30", 0..10),
            ("BYTES = 1 - 2 ", 1..3),
        ] {
            assert_eq!(of_ten(text), ByteRange::Part(part), "{text}");
        }
        for text in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(of_ten(text), ByteRange::Unsatisfiable, "{text}");
        }
        for text in [
            "bytes=0-1,3-4",
            "bytes=5-2",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "lines=1-2",
            "bytes",
            "",
            "bytes=+1-2",
            "bytes=1-2-3",
        ] {
            assert_eq!(of_ten(text), ByteRange::Whole, "{text}");
        }
    }

    #[test]
    fn tags_name_versions_and_weak_ones_only_weakly() {
        let mut headers = HeaderMap::new();
        assert_eq!(of(&headers), Precondition::default());
        headers.append(IF_MATCH, HeaderValue::from_static("\"3\" , W/\"4\",\"05\",\"x\", 6"));
        headers.append(IF_MATCH, HeaderValue::from_static("\"7\""));
        headers.append(IF_NONE_MATCH, HeaderValue::from_static("W/\"4\""));
        let conditions = of(&headers);
        assert_eq!(conditions.if_match, Some(Versions::OneOf(vec![3, 7])));
        assert_eq!(conditions.if_none_match, Some(Versions::OneOf(vec![4])));
        headers.append(IF_MATCH, HeaderValue::from_static("*"));
        assert_eq!(of(&headers).if_match, Some(Versions::Any));
    }
}
