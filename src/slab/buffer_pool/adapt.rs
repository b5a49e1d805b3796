//! How many buffers each bucket keeps: more where most are in use, fewer where most lie idle, between bounds.
//!
//! Use is the part of a bucket's buffers that is in use. It is sampled eight times an interval, and averaged over the
//! interval by time, each stretch between two samples at the mean of both. There is no thread for it: threads that give
//! buffers back do it, one at a time, and [`super::BufferPool::adjust`] does it for a pool that lies idle.

use super::{BucketStock, Shared};
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Samples in an interval.
const SAMPLES: u32 = 8;

/// Bytes of a bucket's buffers that one step drops at most, unless it is one buffer: zeroed and freed in less than 1 ms.
const DROPPED_BYTES_MAX: usize = 4 << 20;

/// When a bucket of a pool keeps more or fewer buffers. Of a heap's size classes that is
/// [`memory::Adaptive`](crate::memory::Adaptive).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeptAdaptation {
    /// Time over which use is averaged. Default: 30 s.
    pub interval: Duration,
    /// Above this use, 0 to 1, more are kept. Default: 0.8.
    pub grow_above: f64,
    /// So many times as many, and at least one more. Default: 1.2.
    pub grow_factor: f64,
    /// Below this use, 0 to 1, fewer are kept. Default: 0.3.
    pub shrink_below: f64,
    /// So many times as many, and at least one less. Default: 0.8.
    pub shrink_factor: f64,
}

impl Default for KeptAdaptation {
    fn default() -> KeptAdaptation {
        KeptAdaptation {
            interval: Duration::from_secs(30),
            grow_above: 0.8,
            grow_factor: 1.2,
            shrink_below: 0.3,
            shrink_factor: 0.8,
        }
    }
}

impl KeptAdaptation {
    /// Whether the numbers make sense together.
    pub(super) fn is_valid(&self) -> bool {
        let uses = 0.0..=1.0;
        !self.interval.is_zero()
            && uses.contains(&self.grow_above)
            && uses.contains(&self.shrink_below)
            && self.shrink_below < self.grow_above
            && (1.0..=100.0).contains(&self.grow_factor)
            && uses.contains(&self.shrink_factor)
    }

    /// How many a bucket keeps after an interval of that average use.
    fn next_limit(&self, limit: usize, bucket: &BucketStock, average_use: f64) -> usize {
        if average_use > self.grow_above {
            scaled(limit, self.grow_factor).max(limit + 1).min(bucket.kept_max)
        } else if average_use < self.shrink_below {
            scaled(limit, self.shrink_factor).min(limit.saturating_sub(1)).max(bucket.kept_min)
        } else {
            limit
        }
    }
}

/// So many times a count, rounded down.
fn scaled(count: usize, factor: f64) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // rounded down, and saturated; never negative
    let scaled = (count as f64 * factor) as usize;
    scaled
}

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Adaptation {
    /// None: each bucket keeps as many as it did at first.
    adaptive: Option<KeptAdaptation>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    interval_begin: Instant,
    last_sample: Instant,
    /// Of each bucket.
    uses: Vec<Use>,
}

#[derive(Clone, Debug, Default)]
struct Use {
    /// At the last sample.
    last: f64,
    /// Use, times seconds, since the interval began.
    seconds: f64,
}

impl Adaptation {
    pub(super) fn new(adaptive: Option<KeptAdaptation>, buckets: usize, now: Instant) -> Adaptation {
        let state = State { interval_begin: now, last_sample: now, uses: vec![Use::default(); buckets] };
        Adaptation { adaptive, state: Mutex::new(state) }
    }
}

impl Shared {
    /// As `adjust`, if the last sample is old enough and nobody else is at it.
    #[cold]
    pub(super) fn adapt_if_due(&self, now: Instant) {
        let Some(adaptive) = &self.adaptation.adaptive else { return };
        let Some(mut state) = self.adaptation.state.try_lock() else { return };
        if now.saturating_duration_since(state.last_sample) >= adaptive.interval / SAMPLES {
            self.sample(adaptive, &mut state, now);
        }
    }

    /// Takes a sample, and adapts if the interval is over.
    pub(super) fn adjust(&self, now: Instant) {
        if let Some(adaptive) = &self.adaptation.adaptive {
            self.sample(adaptive, &mut self.adaptation.state.lock(), now);
        }
    }

    fn sample(&self, adaptive: &KeptAdaptation, state: &mut State, now: Instant) {
        let seconds = now.saturating_duration_since(state.last_sample).as_secs_f64();
        for (bucket, seen) in self.buckets.iter().zip(&mut state.uses) {
            let now_used = bucket.use_now();
            seen.seconds += (seen.last + now_used) / 2.0 * seconds;
            seen.last = now_used;
        }
        state.last_sample = state.last_sample.max(now);
        let interval = now.saturating_duration_since(state.interval_begin);
        if interval >= adaptive.interval {
            for (bucket, seen) in self.buckets.iter().zip(&mut state.uses) {
                let average_use = seen.seconds / interval.as_secs_f64();
                let limit = bucket.stock.stats().kept_max;
                let next = adaptive.next_limit(limit, bucket, average_use);
                if next != limit {
                    bucket.stock.set_kept_max(next);
                }
                seen.seconds = 0.0;
            }
            state.interval_begin = now;
            self.heap.end_idle_interval();
        }
        self.give_back_a_slice();
    }

    /// Drops what buckets keep beyond their limits, and gives pages that lay idle back to the system; a little of each.
    fn give_back_a_slice(&self) {
        {
            let _giving_up = self.giving_up.lock();
            for bucket in &self.buckets {
                bucket.stock.drop_surplus((DROPPED_BYTES_MAX / bucket.size_bytes).max(1));
            }
        }
        self.heap.reclaim_idle_slice();
    }
}

impl BucketStock {
    /// The part of its buffers that is in use; 0 where there are none.
    fn use_now(&self) -> f64 {
        let stats = self.stock.stats();
        match stats.in_use + stats.kept {
            0 => 0.0,
            held => stats.in_use as f64 / held as f64,
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
