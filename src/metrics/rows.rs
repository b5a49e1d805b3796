//! The table: every family of ours, its type and its help text. `process_*` comes from the metrics library.

use prometheus::proto::MetricType;

/// One row of the table: a family's name, type and help.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    pub(super) help: &'static str,
}

const fn gauge(name: &'static str, help: &'static str) -> Row {
    Row { name, kind: MetricType::GAUGE, help }
}

const fn counter(name: &'static str, help: &'static str) -> Row {
    Row { name, kind: MetricType::COUNTER, help }
}

pub(super) const ACTIVE_ALLOCATIONS: Row = gauge("maas_active_allocations", "Live allocations.");
pub(super) const ALLOCATION_SIZE: Row =
    gauge("maas_allocation_size_bytes", "Actual bytes of live allocations.");
pub(super) const POOL_SIZE: Row = gauge(
    "maas_pool_size_bytes",
    "Bytes held by all slabs: used, free and being zeroed. Never above the limit.",
);
pub(super) const UTILIZATION_PERCENT: Row =
    gauge("maas_utilization_percent", "Bytes in use as a percentage of the pool's limit.");
pub(super) const REQUEST_COUNT: Row = counter(
    "maas_request_count",
    "Requests answered, by method, route and status. Same as maas_http_requests_total.",
);
pub(super) const SLAB_REUSE: Row =
    counter("maas_slab_reuse_total", "Times a slab was given to a client after an earlier client freed it.");
pub(super) const HTTP_REQUESTS: Row =
    counter("maas_http_requests_total", "Requests answered, by method, route and status.");
pub(super) const HTTP_DURATION: Row = Row {
    name: "maas_http_request_duration_seconds",
    kind: MetricType::HISTOGRAM,
    help: "Time from a request's first byte to its answer's head, by method and route.",
};
pub(super) const HTTP_CONNECTIONS: Row = gauge("maas_http_connections", "Open connections.");
pub(super) const HTTP_CONNECTIONS_OPENED: Row =
    counter("maas_http_connections_opened_total", "Connections taken in.");
pub(super) const HTTP_CONNECTIONS_REFUSED: Row =
    counter("maas_http_connections_refused_total", "Connections answered 503 because there were too many.");
pub(super) const HTTP_TIMED_OUT: Row = counter(
    "maas_http_timed_out_total",
    "Connections and bodies given up because the client was too slow, by what it was slow at.",
);
pub(super) const HTTP_RECEIVED: Row = counter("maas_http_received_bytes_total", "Bytes read from clients.");
pub(super) const HTTP_SENT: Row = counter("maas_http_sent_bytes_total", "Bytes written to clients.");
pub(super) const READERS_CUT: Row = counter(
    "maas_readers_cut_total",
    "Readers of freed or replaced blocks whose answer was broken off because their time was over.",
);
pub(super) const ALLOCATION_PATH: Row = counter(
    "maas_allocation_path_total",
    "Allocations by where their slab came from: the thread's magazine, what threads share, fresh bytes, other classes.",
);
pub(super) const ALLOCATION_DURATION: Row = Row {
    name: "maas_allocation_duration_seconds",
    kind: MetricType::HISTOGRAM,
    help: "Time that the pool took to allocate a block, without waits for room. Estimated from samples of the fast ones.",
};
pub(super) const CIRCUIT_OPEN: Row = gauge(
    "maas_circuit_breaker_open",
    "1 while requests as large as many that were refused are not even tried, else 0.",
);
pub(super) const CIRCUIT_OPENED: Row =
    counter("maas_circuit_breaker_opened_total", "Times that the circuit breaker opened.");
pub(super) const HEALTH_SCORE: Row = gauge(
    "maas_health_score",
    "How well the pool does, 0 to 1, from recent refusals, slow allocations, damage, pressure, misses and fragmentation.",
);
pub(super) const UTILIZATION_RATIO: Row =
    gauge("maas_pool_utilization_ratio", "Bytes in use as a part of the pool's limit, 0 to 1.");
