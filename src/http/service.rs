//! The service itself: health, readiness, statistics, metrics, its description, and a page that says what there is.

use super::VERSION;
use super::admission::AdmissionBlock;
use super::allocation::json;
use super::api::Api;
use super::arena_stats::ArenasBlock;
use super::error::{Problem, ProblemBody};
use super::health::HealthBlock;
use super::large_objects::LargeObjectsBlock;
use super::query::{self, Query};
use super::upkeep::{CompactionBlock, PressureBlock, ReclaimBlock};
use crate::clock::Now;
use crate::link::{Link, LinkState};
use crate::memory::ClassStats;
use crate::pool::{PoolStats, TagStats};
use crate::units::ratio;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use std::fmt::Write as _;
use std::sync::Arc;
use utoipa::ToSchema;

/// How the service is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `healthy`, or `degraded` while the backend cannot be reached. A full pool never degrades.
    status: &'static str,
    /// The service's version.
    version: &'static str,
    /// Whole seconds since start.
    uptime_seconds: u64,
    memory: MemoryBlock,
    connection: LinkBlock,
    pushgateway: LinkBlock,
}

/// The pool in five numbers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryBlock {
    /// Bytes of live allocations and of freed blocks still being read, at actual size.
    in_use_bytes: u64,
    /// Bytes held by all slabs, free ones included.
    pool_size_bytes: u64,
    /// The hard limit.
    max_pool_size_bytes: u64,
    /// `in_use_bytes` / `max_pool_size_bytes` × 100.
    utilization_percent: f64,
    /// Live allocations.
    active_allocations: u64,
}

/// A peer that metrics are pushed to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LinkBlock {
    /// `off`, `disconnected`, `connected`, `reconnecting` or `native_metrics`.
    state: &'static str,
    /// Whole seconds in this state.
    since_seconds: u64,
    /// Attempts that failed in a row.
    attempts: u32,
    /// Why the last attempt failed.
    #[schema(required)]
    last_error: Option<String>,
    /// Whole seconds until the next attempt, while failing.
    #[schema(required)]
    next_retry_seconds: Option<u64>,
}

/// The numbers of the service.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Stats {
    memory: MemoryBlock,
    /// The most bytes that were ever in use.
    peak_in_use_bytes: u64,
    /// Bytes of freed blocks that a reader still holds.
    draining_bytes: u64,
    /// Bytes of slabs that are out of use for good because a stray write damaged them; part of what is in use.
    retired_bytes: u64,
    /// Bytes of request bodies being received, and of answers to batches.
    inflight_bytes: u64,
    /// Bytes set aside for a request that waited long enough.
    reserved_bytes: u64,
    /// Requests that wait for room.
    waiting_requests: u64,
    /// Bytes of slab pages that may be resident.
    committed_bytes: u64,
    /// Bytes of records about allocations and slabs, outside the pool.
    metadata_bytes: u64,
    /// Each size class, smallest first.
    slab_sizes: Vec<SlabStats>,
    /// Each tag that has a budget or an allocation, by name.
    tags: Vec<TagBlock>,
    arenas: ArenasBlock,
    large_objects: LargeObjectsBlock,
    pressure: PressureBlock,
    reclaim: ReclaimBlock,
    compaction: CompactionBlock,
    admission: AdmissionBlock,
    health: HealthBlock,
}

/// One tag.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TagBlock {
    tag: String,
    /// Live allocations with it.
    allocations: u64,
    /// Actual bytes of them.
    allocated_bytes: u64,
    /// What they may have together; null where there is no bound but the pool's.
    #[schema(required)]
    budget_bytes: Option<u64>,
}

/// One size class.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SlabStats {
    /// Size of a slab.
    slab_size_bytes: u64,
    /// Slabs held: used, free, being zeroed, or retired.
    total: u64,
    /// Slabs in clients' hands, or still being read.
    used: u64,
    /// Slabs ready for the next client.
    free: u64,
    /// Slabs ever taken from the budget, those made ready at start included.
    created: u64,
    /// Times a slab was given to a client after an earlier client freed it.
    reused: u64,
    /// `reused` / allocations of the class.
    reuse_rate: f64,
}

impl MemoryBlock {
    fn new(stats: &PoolStats) -> MemoryBlock {
        let heap = &stats.heap;
        MemoryBlock {
            in_use_bytes: heap.in_use_bytes,
            pool_size_bytes: heap.pool_size_bytes,
            max_pool_size_bytes: heap.limit_bytes,
            utilization_percent: ratio(heap.in_use_bytes, heap.limit_bytes) * 100.0,
            active_allocations: stats.active_allocations,
        }
    }
}

