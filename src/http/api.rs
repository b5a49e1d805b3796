//! What all handlers share: the pool, what is known of the peers, the counters, and the bounds.

use super::body;
use super::counters::Counters;
use super::description::Description;
use super::error::{Code, Problem, Refusal};
use super::traffic::{TimeOut, Traffic};
use super::{Config, VERSION};
use crate::clock::Now;
use crate::link::Link;
use crate::metrics::{HttpSnapshot, LinkSnapshot, Snapshot};
use crate::pool::{InflightCharge, Pool};
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A JSON body up to this long that came in one piece is not charged to the in-flight budget: it lies in its
/// connection's read buffer, which the number of connections bounds already.
const UNCHARGED_BODY_BYTES: u64 = 8 << 10;

/// The in-flight budget is charged in steps of this many bytes.
const CHARGE_STEP_BYTES: u64 = 16 << 10;

/// Whether the body is of that media type, whatever parameters it has.
pub(super) fn has_media_type(headers: &HeaderMap, media_type: &str) -> bool {
    let Some(given) = headers.get(CONTENT_TYPE) else { return false };
    let essence = given.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(media_type.as_bytes())
}

/// Everything handlers share.
#[derive(Debug)]
pub struct Api {
    pub(super) pool: Arc<Pool>,
    pub(super) backend: Arc<Link>,
    pub(super) pushgateway: Arc<Link>,
    pub(super) started: Now,
    pub(super) description: Description,
    traffic: Arc<Traffic>,
    pub(super) counters: Counters,
    body_limit_bytes: u64,
    stopping: AtomicBool,
}

impl Api {
    /// What handlers share, from what the composition root built.
    pub(super) fn new(
        config: &Config,
        description: Description,
        pool: Arc<Pool>,
        traffic: Arc<Traffic>,
        backend: Arc<Link>,
        pushgateway: Arc<Link>,
        started: Now,
    ) -> Api {
        let counters = Counters::new(description.templates().to_vec(), &description.documented());
        let body_limit_bytes = config.body_limit;
        let stopping = AtomicBool::new(false);
        Api {
            pool,
            backend,
            pushgateway,
            started,
            description,
            traffic,
            counters,
            body_limit_bytes,
            stopping,
        }
    }

    /// The service is draining from now on: it is not ready, and takes no new allocations. Requests whose head came
    /// before are served to their end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Reads a JSON body: its media type before anything of it, its length before more than that, and its bytes
    /// under the in-flight budget.
    pub(super) async fn read_json(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
        if !has_media_type(headers, "application/json") {
            let given = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            let given = given.map_or("has no Content-Type".into(), |given| {
                format!("has the Content-Type {:?}", String::from_utf8_lossy(&given[..given.len().min(100)]))
            });
            let detail = format!("the request {given}; send the header \"Content-Type: application/json\"");
            return Err(Problem::new(Code::UnsupportedMediaType, detail));
        }
        // Charged as it comes: a client pays with bytes for the room it takes from others, not with a promise.
        let mut charges = Vec::new();
        let mut charged_bytes = 0;
        let keep = |length: u64| {
            if length > charged_bytes.max(UNCHARGED_BODY_BYTES) {
                let bytes =
                    length.next_multiple_of(CHARGE_STEP_BYTES).min(self.body_limit_bytes) - charged_bytes;
                charges
                    .push(self.pool.inflight().charge(bytes).ok_or_else(|| self.inflight_exhausted(length))?);
                charged_bytes += bytes;
            }
            Ok::<(), Problem>(())
        };
        body::collect(body, self.body_limit_bytes, keep).await
    }

    /// Takes room for a body of so many bytes from the in-flight budget, unless it is too short to matter.
    pub(super) fn charge_body(&self, bytes: u64) -> Result<Option<InflightCharge<'_>>, Problem> {
        if bytes <= UNCHARGED_BODY_BYTES {
            return Ok(None);
        }
        self.pool.inflight().charge(bytes).map(Some).ok_or_else(|| self.inflight_exhausted(bytes))
    }

    #[cold]
    fn inflight_exhausted(&self, bytes: u64) -> Problem {
        let inflight = self.pool.inflight();
        let (held, max) = (inflight.bytes(), inflight.bytes_max());
        let detail = format!(
            "a body that has come to {bytes} bytes does not fit beside {held} of {max} bytes being received"
        );
        Problem::new(Code::InflightExhausted, detail).with_refusal(self.refusal(None, None, "inflight"))
    }

    /// The numbers behind a refusal: of the pool now, unless the refusal knows those of its instant.
    pub(super) fn refusal(
        &self,
        requested_bytes: Option<u64>,
        pool: Option<(u64, u64)>,
        by: &'static str,
    ) -> Refusal {
        let pool = pool.unwrap_or_else(|| self.pool.in_use_and_limit_bytes());
        Refusal::new(requested_bytes, pool, |free| self.pool.largest_block_within(free), by)
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
                readers_cut: totals.readers_cut,
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