pub(super) const POOL_LIMIT: Row = gauge("maas_pool_limit_bytes", "The pool's hard limit.");
pub(super) const IN_USE: Row = gauge(
    "maas_in_use_bytes",
    "Bytes of live allocations and of freed blocks that a reader still holds, at actual size.",
);
pub(super) const PEAK_IN_USE: Row = gauge("maas_peak_in_use_bytes", "The most bytes that were ever in use.");
pub(super) const DRAINING: Row =
    gauge("maas_draining_bytes", "Bytes of freed blocks that a reader still holds.");
pub(super) const RETIRED: Row = gauge(
    "maas_retired_bytes",
    "Bytes of slabs that are out of use for good because a stray write damaged them; part of what is in use.",
);
pub(super) const GUARD_VIOLATIONS: Row =
    counter("maas_guard_violations_total", "Stray writes that were found, by what found them.");
pub(super) const COMMITTED: Row = gauge("maas_committed_bytes", "Bytes of slab pages that may be resident.");
pub(super) const METADATA: Row =
    gauge("maas_metadata_bytes", "Bytes of records about allocations and slabs, outside the pool.");
pub(super) const ALLOCATIONS_MAX: Row = gauge("maas_allocations_limit", "Live allocations at most.");
pub(super) const INFLIGHT: Row =
    gauge("maas_inflight_bytes", "Bytes of request bodies being received, and of answers to batches.");
pub(super) const INFLIGHT_LIMIT: Row =
    gauge("maas_inflight_limit_bytes", "The limit of maas_inflight_bytes.");
pub(super) const WAITING: Row = gauge("maas_waiting_requests", "Requests that wait for room.");
pub(super) const RESERVED: Row =
    gauge("maas_reserved_bytes", "Bytes set aside for a request that waited long enough.");
pub(super) const TAG_BYTES: Row = gauge(
    "maas_tag_bytes",
    "Actual bytes of live allocations by tag: the 64 tags with most, and all others as other.",
);
pub(super) const LEAKED_BYTES: Row = gauge(
    "maas_leaked_bytes",
    "Actual bytes of allocations without a lease that are older than leaks.older_than, by tag: the 64 tags with most, and all others as other, as of the last look.",
);
pub(super) const ARENAS: Row = gauge("maas_arenas", "Open arenas.");
pub(super) const ARENAS_CREATED: Row = counter("maas_arenas_created_total", "Arenas made, by profile.");
pub(super) const ARENAS_ENDED: Row =
    counter("maas_arenas_ended_total", "Arenas that have ended, by state: committed, rolled_back, expired.");
pub(super) const ARENA_CHUNK_BYTES: Row = gauge(
    "maas_arena_chunk_bytes",
    "Bytes of memory that arenas hold in chunks, for kept allocations too; part of what is in use.",
);
pub(super) const ARENA_USED_BYTES: Row =
    gauge("maas_arena_used_bytes", "Bytes that allocations took in open arenas.");
pub(super) const LEASE_EXPIRED: Row =
    counter("maas_lease_expired_total", "Allocations that ended with their lease.");
pub(super) const LEASE_EXPIRY_LAG: Row = Row {
    name: "maas_lease_expiry_lag_seconds",
    kind: MetricType::HISTOGRAM,
    help: "Time from the end of a lease to the instant its memory was taken back.",
};
pub(super) const SLABS: Row = gauge(
    "maas_slabs",
    "Slabs held, by size and state: used, free, being zeroed (scrubbing), or damaged (retired).",
);
pub(super) const SLAB_CREATED: Row =
    counter("maas_slab_created_total", "Slabs taken from the budget, those made ready at start included.");
pub(super) const SLAB_REUSE_RATIO: Row =
    gauge("maas_slab_reuse_ratio", "Reused slabs as a part of all slabs given out, 0 to 1.");
pub(super) const LARGE_OBJECTS: Row = gauge(
    "maas_large_objects",
    "Live allocations of whole pages: larger than the largest size class, or than 16 KiB in an arena.",
);
pub(super) const LARGE_OBJECT_BYTES: Row =
    gauge("maas_large_object_bytes", "Actual bytes of live large objects, whole pages.");
