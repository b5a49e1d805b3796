//! Metrics: every name, type and help text in one table, and a pure function from a snapshot to the text.
//!
//! A scrape and a push send the same text. Counting happens elsewhere, on per-slot counters of the rooms; whoever
//! composes a [`Snapshot`] sums them. A family has its children from the first scrape on, so that rates and alerts
//! work from the start.

mod pressure;
mod rows;

use crate::link::{LinkState, LinkStatus};
use crate::memory::{Advice, AdviceOutcome, AdviceStats, HeapStats, PathCounts, ReclaimAction, Violation};
use crate::units::ratio;
pub use pressure::{PressureSnapshot, ReliefSnapshot};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use rows::Row;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the request duration buckets, in seconds.
pub const DURATION_BUCKETS: [f64; 14] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0,
    10.0,
];

/// Requests of one method, route and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestCount {
    /// `GET`, …, or `other`.
    pub method: &'static str,
    /// The route's template, or `unmatched`.
    pub route: String,
    /// The status of the answers.
    pub status: u16,
    /// How many.
    pub count: u64,
}

/// How long requests of one method and route took.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestDurations {
    /// `GET`, …
    pub method: &'static str,
    /// The route's template, or `unmatched`.
    pub route: String,
    /// Requests in each bucket of [`DURATION_BUCKETS`], not cumulative; the last counts those above every bound.
    pub buckets: [u64; DURATION_BUCKETS.len() + 1],
    /// Sum of all durations.
    pub sum_seconds: f64,
}

/// How often something took how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Upper bounds of the buckets, in seconds.
    pub bounds: &'static [f64],
    /// How often in each bucket, not cumulative; one more than there are bounds, for what was above all.
    pub counts: Vec<u64>,
    /// Sum of all.
    pub sum_seconds: f64,
}

/// What the HTTP server counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpSnapshot {
    /// One row for each documented route at least.
    pub requests: Vec<RequestCount>,
    /// One row for each documented route at least.
    pub durations: Vec<RequestDurations>,
    /// Refusals by code, every code that names a lack of room.
    pub refused: Vec<(&'static str, u64)>,
    /// Open connections.
    pub connections: u64,
    /// Connections taken in.
    pub connections_opened: u64,
    /// Connections refused above the cap.
    pub connections_refused: u64,
    /// Connections and bodies given up, by what the client was slow at.
    pub timed_out: Vec<(&'static str, u64)>,
    /// Bytes read from clients.
    pub received_bytes: u64,
    /// Bytes written to clients.
    pub sent_bytes: u64,
    /// Readers of freed or replaced content that were ended because their time was over.
    pub readers_cut: u64,
}

/// What the pool counted of arenas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArenasSnapshot {
    /// Open arenas.
    pub open: u64,
    /// Arenas ever made, by profile.
    pub created: Vec<(&'static str, u64)>,
    /// Arenas that have ended, by state.
    pub ended: Vec<(&'static str, u64)>,
    /// Bytes of memory that arenas hold in chunks.
    pub chunk_bytes: u64,
    /// Bytes that allocations took in open arenas.
    pub used_bytes: u64,
}

/// What is known of one peer that metrics are pushed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSnapshot {
    /// Where the link stands.
    pub status: LinkStatus,
    /// Pushes so far: (succeeded, failed).
    pub pushes: (u64, u64),
}

/// Everything the text says, at one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The service's version.
    pub version: &'static str,
    /// Live allocations.
    pub active_allocations: u64,
    /// Actual bytes of live allocations.
    pub allocated_bytes: u64,
    /// Live allocations at most.
    pub allocations_max: u64,
    /// Bytes of records about allocations and slabs.
    pub metadata_bytes: u64,
    /// Bytes of request bodies being received.
    pub inflight_bytes: u64,
    /// Bytes of request bodies that may be received at once.
    pub inflight_bytes_max: u64,
    /// Requests that wait for room.
    pub waiting_requests: u64,
    /// Bytes set aside for one of them.
    pub reserved_bytes: u64,
    /// Actual bytes of live allocations, by tag.
    pub tag_bytes: Vec<(String, u64)>,
    /// Actual bytes of what may have leaked, by tag.
    pub leaked_bytes: Vec<(String, u64)>,
    /// Live large objects.
    pub large_objects: u64,
    /// Their actual bytes.
    pub large_object_bytes: u64,
    /// Allocations that ended with their lease.
    pub leases_expired: u64,
    /// How long after their deadline.
    pub lease_lag: Distribution,
    /// Seconds since memory was last reclaimed; since the start where it never was.
    pub seconds_since_reclaim: f64,
    /// How long allocating took.
    pub allocation_durations: Distribution,
    /// Whether the circuit breaker is open.
    pub circuit_open: bool,
    /// Times that it opened.
    pub circuit_opened: u64,
    /// How the pool does, 0 to 1.
    pub health_score: f64,
    /// The memory below.
    pub heap: HeapStats,
    /// Groups of allocations.
    pub arenas: ArenasSnapshot,
    /// How full memory is, and will be.
    pub pressure: PressureSnapshot,
    /// The HTTP server.
    pub http: HttpSnapshot,
    /// The backend.
    pub backend: LinkSnapshot,
    /// The Pushgateway.
    pub pushgateway: LinkSnapshot,
}

