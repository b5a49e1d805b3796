//! What all handlers share: the pool, what is known of the peers, the counters, and the bounds.

use super::body::{self, BodyError, Collected};
use super::counters::Counters;
use super::description::Description;
use super::error::{Asked, Code, Problem, Refusal, refused};
use super::traffic::{TimeOut, Traffic};
use super::{Config, VERSION};
use crate::clock::Now;
use crate::link::Link;
use crate::metrics::{Distribution, HttpSnapshot, LinkSnapshot, Snapshot};
use crate::pool::{AllocateError, InflightCharge, LEASE_LAG_BUCKETS, Pool};
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit};

/// A JSON body up to this long that came in one piece is not charged to the in-flight budget: it lies in its
/// connection's read buffer, which the number of connections bounds already.
const UNCHARGED_BODY_BYTES: u64 = 8 << 10;

/// The in-flight budget is charged in steps of this many bytes.
const CHARGE_STEP_BYTES: u64 = 16 << 10;

/// Bodies that are read beyond the in-flight budget at once, each up to `server.body_limit`.
const LANES: usize = 16;

/// Whether the body is of that media type, whatever parameters it has.
pub(super) fn has_media_type(headers: &HeaderMap, media_type: &str) -> bool {
    let Some(given) = headers.get(CONTENT_TYPE) else { return false };
    let essence = given.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(media_type.as_bytes())
}

/// Refuses a body that is not declared as JSON, with the header to send.
fn require_json(headers: &HeaderMap, or: &str) -> Result<(), Problem> {
    if has_media_type(headers, "application/json") {
        return Ok(());
    }
    let given = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let given = given.map_or("has no Content-Type".into(), |given| {
        format!("has the Content-Type {:?}", String::from_utf8_lossy(&given[..given.len().min(100)]))
    });
    let detail = format!("the request {given}; send the header \"Content-Type: application/json\"{or}");
    Err(Problem::new(Code::UnsupportedMediaType, detail))
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
    /// For bodies that are read although the in-flight budget is exhausted.
    lanes: Semaphore,
    stopping: AtomicBool,
}

/// A body that was read whatever else was on its way; what it was charged ends with it.
pub(super) struct AlwaysRead<'a> {
    body: Bytes,
    _charges: Vec<InflightCharge>,
    _lane: Option<SemaphorePermit<'a>>,
}

impl AlwaysRead<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.body
    }
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
            lanes: Semaphore::new(LANES),
            stopping,
        }
    }

    /// The service is draining from now on: it is not ready, and takes no new allocations. Requests whose head came
    /// before are served to their end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.pool.stop_waiting();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Reads a JSON body: its media type before anything of it, its length before more than that, and its bytes
    /// under the in-flight budget.
    ///
    /// `or` is what the client may send instead, for the answer to one that sends neither.
    pub(super) async fn read_json(
        &self,
        headers: &HeaderMap,
        body: Body,
        or: &str,
    ) -> Result<Bytes, Problem> {
        require_json(headers, or)?;
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
    pub(super) fn charge_body(&self, bytes: u64) -> Result<Option<InflightCharge>, Problem> {
        if bytes <= UNCHARGED_BODY_BYTES {
            return Ok(None);
        }
        self.pool.inflight().charge(bytes).map(Some).ok_or_else(|| self.inflight_exhausted(bytes))
    }

    /// Reads a JSON body that must never be refused for lack of memory, because it gives memory back or keeps what
    /// there is: where the in-flight budget is exhausted, it is read beyond it, in one of a few lanes.
    pub(super) async fn read_json_always(
        &self,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<AlwaysRead<'_>, Problem> {
        require_json(headers, "")?;
        let too_large = || BodyError::TooLarge { limit_bytes: self.body_limit_bytes };
        if body.size_hint().lower() > self.body_limit_bytes {
            return Err(too_large().into());
        }
        let mut collected = Collected::default();
        let (mut charges, mut charged_bytes, mut lane) = (Vec::new(), UNCHARGED_BODY_BYTES, None);
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame.map_err(BodyError::from)?.into_data() else { continue };
            let length = collected.bytes() + piece.len() as u64;
            if length > self.body_limit_bytes {
                return Err(too_large().into());
            }
            if length > charged_bytes && lane.is_none() {
                let more = length.next_multiple_of(CHARGE_STEP_BYTES) - charged_bytes;
                match self.pool.inflight().charge(more) {
                    Some(charge) => charges.push(charge),
                    // Whoever has a lane charges nothing, so it comes free however many wait here with charges.
                    None => lane = Some(self.lanes.acquire().await.expect("the lanes are never closed")),
                }
                charged_bytes += more;
            }
            collected.add(piece);
        }
        Ok(AlwaysRead { body: collected.finish(), _charges: charges, _lane: lane })
    }

    /// Takes room for an answer of up to so many bytes from the in-flight budget.
    pub(super) fn charge_answer(&self, bytes: u64) -> Result<InflightCharge, Problem> {
        let charge = self.pool.inflight().charge(bytes);
        charge.ok_or_else(|| self.no_room_in_flight(&format!("an answer of up to {bytes} bytes")))
    }

    /// Refuses new work while the service is stopping.
    pub(super) fn refuse_while_stopping(&self) -> Result<(), Problem> {
        if self.is_stopping() {
            return Err(Problem::stopping().with_refusal(self.refusal(None, None, "stopping")));
        }
        Ok(())
    }

    /// A refusal to allocate, as the client is told.
    #[cold]
    pub(super) fn refused(&self, error: &AllocateError, asked: Asked) -> Problem {
        refused(error, asked, &|numbers, by| self.refusal(Some(asked.bytes), numbers, by))
    }

    #[cold]
    fn inflight_exhausted(&self, bytes: u64) -> Problem {
        self.no_room_in_flight(&format!("a body that has come to {bytes} bytes"))
    }

    fn no_room_in_flight(&self, what: &str) -> Problem {
        let inflight = self.pool.inflight();
        let (held, max) = (inflight.bytes(), inflight.bytes_max());
        let detail = format!("{what} does not fit beside {held} of {max} bytes on their way");
        Problem::new(Code::InflightExhausted, detail).with_refusal(self.refusal(None, None, "inflight"))
    }

    /// The numbers behind a refusal: of the pool now, unless the refusal knows those of its instant, or of what else
    /// refused.
    pub(super) fn refusal(
        &self,
        requested_bytes: Option<u64>,
        numbers: Option<(u64, u64)>,
        by: &'static str,
    ) -> Refusal {
        let now = || self.pool.in_use_and_limit_bytes();
        // What a budget leaves free must have room in the pool as well.
        let room = if by == "budget" {
            let (in_use, limit) = now();
            limit.saturating_sub(in_use)
        } else {
            u64::MAX
        };
        let largest = |free: u64| self.pool.largest_block_within(free.min(room));
        Refusal::new(requested_bytes, numbers.unwrap_or_else(now), largest, by)
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
            reserved_bytes: pool.reserved_bytes,
            tag_bytes: pool.tags.iter().map(|tag| (tag.tag.to_string(), tag.allocated_bytes)).collect(),
            leases_expired: pool.leases_expired,
            lease_lag: Distribution {
                bounds: &LEASE_LAG_BUCKETS,
                counts: pool.lease_lag.buckets.to_vec(),
                sum_seconds: pool.lease_lag.sum_seconds,
            },
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
