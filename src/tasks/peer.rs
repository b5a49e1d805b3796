//! One exchange with a peer: a request, and the verdict on its answer.
//!
//! A peer is not trusted with our time or memory. [`Peer::exchange`] ends within the timeout whatever the other side
//! does, never holds more of an answer than one read of the socket, and says in one short line what went wrong.

use crate::tasks::endpoint::UrlError;
use reqwest::{Client, Method, Url, header, redirect};
use std::error::Error;
use std::time::Duration;

/// The type of what is pushed: the same text that a scrape gets.
const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An answer's body is only read so that its connection can be used again. One longer than this is not worth it:
/// a new connection is cheaper.
const DRAIN_BYTES_MAX: usize = 64 * 1024;

/// A failure's text is at most this many letters long.
const FAILURE_LETTERS_MAX: usize = 200;

/// Why the tasks could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `backend.server_url`, or what its paths make of it, is not usable.
    #[error("cannot push to backend.server_url: {0}")]
    Backend(#[source] UrlError),
    /// `prometheus.pushgateway_url` is not usable.
    #[error("cannot push to prometheus.pushgateway_url: {0}")]
    Pushgateway(#[source] UrlError),
    /// The HTTP client could not be built; over https it needs the system's certificates.
    #[error("cannot build the client that pushes metrics")]
    Client(#[source] reqwest::Error),
}

/// The client for all peers, and how long each exchange may take.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    client: Client,
    timeout: Duration,
}

impl Peer {
    /// Builds the client. `secure` says whether any peer speaks https: only then are certificates loaded, which costs
    /// memory and fails on a system that has none.
    pub(super) fn new(timeout: Duration, secure: bool) -> Result<Peer, StartError> {
        let mut builder = Client::builder()
            .user_agent(concat!("maas/", env!("CARGO_PKG_VERSION")))
            // A redirect would carry the metrics, and perhaps the password, to somebody nobody configured.
            .redirect(redirect::Policy::none())
            // The configuration alone says where metrics go; HTTP_PROXY is not a part of it.
            .no_proxy()
            // The exchange has its own deadline; this one ends a connecting that outlives its exchange.
            .connect_timeout(timeout)
            .pool_max_idle_per_host(1);
        if !secure {
            builder = builder.tls_certs_only([]);
        }
        Ok(Peer { client: builder.build().map_err(StartError::Client)?, timeout })
    }

    /// How long an exchange may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends a request, with metrics as its body where there are any, and judges the answer.
    ///
    /// # Errors
    /// One printable line of at most 200 letters that starts with `what` and names the failure: no connection, an
    /// answer that is not 2xx, or one that does not end within the timeout.
    pub(super) async fn exchange(
        &self,
        what: &str,
        method: Method,
        url: &Url,
        metrics: Option<String>,
    ) -> Result<(), String> {
        let mut request = self.client.request(method, url.clone());
        if let Some(text) = metrics {
            request = request.header(header::CONTENT_TYPE, METRICS_CONTENT_TYPE).body(text);
        }
        let outcome = match tokio::time::timeout(self.timeout, judge(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Timeout),
        };
        outcome.map_err(|failure| self.describe(what, &failure))
    }

    fn describe(&self, what: &str, failure: &Failure) -> String {
        one_line(&match failure {
            Failure::Timeout => {
                format!("{what} timed out after {}", humantime::format_duration(self.timeout))
            }
            Failure::Redirect(code) => {
                format!("{what} answered {code}, a redirect, and redirects are not followed")
            }
            Failure::Status(code) => format!("{what} answered {code}"),
            Failure::Exchange(reason) => format!("{what}: {reason}"),
        })
    }
}

/// How an exchange can fail.
enum Failure {
    Timeout,
    Redirect(u16),
    Status(u16),
    Exchange(String),
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Failure {
        if error.is_timeout() { Failure::Timeout } else { Failure::Exchange(root_cause(&error)) }
    }
}

async fn judge(request: reqwest::RequestBuilder) -> Result<(), Failure> {
    let mut answer = request.send().await?;
    let status = answer.status();
    if status.is_redirection() {
        return Err(Failure::Redirect(status.as_u16()));
    }
    if !status.is_success() {
        return Err(Failure::Status(status.as_u16()));
    }
    let mut drained_bytes = 0;
    while drained_bytes <= DRAIN_BYTES_MAX {
        match answer.chunk().await? {
            Some(chunk) => drained_bytes += chunk.len(),
            None => break,
        }
    }
    Ok(())
}

/// What lies at the bottom of an error: the client's own words only say that something failed, and repeat the URL.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<std::io::Error>() {
        // The kind's name is free of the number that the system's message ends in.
        Some(io) if io.raw_os_error().is_some() => io.kind().to_string(),
        _ => cause.to_string(),
    }
}

/// Keeps what can stand in one line of a log, cut to its maximum.
fn one_line(text: &str) -> String {
    let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().map(printable).take(FAILURE_LETTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_short_printable_line() {
        let text = one_line(&format!("push: bad\r\n\x1b[31m{}", "é".repeat(500)));
        assert!(text.starts_with("push: bad   [31mé"), "{text}");
        assert!(!text.contains(char::is_control));
        assert_eq!(text.chars().count(), FAILURE_LETTERS_MAX);
    }

    #[test]
    fn the_client_for_plain_http_is_built_without_certificates() {
        assert!(Peer::new(Duration::from_secs(1), false).is_ok());
    }
}
