//! Asking a running server, for the commands that do.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::Url;

use crate::http;

/// The whole exchange may take this long.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What a server answered.
pub(super) struct Answer {
    pub(super) status: reqwest::StatusCode,
    pub(super) body: Vec<u8>,
}

/// Where a server of this configuration answers, without a slash at the end. One that listens on every interface
/// answers on loopback too.
pub(super) fn address_of(server: &http::Config) -> Result<String, String> {
    let host = match server.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) if address.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(address)) if address.is_unspecified() => "[::1]".to_owned(),
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(_)) | Err(_) => server.host.clone(),
    };
    match server.port {
        0 => Err("server.port is 0, so the system chose the port: name the address with --url".to_owned()),
        port => Ok(format!("http://{host}:{port}")),
    }
}

/// The address of a server, without a slash at the end. No message repeats what is no URL: it may be a password.
pub(super) fn base(url: &str) -> Result<String, String> {
    let parsed = parse(url)?;
    if parsed.path() != "/" || parsed.query().is_some() || parsed.fragment().is_some() {
        let shown = shown(&parsed);
        return Err(format!("--url wants the address of the server alone, {shown}, without a path or query"));
    }
    Ok(parsed.as_str().trim_end_matches('/').to_owned())
}

fn parse(url: &str) -> Result<Url, String> {
    let is_web = |url: &Url| matches!(url.scheme(), "http" | "https");
    Url::parse(url).ok().filter(is_web).ok_or_else(|| {
        "--url is no URL of a server: it begins with http://, such as http://127.0.0.1:3000".to_owned()
    })
}

/// The address that a URL leads to: neither credentials nor path.
fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Asks once, and reads the answer up to a bound. Errors name the address.
pub(super) fn get(url: &str) -> Result<Answer, String> {
    let url = parse(url)?;
    let shown = shown(&url);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let asked = runtime.block_on(async {
        // A proxy would answer for the server, and a redirect leads to another one.
        let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy();
        let client = client.redirect(reqwest::redirect::Policy::none()).build();
        let told = |error: reqwest::Error| chain(&error.without_url());
        let mut answer = client.map_err(told)?.get(url).send().await.map_err(told)?;
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(told)? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status: answer.status(), body })
    });
    asked.map_err(|why| format!("cannot ask {shown}: {why}"))
}

/// An error with its causes: the outermost alone says only that something failed.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ").replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_server_has_no_path_and_no_message_has_its_credentials() {
        assert_eq!(base("http://[::1]:3000/").as_deref(), Ok("http://[::1]:3000"));
        assert_eq!(base("http://u:secret@a:1").as_deref(), Ok("http://u:secret@a:1"));
        for url in [
            "http://u:secret@a:1/health",
            "http://u:secret@a:1/?x=y",
            "http://u:secret@a:1/#x",
            "u:secret@a:1",
            "//u:secret@a:1",
            "ftp://u:secret@a:1",
            "",
        ] {
            let why = base(url).expect_err(url);
            assert!(why.starts_with("--url ") && !why.contains("secret"), "{url}: {why}");
        }
        let why = get("http://u:secret@127.0.0.1:1/health")
            .map(|answer| answer.status)
            .expect_err("nobody is there");
        assert!(why.starts_with("cannot ask http://127.0.0.1:1: "), "{why}");
    }

    #[test]
    fn a_server_on_every_interface_is_asked_on_loopback() {
        let url = |host: &str, port| {
            address_of(&http::Config { host: host.to_owned(), port, ..Default::default() })
        };
        for (host, expected) in [
            ("0.0.0.0", "http://127.0.0.1:3000"),
            ("::", "http://[::1]:3000"),
            ("fe80::1", "http://[fe80::1]:3000"),
            ("10.0.0.1", "http://10.0.0.1:3000"),
            ("localhost", "http://localhost:3000"),
        ] {
            assert_eq!(url(host, 3000), Ok(expected.to_owned()));
        }
        assert!(url("localhost", 0).is_err());
    }
}