/// The snapshot as Prometheus text, without what the system says of the process.
pub fn render(snapshot: &Snapshot) -> String {
    encode(&families(snapshot))
}

/// The snapshot as Prometheus text, followed by `process_*` as the system says now.
pub fn render_with_process(snapshot: &Snapshot) -> String {
    let mut all = families(snapshot);
    all.extend(ProcessCollector::for_self().collect());
    encode(&all)
}

fn encode(families: &[MetricFamily]) -> String {
    let mut text = Vec::with_capacity(32 << 10);
    TextEncoder::new()
        .encode(families, &mut text)
        .expect("every family has a name and a child, and memory takes all");
    String::from_utf8(text).expect("names, helps and labels are text")
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus speaks floats; 2^53 bytes are 8 PiB")]
fn float(number: u64) -> f64 {
    number as f64
}

fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let heap = &snapshot.heap;
    let http = &snapshot.http;
    let utilization = ratio(heap.in_use_bytes, heap.limit_bytes);
    let single = |row: &Row, value: f64| family(row, [(Vec::new(), value)]);
    let by_slab = |row: &Row, value: &dyn Fn(&crate::memory::ClassStats) -> f64| {
        let children = heap
            .classes
            .iter()
            .map(|class| (vec![("slab_size", class.slab_size_bytes.to_string())], value(class)));
        family(row, children)
    };
    let requests = |row: &Row| {
        let children = http.requests.iter().map(|request| {
            let labels = vec![
                ("method", request.method.to_owned()),
                ("route", request.route.clone()),
                ("status", request.status.to_string()),
            ];
            (labels, float(request.count))
        });
        family(row, children)
    };
    let by = |row: &Row, label: &'static str, counts: &[(&'static str, u64)]| {
        family(row, counts.iter().map(|(name, count)| (vec![(label, (*name).to_owned())], float(*count))))
    };
    let slabs = heap.classes.iter().flat_map(|class| {
        let states = [
            ("used", class.used),
            ("free", class.free),
            ("scrubbing", class.scrubbing),
            ("retired", class.retired),
        ];
        states.map(|(state, count)| {
            (
                vec![("slab_size", class.slab_size_bytes.to_string()), ("state", state.to_owned())],
                float(count),
            )
        })
    });
    let reclaims = ReclaimAction::ALL.map(|action| (action.name(), heap.reclaim.slices[action as usize]));
    let violations: Vec<_> =
        Violation::ALL.into_iter().map(Violation::name).zip(heap.guard_violations).collect();
    let states = LinkState::ALL.map(|state| {
        let is_in = state == snapshot.backend.status.state;
        (vec![("state", state.name().to_owned())], float(u64::from(is_in)))
    });
    let pushes = [("backend", &snapshot.backend), ("pushgateway", &snapshot.pushgateway)]
        .into_iter()
        .flat_map(|(target, link)| {
            [("ok", link.pushes.0), ("error", link.pushes.1)].map(|(result, count)| {
                (vec![("target", target.to_owned()), ("result", result.to_owned())], float(count))
            })
        });
    let mut families = vec![
        single(&rows::ACTIVE_ALLOCATIONS, float(snapshot.active_allocations)),
        single(&rows::ALLOCATION_SIZE, float(snapshot.allocated_bytes)),
        single(&rows::POOL_SIZE, float(heap.pool_size_bytes)),
        single(&rows::UTILIZATION_PERCENT, utilization * 100.0),
        requests(&rows::REQUEST_COUNT),
        by_slab(&rows::SLAB_REUSE, &|class| float(class.reused)),
        requests(&rows::HTTP_REQUESTS),
        durations(&http.durations),
        single(&rows::HTTP_CONNECTIONS, float(http.connections)),
        single(&rows::HTTP_CONNECTIONS_OPENED, float(http.connections_opened)),
        single(&rows::HTTP_CONNECTIONS_REFUSED, float(http.connections_refused)),
        by(&rows::HTTP_TIMED_OUT, "kind", &http.timed_out),
        single(&rows::HTTP_RECEIVED, float(http.received_bytes)),
        single(&rows::HTTP_SENT, float(http.sent_bytes)),
        single(&rows::READERS_CUT, float(http.readers_cut)),
        single(&rows::UTILIZATION_RATIO, utilization),
        single(&rows::POOL_LIMIT, float(heap.limit_bytes)),
        single(&rows::IN_USE, float(heap.in_use_bytes)),
        single(&rows::PEAK_IN_USE, float(heap.peak_in_use_bytes)),
        single(&rows::DRAINING, float(heap.draining_bytes)),
        single(&rows::RETIRED, float(heap.retired_bytes)),
        by(&rows::GUARD_VIOLATIONS, "kind", &violations),
        single(&rows::COMMITTED, float(heap.committed_bytes)),
        single(&rows::METADATA, float(snapshot.metadata_bytes)),
        single(&rows::ALLOCATIONS_MAX, float(snapshot.allocations_max)),
        single(&rows::INFLIGHT, float(snapshot.inflight_bytes)),
        single(&rows::INFLIGHT_LIMIT, float(snapshot.inflight_bytes_max)),
        single(&rows::WAITING, float(snapshot.waiting_requests)),
        single(&rows::RESERVED, float(snapshot.reserved_bytes)),
        family(&rows::TAG_BYTES, tags(&snapshot.tag_bytes)),
        family(&rows::LEAKED_BYTES, tags(&snapshot.leaked_bytes)),
        single(&rows::ARENAS, float(snapshot.arenas.open)),
        by(&rows::ARENAS_CREATED, "profile", &snapshot.arenas.created),
        by(&rows::ARENAS_ENDED, "state", &snapshot.arenas.ended),
        single(&rows::ARENA_CHUNK_BYTES, float(snapshot.arenas.chunk_bytes)),
        single(&rows::ARENA_USED_BYTES, float(snapshot.arenas.used_bytes)),
        single(&rows::LEASE_EXPIRED, float(snapshot.leases_expired)),
        distribution(&rows::LEASE_EXPIRY_LAG, &snapshot.lease_lag),
        distribution(&rows::ALLOCATION_DURATION, &snapshot.allocation_durations),
        single(&rows::HEALTH_SCORE, snapshot.health_score),
        single(&rows::CIRCUIT_OPEN, f64::from(u8::from(snapshot.circuit_open))),
        single(&rows::CIRCUIT_OPENED, float(snapshot.circuit_opened)),
        family(&rows::SLABS, slabs),
        by_slab(&rows::SLAB_CREATED, &|class| float(class.created)),
        by(&rows::ALLOCATION_PATH, "path", &paths(&heap.paths)),
        by_slab(&rows::SLAB_REUSE_RATIO, &|class| ratio(class.reused, class.allocations)),
        single(&rows::LARGE_OBJECTS, float(snapshot.large_objects)),
        single(&rows::LARGE_OBJECT_BYTES, float(snapshot.large_object_bytes)),
        single(&rows::LARGE_ALLOCATIONS, float(heap.large.allocations)),
        single(&rows::FREE_RUN_BYTES, float(heap.large.free_bytes)),
        single(&rows::FRAGMENTATION_RATIO, heap.large.fragmentation_ratio()),
        single(&rows::FREE_LIST_HIT_RATIO, ratio(heap.large.free_list_hits, heap.large.allocations)),
        single(&rows::COALESCES, float(heap.large.coalesces)),
        single(&rows::COALESCING_EFFICIENCY, ratio(heap.large.coalesced_frees, heap.large.frees)),
        single(&rows::HUGE_PAGE_RATIO, heap.large.huge_page_ratio()),
        single(&rows::COMPACTION_MOVES, float(heap.compaction.moves)),
        single(&rows::COMPACTION_BYTES, float(heap.compaction.moved_bytes)),
        by(&rows::RECLAIM, "action", &reclaims),
        single(&rows::RECLAIMED_BYTES, float(heap.reclaim.bytes)),
        single(&rows::SINCE_RECLAIM, snapshot.seconds_since_reclaim),
        family(&rows::ADVICE, advice(&heap.advice)),
        by(&rows::REFUSED, "reason", &http.refused),
        single(&rows::BACKEND_UP, float(u64::from(snapshot.backend.status.state == LinkState::Connected))),
        family(&rows::CONNECTION_STATE, states),
        family(&rows::PUSH_ATTEMPTS, pushes),
        family(&rows::BUILD_INFO, [(vec![("version", snapshot.version.to_owned())], 1.0)]),
    ];
    families.extend(pressure::families(&snapshot.pressure));
    families
}

