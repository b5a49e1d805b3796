//! Checks of single values that are more than a range: addresses, URLs, paths, size classes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::values::Raw;
use crate::memory::{self, Fit, HugePages};
use crate::pool::Policy;
use crate::tasks;

pub use crate::memory::SIZE_BYTES_MAX;

/// The most size classes there can be.
pub const SLAB_SIZES_MAX: usize = memory::CLASSES_MAX;

/// An address or a host name, without a port.
pub(super) fn host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if text.is_empty() || text.len() > 253 || !text.bytes().all(is_name) {
        return Err("expected an address or a host name, without a port".to_owned());
    }
    Ok(text.to_owned())
}

/// A base URL that paths can be added to: `http://` or `https://`, a host, no query, no fragment.
pub(super) fn url(text: &str) -> Result<(), String> {
    let refused = |error| format!("expected a URL such as \"http://host:8080\": {error}");
    tasks::check_url(text).map_err(refused)
}

/// A path that is added to a base URL.
pub(super) fn path(text: &str) -> Result<String, String> {
    let is_plain = |letter: char| !letter.is_whitespace() && !letter.is_control() && letter != '#';
    if !text.starts_with('/') || !text.chars().all(is_plain) {
        return Err("expected a path that begins with \"/\", without white space".to_owned());
    }
    Ok(text.to_owned())
}

/// The name of a Pushgateway job; it becomes one segment of a path, which a slash would break in two.
pub(super) fn job(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(|letter: char| letter == '/' || letter.is_control()) {
        return Err("expected a name without \"/\"".to_owned());
    }
    Ok(text.to_owned())
}

/// Who is turned away before the pool is full.
pub(super) fn policy(text: &str) -> Result<Policy, String> {
    let policy = Policy::ALL.into_iter().find(|policy| policy.name() == text);
    policy.ok_or_else(|| "expected \"hard\" or \"graduated\"".to_owned())
}

/// The size classes: at least one, no two alike, each a multiple of 8.
pub(super) fn slab_sizes(raw: &Raw) -> Result<Vec<u64>, String> {
    let values = raw.list()?;
    if !(1..=SLAB_SIZES_MAX).contains(&values.len()) {
        return Err(format!("expected 1 to {SLAB_SIZES_MAX} sizes, got {}", values.len()));
    }
    let mut seen = BTreeSet::new();
    let mut sizes = Vec::with_capacity(values.len());
    for value in &values {
        let size = value.size(8..=SIZE_BYTES_MAX).map_err(|expected| format!("{value}: {expected}"))?;
        if !size.is_multiple_of(8) {
            return Err(format!("{value}: expected multiples of 8"));
        }
        if !seen.insert(size) {
            return Err(format!("{value}: the size {size} is listed twice"));
        }
        sizes.push(size);
    }
    Ok(sizes)
}

/// Pages that the system is asked for, by name.
pub(super) fn huge_pages(raw: &Raw) -> Result<HugePages, String> {
    match raw.text().unwrap_or_default().to_ascii_lowercase().as_str() {
        "off" => Ok(HugePages::Off),
        "2mib" => Ok(HugePages::TwoMebibytes),
        "1gib" => Ok(HugePages::OneGibibyte),
        _ => Err("expected \"off\", \"2MiB\" or \"1GiB\"".to_owned()),
    }
}

/// Which free run a large object gets.
pub(super) fn fit(raw: &Raw) -> Result<Fit, String> {
    match raw.text().unwrap_or_default().to_ascii_lowercase().as_str() {
        "best" => Ok(Fit::Best),
        "first" => Ok(Fit::First),
        "worst" => Ok(Fit::Worst),
        _ => Err("expected \"best\", \"first\" or \"worst\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_scheme_and_a_host_and_nothing_behind_its_path() {
        for url in
            ["http://backend:8080", "https://[::1]:9091/base/", "HTTP://me:pass@host", "http://10.0.0.1"]
        {
            assert_eq!(super::url(url), Ok(()), "{url}");
        }
        for url in [
            "",
            "backend:8080",
            "ftp://host",
            "http://",
            "http:///health",
            "http://?x",
            "http://host?",
            "http://h#f",
            "http://ho st",
            " http://host",
            "http://host:99999",
            "http://[::1",
            "http:host",
            "http://:8080",
        ] {
            let refused = super::url(url).expect_err(url);
            assert!(refused.starts_with("expected a URL"), "{url}: {refused}");
        }
    }

    #[test]
    fn a_host_is_an_address_or_a_name_without_a_port() {
        for (text, kept) in
            [("::1", "::1"), ("[::1]", "::1"), ("0.0.0.0", "0.0.0.0"), ("my-host.lan", "my-host.lan")]
        {
            assert_eq!(host(text), Ok(kept.to_owned()));
        }
        for text in ["", "localhost:3000", "http://host", "a b", "[::1]:80"] {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn size_classes_are_distinct_multiples_of_8_in_any_order() {
        let word = |text: &str| slab_sizes(&Raw::Word(text.to_owned()));
        assert_eq!(word("4KiB,1024, 8"), Ok(vec![4096, 1024, 8]));
        for (text, fragment) in [
            ("", "expected 1 to 64 sizes, got 0"),
            ("1024,", "expected a size"),
            ("0", "expected a size from 8 to 64 TiB"),
            ("1023", "multiples of 8"),
            ("1024,1KiB", "the size 1024 is listed twice"),
            ("1e9", "expected a size"),
        ] {
            let refused = word(text).expect_err(text);
            assert!(refused.contains(fragment), "{text}: {refused}");
        }
        let many: Vec<String> = (1..=65).map(|size| (size * 8).to_string()).collect();
        assert!(word(&many.join(",")).expect_err("65 classes").contains("got 65"));
        assert!(word(&many[1..].join(",")).is_ok());
    }

    #[test]
    fn paths_and_jobs_are_plain_text() {
        assert!(path("/health").is_ok() && job("maas").is_ok());
        assert!(["", "health", "/a b", "/a#b"].iter().all(|text| path(text).is_err()));
        assert!(["", "a/b", "a\nb"].iter().all(|text| job(text).is_err()));
    }
}
