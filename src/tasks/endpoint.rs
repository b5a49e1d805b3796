//! Where a peer is: base URLs as they are configured, and the addresses that are made from them.

use reqwest::Url;

/// Why a configured base URL cannot be used. The text never repeats the URL: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Something else than `http://` or `https://`.
    #[error("the URL must start with http:// or https://")]
    Scheme,
    /// Nothing between the scheme and the path.
    #[error("the URL names no host")]
    Host,
    /// A space or a control character.
    #[error("the URL holds a space or a control character")]
    Space,
    /// Nobody listens on port 0.
    #[error("the URL names port 0")]
    Port,
    /// Paths are appended to the URL, so nothing may stand behind its own path.
    #[error("the URL must end with its path, without ? and #")]
    Query,
    /// What the parser says.
    #[error("the URL is malformed: {0}")]
    Malformed(String),
}

/// Checks a base URL: `http` or `https`, a host, no query, no fragment. Userinfo is allowed.
///
/// # Errors
/// The first thing that is wrong with it.
///
/// ```
/// use maas::tasks::check_url;
/// assert!(check_url("http://localhost:9091/base/").is_ok());
/// let error = check_url("localhost:9091").expect_err("no scheme");
/// assert_eq!(error.to_string(), "the URL must start with http:// or https://");
/// ```
pub fn check_url(text: &str) -> Result<(), UrlError> {
    parse_base(text).map(|_| ())
}

/// Parses a base URL, by the rules of [`check_url`].
pub(super) fn parse_base(text: &str) -> Result<Url, UrlError> {
    let rest = strip_scheme(text).ok_or(UrlError::Scheme)?;
    // The parser is lenient where a configuration should not be: it drops tabs and line ends,
    // and takes the first segment of `http:///path` for the host.
    if text.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err(UrlError::Space);
    }
    if rest.is_empty() || rest.starts_with(['/', '\\', '?', '#', ':']) {
        return Err(UrlError::Host);
    }
    let url = Url::parse(text).map_err(|error| UrlError::Malformed(error.to_string()))?;
    if url.port() == Some(0) {
        return Err(UrlError::Port);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(UrlError::Query);
    }
    Ok(url)
}

/// Whether the URL asks for https.
pub(super) fn is_secure(text: &str) -> bool {
    text.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
}

/// The base with a path appended, with one slash between them however either is written.
pub(super) fn append_path(base: &Url, path: &str) -> Result<Url, UrlError> {
    let joined = format!("{}/{}", base.as_str().trim_end_matches('/'), path.trim_start_matches('/'));
    Url::parse(&joined).map_err(|error| UrlError::Malformed(error.to_string()))
}

/// The Pushgateway's address of one group of metrics: `{base}/metrics/job/{job}/instance/{instance}`.
pub(super) fn group(base: &Url, job: &str, instance: &str) -> Url {
    let mut url = base.clone();
    let mut segments = url.path_segments_mut().expect("http and https URLs have a path");
    segments.pop_if_empty().push("metrics");
    for (label, value) in [("job", job), ("instance", instance)] {
        if needs_base64(value) {
            segments.push(&format!("{label}@base64")).push(&base64url(value.as_bytes()));
        } else {
            segments.push(label).push(value);
        }
    }
    drop(segments);
    url
}

/// The URL as it may be logged: without userinfo.
pub(super) fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    // Both can only fail for a URL without a host, which `parse_base` refused.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