fn paths(counts: &PathCounts) -> [(&'static str, u64); 4] {
    [
        ("magazine", counts.magazine),
        ("shared", counts.shared),
        ("fresh", counts.fresh),
        ("reclaim", counts.reclaim),
    ]
}

type Labels = Vec<(&'static str, String)>;

fn advice(stats: &AdviceStats) -> impl Iterator<Item = (Labels, f64)> {
    Advice::ALL.into_iter().zip(stats.0).flat_map(|(advice, counts)| {
        AdviceOutcome::ALL.into_iter().zip(counts).map(move |(outcome, count)| {
            (vec![("advice", advice.name().to_owned()), ("result", outcome.name().to_owned())], float(count))
        })
    })
}

fn labelled(labels: Labels) -> Metric {
    let pair = |(name, value): (&str, String)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    };
    Metric::from_label(labels.into_iter().map(pair).collect())
}

fn empty_family(row: &Row) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(row.name.to_owned());
    family.set_help(row.help.to_owned());
    family.set_field_type(row.kind);
    family
}

fn family(row: &Row, children: impl IntoIterator<Item = (Labels, f64)>) -> MetricFamily {
    let metric = |(labels, value)| {
        let mut metric = labelled(labels);
        if row.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    };
    let mut family = empty_family(row);
    family.set_metric(children.into_iter().map(metric).collect());
    family
}

