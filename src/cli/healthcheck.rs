//! `maas healthcheck`: asks a running server whether it is up, for orchestrators whose images have no curl.

use std::io;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use super::{Settings, say};
use crate::http;

/// The whole exchange may take this long.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks once. Whatever keeps the answer from being 200, a wrong configuration too, is one line and exit code 1:
/// an orchestrator knows no other.
pub(super) fn run(settings: Settings, url: Option<String>) -> ExitCode {
    match target(settings, url).and_then(|url| ask(&url)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(io::stderr(), &format!("maas healthcheck: {why}\n"));
            ExitCode::FAILURE
        }
    }
}

fn target(settings: Settings, url: Option<String>) -> Result<String, String> {
    if let Some(url) = url {
        return Ok(url);
    }
    let loaded = settings.load().map_err(|problems| {
        let first = problems.0.first().map(ToString::to_string).unwrap_or_default();
        match problems.0.len() {
            0 | 1 => format!("wrong configuration: {first}"),
            count => format!("wrong configuration, {count} problems, the first: {first}"),
        }
    })?;
    health_url(&loaded.config.server)
}

/// Where the server of this configuration answers. One that listens on every interface answers on loopback too.
fn health_url(server: &http::Config) -> Result<String, String> {
    let host = match server.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) if address.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(address)) if address.is_unspecified() => "[::1]".to_owned(),
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(_)) | Err(_) => server.host.clone(),
    };
    match server.port {
        0 => Err("server.port is 0, so the system chose the port: name the address with --url".to_owned()),
        port => Ok(format!("http://{host}:{port}/health")),
    }
}

fn ask(url: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        // A proxy would answer for the server, and a redirect leads to another one.
        let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy();
        let client = client.redirect(reqwest::redirect::Policy::none()).build();
        let client = client.map_err(|error| format!("cannot start: {}", chain(&error)))?;
        let answer = client.get(url).send().await.map_err(|error| chain(&error.without_url()))?;
        match answer.status() {
            reqwest::StatusCode::OK => Ok(()),
            status => Err(format!("the server answered {status}")),
        }
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
            health_url(&http::Config { host: host.to_owned(), port, ..Default::default() })
        };
        for (host, expected) in [
            ("0.0.0.0", "http://127.0.0.1:3000/health"),
            ("::", "http://[::1]:3000/health"),
            ("fe80::1", "http://[fe80::1]:3000/health"),
            ("10.0.0.1", "http://10.0.0.1:3000/health"),
            ("localhost", "http://localhost:3000/health"),
        ] {
            assert_eq!(url(host, 3000), Ok(expected.to_owned()));
        }
        assert!(url("localhost", 0).is_err());
    }
}
