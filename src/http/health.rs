//! What `/stats` says of how the pool does: scores of the recent past, counts since the start, and what is switched on.

use crate::health::Health;
use crate::pool::PoolStats;
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// How the pool does. Rates and percentiles are of the recent window: the last 15 to 30 seconds where somebody looks that
/// often, else since the last look.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HealthBlock {
    /// All of it in one number, 0 to 1. Below 0.8 look at which part it is, below 0.5 at once. A full pool alone is never
    /// below 0.5, and never below 0.4 where blocks waste most of their slabs too. Damage has a counter of its own,
    /// `lifetime.guard_violations`.
    health_score: f64,
    /// `improving`, `stable` or `degrading`: the score against that of the interval before, by more than 0.02.
    recent_trend: &'static str,
    /// How long the recent window is.
    window_seconds: f64,
    /// What half of the allocations took at most, in nanoseconds of the pool operation. Of the recent window where it
    /// has 1000 of them, else since the start; null where there was none. Estimated, as all times here, from samples.
    #[schema(required)]
    latency_p50_ns: Option<u64>,
    /// What 95 % took at most.
    #[schema(required)]
    latency_p95_ns: Option<u64>,
    /// What 99 % took at most.
    #[schema(required)]
    latency_p99_ns: Option<u64>,
    /// Blocks refused for lack of room, as a part of all that were asked for.
    error_rate: f64,
    /// Allocations that took longer than a millisecond, as a part of those that were timed: batches are not.
    slow_rate: f64,
    /// Slabs that came from the magazine of the thread, as a part of all, versions of content included; 0 where all that
    /// was asked for was refused.
    cache_efficiency: f64,
    /// 0 up to 60 % of the pool in use, 1 when it is full.
    memory_pressure: f64,
    /// 0 up to a `fragmentation_ratio`, the one below, of 0.25, 1 from 0.75 on.
    fragmentation_score: f64,
    /// The part of live blocks' bytes that nobody asked for.
    fragmentation_ratio: f64,
    /// Whether requests as large as many that were refused are not even tried for now.
    circuit_breaker_open: bool,
    /// Nanoseconds of the last slice of free memory that was given back; null where there was none.
    #[schema(required)]
    last_reclaim_duration_ns: Option<u64>,
    lifetime: LifetimeBlock,
    protection: ProtectionBlock,
}

/// Counted since the start.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LifetimeBlock {
    /// Allocations made.
    total_allocations: u64,
    /// Allocations that ended: freed, or with their lease.
    total_deallocations: u64,
    /// Batches that were asked for.
    batch_allocations: u64,
    /// Batches that were to be freed.
    batch_deallocations: u64,
    /// Blocks refused because the pool had no memory or table entry for them; not those that a budget refused.
    allocation_errors: u64,
    /// Ids that were to be freed and not found.
    deallocation_errors: u64,
    /// Slabs that came from the magazine of the thread, versions of content included.
    cache_hits: u64,
    /// Slabs that came with a batch of what threads share, without a lock.
    lock_free_hits: u64,
    /// Damaged slabs found.
    guard_violations: u64,
    /// What allocations took on average; null where there was none.
    #[schema(required)]
    latency_average_ns: Option<f64>,
    /// What the longest took that was timed.
    latency_max_ns: u64,
}

/// What is switched on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProtectionBlock {
    /// Always: what was written is zeroed before anybody else can have it.
    zero_on_free: bool,
    /// `memory.canaries`.
    canaries: bool,
    /// `memory.guard_pages`.
    guard_pages: bool,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl HealthBlock {
    /// What is known of the pool's health, and its numbers at the same instant.
    pub(super) fn new(health: &Health, stats: &PoolStats) -> HealthBlock {
        let milliseconds = u64::try_from(health.window.as_millis()).unwrap_or(u64::MAX);
        HealthBlock {
            health_score: health.health_score,
            recent_trend: health.recent_trend.name(),
            window_seconds: Duration::from_millis(milliseconds).as_secs_f64(),
            latency_p50_ns: health.latency_p50.map(nanoseconds),
            latency_p95_ns: health.latency_p95.map(nanoseconds),
            latency_p99_ns: health.latency_p99.map(nanoseconds),
            error_rate: health.error_rate,
            slow_rate: health.slow_rate,
            cache_efficiency: health.cache_efficiency,
            memory_pressure: health.memory_pressure,
            fragmentation_score: health.fragmentation_score,
            fragmentation_ratio: stats.fragmentation_ratio(),
            circuit_breaker_open: health.circuit_breaker_open,
            last_reclaim_duration_ns: health.last_reclaim_duration.map(nanoseconds),
            lifetime: LifetimeBlock::new(stats),
            protection: ProtectionBlock {
                zero_on_free: true,
                canaries: stats.heap.canaries,
                guard_pages: stats.heap.guard_pages,
            },
        }
    }
}

impl LifetimeBlock {
    fn new(stats: &PoolStats) -> LifetimeBlock {
        let calls = &stats.calls;
        LifetimeBlock {
            total_allocations: stats.allocations_made,
            total_deallocations: stats.allocations_made - stats.active_allocations,
            batch_allocations: calls.batch_allocations,
            batch_deallocations: calls.batch_frees,
            allocation_errors: calls.allocation_errors,
            deallocation_errors: calls.free_errors,
            cache_hits: stats.heap.paths.magazine,
            lock_free_hits: stats.heap.paths.depot,
            guard_violations: stats.heap.guard_violations.iter().sum(),
            latency_average_ns: calls.latency.mean().map(f64::round),
            latency_max_ns: calls.latency.max(),
        }
    }
}