fn strip_scheme(text: &str) -> Option<&str> {
    ["http://", "https://"].into_iter().find_map(|scheme| {
        let (head, rest) = text.split_at_checked(scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

/// The Pushgateway decodes `%2F` before it splits the path, so a value with a slash must come as base64; and no
/// encoding saves an empty segment, a dot segment or a control character from being dropped on the way.
fn needs_base64(value: &str) -> bool {
    matches!(value, "" | "." | "..")
        || value.contains(|letter: char| matches!(letter, '/' | '\\') || letter.is_control())
}

/// Base64 with the alphabet for URLs and without padding (RFC 4648, section 5); a lone `=` stands for nothing,
/// as the Pushgateway defines it.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    if bytes.is_empty() {
        return "=".to_owned();
    }
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        // n bytes fill n + 1 letters of 6 bits.
        for letter in 0..=chunk.len() {
            let index = bits >> (18 - 6 * letter) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group_path(base: &str, job: &str, instance: &str) -> String {
        group(&parse_base(base).expect("a valid base"), job, instance).path().to_owned()
    }

    #[test]
    fn http_and_https_with_a_host_are_accepted() {
        for text in [
            "http://localhost:9091",
            "https://metrics.example/base/",
            "HTTP://[::1]:80",
            "http://user:secret@peer",
            "http://127.0.0.1",
        ] {
            assert_eq!(check_url(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_base_url_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", UrlError::Scheme),
            ("localhost:9091", UrlError::Scheme),
            ("ftp://host", UrlError::Scheme),
            ("http:host", UrlError::Scheme),
            ("http://", UrlError::Host),
            ("http:///path", UrlError::Host),
            ("http://:9091", UrlError::Host),
            ("http://host:0", UrlError::Port),
            ("http://host/?a=b", UrlError::Query),
            ("http://host/#top", UrlError::Query),
            ("http://host /", UrlError::Space),
            ("http://ho\nst", UrlError::Space),
        ] {
            assert_eq!(check_url(text), Err(reason), "{text:?}");
        }
        for text in ["http://host:99999", "http://user:secret@", "http://[::1", "http://ho st"] {
            let error = check_url(text).expect_err(text).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_path_is_appended_with_exactly_one_slash() {
        for (base, path) in [
            ("http://host:1", "/health"),
            ("http://host:1/", "/health"),
            ("http://host:1/", "health"),
            ("http://host:1//", "//health"),
        ] {
            let base = parse_base(base).expect("a valid base");
            assert_eq!(append_path(&base, path).expect("a valid path").as_str(), "http://host:1/health");
        }
        let base = parse_base("http://host:1/below/").expect("a valid base");
        let url = append_path(&base, "/health?full=1").expect("a valid path");
        assert_eq!(url.as_str(), "http://host:1/below/health?full=1");
    }

    #[test]
    fn an_appended_path_cannot_change_the_host() {
        let base = parse_base("http://host:1").expect("a valid base");
        for path in ["@elsewhere/health", "//elsewhere/health", "http://elsewhere/health"] {
            assert_eq!(append_path(&base, path).expect("a valid path").host_str(), Some("host"), "{path}");
        }
    }

    #[test]
    fn a_group_names_job_and_instance() {
        let path = "/metrics/job/maas/instance/127.0.0.1:3000";
        assert_eq!(group_path("http://host:9091", "maas", "127.0.0.1:3000"), path);
        assert_eq!(group_path("http://host:9091/", "maas", "127.0.0.1:3000"), path);
        assert_eq!(group_path("http://host/gate/", "maas", "127.0.0.1:3000"), format!("/gate{path}"));
    }

    #[test]
    fn group_values_are_percent_encoded() {
        assert_eq!(
            group_path("http://host", "my job?#%2F", "é"),
            "/metrics/job/my%20job%3F%23%252F/instance/%C3%A9"
        );
    }

    #[test]
    fn group_values_that_no_segment_can_hold_are_sent_as_base64() {
        assert_eq!(group_path("http://host", "a/b", "x"), "/metrics/job@base64/YS9i/instance/x");
        assert_eq!(group_path("http://host", "..", "x\ty"), "/metrics/job@base64/Li4/instance@base64/eAl5");
        assert_eq!(group_path("http://host", "maas", ""), "/metrics/job/maas/instance@base64/=");
    }

    #[test]
    fn base64url_agrees_with_the_vectors_of_rfc_4648() {
        for (bytes, text) in
            [("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("fooba", "Zm9vYmE")]
        {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8", "the alphabet for URLs, without + and /");
    }

    #[test]
    fn a_logged_url_holds_no_password() {
        let url = parse_base("http://user:secret@host:1/base").expect("a valid base");
        assert_eq!(redacted(&url), "http://host:1/base");
    }
}
