//! What is counted of the calls at the door, how long allocating takes, and how the pool does by that.
//!
//! Timed is what [`Pool::allocate`] takes, from the call until the allocation is there, with work that was handed over
//! and without the wait for room; of a block that comes with its content, until the content can be written. What lies
//! ready in the thread's magazine, and what does not, are sampled each by its own sampler, so that the many fast ones do
//! not hide the few slow ones. A block whose work is handed over, because it takes more than a slice, is timed always, with a
//! tag, with content, or without. Batches are counted, not timed.

use super::{AllocateError, AllocateRequest, Allocation, Engine, Pool, PoolStats};
use crate::clock::Now;
use crate::health::{self, Health, HealthMonitor, Reading};
use crate::latency::{Latencies, LatencySnapshot, Sampler, Stopwatch};
use crate::memory::PathCounts;
use crate::slot::PerSlot;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Of allocations that are not served at once, one in so many is timed: to read the clock for each made a full pool,
/// where none is served at once, take half as long again.
const PAST_EVERY: u64 = 32;
/// An allocation that takes longer is slow: as long as a slice of work.
const SLOW: Duration = Duration::from_millis(1);

/// Upper bounds of the allocation duration buckets, in seconds.
pub const ALLOCATION_BUCKETS: [f64; BUCKETS] = {
    let (mut seconds, mut at) = ([0.0; BUCKETS], 0);
    while at < BUCKETS {
        seconds[at] = BUCKET_NANOSECONDS[at] as f64 / 1e9;
        at += 1;
    }
    seconds
};
const BUCKETS: usize = 14;
/// The same in nanoseconds: from a magazine's pace to that of a request that needed much to be moved.
const BUCKET_NANOSECONDS: [u64; BUCKETS] = [
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    50_000,
    250_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
];

/// What is counted of the calls; see the module.
#[derive(Debug)]
pub(super) struct Calls {
    latencies: Latencies,
    /// Of all allocations of one block: which are timed if they are served at once.
    sampler: Sampler,
    /// Of those that are not: which are timed.
    sampler_past: Sampler,
    slots: PerSlot<Counts>,
    monitor: Mutex<HealthMonitor>,
}

#[derive(Debug, Default)]
struct Counts {
    batch_allocations: AtomicU64,
    batch_frees: AtomicU64,
    refused: AtomicU64,
    missing: AtomicU64,
}

/// Numbers of the calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallStats {
    /// Batches that were asked for.
    pub batch_allocations: u64,
    /// Batches that were to be freed.
    pub batch_frees: u64,
    /// Blocks refused, each of a batch for itself, because the pool had no memory, table entry or tag for them.
    pub allocation_errors: u64,
    /// Ids that were to be freed and not found.
    pub free_errors: u64,
    /// How long allocating took; see the module.
    pub latency: LatencySnapshot,
}

impl Default for Calls {
    fn default() -> Calls {
        let monitor = Mutex::new(HealthMonitor::from_first_look(health::INTERVAL));
        let slots = PerSlot::new(|_| Counts::default());
        Calls {
            latencies: Latencies::default(),
            sampler: Sampler::default(),
            sampler_past: Sampler::one_in(PAST_EVERY),
            slots,
            monitor,
        }
    }
}

/// An allocation that is timed, and stands for `weight`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    began: Stopwatch,
    weight: u64,
}

impl Calls {
    /// Whether the next allocation is one of the sample, and how many it stands for then.
    #[inline]
    pub(super) fn should_time(&self) -> Option<u64> {
        self.sampler.should_time()
    }

    /// Begins an allocation that is not served at once; none where it is not to be timed.
    pub(super) fn begin(&self) -> Option<Timing> {
        let weight = self.sampler_past.should_time()?;
        Some(Timing { began: Stopwatch::start(), weight })
    }

    /// The allocation is there.
    pub(super) fn end(&self, timing: Option<Timing>) {
        if let Some(Timing { began, weight }) = timing {
            self.latencies.record(began.nanoseconds(), weight);
        }
    }

    /// An allocation by a plan is there. Where its work was handed over it is timed whatever the sampler says, from then on
    /// at least, and stands for itself.
    pub(super) fn end_planned(&self, timing: Option<Timing>, handed_over: Option<Stopwatch>) {
        let of_one = |since| Timing { began: timing.map_or(since, |timing| timing.began), weight: 1 };
        self.end(handed_over.map(of_one).or(timing));
    }

