//! How long operations took: a histogram for each slot, and a sampler that decides which operations are timed.
//!
//! To read the clock twice takes about as long as an allocation does. So what is fast is timed one time in about
//! [`EVERY_MAX`], by a distance that varies, and each of these counts for all operations since the one before; what is
//! slow is timed always, and counts once, or has a sampler of its own that times it more often:
//!
//! ```text
//!   let weight = sampler.should_time();          none, mostly: a load, a store and a branch
//!   fast path ──▶ done; with a weight:  latencies.record(nanoseconds, weight)
//!      └─ no ──▶ slow path:             latencies.record(nanoseconds, 1), with or without a weight
//! ```
//!
//! Counts and sums are then estimates, without a bias: what is slow is counted exactly, and a sampled operation that is
//! fast stands for as many fast ones, on average, as there were. At first nearly all are timed, so that there is something
//! to say of whoever does little: about 56 of the first 1016 operations of a slot.
//!
//! The buckets are those of HdrHistogram: [`STEPS`] linear ones for each power of two, so that a value is known to within a
//! sixteenth of itself, and a histogram takes [`BUCKETS`] words. This is the one place below the edges that reads a
//! clock, and only for how long something took.

use crate::slot::PerSlot;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Of fast operations one in so many is timed, on average, once there were a few thousand.
pub const EVERY_MAX: u64 = 128;
/// Operations that are timed before the distance between them doubles.
const TIMED_PER_DOUBLING: u64 = 8;

/// Linear steps for each power of two.
pub const STEPS: usize = 1 << STEP_BITS;
const STEP_BITS: u32 = 4;
/// From 2^36 ns on, 68.7 s, nothing is told apart.
const RANGE_BITS: u32 = 36;
/// Buckets of a histogram: one for each nanosecond below [`STEPS`], then that many for each power of two. 4.1 KiB.
pub const BUCKETS: usize = STEPS * (RANGE_BITS - STEP_BITS + 1) as usize;

/// Time since something began.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Begins now.
    #[inline]
    pub fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    /// Nanoseconds since then.
    #[inline]
    pub fn nanoseconds(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The bucket that a duration belongs to.
fn bucket_of(nanoseconds: u64) -> usize {
    let nanoseconds = nanoseconds.min((1 << RANGE_BITS) - 1);
    // As many bits are cut off as leave a number of at most STEP_BITS + 1 bits.
    let cut = (u64::BITS - nanoseconds.leading_zeros()).saturating_sub(STEP_BITS + 1);
    let step = usize::try_from(nanoseconds >> cut).expect("it is below 2 × STEPS");
    step + cut as usize * STEPS
}

/// The longest duration that belongs to a bucket, but for what is too long for all of them, which the last one has too.
fn end_of(bucket: usize) -> u64 {
    let cut = (bucket / STEPS).saturating_sub(1);
    (((bucket - cut * STEPS) as u64 + 1) << cut) - 1
}

/// The longest duration that can be in a bucket, of a histogram with that maximum.
fn longest_in(bucket: usize, max: u64) -> u64 {
    if bucket == BUCKETS - 1 { max } else { end_of(bucket).min(max) }
}

/// How long operations took, by how many of them. Any thread may record; each writes its own slot.
#[derive(Debug)]
pub struct Latencies {
    slots: PerSlot<Histogram>,
}

#[derive(Debug)]
struct Histogram {
    sum: AtomicU64,
    max: AtomicU64,
    counts: Box<[AtomicU64]>,
}

impl Default for Latencies {
    fn default() -> Latencies {
        let counts = || (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        let histogram = |_| Histogram { sum: AtomicU64::new(0), max: AtomicU64::new(0), counts: counts() };
        Latencies { slots: PerSlot::new(histogram) }
    }
}

impl Latencies {
    /// Counts an operation that took so long, and stands for `weight` operations.
    pub fn record(&self, nanoseconds: u64, weight: u64) {
        let histogram = self.slots.mine();
        // Two threads may share a slot, so these are atomic steps; mostly nobody else wants the line.
        histogram.counts[bucket_of(nanoseconds)].fetch_add(weight, Ordering::Relaxed);
        histogram.sum.fetch_add(nanoseconds.saturating_mul(weight), Ordering::Relaxed);
        if nanoseconds > histogram.max.load(Ordering::Relaxed) {
            histogram.max.fetch_max(nanoseconds, Ordering::Relaxed);
        }
    }

    /// What was recorded so far. What is recorded meanwhile may be in some of the numbers.
    pub fn snapshot(&self) -> LatencySnapshot {
        let mut all = LatencySnapshot::default();
        for slot in self.slots.iter() {
            all.sum = all.sum.wrapping_add(slot.sum.load(Ordering::Relaxed));
            all.max = all.max.max(slot.max.load(Ordering::Relaxed));
            for (sum, count) in all.counts.iter_mut().zip(&slot.counts) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        all
    }
}

/// How long operations took, up to an instant or between two. Durations are nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencySnapshot {
    sum: u64,
    max: u64,
    counts: Box<[u64]>,
}

impl Default for LatencySnapshot {
    fn default() -> LatencySnapshot {
        LatencySnapshot { sum: 0, max: 0, counts: vec![0; BUCKETS].into() }
    }
}

impl LatencySnapshot {
    /// Operations, those included that the timed ones stand for.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of what they took.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The longest that was timed; 0 where none was.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// What they took on average; none where there are none.
    #[expect(clippy::cast_precision_loss, reason = "an average needs few digits")]
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum as f64 / count as f64)
    }

    /// What `percent` of a hundred operations took at most, to within a sixteenth, and never more than the longest; none
    /// where there are none.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank to 15 digits is as good, and it is bounded on the next line"
    )]
    pub fn percentile(&self, percent: f64) -> Option<u64> {
        let count = self.count();
        let rank = (count as f64 * percent / 100.0).ceil() as u64;
        let rank = rank.clamp(1, count.max(1));
        let mut seen = 0;
        let bucket = self.counts.iter().position(|of_bucket| {
            seen += of_bucket;
            seen >= rank
        });
        bucket.map(|bucket| longest_in(bucket, self.max))
    }

    /// Operations that took at most so long, for each of these bounds: a bucket that lies across a bound counts on the
    /// side that its middle is on, so a bound is met to within a thirty-second. Add [`LatencySnapshot::count`] for what
    /// has no bound.
    pub fn cumulative(&self, bounds: &[u64]) -> Vec<u64> {
        let below = |bound: &u64| {
            let middle = |bucket: usize| {
                bucket.checked_sub(1).map_or(0, |one| end_of(one) + 1).midpoint(end_of(bucket))
            };
            let middles = (0..BUCKETS).map(middle);
            let counted = self.counts.iter().zip(middles).take_while(|(_, middle)| middle <= bound);
            counted.map(|(count, _)| count).sum()
        };
        bounds.iter().map(below).collect()
    }

    /// Operations that took longer than `bound`, to within a thirty-second of it.
    pub fn count_above(&self, bound: u64) -> u64 {
        self.count() - self.cumulative(&[bound])[0]
    }

    /// What was recorded since `earlier`, an earlier snapshot of the same histogram. The longest is then known to within
    /// a sixteenth.
    #[must_use]
    pub fn minus(&self, earlier: &LatencySnapshot) -> LatencySnapshot {
        let pairs = self.counts.iter().zip(&earlier.counts);
        // Snapshots are read word by word: one of them may have what belongs to the other.
        let counts: Box<[u64]> = pairs.map(|(now, then)| now.saturating_sub(*then)).collect();
        let longest = counts.iter().rposition(|count| *count > 0);
        LatencySnapshot {
            sum: self.sum.saturating_sub(earlier.sum),
            max: longest.map_or(0, |bucket| longest_in(bucket, self.max)),
            counts,
        }
    }
}

