//! The service behind the sockets: what every request passes through, and what all handlers share.
//!
//! [`Answerer::answer`] is the one function around the routes. It gives the request its id, sends it through the router,
//! turns errors into problem bodies, survives panics, and counts.

use super::body;
use super::counters::Counters;
use super::error::{Code, Problem};
use super::exchange::Arrival;
use super::routes::{self, Routes};
use super::traffic::{TimeOut, Traffic};
use super::{Config, request_id};
use crate::clock::Now;
use crate::link::Link;
use crate::metrics::{HttpSnapshot, LinkSnapshot, Snapshot};
use crate::pool::Pool;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use tower::Service;
use tracing::{Instrument, debug, debug_span, error, level_filters::LevelFilter};

/// The version that is told to clients.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A JSON body up to this long that came in one piece is not charged to the in-flight budget: it lies in its
/// connection's read buffer, which the number of connections bounds already.
const UNCHARGED_BODY_BYTES: u64 = 8 << 10;

/// Everything handlers share.
#[derive(Debug)]
pub struct Api {
    pub(super) pool: Arc<Pool>,
    pub(super) backend: Arc<Link>,
    pub(super) pushgateway: Arc<Link>,
    pub(super) started: Now,
    pub(super) routes: Routes,
    traffic: Arc<Traffic>,
    counters: Counters,
    body_limit_bytes: u64,
    stopping: AtomicBool,
}

/// The service that answers requests. Clones share everything.
#[derive(Clone, Debug)]
pub struct Answerer {
    api: Arc<Api>,
    router: Router,
}

impl Api {
    /// What handlers share, from what the composition root built.
    pub fn new(
        config: &Config,
        pool: Arc<Pool>,
        traffic: Arc<Traffic>,
        backend: Arc<Link>,
        pushgateway: Arc<Link>,
        started: Now,
    ) -> Arc<Api> {
        let routes = Routes::new();
        let counters = Counters::new(routes.templates().to_vec(), &routes.documented());
        let body_limit_bytes = config.body_limit;
        let stopping = AtomicBool::new(false);
        Arc::new(Api {
            pool,
            backend,
            pushgateway,
            started,
            routes,
            traffic,
            counters,
            body_limit_bytes,
            stopping,
        })
    }

    /// The service is draining from now on: it is not ready, and takes no new allocations.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.pool.close();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Reads a JSON body: its media type before anything of it, its length before more than that, and its bytes
    /// under the in-flight budget.
    pub(super) async fn read_json(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
        let given = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let essence =
            given.map(|given| given.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii());
        if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case(b"application/json")) {
            let given = given.map_or("has no Content-Type".into(), |given| {
                format!("has the Content-Type {:?}", String::from_utf8_lossy(&given[..given.len().min(100)]))
            });
            let detail = format!("the request {given}; send the header \"Content-Type: application/json\"");
            return Err(Problem::new(Code::UnsupportedMediaType, detail));
        }
        let announced = http_body::Body::size_hint(&body).exact();
        let _charge = match announced {
            Some(bytes) if bytes <= UNCHARGED_BODY_BYTES => None,
            // Without an announced length it may become as long as the limit.
            bytes => {
                let bytes = bytes.unwrap_or(self.body_limit_bytes).min(self.body_limit_bytes);
                Some(self.pool.inflight().charge(bytes).ok_or_else(|| self.inflight_exhausted(bytes))?)
            }
        };
        Ok(body::collect(body, self.body_limit_bytes).await?)
    }

    #[cold]
    fn inflight_exhausted(&self, bytes: u64) -> Problem {
        let inflight = self.pool.inflight();
        let (held, max) = (inflight.bytes(), inflight.bytes_max());
        let detail =
            format!("a body of {bytes} bytes does not fit beside the {held} of {max} bytes being received");
        Problem::new(Code::InflightExhausted, detail)
    }

    /// Everything the metrics say, at about one instant.
    pub async fn snapshot(&self) -> Snapshot {
        let pool = self.pool.stats().await;
        let totals = self.traffic.totals();
        let link = |link: &Link| LinkSnapshot { status: (*link.status()).clone(), pushes: link.pushes() };
        Snapshot {
            version: VERSION,
            active_allocations: pool.active_allocations,
            allocated_bytes: pool.allocated_bytes,
            allocations_max: pool.allocations_max,
            metadata_bytes: pool.metadata_bytes,
            inflight_bytes: pool.inflight_bytes,
            inflight_bytes_max: pool.inflight_bytes_max,
            waiting_requests: pool.waiting_requests,
            heap: pool.heap,
            http: HttpSnapshot {
                requests: self.counters.requests(),
                durations: self.counters.durations(),
                refused: self.counters.refused(),
                connections: totals.connections,
                connections_opened: totals.opened,
                connections_refused: totals.refused,
                timed_out: TimeOut::ALL.iter().map(|kind| (kind.name(), totals.timed_out(*kind))).collect(),
                received_bytes: totals.received_bytes,
                sent_bytes: totals.sent_bytes,
            },
            backend: link(&self.backend),
            pushgateway: link(&self.pushgateway),
        }
    }

    /// The text that a scrape and a push send.
    pub async fn metrics_text(&self) -> String {
        crate::metrics::render_with_process(&self.snapshot().await)
    }
}

