//! Request ids: the client's own where it is usable, else one of ours. In every answer, problem and log line.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries the id both ways.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client's id may be this long.
pub(super) const LENGTH_MAX: usize = 64;

/// The id of the request with these headers: the client's, if it is 1 to 64 printable characters.
pub(super) fn of(headers: &HeaderMap) -> HeaderValue {
    match headers.get(X_REQUEST_ID) {
        Some(given) if is_usable(given.as_bytes()) => given.clone(),
        _ => make(),
    }
}

fn is_usable(id: &[u8]) -> bool {
    !id.is_empty() && id.len() <= LENGTH_MAX && id.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// 16 hexadecimal digits. They tell requests apart in a log and protect nothing.
fn make() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random = fastrand::u64(..);
    let digits: [u8; 16] = std::array::from_fn(|at| DIGITS[(random >> (60 - 4 * at) & 0xf) as usize]);
    HeaderValue::from_bytes(&digits).expect("hexadecimal digits are a header value")
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    fn id_for(given: &'static [u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(given).expect("a header value"));
        of(&headers).to_str().expect("printable").to_owned()
    }

    #[test]
    fn a_usable_id_is_taken_and_any_other_replaced() {
        assert_eq!(id_for(b"abc-123 ~"), "abc-123 ~");
        assert_eq!(id_for(&[b'x'; 64]), "x".repeat(64));
        for given in [&b""[..], &[b'x'; 65], b"a\tb", b"caf\xc3\xa9"] {
            let made = id_for(given);
            assert!(made.len() == 16 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made}");
        }
        assert_ne!(make(), make());
    }
}
