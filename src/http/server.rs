//! The accept loop, and the end of it.
//!
//! ```text
//!   Serving ──shutdown──▶ Draining ──old connections done──▶ Finishing ──all done──▶ (returns Cleanly)
//!                             └──────── drain_timeout, or abort ────────┴──▶ Aborting ──▶ (returns why)
//! ```
//!
//! While draining the listener stays open: whoever comes is accepted, answered (by the service, which knows that we
//! stop) and sent away. A connection that runs no request is dropped at once; one that does may finish. When the
//! connections from before are gone, the listener closes and the newcomers go the same way. Whatever the outcome,
//! [`serve`] returns only when every task it spawned has ended.

use super::config::Config;
use super::driver::Driver;
use super::exchange::Arrival;
use super::listener::Listener;
use super::protocol::Streams;
use super::signal::{Signal, Stage};
use super::traffic::Traffic;
use axum::body::Body;
use hyper::server::conn::{http1, http2};
use hyper::{Request, Response};
use rustix::net::{SendFlags, Shutdown};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// What one HTTP/1 connection may buffer in each direction. A longer request head gets 431.
const HTTP1_BUFFER_BYTES_MAX: usize = 64 << 10;

/// Requests that one HTTP/2 connection may run at once.
const HTTP2_STREAMS_MAX: u32 = 256;

/// What one HTTP/2 stream may have buffered for a slow reader.
pub(super) const HTTP2_SEND_BUFFER_BYTES_MAX: usize = 64 << 10;

/// A request's head on HTTP/2, decoded.
const HTTP2_HEADER_BYTES_MAX: u32 = 16 << 10;

/// What an HTTP/2 client may send ahead on one stream before the handler takes it; and on all streams together.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 256 << 10;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// Streams that a client may reset before we saw them, and that we may reset for its errors, before the connection is
/// closed: bounds what "rapid reset" costs us (CVE-2023-44487).
const HTTP2_PENDING_RESETS_MAX: usize = 20;
const HTTP2_ERROR_RESETS_MAX: usize = 1024;

/// Pause after a failed accept: descriptors ran out, and more haste frees none.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is sent to a client that finds no room.
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Refused clients that are given a moment to read the refusal, and that moment.
const REFUSED_LINGERING_MAX: u32 = 64;
const REFUSED_LINGER_TIME: Duration = Duration::from_millis(500);

/// The bounds a connection is held to; copied out of [`Config`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) header_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) bytes_per_second_min: u64,
}

impl Limits {
    /// Time that may pass until `bytes` have moved; `None` where there is no minimum rate.
    pub(super) fn allowance(&self, bytes: u64) -> Option<Duration> {
        let seconds = bytes.checked_div(self.bytes_per_second_min)?;
        let left_bytes = bytes % self.bytes_per_second_min;
        let nanoseconds = left_bytes.saturating_mul(1_000_000_000) / self.bytes_per_second_min;
        let bought = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanoseconds));
        Some(self.header_timeout.saturating_add(bought))
    }
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) traffic: Arc<Traffic>,
    /// What all drivers are told. The stage is entered by [`serve`].
    pub(super) signal: Signal,
    /// Everything spawned that is no connection: HTTP/2 streams, bodies being discarded, refused clients.
    pub(super) tasks: TaskTracker,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<Streams>,
    /// Connections open, refused clients lingering.
    open: AtomicU32,
    lingering: AtomicU32,
    /// Ends whatever lingers.
    over: CancellationToken,
}

impl Shared {
    fn new(config: &Config, traffic: Arc<Traffic>, signal: Signal) -> Shared {
        let tasks = TaskTracker::new();
        let mut http1 = http1::Builder::new();
        http1.max_buf_size(HTTP1_BUFFER_BYTES_MAX).header_read_timeout(None); // the driver keeps that time
        let mut http2 = http2::Builder::new(Streams(tasks.clone()));
        http2
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES_MAX)
            .max_header_list_size(HTTP2_HEADER_BYTES_MAX)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS_MAX)
            .max_local_error_reset_streams(HTTP2_ERROR_RESETS_MAX);
        Shared {
            limits: Limits {
                header_timeout: config.header_timeout,
                idle_timeout: config.idle_timeout,
                bytes_per_second_min: config.min_body_bytes_per_second,
            },
            traffic,
            signal,
            tasks,
            http1,
            http2,
            open: AtomicU32::new(0),
            lingering: AtomicU32::new(0),
            over: CancellationToken::new(),
        }
    }

    #[inline]
    pub(super) fn stage(&self) -> Stage {
        self.signal.word().stage()
    }
}

/// Counts a connection while it lives.
#[derive(Debug)]
pub(super) struct Opened(Arc<Shared>);

impl Opened {
    fn new(shared: Arc<Shared>) -> Opened {
        shared.open.fetch_add(1, Ordering::Relaxed);
        shared.traffic.connection_opened();
        Opened(shared)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.traffic.connection_closed();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How the server is told to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Finish what is running, within `drain_timeout`.
    pub shutdown: CancellationToken,
    /// Give up at once.
    pub abort: CancellationToken,
}

/// How the server stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every running request was answered.
    Cleanly,
    /// `drain_timeout` passed first.
    DeadlinePassed {
        /// Requests that were broken off.
        running: u64,
    },
    /// It was told to give up.
    Aborted {
        /// Requests that were broken off.
        running: u64,
    },
}