    fn count(&self, of: impl FnOnce(&Counts) -> &AtomicU64, by: usize) {
        of(self.slots.mine()).fetch_add(by as u64, Ordering::Relaxed);
    }

    /// So many blocks were refused for that reason.
    #[cold]
    pub(super) fn refused(&self, blocks: usize, error: AllocateError) -> AllocateError {
        if error.is_lack() {
            self.count(|counts| &counts.refused, blocks);
        }
        error
    }

    pub(super) fn count_batch_allocation(&self) {
        self.count(|counts| &counts.batch_allocations, 1);
    }

    pub(super) fn count_batch_free(&self) {
        self.count(|counts| &counts.batch_frees, 1);
    }

    /// So many ids that were to be freed were not found.
    pub(super) fn count_missing(&self, ids: usize) {
        self.count(|counts| &counts.missing, ids);
    }

    pub(super) fn stats(&self) -> CallStats {
        let sum = |of: fn(&Counts) -> &AtomicU64| -> u64 {
            self.slots.iter().map(|slot| of(slot).load(Ordering::Relaxed)).sum()
        };
        CallStats {
            batch_allocations: sum(|counts| &counts.batch_allocations),
            batch_frees: sum(|counts| &counts.batch_frees),
            allocation_errors: sum(|counts| &counts.refused),
            free_errors: sum(|counts| &counts.missing),
            latency: self.latencies.snapshot(),
        }
    }
}

impl CallStats {
    /// How often allocating took how long, by [`ALLOCATION_BUCKETS`] and beyond, not cumulative.
    pub fn buckets(&self) -> Vec<u64> {
        let mut buckets = self.latency.cumulative(&BUCKET_NANOSECONDS);
        buckets.push(self.latency.count());
        for at in (1..buckets.len()).rev() {
            buckets[at] -= buckets[at - 1];
        }
        buckets
    }
}

impl PoolStats {
    /// The part of live blocks' bytes that nobody asked for: 0 where every block is as large as what was asked for.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs few digits")]
    pub fn fragmentation_ratio(&self) -> f64 {
        let unasked = self.allocated_bytes.saturating_sub(self.requested_bytes);
        if unasked == 0 { 0.0 } else { unasked as f64 / self.allocated_bytes as f64 }
    }

    /// What health is made of.
    fn reading(&self, now: Now) -> Reading {
        let PathCounts { magazine, shared, fresh, reclaim, .. } = self.heap.paths;
        let latency = self.calls.latency.clone();
        let slow = u64::try_from(SLOW.as_nanos()).expect("it is short");
        Reading {
            allocations: self.allocations_made,
            errors: self.calls.allocation_errors,
            // Those that a write takes for its new version are among them: they come from the same magazines.
            served: magazine + shared + fresh + reclaim,
            fast_hits: magazine,
            slow: latency.count_above(slow),
            damaged: self.heap.guard_violations.iter().sum(),
            latency,
            in_use_bytes: self.heap.in_use_bytes,
            limit_bytes: self.heap.limit_bytes,
            fragmentation_ratio: self.fragmentation_ratio(),
            circuit_open: self.admission.breaker.refuses(now),
            last_reclaim: self.heap.reclaim.last_slice,
        }
    }
}

impl Pool {
    /// Makes an allocation of what lies ready, and times it; it stands for `weight`. None as
    /// `Local::allocate_at_once`.
    #[cold]
    pub(super) fn allocate_at_once_timed(
        &self,
        request: &AllocateRequest,
        weight: u64,
        now: Now,
    ) -> Option<Allocation> {
        let Engine::Local(local) = &self.engine;
        let timing = Timing { began: Stopwatch::start(), weight };
        let made = local.allocate_at_once(request, now)?;
        self.calls.end(Some(timing));
        Some(made)
    }

    /// How the pool does, by its numbers now and those of earlier looks. The first look begins the recent window: it wants
    /// to be taken at start.
    pub fn health(&self, stats: &PoolStats, now: Now) -> Health {
        self.calls.monitor.lock().observe(now, stats.reading(now))
    }
}