/// Decides which operations are timed. See the module.
#[derive(Debug)]
pub struct Sampler {
    /// The distance on average, in the long run: a power of two.
    every_bits: u64,
    slots: PerSlot<Turn>,
}

/// One slot's. Threads that share a slot may take a turn twice or miss one: it is a sample, and no step on the way of a
/// fast operation is worth more than a load and a store.
#[derive(Debug)]
struct Turn {
    /// Operations until one is timed, that one included.
    left: AtomicU64,
    /// What that one stands for: itself and those since the one before.
    distance: AtomicU64,
    /// How many were timed so far.
    timed: AtomicU64,
}

impl Default for Sampler {
    /// For what is fast: one in [`EVERY_MAX`].
    fn default() -> Sampler {
        Sampler::one_in(EVERY_MAX)
    }
}

impl Sampler {
    /// A sampler of one operation in `every` on average, in the long run.
    ///
    /// # Panics
    /// If `every` is no power of two.
    pub fn one_in(every: u64) -> Sampler {
        assert!(every.is_power_of_two());
        let turn =
            |_| Turn { left: AtomicU64::new(1), distance: AtomicU64::new(1), timed: AtomicU64::new(0) };
        Sampler { every_bits: every.trailing_zeros().into(), slots: PerSlot::new(turn) }
    }

    /// To be asked once for each operation: none, where it is not to be timed; else how many operations it stands for.
    #[inline]
    pub fn should_time(&self) -> Option<u64> {
        let turn = self.slots.mine();
        let left = turn.left.load(Ordering::Relaxed);
        if left > 1 {
            turn.left.store(left - 1, Ordering::Relaxed);
            return None;
        }
        Some(turn.take(self.every_bits))
    }
}

impl Turn {
    /// The turn has come. Draws the next distance, anything from 1 to just below twice the average: a caller whose operations
    /// come in a pattern must not have always the same one timed.
    #[cold]
    fn take(&self, every_bits: u64) -> u64 {
        let weight = self.distance.load(Ordering::Relaxed);
        let timed = self.timed.fetch_add(1, Ordering::Relaxed);
        let every = 1 << (timed / TIMED_PER_DOUBLING).min(every_bits);
        let distance = fastrand::u64(1..2 * every);
        self.distance.store(distance, Ordering::Relaxed);
        self.left.store(distance, Ordering::Relaxed);
        weight
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