impl Answerer {
    /// The service with all routes.
    pub fn new(api: Arc<Api>) -> Answerer {
        let router = routes::router(api.clone());
        Answerer { api, router }
    }

    /// Answers one request. Never fails: whatever goes wrong becomes an answer.
    pub async fn answer(mut self, request: Request, arrival: Arrival) -> Response {
        let id = request_id::of(request.headers());
        let route = self.api.routes.find(request.uri().path());
        let place = self.api.counters.place(request.method(), route);
        // Told before the request is given away; made only where somebody listens.
        let span = (LevelFilter::current() >= LevelFilter::DEBUG).then(|| {
            let headers = request.headers();
            let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok());
            let (method, path) = (request.method(), request.uri().path());
            debug_span!("request", id = ?id, %method, path, traceparent, peer = %arrival.peer)
        });
        let routed = self.router.call(request);
        let answered = match &span {
            None => surviving_panics(routed).await,
            Some(span) => surviving_panics(routed).instrument(span.clone()).await,
        };
        let mut response = match answered {
            Some(Ok(response)) => response,
            Some(Err(never)) => match never {},
            None => {
                error!(request_id = ?id, route = self.api.routes.name(route), "a handler panicked");
                axum::response::IntoResponse::into_response(Problem::internal())
            }
        };
        if let Some(problem) = problem_of(&mut response) {
            if problem.code.is_refusal() {
                self.api.counters.count_refused(problem.code);
            }
            let allow = response.headers_mut().remove(ALLOW);
            response = problem.render(id.to_str().unwrap_or_default());
            if let Some(allow) = allow {
                response.headers_mut().insert(ALLOW, allow);
            }
        }
        let took = Now::read().since(arrival.now);
        self.api.counters.count(place, response.status(), took);
        if let Some(span) = span {
            span.in_scope(|| debug!(status = response.status().as_u16(), took = ?took, "answered"));
        }
        response.headers_mut().insert(request_id::X_REQUEST_ID, id);
        response
    }
}

/// The problem that an answer stands for: a handler's, or the router's own refusals.
fn problem_of(response: &mut Response) -> Option<Problem> {
    if !response.status().is_client_error() && !response.status().is_server_error() {
        return None;
    }
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return Some(problem);
    }
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = response.headers().get(ALLOW).and_then(|allow| allow.to_str().ok()).unwrap_or_default();
        let detail = format!("this route takes {}", allowed.replace(',', ", "));
        return Some(Problem::new(Code::MethodNotAllowed, detail));
    }
    None
}

/// What the future results in; none if it panicked. The rest of the service holds no state that a handler could have
/// left half changed: locks are held for single steps, and a charge or a hold ends when it is dropped.
async fn surviving_panics<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_) => Poll::Ready(None),
    })
    .await
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