impl LinkBlock {
    fn new(link: &Link, now: Now) -> LinkBlock {
        let status = link.status();
        let until = |retry: Now| {
            u64::try_from(retry.since(now).as_nanos().div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
        };
        LinkBlock {
            state: status.state.name(),
            since_seconds: now.since(status.since).as_secs(),
            attempts: status.attempts,
            last_error: status.last_error.clone(),
            next_retry_seconds: status.next_retry.map(until),
        }
    }
}

impl TagBlock {
    fn new(stats: &TagStats) -> TagBlock {
        TagBlock {
            tag: stats.tag.to_string(),
            allocations: stats.allocations,
            allocated_bytes: stats.allocated_bytes,
            budget_bytes: stats.budget_bytes,
        }
    }
}

impl SlabStats {
    fn new(class: &ClassStats) -> SlabStats {
        SlabStats {
            slab_size_bytes: class.slab_size_bytes,
            total: class.total,
            used: class.used,
            free: class.free,
            created: class.created,
            reused: class.reused,
            reuse_rate: ratio(class.reused, class.allocations),
        }
    }
}

/// Health, with the pool and the connections
#[utoipa::path(
    get, path = "/health", tag = "service",
    responses((status = 200, description = "Healthy or degraded", body = Health), (status = 400, response = ProblemBody), (status = 503, response = ProblemBody))
)]
pub(super) async fn health(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    if api.is_stopping() {
        return Err(Problem::stopping());
    }
    let now = Now::read();
    let stats = api.pool.stats().await;
    let failing = matches!(api.backend.status().state, LinkState::Reconnecting | LinkState::NativeMetrics);
    let health = Health {
        status: if failing { "degraded" } else { "healthy" },
        version: VERSION,
        uptime_seconds: now.since(api.started).as_secs(),
        memory: MemoryBlock::new(&stats),
        connection: LinkBlock::new(&api.backend, now),
        pushgateway: LinkBlock::new(&api.pushgateway, now),
    };
    Ok(json(StatusCode::OK, &health))
}

/// The answer of a probe.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Probe {
    /// `alive` or `ready`.
    status: &'static str,
    /// With `verbose`: what was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Vec<Check>>,
}

/// One thing that readiness looks at.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Check {
    /// What it is.
    name: &'static str,
    /// What was found. Only `stopping` makes the service unready; all else is for reading.
    finding: String,
}

/// Whether the process lives
#[utoipa::path(
    get, path = "/livez", tag = "service",
    responses((status = 200, description = "It lives", body = Probe), (status = 400, response = ProblemBody))
)]
pub(super) async fn livez(uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    Ok(json(StatusCode::OK, &Probe { status: "alive", checks: None }))
}

/// Whether the service takes new work
///
/// A full pool is ready: it answers, with the reason. Unready means stopping.
#[utoipa::path(
    get, path = "/readyz", tag = "service",
    params(("verbose" = Option<String>, Query, description = "Say what was looked at; takes no value", allow_reserved)),
    responses((status = 200, description = "It does", body = Probe), (status = 400, response = ProblemBody), (status = 503, response = ProblemBody))
)]
pub(super) async fn readyz(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    let query = Query::parse(&uri, &["verbose"])?;
    if api.is_stopping() {
        return Err(Problem::stopping());
    }
    let verbose = query.get("verbose").is_some();
    let checks = verbose.then(|| {
        let (in_use, limit) = api.pool.in_use_and_limit_bytes();
        vec![
            Check { name: "pool", finding: format!("{in_use} of {limit} bytes in use") },
            Check { name: "connection", finding: api.backend.status().state.name().to_owned() },
            Check { name: "pushgateway", finding: api.pushgateway.status().state.name().to_owned() },
        ]
    });
    Ok(json(StatusCode::OK, &Probe { status: "ready", checks }))
}

