//! What `/stats` says of admission: who was turned away before the pool was full.

use crate::clock::Now;
use crate::pool::{AdmissionStats, Priority};
use serde::Serialize;
use utoipa::ToSchema;

/// Requests that were turned away before the pool was full. A batch is one.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AdmissionBlock {
    /// `admission.policy`: `hard` or `graduated`.
    policy: &'static str,
    deferred: ByPriority,
    rejected: ByPriority,
    circuit_breaker: BreakerBlock,
}

/// Requests by their priority.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ByPriority {
    low: u64,
    normal: u64,
    high: u64,
}

/// The circuit breaker.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BreakerBlock {
    /// `off`, `closed`, `open`, or `half_open`: its time is over, and the next one that it would refuse is tried.
    state: &'static str,
    /// Times that it opened.
    opened: u64,
    /// The smallest block that was refused for lack of memory since it last closed, from which on it refuses while it is open;
    /// null where none was.
    #[schema(required)]
    smallest_refused_bytes: Option<u64>,
    /// Whole seconds until one is tried again, rounded up; null where it is not open.
    #[schema(required)]
    tries_again_in_seconds: Option<u64>,
}

impl From<[u64; Priority::ALL.len()]> for ByPriority {
    fn from([low, normal, high]: [u64; Priority::ALL.len()]) -> ByPriority {
        ByPriority { low, normal, high }
    }
}

impl AdmissionBlock {
    pub(super) fn new(stats: &AdmissionStats, now: Now) -> AdmissionBlock {
        let breaker = &stats.breaker;
        AdmissionBlock {
            policy: stats.policy.name(),
            deferred: stats.deferred.into(),
            rejected: stats.rejected.into(),
            circuit_breaker: BreakerBlock {
                state: match (breaker.is_on, breaker.is_open, breaker.refuses(now)) {
                    (false, ..) => "off",
                    (true, false, _) => "closed",
                    (true, true, true) => "open",
                    (true, true, false) => "half_open",
                },
                opened: breaker.opened,
                smallest_refused_bytes: breaker.smallest_refused_bytes,
                tries_again_in_seconds: breaker
                    .until
                    .filter(|until| now < *until)
                    .map(|until| super::allocation::seconds_left(until, now)),
            },
        }
    }
}
