//! What all handlers share: the pool, what is known of the peers, the counters, and the bounds.

use super::body::Collector;
use super::counters::Counters;
use super::description::Description;
use super::error::{Asked, Code, Problem, Refusal, arena_refused, refused};
use super::events::Events;
use super::origins::{Origins, RequestId};
use super::traffic::{TimeOut, Totals, Traffic};
use super::upkeep::pressure_snapshot;
use super::{Config, VERSION, pressure};
use crate::clock::Now;
use crate::limits::Root;
use crate::link::Link;
use crate::memory;
use crate::metrics::{ArenasSnapshot, Distribution, HttpSnapshot, LinkSnapshot, Snapshot};
use crate::pool::{
    ALLOCATION_BUCKETS, AllocateError, AllocationId, ArenaAllocateError, ArenaState, InflightCharge,
    LEASE_LAG_BUCKETS, LeakedBy, Pool, Profile, SMALL_WRITE_BYTES,
};
use crate::pressure::{Outlook, Source};
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method};
use bytes::Bytes;
use http_body::Body as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// A body up to this long that came in one piece on HTTP/1 is not charged to the in-flight budget: it lies in its
/// connection's read buffer, which the number of connections bounds already.
const UNCHARGED_BODY_BYTES: u64 = 8 << 10;

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
    /// As configured.
    pub(super) host: String,
    pub(super) max_connections: u32,
    /// The directory that the doctor reads the machine below.
    pub(super) system_root: Root,
    pub(super) description: Description,
    traffic: Arc<Traffic>,
    pub(super) counters: Counters,
    pub(super) origins: Origins,
    /// Held by whoever looks for leaks: one at a time.
    pub(super) leak_look: tokio::sync::Mutex<()>,
    body_limit_bytes: u64,
    /// For bodies that are read although the in-flight budget is exhausted.
    lanes: Semaphore,
    stopping: AtomicBool,
    /// Those who are told how full memory is.
    pub(super) events: Events,
    /// By a template's number: whether its POST allocates, so that the answer tells the level.
    allocating: Box<[bool]>,
}

/// A body that was read whole; what it was charged ends with it.
pub(super) struct Received<'a> {
    bytes: Bytes,
    _charge: Option<InflightCharge>,
    _lane: Option<SemaphorePermit<'a>>,
}

