//! How long allocations take, and which are too slow.

use crate::clock::Now;
use crate::latency::{Latencies, LatencySnapshot, Sampler};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    sampler: Sampler,
    latencies: Latencies,
    interval: Duration,
    /// Allocations that take longer are slow; none are without it.
    limit: Option<Duration>,
    slow: AtomicU64,
    /// Slow ones are told of once an interval: when that was last, in nanoseconds, and how many it were then.
    told_at: AtomicU64,
    told: AtomicU64,
}

impl Watch {
    pub(super) fn new(interval: Duration, limit: Option<Duration>) -> Watch {
        Watch {
            sampler: Sampler::default(),
            latencies: Latencies::default(),
            interval,
            limit,
            slow: AtomicU64::new(0),
            told_at: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// Whether a fast allocation is timed, and how many it stands for then.
    #[inline]
    pub(super) fn should_time(&self) -> Option<u64> {
        self.sampler.should_time()
    }

    /// An allocation took so long, and stands for so many. Where it was slow and it is time to tell: how many slow ones there
    /// were since that was last done.
    #[cold]
    pub(super) fn took(&self, nanoseconds: u64, weight: u64) -> Option<u64> {
        self.latencies.record(nanoseconds, weight);
        if self.limit.is_none_or(|limit| u128::from(nanoseconds) <= limit.as_nanos()) {
            return None;
        }
        let slow = self.slow.fetch_add(weight, Ordering::Relaxed) + weight;
        let (now, before) = (Now::read(), self.told_at.load(Ordering::Relaxed));
        let is_time = before == 0 || now.since(Now(before)) >= self.interval;
        let is_ours = is_time
            && self.told_at.compare_exchange(before, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        is_ours.then(|| slow.saturating_sub(self.told.swap(slow, Ordering::Relaxed)))
    }

    /// Allocations slower than the limit.
    pub(super) fn slow(&self) -> u64 {
        self.slow.load(Ordering::Relaxed)
    }

    pub(super) fn limit(&self) -> Option<Duration> {
        self.limit
    }

    pub(super) fn latencies(&self) -> LatencySnapshot {
        self.latencies.snapshot()
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn slow_allocations_are_counted_by_their_weight_and_told_once_an_interval() {
        let watch = Watch::new(Duration::from_secs(3600), Some(Duration::from_micros(100)));
        assert_eq!(watch.took(100_000, 1), None, "that is the limit, not above it");
        assert_eq!(watch.took(100_001, 1), Some(1));
        assert_eq!(watch.took(200_000, 128), None, "told already");
        assert_eq!((watch.slow(), watch.latencies().count()), (129, 130));
        let often = Watch::new(Duration::ZERO, Some(Duration::ZERO));
        assert_eq!((often.took(1, 2), often.took(1, 3)), (Some(2), Some(3)));
        assert_eq!(Watch::new(Duration::ZERO, None).took(u64::MAX, 1), None);
    }
}
