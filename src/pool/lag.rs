//! How late leases are ended.

use crate::clock::Now;

/// Upper bounds of the buckets in which the lag of expiry is counted, in seconds; the last is open.
pub const LEASE_LAG_BUCKETS: [f64; 8] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0];

/// How late leases were ended: from their deadline until the slice of expiry, or the look-up, that ended them began. A
/// slice is bounded in entries and bytes, to well below a millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LeaseLag {
    /// Leases by lag; not cumulative. One more than [`LEASE_LAG_BUCKETS`].
    pub buckets: [u64; LEASE_LAG_BUCKETS.len() + 1],
    /// All lags together.
    pub sum_seconds: f64,
}

impl LeaseLag {
    pub(super) fn count(&mut self, deadline: Now, now: Now) {
        let seconds = now.since(deadline).as_secs_f64();
        self.buckets[LEASE_LAG_BUCKETS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum_seconds += seconds;
    }

    pub(super) fn add(&mut self, other: &LeaseLag) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, count)| *sum += count);
        self.sum_seconds += other.sum_seconds;
    }

    /// Leases counted.
    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }
}