impl Received<'_> {
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// What becomes of a body that does not fit into the in-flight budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BeyondBudget {
    /// It is refused.
    Refused,
    /// It is read all the same, in one of a few lanes.
    Laned,
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
        let origins = Origins::new();
        let body_limit_bytes = config.body_limit;
        let stopping = AtomicBool::new(false);
        let events = Events::new(pool.gauge(), config.event_interval);
        let is_allocating = |template: &String| pressure::is_allocating(&Method::POST, template);
        let allocating = description.templates().iter().map(is_allocating).collect();
        Api {
            pool,
            backend,
            pushgateway,
            started,
            host: config.host.clone(),
            max_connections: config.max_connections,
            system_root: config.system_root.clone(),
            description,
            traffic,
            counters,
            origins,
            leak_look: tokio::sync::Mutex::default(),
            body_limit_bytes,
            lanes: Semaphore::new(LANES),
            stopping,
            events,
            allocating,
        }
    }

    /// The service is draining from now on: it is not ready, and takes no new allocations. Requests whose head came
    /// before are served to their end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.pool.stop_waiting();
        self.events.close();
    }

    /// Whether a request asks for memory, so that its answer tells the level of pressure, and what it makes has an origin;
    /// `route` is the number of its template.
    #[inline]
    pub(super) fn asks_for_memory(&self, method: &Method, route: Option<usize>) -> bool {
        route.is_some_and(|route| self.allocating[route]) && *method == Method::POST
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
        head: &Parts,
        body: Body,
        or: &str,
    ) -> Result<Received<'_>, Problem> {
        require_json(&head.headers, or)?;
        self.receive(head, body, self.body_limit_bytes, BeyondBudget::Refused).await
    }

    /// Reads a short body of raw bytes, under the in-flight budget.
    pub(super) async fn read_octets(&self, head: &Parts, body: Body) -> Result<Received<'_>, Problem> {
        self.receive(head, body, SMALL_WRITE_BYTES, BeyondBudget::Refused).await
    }

    /// Reads a JSON body that must never be refused for lack of memory, because it gives memory back or keeps what
    /// there is: where the in-flight budget is exhausted, it is read beyond it, in one of a few lanes.
    pub(super) async fn read_json_always(&self, head: &Parts, body: Body) -> Result<Received<'_>, Problem> {
        require_json(&head.headers, "")?;
        self.receive(head, body, self.body_limit_bytes, BeyondBudget::Laned).await
    }

    /// Reads a JSON body that may be left out. No body, whatever media type it is said to have, is an empty object.
    pub(super) async fn read_json_if_any(
        &self,
        head: &Parts,
        body: Body,
        beyond: BeyondBudget,
    ) -> Result<Received<'_>, Problem> {
        let mut received = Received { bytes: Bytes::new(), _charge: None, _lane: None };
        if body.size_hint().exact() != Some(0) {
            require_json(&head.headers, ", or no body")?;
            received = self.receive(head, body, self.body_limit_bytes, beyond).await?;
        }
        if received.bytes.is_empty() {
            received.bytes = Bytes::from_static(b"{}");
        }
        Ok(received)
    }

    /// Reads a whole body. What it holds is charged as it comes, by the memory it takes: a client pays with bytes for
    /// the room it takes from others, not with a promise.
    async fn receive(
        &self,
        head: &Parts,
        body: Body,
        limit_bytes: u64,
        beyond: BeyondBudget,
    ) -> Result<Received<'_>, Problem> {
        let announced = body.size_hint().exact();
        let mut collector = Collector::new(body, limit_bytes, head.version)?;
        let (mut charge, mut lane, mut received_bytes) = (None, None, 0);
        while let Some(piece) = collector.next().await? {
            received_bytes += piece.len() as u64;
            let bytes = collector.bytes_with(&piece);
            let is_free = bytes <= UNCHARGED_BODY_BYTES && collector.is_whole(&piece);
            if !is_free && lane.is_none() && !self.pool.inflight().raise(&mut charge, bytes) {
                if beyond == BeyondBudget::Refused {
                    return Err(self.no_room_for_body(announced, received_bytes));
                }
                // Whoever has a lane charges nothing, so it comes free however many wait here with charges.
                lane = Some(self.lanes.acquire().await.expect("the lanes are never closed"));
            }
            collector.add(piece);
        }
        Ok(Received { bytes: collector.finish(), _charge: charge, _lane: lane })
    }

    /// Takes room for an answer of up to so many bytes from the in-flight budget.
    pub(super) fn charge_answer(&self, bytes: u64) -> Result<InflightCharge, Problem> {
        let charge = self.pool.inflight().charge(bytes);
        charge.ok_or_else(|| self.no_room_in_flight(&format!("an answer of up to {bytes} bytes"), bytes))
    }

    /// Remembers which request made these allocations.
    pub(super) fn note_origin(&self, head: &Parts, made: impl IntoIterator<Item = AllocationId>, now: Now) {
        self.origins.note(&self.pool, made, head.extensions.get::<RequestId>(), now);
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
        refused(error, asked, &|numbers, by| self.refusal_of(asked, numbers, by))
            .with_retry_after(self.retry_after(error, Now::read()))
    }

    /// A refusal to make an arena or to allocate in one, as the client is told.
    #[cold]
    pub(super) fn arena_refused(&self, error: &ArenaAllocateError, asked: Asked) -> Problem {
        let problem = arena_refused(error, asked, &|numbers, by| self.refusal_of(asked, numbers, by));
        match error {
            ArenaAllocateError::Allocate(error) => {
                problem.with_retry_after(self.retry_after(error, Now::read()))
            }
            _ => problem,
        }
    }

    /// When a request that was refused so may well be served, as far as a forecast tells.
    fn retry_after(&self, error: &AllocateError, now: Now) -> Option<Duration> {
        /// What a fullness is a part of where there are no bytes; it is told in thousandths.
        const WHOLE: u64 = 1000;
        let (in_use_bytes, limit_bytes) = self.pool.in_use_and_limit_bytes();
        let relief =
            |wanted_bytes| self.pool.gauge().outlook()?.relief(in_use_bytes, limit_bytes, wanted_bytes, now);
        match error {
            AllocateError::Memory(memory::AllocateError::Exhausted { requested_bytes, .. }) => {
                relief(limit_bytes.saturating_sub(*requested_bytes))
            }
            AllocateError::AdmissionDeferred(turned_away) | AllocateError::AdmissionRejected(turned_away) => {
                match turned_away.decided_by {
                    Source::Pool => relief(turned_away.admitted_below.of(limit_bytes).saturating_sub(1)),
                    Source::System => {
                        // What the pool is given back leaves the system no emptier: the forecast alone can tell.
                        let outlook = Outlook { free_bytes_per_second: 0.0, ..*self.pool.gauge().outlook()? };
                        let full = turned_away.fullness.of(WHOLE);
                        let wanted = turned_away.admitted_below.of(WHOLE).saturating_sub(1);
                        outlook.relief(full, WHOLE, wanted, now)
                    }
                    Source::Psi => None, // nobody foretells when stalls end
                }
            }
            AllocateError::CircuitOpen { left, .. } => Some(*left),
            AllocateError::Waited { last, .. } => self.retry_after(last, now),
            _ => None,
        }
    }

    #[cold]
    fn no_room_for_body(&self, announced_bytes: Option<u64>, received_bytes: u64) -> Problem {
        match announced_bytes {
            Some(bytes) => self.no_room_in_flight(&format!("a body of {bytes} bytes"), bytes),
            None => {
                let what = format!("a body that has come to {received_bytes} bytes");
                self.no_room_in_flight(&what, received_bytes)
            }
        }
    }

    /// `what` takes `bytes`, as far as is known.
    #[cold]
    fn no_room_in_flight(&self, what: &str, bytes: u64) -> Problem {
        let inflight = self.pool.inflight();
        let (held, max) = (inflight.bytes(), inflight.bytes_max());
        let detail = if bytes > max {
            format!(
                "{what} can never be taken: memory.max_inflight_bytes lets no more than {max} be on their way"
            )
        } else {
            format!("{what} does not fit beside {held} of {max} bytes on their way")
        };
        Problem::new(Code::InflightExhausted, detail).with_refusal(self.refusal(
            Some(bytes),
            None,
            "inflight",
        ))
    }

    /// The numbers behind a refusal: of the pool now, unless the refusal knows those of its instant, or of what else
    /// refused.
    pub(super) fn refusal(
        &self,
        requested_bytes: Option<u64>,
        numbers: Option<(u64, u64)>,
        by: &'static str,
    ) -> Refusal {
        let largest = |free_bytes: u64| self.pool.largest_block_within(free_bytes);
        self.refusal_with(requested_bytes, numbers, largest, by)
    }

    /// As [`Api::refusal`], of what was asked for: a member of an arena fits where a block may not.
    #[cold]
    fn refusal_of(&self, asked: Asked, numbers: Option<(u64, u64)>, by: &'static str) -> Refusal {
        let Asked::Member { arena, .. } = asked else { return self.refusal(asked.bytes(), numbers, by) };
        let largest = |free_bytes: u64| {
            // An arena knows its limits itself, and what is free in its chunks takes nothing of the pool.
            let (in_use_bytes, limit_bytes) = self.pool.in_use_and_limit_bytes();
            let room_bytes =
                if by == "arena" { limit_bytes.saturating_sub(in_use_bytes) } else { free_bytes };
            self.pool.largest_member_within(arena, room_bytes, Now::read())
        };
        self.refusal_with(asked.bytes(), numbers, largest, by)
    }

    fn refusal_with(
        &self,
        requested_bytes: Option<u64>,
        numbers: Option<(u64, u64)>,
        largest_within: impl Fn(u64) -> Option<u64>,
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
        let largest = |free: u64| largest_within(free.min(room));
        Refusal::new(requested_bytes, numbers.unwrap_or_else(now), largest, by)
    }

    /// What was counted of connections.
    pub(super) fn totals(&self) -> Totals {
        self.traffic.totals()
    }

    /// Everything the metrics say, at about one instant.
    pub async fn snapshot(&self) -> Snapshot {
        let pool = self.pool_stats().await;
        let now = Now::read();
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
            leaked_bytes: self.leaked_bytes(),
            tag_bytes: pool.tags.iter().map(|tag| (tag.tag.to_string(), tag.allocated_bytes)).collect(),
            large_objects: pool.objects.objects,
            large_object_bytes: pool.objects.bytes,
            leases_expired: pool.leases_expired,
            seconds_since_reclaim: pool
                .janitor
                .since_last_reclaim(now)
                .unwrap_or(now.since(self.started))
                .as_secs_f64(),
            lease_lag: Distribution {
                bounds: &LEASE_LAG_BUCKETS,
                counts: pool.lease_lag.buckets.to_vec(),
                sum_seconds: pool.lease_lag.sum_seconds,
            },
            allocation_durations: Distribution {
                bounds: &ALLOCATION_BUCKETS,
                counts: pool.calls.buckets(),
                sum_seconds: Duration::from_nanos(pool.calls.latency.sum()).as_secs_f64(),
            },
            circuit_open: pool.admission.breaker.refuses(now),
            circuit_opened: pool.admission.breaker.opened,
            health_score: self.pool.health(&pool, now).health_score,
            pressure: pressure_snapshot(&self.pool, &pool.relief, now),
            heap: pool.heap,
            arenas: ArenasSnapshot {
                open: pool.arenas.active,
                created: Profile::ALL.iter().map(|p| p.name()).zip(pool.arenas.per_profile).collect(),
                ended: vec![
                    (ArenaState::Committed.name(), pool.arenas.commits),
                    (ArenaState::RolledBack.name(), pool.arenas.rollbacks),
                    (ArenaState::Expired.name(), pool.arenas.expirations),
                ],
                chunk_bytes: pool.arenas.chunk_bytes,
                used_bytes: pool.arenas.used_bytes,
            },
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

    /// What the last look for leaks found, by tag; what has no tag with those that no row is left for.
    fn leaked_bytes(&self) -> Vec<(String, u64)> {
        let report = self.pool.last_leaks();
        let tags = report.iter().flat_map(|report| &report.tags);
        tags.map(|tag| (tag.by.name().unwrap_or(LeakedBy::OTHERS).to_owned(), tag.bytes)).collect()
    }

    /// The text that a scrape and a push send.
    pub async fn metrics_text(&self) -> String {
        crate::metrics::render_with_process(&self.snapshot().await)
    }
}
