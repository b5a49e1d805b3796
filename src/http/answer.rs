//! The one function that every request passes through.
//!
//! It gives the request its id, sends it through the router, turns errors into problem bodies, survives panics, and
//! counts.

use super::api::Api;
use super::counters::Place;
use super::description::Description;
use super::error::{Code, Problem};
use super::exchange::Arrival;
use super::origins::RequestId;
use super::pressure::{self, X_MAAS_PRESSURE};
use super::traffic::Traffic;
use super::{Config, request_id, routes};
use crate::clock::Now;
use crate::link::Link;
use crate::pool::Pool;
use axum::Router;
use axum::extract::Request;
use axum::http::header::{ALLOW, CONNECTION, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tower::Service;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument, debug, debug_span, error};

/// The service that answers requests. Clones share everything.
#[derive(Clone, Debug)]
pub struct Answerer {
    api: Arc<Api>,
    router: Router,
}

impl Answerer {
    /// The service with all routes, from what the composition root built.
    pub fn new(
        config: &Config,
        pool: Arc<Pool>,
        traffic: Arc<Traffic>,
        backend: Arc<Link>,
        pushgateway: Arc<Link>,
        started: Now,
    ) -> Answerer {
        let (router, document) = routes::all();
        let description = Description::new(document);
        let api = Arc::new(Api::new(config, description, pool, traffic, backend, pushgateway, started));
        Answerer { router: router.with_state(api.clone()), api }
    }

    /// What the handlers share.
    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }

    /// Answers one request. Never fails: whatever goes wrong becomes an answer.
    pub async fn answer(mut self, mut request: Request, arrival: Arrival) -> Response {
        let id = request_id::of(request.headers());
        let route = self.api.description.find(request.uri().path());
        let place = self.api.counters.place(request.method(), route);
        let asks_for_memory = self.api.asks_for_memory(request.method(), route);
        // Told before the request is given away; made only where somebody listens.
        let span = (LevelFilter::current() >= LevelFilter::DEBUG).then(|| {
            let headers = request.headers();
            let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok());
            let (method, path) = (request.method(), request.uri().path());
            debug_span!("request", id = ?id, %method, path, traceparent, peer = %arrival.peer)
        });
        if request.version() == Version::HTTP_11 && !is_well_framed(request.headers()) {
            return self.refuse_framing(place, id);
        }
        if asks_for_memory {
            request.extensions_mut().insert(RequestId::of(&id));
        }
        let routed = self.router.call(request);
        let answered = match &span {
            None => surviving_panics(routed).await,
            Some(span) => surviving_panics(routed).instrument(span.clone()).await,
        };
        let mut response = match answered {
            Some(Ok(response)) => response,
            Some(Err(never)) => match never {},
            None => {
                error!(request_id = ?id, route = self.api.description.name(route), "a handler panicked");
                Problem::internal().into_response()
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
        let now = Now::read();
        let took = now.since(arrival.now);
        self.api.counters.count(place, response.status(), took);
        if asks_for_memory && let Some(level) = self.api.pool.raised_level(now) {
            response.headers_mut().extend(pressure::header_of(level).map(|level| (X_MAAS_PRESSURE, level)));
        }
        if let Some(span) = span {
            span.in_scope(|| debug!(status = response.status().as_u16(), took = ?took, "answered"));
        }
        response.headers_mut().insert(request_id::X_REQUEST_ID, id);
        response
    }
}

impl Answerer {
    /// A 400 as bare as the parser's own, and the end of the connection.
    #[cold]
    fn refuse_framing(&self, place: Place, id: HeaderValue) -> Response {
        let mut response = StatusCode::BAD_REQUEST.into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response.headers_mut().insert(request_id::X_REQUEST_ID, id);
        self.api.counters.count(place, response.status(), Duration::ZERO);
        response
    }
}

/// What the parser leaves to us. RFC 9112, section 3.2: an HTTP/1.1 request names its host exactly once; section 6.1:
/// of the transfer codings we know `chunked`, and it stands once.
fn is_well_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding_is_known = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    coding_is_known && headers.get_all(HOST).iter().count() == 1
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