pub(super) const LARGE_ALLOCATIONS: Row = counter(
    "maas_large_allocations_total",
    "Blocks of pages given out: large objects, new versions of what writes touch, chunks of arenas.",
);
pub(super) const FREE_RUN_BYTES: Row = gauge(
    "maas_free_run_bytes",
    "Bytes of free pages between large objects that have memory; part of maas_pool_size_bytes.",
);
pub(super) const FRAGMENTATION_RATIO: Row = gauge(
    "maas_fragmentation_ratio",
    "How far free pages between large objects are from being one run: 1 - longest / all, 0 to 1.",
);
pub(super) const FREE_LIST_HIT_RATIO: Row = gauge(
    "maas_free_list_hit_ratio",
    "Blocks of pages whose memory was all there when they were given out, as a part of all, 0 to 1.",
);
pub(super) const COALESCES: Row =
    counter("maas_coalesces_total", "Free runs of pages that were joined with a neighbour.");
pub(super) const COALESCING_EFFICIENCY: Row = gauge(
    "maas_coalescing_efficiency_ratio",
    "Freed segments that were joined with a free neighbour at once, as a part of all, 0 to 1.",
);
pub(super) const HUGE_PAGE_RATIO: Row = gauge(
    "maas_huge_page_ratio",
    "Bytes for which huge pages are asked, as a part of those in segments of 2 MiB and more, 0 to 1.",
);
pub(super) const COMPACTION_MOVES: Row =
    counter("maas_compaction_moves_total", "Live blocks moved so that whole pages could be given back.");
pub(super) const COMPACTION_BYTES: Row = counter("maas_compaction_bytes_total", "Bytes of the blocks moved.");
pub(super) const RECLAIM: Row = counter(
    "maas_reclaim_total",
    "Slices of free memory given back: for another size (backing), beyond what is kept (surplus), idle, or because it gets full (pressure).",
);
pub(super) const RECLAIMED_BYTES: Row =
    counter("maas_reclaimed_bytes_total", "Bytes of free memory given back.");
pub(super) const SINCE_RECLAIM: Row = gauge(
    "maas_seconds_since_last_reclaim",
    "Seconds since free memory was last given back; since the start where it never was.",
);
pub(super) const PRESSURE_LEVEL: Row = gauge(
    "maas_pressure_level",
    "How full memory is: 0 normal, 1 moderate, 2 high, 3 critical, 4 emergency.",
);
pub(super) const PRESSURE_RATIO: Row = gauge(
    "maas_pressure_ratio",
    "Used as a part of the limit, of the pool, and of the system's limit that is fullest; NaN where it has none.",
);
pub(super) const PRESSURE_STALLED: Row = gauge(
    "maas_pressure_stalled_ratio",
    "Part of the last 10 seconds in which something stood still for lack of memory; NaN where it is not read.",
);
pub(super) const PRESSURE_TRANSITIONS: Row =
    counter("maas_pressure_transitions_total", "Times that the level was entered, by level.");
pub(super) const PREDICTED: Row = gauge(
    "maas_predicted_utilization_ratio",
    "How full memory is expected to be, of the pool's limit or the system's, whichever is fuller, 0 to 1.",
);
pub(super) const CONFIDENCE: Row =
    gauge("maas_prediction_confidence_ratio", "How far to trust what is predicted, 0 to 1.");
pub(super) const SECONDS_TO_CRITICAL: Row = gauge(
    "maas_seconds_to_critical",
    "Seconds until the level is expected to be critical; 0 where it is, infinite where it is not expected.",
);
pub(super) const PRESSURE_RECLAIMS: Row = counter(
    "maas_pressure_reclaims_total",
    "Times that free memory was given back because it got full, by what was recommended.",
);
pub(super) const PRESSURE_RECLAIMED_BYTES: Row =
    counter("maas_pressure_reclaimed_bytes_total", "Bytes of free memory that were given back so.");
