//! Asking a running server, for the commands that do.

use std::net::IpAddr;
use std::time::Duration;

use super::Settings;
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

/// Where the server of this configuration answers, without a slash at the end. One that listens on every interface
/// answers on loopback too.
pub(super) fn address(settings: Settings) -> Result<String, String> {
    let loaded = settings.load().map_err(|problems| {
        let first = problems.0.first().map(ToString::to_string).unwrap_or_default();
        match problems.0.len() {
            0 | 1 => format!("wrong configuration: {first}"),
            count => format!("wrong configuration, {count} problems, the first: {first}"),
        }
    })?;
    address_of(&loaded.config.server)
}

fn address_of(server: &http::Config) -> Result<String, String> {
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

/// Asks once, and reads the answer up to a bound.
pub(super) fn get(url: &str) -> Result<Answer, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        // A proxy would answer for the server, and a redirect leads to another one.
        let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy();
        let client = client.redirect(reqwest::redirect::Policy::none()).build();
        let client = client.map_err(|error| format!("cannot start: {}", chain(&error)))?;
        let told = |error: reqwest::Error| chain(&error.without_url());
        let mut answer = client.get(url).send().await.map_err(told)?;
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(told)? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status: answer.status(), body })
    })
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