/// Serves connections until it is told to stop, and drains them. No task and no socket is left when it returns.
///
/// `service` answers requests: it is called once for each, on the connection's own task (HTTP/2: a task of the
/// stream). While the server stops it is still called, and says so itself. `signal` is for whoever finds that readers
/// are overdue.
///
/// # Examples
/// ```no_run
/// # use maas::http::{Arrival, Config, listener, server, signal::Signal, traffic::Traffic};
/// # use axum::{Router, body::Body, extract::Request, routing::get};
/// # use std::sync::Arc;
/// # use tower::ServiceExt;
/// # async fn example() -> Result<(), listener::BindError> {
/// let router: Router = Router::new().route("/", get(|| async { "hello" }));
/// let answer = move |request: Request<Body>, _arrival: Arrival| {
///     let answer = router.clone().oneshot(request);
///     async move { answer.await.unwrap_or_else(|never| match never {}) }
/// };
/// let config = Config::default();
/// let listener = listener::bind(&config.host, config.port).await?;
/// let (traffic, signal) = (Arc::new(Traffic::default()), Signal::default());
/// server::serve(listener, &config, traffic, signal, server::Stop::default(), answer).await;
/// # Ok(())
/// # }
/// ```
pub async fn serve<S, F>(
    listener: Listener,
    config: &Config,
    traffic: Arc<Traffic>,
    signal: Signal,
    stop: Stop,
    service: S,
) -> Drained
where
    S: Fn(Request<Body>, Arrival) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let shared = Arc::new(Shared::new(config, traffic, signal));
    let connections_max = config.max_connections;
    let (settled, newcomers) = (TaskTracker::new(), TaskTracker::new());
    tokio::select! {
        biased;
        () = stop.abort.cancelled() => {}
        () = stop.shutdown.cancelled() => {}
        never = accept(&listener, &shared, connections_max, &settled, &service) => match never {},
    }
    settled.close();
    shared.signal.enter(Stage::Draining);
    info!(running = shared.traffic.totals().running, "draining connections");
    let drain = async {
        tokio::select! {
            biased;
            () = settled.wait() => {}
            never = accept(&listener, &shared, connections_max, &newcomers, &service) => match never {},
        }
        drop(listener);
        newcomers.close();
        shared.signal.enter(Stage::Finishing);
        newcomers.wait().await;
    };
    let drained = tokio::select! {
        biased;
        () = stop.abort.cancelled() => Drained::Aborted { running: shared.traffic.totals().running },
        () = drain => Drained::Cleanly,
        () = tokio::time::sleep(config.drain_timeout) => {
            Drained::DeadlinePassed { running: shared.traffic.totals().running }
        }
    };
    newcomers.close();
    shared.signal.enter(Stage::Aborting);
    shared.over.cancel();
    settled.wait().await;
    newcomers.wait().await;
    shared.tasks.close();
    shared.tasks.wait().await;
    drained
}

/// Accepts for as long as it is polled.
async fn accept<S, F>(
    listener: &Listener,
    shared: &Arc<Shared>,
    connections_max: u32,
    connections: &TaskTracker,
    service: &S,
) -> Infallible
where
    S: Fn(Request<Body>, Arrival) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut last_error = None;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if concerns_one_client(&error) => continue,
            Err(error) => {
                if last_error.replace(error.kind()) != Some(error.kind()) {
                    warn!(%error, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if last_error.take().is_some() {
            info!("accepting connections again");
        }
        if shared.open.load(Ordering::Relaxed) >= connections_max {
            refuse(stream, shared);
            continue;
        }
        // Fails only where the client is gone already, which its connection will notice.
        let _ = stream.set_nodelay(true);
        let opened = Opened::new(shared.clone());
        connections.spawn(Driver::new(stream, peer, service.clone(), shared.clone(), opened));
    }
}

/// The client gave up between its call and our answer; the next one may be fine.
fn concerns_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Tells a client that there is no room. Does not wait: a fresh socket takes these few bytes, or they are lost.
#[cold]
fn refuse(stream: TcpStream, shared: &Arc<Shared>) {
    shared.traffic.connection_refused();
    if let Ok(sent) = rustix::net::send(&stream, REFUSAL, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        shared.traffic.sent(sent);
    }
    let _ = rustix::net::shutdown(&stream, Shutdown::Write); // fails only where the client is gone
    // Closing a socket whose client is still sending resets it, and the refusal may be lost; so, where there is room,
    // what the client sends is read for a moment.
    if shared.lingering.fetch_add(1, Ordering::Relaxed) >= REFUSED_LINGERING_MAX {
        shared.lingering.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let lingering = shared.clone();
    shared.tasks.spawn(async move {
        tokio::select! {
            () = lingering.over.cancelled() => {}
            _ = tokio::time::timeout(REFUSED_LINGER_TIME, read_to_end(stream)) => {}
        }
        lingering.lingering.fetch_sub(1, Ordering::Relaxed);
    });
}

async fn read_to_end(mut stream: TcpStream) {
    let mut bytes = [0; 1024];
    while stream.read(&mut bytes).await.is_ok_and(|length| length > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_buy_time_at_the_minimum_rate() {
        let grace = Duration::from_secs(10);
        let limits = Limits { header_timeout: grace, idle_timeout: grace, bytes_per_second_min: 1024 };
        assert_eq!(limits.allowance(0), Some(grace));
        assert_eq!(limits.allowance(2048), Some(grace + Duration::from_secs(2)));
        assert!(
            limits.allowance(u64::MAX) > limits.allowance(u64::MAX / 2),
            "no length is too long to count"
        );
        assert_eq!(Limits { bytes_per_second_min: 0, ..limits }.allowance(0), None);
    }
}