/// Statistics, per size class
#[utoipa::path(
    get, path = "/stats", tag = "service",
    responses((status = 200, description = "The numbers", body = Stats), (status = 400, response = ProblemBody))
)]
pub(super) async fn stats(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    let stats = api.pool_stats().await;
    let now = Now::read();
    let body = Stats {
        memory: MemoryBlock::new(&stats),
        peak_in_use_bytes: stats.heap.peak_in_use_bytes,
        draining_bytes: stats.heap.draining_bytes,
        retired_bytes: stats.heap.retired_bytes,
        inflight_bytes: stats.inflight_bytes,
        reserved_bytes: stats.reserved_bytes,
        waiting_requests: stats.waiting_requests,
        committed_bytes: stats.heap.committed_bytes,
        metadata_bytes: stats.metadata_bytes,
        slab_sizes: stats.heap.classes.iter().map(SlabStats::new).collect(),
        tags: stats.tags.iter().map(TagBlock::new).collect(),
        arenas: ArenasBlock::new(&stats.arenas),
        large_objects: LargeObjectsBlock::new(&stats),
        pressure: PressureBlock::new(&api.pool, now),
        reclaim: ReclaimBlock::new(&stats, now),
        compaction: CompactionBlock::new(&stats.heap.compaction),
        admission: AdmissionBlock::new(&stats.admission, now),
        health: HealthBlock::new(&api.pool.health(&stats, now), &stats),
    };
    Ok(json(StatusCode::OK, &body))
}

fn text(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Metrics for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses((status = 200, description = "Prometheus text, version 0.0.4", body = String, content_type = "text/plain"), (status = 400, response = ProblemBody))
)]
pub(super) async fn metrics(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    Ok(text(crate::metrics::CONTENT_TYPE, api.metrics_text().await))
}

/// This description
#[utoipa::path(
    get, path = "/openapi.json", tag = "service",
    responses((status = 200, description = "OpenAPI 3.1", body = Object), (status = 400, response = ProblemBody))
)]
pub(super) async fn openapi(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    Ok(text("application/json", api.description.openapi.clone()))
}

/// What there is
///
/// A page for browsers, plain text for everyone else.
#[utoipa::path(
    get, path = "/", tag = "service",
    responses(
        (status = 200, description = "All routes with a line each", content((String = "text/plain"), (String = "text/html"))),
        (status = 400, response = ProblemBody),
    )
)]
pub(super) async fn landing(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    query::none(&uri)?;
    let wants_html = headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if wants_html {
        Ok(text("text/html; charset=utf-8", landing_page(&api, address(&headers))))
    } else {
        Ok(text("text/plain; charset=utf-8", landing_text(&api, address(&headers))))
    }
}

const WHAT_IT_IS: &str = "One bounded pool of memory that any process leases over plain HTTP.";
const FIRST_CALL: &str = r#"curl -H 'Content-Type: application/json' -d '{"size_bytes":102400}' "#;

/// The address by which the client reached us, if it can stand in a page as it is.
fn address(headers: &HeaderMap) -> &str {
    let is_plain = |host: &&str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    };
    headers.get(HOST).and_then(|host| host.to_str().ok()).filter(is_plain).unwrap_or("127.0.0.1:3000")
}

fn landing_text(api: &Api, address: &str) -> String {
    let mut page = format!("MaaS {VERSION}: memory as a service\n{WHAT_IT_IS}\n\n");
    let width = api.description.operations().iter().map(|route| route.template.len()).max().unwrap_or(0);
    for route in api.description.operations() {
        let _ = writeln!(page, "{:<6} {:<width$} {}", route.method, route.template, route.summary);
    }
    let _ = write!(page, "\nA first block:\n  {FIRST_CALL}http://{address}/allocate\n");
    page
}

fn landing_page(api: &Api, address: &str) -> String {
    let mut rows = String::new();
    for route in api.description.operations() {
        let template = &route.template;
        let linked = route.method == "GET" && !template.contains('{');
        let path = if linked { format!("<a href=\"{template}\">{template}</a>") } else { template.clone() };
        let _ = writeln!(
            rows,
            "<tr><td>{}</td><td><code>{path}</code></td><td>{}</td></tr>",
            route.method, route.summary
        );
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>MaaS</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem;color:#222;background:#fff}}\
         td{{padding:.2rem 1rem .2rem 0;vertical-align:top}}code,pre{{font-family:ui-monospace,monospace}}\
         pre{{background:#f4f4f4;padding:.8rem;overflow-x:auto}}</style></head>\n\
         <body><h1>MaaS {VERSION}</h1><p>{WHAT_IT_IS}</p>\n<table>\n{rows}</table>\n\
         <p>A first block:</p><pre>{FIRST_CALL}http://{address}/allocate</pre></body></html>\n"
    )
}