/// Tags that have a child of their own at most, those with most bytes.
const TAGS_SHOWN: usize = 64;

/// The tags with most bytes, each for itself, and the rest as `other`, which is always there. A tag of that very name
/// is counted in the rest, so that no two children share their labels.
fn tags(all: &[(String, u64)]) -> impl Iterator<Item = (Labels, f64)> {
    const OTHER: &str = "other";
    let mut named: Vec<_> = all.iter().filter(|(tag, _)| tag != OTHER).collect();
    // By bytes, and by name where they have the same: which ones are shown must not depend on chance.
    named.sort_by(|(one, bytes), (other, others)| others.cmp(bytes).then_with(|| one.cmp(other)));
    named.truncate(TAGS_SHOWN);
    let sum = |bytes: &mut dyn Iterator<Item = &u64>| bytes.sum::<u64>();
    let rest = sum(&mut all.iter().map(|(_, bytes)| bytes)) - sum(&mut named.iter().map(|(_, bytes)| bytes));
    let children: Vec<_> = named
        .into_iter()
        .map(|(tag, bytes)| (tag.clone(), *bytes))
        .chain([(OTHER.to_owned(), rest)])
        .map(|(tag, bytes)| (vec![("tag", tag)], float(bytes)))
        .collect();
    children.into_iter()
}

fn durations(all: &[RequestDurations]) -> MetricFamily {
    let metric = |durations: &RequestDurations| {
        let mut metric =
            labelled(vec![("method", durations.method.to_owned()), ("route", durations.route.clone())]);
        metric.set_histogram(histogram(&DURATION_BUCKETS, &durations.buckets, durations.sum_seconds));
        metric
    };
    let mut family = empty_family(&rows::HTTP_DURATION);
    family.set_metric(all.iter().map(metric).collect());
    family
}

fn distribution(row: &Row, of: &Distribution) -> MetricFamily {
    let mut metric = labelled(Vec::new());
    metric.set_histogram(histogram(of.bounds, &of.counts, of.sum_seconds));
    let mut family = empty_family(row);
    family.set_metric(vec![metric]);
    family
}

fn histogram(bounds: &[f64], counts: &[u64], sum_seconds: f64) -> Histogram {
    let mut sum = 0;
    let bucket = |(bound, count): (&f64, &u64)| {
        sum += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(sum);
        bucket
    };
    let buckets = bounds.iter().zip(counts).map(bucket).collect();
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(sum_seconds);
    histogram
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