pub(super) const PRESSURE_RECLAIM_SECONDS: Row = counter(
    "maas_pressure_reclaim_seconds_total",
    "Time from the beginning of each to its end, with what was done for requests in between.",
);
pub(super) const ADVICE: Row = counter(
    "maas_advice_total",
    "Advice taken, by what became of it: done (applied), for no whole page (nothing), not known to the system (unsupported), or not done (refused).",
);
pub(super) const REFUSED: Row =
    counter("maas_refused_total", "Requests refused for lack of room, by reason.");
pub(super) const BACKEND_UP: Row =
    gauge("maas_backend_up", "1 if the last exchange with the backend succeeded, else 0.");
pub(super) const CONNECTION_STATE: Row =
    gauge("maas_connection_state", "1 for the state that the connection to the backend is in, else 0.");
pub(super) const PUSH_ATTEMPTS: Row =
    counter("maas_push_attempts_total", "Pushes of metrics that ended, by target and result.");
pub(super) const BUILD_INFO: Row = gauge("maas_build_info", "Always 1; the version is a label.");

#[cfg(all(test, not(feature = "loom")))]
pub(super) const ALL: [&Row; 76] = [
    &ACTIVE_ALLOCATIONS,
    &ALLOCATION_SIZE,
    &POOL_SIZE,
    &UTILIZATION_PERCENT,
    &REQUEST_COUNT,
    &SLAB_REUSE,
    &HTTP_REQUESTS,
    &HTTP_DURATION,
    &HTTP_CONNECTIONS,
    &HTTP_CONNECTIONS_OPENED,
    &HTTP_CONNECTIONS_REFUSED,
    &HTTP_TIMED_OUT,
    &HTTP_RECEIVED,
    &HTTP_SENT,
    &READERS_CUT,
    &UTILIZATION_RATIO,
    &POOL_LIMIT,
    &IN_USE,
    &PEAK_IN_USE,
    &DRAINING,
    &RETIRED,
    &GUARD_VIOLATIONS,
    &COMMITTED,
    &METADATA,
    &ALLOCATIONS_MAX,
    &INFLIGHT,
    &INFLIGHT_LIMIT,
    &WAITING,
    &RESERVED,
    &TAG_BYTES,
    &LEAKED_BYTES,
    &ARENAS,
    &ARENAS_CREATED,
    &ARENAS_ENDED,
    &ARENA_CHUNK_BYTES,
    &ARENA_USED_BYTES,
    &LEASE_EXPIRED,
    &LEASE_EXPIRY_LAG,
    &SLABS,
    &SLAB_CREATED,
    &ALLOCATION_PATH,
    &ALLOCATION_DURATION,
    &HEALTH_SCORE,
    &CIRCUIT_OPEN,
    &CIRCUIT_OPENED,
    &SLAB_REUSE_RATIO,
    &LARGE_OBJECTS,
    &LARGE_OBJECT_BYTES,
    &LARGE_ALLOCATIONS,
    &FREE_RUN_BYTES,
    &FRAGMENTATION_RATIO,
    &FREE_LIST_HIT_RATIO,
    &COALESCES,
    &COALESCING_EFFICIENCY,
    &HUGE_PAGE_RATIO,
    &COMPACTION_MOVES,
    &COMPACTION_BYTES,
    &RECLAIM,
    &RECLAIMED_BYTES,
    &SINCE_RECLAIM,
    &PRESSURE_LEVEL,
    &PRESSURE_RATIO,
    &PRESSURE_STALLED,
    &PRESSURE_TRANSITIONS,
    &PREDICTED,
    &CONFIDENCE,
    &SECONDS_TO_CRITICAL,
    &PRESSURE_RECLAIMS,
    &PRESSURE_RECLAIMED_BYTES,
    &PRESSURE_RECLAIM_SECONDS,
    &ADVICE,
    &REFUSED,
    &BACKEND_UP,
    &CONNECTION_STATE,
    &PUSH_ATTEMPTS,
    &BUILD_INFO,
];
