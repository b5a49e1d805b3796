//! What is wrong, and what to do about it: `GET /doctor`. The rules are `doctor.rs`'s; here is how the facts are come by.

use super::allocation::json;
use super::api::Api;
use super::error::{Problem, ProblemBody};
use super::query;
use crate::clock::Now;
use crate::doctor::{self, Arenas, Facts, LeakFacts, Machine, Peer, Service, Settings, TagUse};
use crate::link::Link;
use crate::pool::{LEASE_LAG_BUCKETS, PoolStats};
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// A forecast older than this says nothing any more.
const FORECAST_KEPT: Duration = Duration::from_secs(60);
/// Arenas looked at between turns of others.
const ARENAS_TAKEN: usize = 256;
/// A lease that ends later than this is late, in seconds: one of the bounds by which lags are counted.
const LATE_SECONDS: f64 = 0.25;

/// What an examination found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Diagnosis)]
pub(super) struct DiagnosisBody {
    /// `ok`, `warnings` or `problems`: the worst of the findings; what is only good to know is ok.
    status: &'static str,
    /// The worst first.
    findings: Vec<FindingBody>,
    /// The codes of every check that ran.
    checked: Vec<&'static str>,
}

/// Something that was found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Finding)]
pub(super) struct FindingBody {
    /// The check that found it.
    code: &'static str,
    /// `info`, `warning` or `problem`.
    severity: &'static str,
    /// What it is, with the numbers.
    summary: String,
    /// What to do about it.
    fix: String,
}

impl From<doctor::Diagnosis> for DiagnosisBody {
    fn from(diagnosis: doctor::Diagnosis) -> DiagnosisBody {
        let status = diagnosis.status();
        let finding = |found: doctor::Finding| FindingBody {
            code: found.code,
            severity: found.severity.name(),
            summary: found.summary,
            fix: found.fix,
        };
        let findings = diagnosis.findings.into_iter().map(finding).collect();
        DiagnosisBody { status, findings, checked: diagnosis.checked }
    }
}

/// What is wrong, and what to do about it
///
/// Machine, configuration, memory, clients and peers are looked at, and what may hurt is told in plain words.
#[utoipa::path(
    get, path = "/doctor", tag = "service",
    responses((status = 200, description = "What was found", body = DiagnosisBody), (status = 400, response = ProblemBody))
)]
pub(super) async fn doctor(State(api): State<Arc<Api>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    let facts = facts(&api).await;
    Ok(json(StatusCode::OK, &DiagnosisBody::from(doctor::examine(&facts))))
}

async fn facts(api: &Api) -> Facts {
    // Files of the system: quick, but not of the kind that a worker should wait for. Of a machine that cannot be read
    // nothing is known.
    let root = api.system_root.clone();
    let machine = tokio::task::spawn_blocking(move || Machine::read(&root)).await.unwrap_or_default();
    let stats = api.pool_stats().await;
    let settings = Settings {
        host: api.host.clone(),
        max_connections: api.max_connections,
        pool_bytes: stats.heap.limit_bytes,
        inflight_bytes: stats.inflight_bytes_max,
        guard_pages: stats.heap.guard_pages,
        huge_pages: stats.heap.large.huge_pages,
    };
    let service = Some(service(api, &stats).await);
    Facts { machine, settings, service }
}

async fn service(api: &Api, stats: &PoolStats) -> Service {
    let now = Now::read();
    let leaks = api.pool.last_leaks();
    let arenas = match &leaks {
        Some(report) => arenas_without_lease(api, report.older_than, now).await,
        None => Arenas::default(),
    };
    let leaks = leaks.map(|report| LeakFacts {
        count: report.count,
        bytes: report.bytes,
        older_than: report.older_than,
        tag: report.tags.first().and_then(|tag| tag.by.name().map(str::to_owned)),
        untouched: report.tags.first().map_or(Duration::ZERO, |tag| report.at.since(tag.touched)),
    });
    let tag = |tag: &crate::pool::TagStats| TagUse {
        tag: tag.tag.to_string(),
        bytes: tag.allocated_bytes,
        budget_bytes: tag.budget_bytes,
    };
    let reading = api.pool.pressure(now);
    let outlook = api.pool.gauge().outlook().filter(|outlook| now.since(outlook.at) <= FORECAST_KEPT);
    let critical_in = |outlook: &crate::pressure::Outlook| {
        let [_, _, critical, _] = outlook.forecast.seconds_to;
        critical.map(|seconds| (seconds - now.since(outlook.at).as_secs_f64()).max(0.0))
    };
    let health = api.pool.health(stats, now);
    let totals = api.totals();
    let late = LEASE_LAG_BUCKETS.partition_point(|bound| *bound <= LATE_SECONDS);
    Service {
        allocated_bytes: stats.allocated_bytes,
        requested_bytes: stats.requested_bytes,
        allocations: stats.active_allocations,
        allocations_max: stats.allocations_max,
        metadata_bytes_max: stats.metadata_bytes_max,
        inflight_bytes: stats.inflight_bytes,
        free_run_bytes: stats.heap.large.free_bytes,
        free_run_fragmentation: stats.heap.large.fragmentation_ratio(),
        tags: stats.tags.iter().map(tag).collect(),
        leaks,
        arenas,
        guard_violations: stats.heap.guard_violations.iter().sum(),
        retired_bytes: stats.heap.retired_bytes,
        level: reading.level,
        ratio: reading.ratio,
        level_source: reading.source,
        are_stalls_read: api.pool.gauge().psi_avg10().is_some(),
        critical_in_seconds: outlook.as_deref().and_then(critical_in),
        refused_ratio: health.error_rate,
        is_breaker_open: health.circuit_breaker_open,
        waiting_requests: stats.waiting_requests,
        connections: totals.connections,
        readers_cut: totals.readers_cut,
        leases_ended: stats.lease_lag.total(),
        leases_late: stats.lease_lag.buckets[late..].iter().sum(),
        backend: peer(&api.backend, now),
        pushgateway: peer(&api.pushgateway, now),
    }
}

fn peer(link: &Link, now: Now) -> Peer {
    let status = link.status();
    Peer {
        state: status.state,
        since: now.since(status.since),
        attempts: status.attempts,
        last_error: status.last_error.clone(),
    }
}

/// Open arenas that nothing ends, and that are at least so old.
async fn arenas_without_lease(api: &Api, older_than: Duration, now: Now) -> Arenas {
    let (mut arenas, mut cursor) = (Arenas::default(), None);
    loop {
        let page = api.pool.list_arenas(cursor, ARENAS_TAKEN, now).await;
        let old = page.arenas.iter().take_while(|arena| now.since(arena.created) >= older_than);
        for arena in old.filter(|arena| arena.deadline.is_none()) {
            arenas.count += 1;
            arenas.oldest = arenas.oldest.max(now.since(arena.created));
        }
        let is_young = page.arenas.last().is_some_and(|arena| now.since(arena.created) < older_than);
        cursor = page.next;
        if cursor.is_none() || is_young {
            return arenas;
        }
        tokio::task::yield_now().await;
    }
}
