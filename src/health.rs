//! How well an allocator does: one score from 0 to 1, and what it is made of. Pure: readings in, [`Health`] out.
//!
//! A [`Reading`] has what was counted since the start and what is true now. [`HealthMonitor`] keeps the one at the start
//! of the current interval and the one at the start of the interval before. Rates are of the *recent window*, from the
//! latter until now: between one and two intervals. Nothing happens by itself: an interval ends when somebody looks, so
//! the window of one who looks seldom reaches back to when somebody looked last.
//!
//! What is found in the recent window, each from 0 to 1:
//!
//! | what | how |
//! |---|---|
//! | `error_rate` | refused / (made + refused); 0 where nothing was asked for |
//! | `slow_rate` | allocations over the latency limit / timed, each with what it stands for; 0 where none was timed |
//! | `cache_efficiency` | slabs from the fast path / slabs from all paths; 1 where there was none, but 0 where all was refused |
//! | `memory_pressure` | 0 up to 60 % of the limit in use, 1 at 100 %, a line between them |
//! | `fragmentation_score` | 0 up to a fragmentation ratio of 0.25, 1 from 0.75 on, a line between them |
//!
//! The score is 1 less what is lost, a weighted sum: an operator sees from the parts what costs how much, and
//! several small troubles show where a minimum would hide all but one.
//!
//! | part | loses at most | nothing is lost up to | all of it is lost from |
//! |---|---|---|---|
//! | refusals, `error_rate` | 0.25 | 0 | 0.10 |
//! | slow allocations, `slow_rate` | 0.20 | 0 | 0.05 |
//! | damaged slabs | 0.20 | none found | one found in the recent window; half of it for one found before |
//! | `memory_pressure` | 0.15 | 0 | 1 |
//! | misses, 1 - `cache_efficiency` | 0.10 | 0.15 | 1 |
//! | `fragmentation_score` | 0.10 | 0 | 1 |
//!
//! An open circuit breaker caps the score at 0.5. A full pool that works as it is meant to, and refuses what does not
//! fit, is never below 0.5: pressure, refusals, and magazines that a full pool cannot use, cost that much together. Where
//! blocks waste most of their slabs too, it is never below 0.4.
//!
//! Below 0.8 one part is bad or several are not good: look at which. Below 0.5 a pool is full and wastes its room, or its
//! allocations are slow or its slabs damaged, or several of these: look at once. The score alone does not tell of damage,
//! which costs 0.2 and later 0.1: that has a counter of its own, which belongs at 0.
//!
//! The trend compares the score with that of the interval before the current one: more than 0.02 above it is improving,
//! more than 0.02 below it degrading.

use crate::clock::Now;
use crate::latency::LatencySnapshot;
use crate::units::ratio;
use std::time::Duration;

/// The usual interval; the recent window is one to two of them.
pub const INTERVAL: Duration = Duration::from_secs(15);
/// Intervals after which a reading is too old: if nobody asked for so long, the recent window begins anew, empty.
pub const AGE_INTERVALS_MAX: u32 = 20;
/// Allocations that the recent window has at least for its percentiles to be shown: of fewer, P99 says nothing.
pub const PERCENTILES_FROM: u64 = 1000;

const ERRORS_WEIGHT: f64 = 0.25;
const SLOW_WEIGHT: f64 = 0.20;
const DAMAGE_WEIGHT: f64 = 0.20;
const PRESSURE_WEIGHT: f64 = 0.15;
const MISSES_WEIGHT: f64 = 0.10;
const FRAGMENTATION_WEIGHT: f64 = 0.10;
/// With all of it lost, nothing is left.
const _: () = {
    let all =
        ERRORS_WEIGHT + SLOW_WEIGHT + DAMAGE_WEIGHT + PRESSURE_WEIGHT + MISSES_WEIGHT + FRAGMENTATION_WEIGHT;
    assert!(all > 0.999_999 && all < 1.000_001);
};

/// Where nothing is lost yet, and where all is; see the tables above.
const ERRORS: (f64, f64) = (0.0, 0.10);
const SLOW: (f64, f64) = (0.0, 0.05);
const MISSES: (f64, f64) = (0.15, 1.0);
/// Of the limit in use. Below it nothing but growth is to be expected of a pool; the pressure levels begin there too.
const PRESSURE: (f64, f64) = (0.60, 1.0);
/// Of live bytes that nobody asked for. Sizes that double waste a quarter on average, and half at most.
const FRAGMENTATION: (f64, f64) = (0.25, 0.75);
/// Of the part for damage, where all of it was found before the recent window: what wrote there may do so again.
const OLD_DAMAGE: f64 = 0.5;
/// The score at most while the circuit breaker is open: nobody is served then, however good the rest looks.
const OPEN_CIRCUIT_CAP: f64 = 0.5;
/// A score that differs by no more than this is as good as before.
const TREND_STEP: f64 = 0.02;

/// What is read of an allocator at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Allocations made since the start.
    pub allocations: u64,
    /// Allocations refused since the start.
    pub errors: u64,
    /// Slabs served since the start, by whatever path: also those that are no allocation, of a content's new version.
    pub served: u64,
    /// Of these, by the fast path.
    pub fast_hits: u64,
    /// Of the allocations that were timed, slower than the latency limit, each with what it stands for.
    pub slow: u64,
    /// Damaged slabs found since the start.
    pub damaged: u64,
    /// How long allocations took since the start.
    pub latency: LatencySnapshot,
    /// Bytes in use now.
    pub in_use_bytes: u64,
    /// Bytes that may be in use.
    pub limit_bytes: u64,
    /// Share of live blocks' bytes that nobody asked for, 0 to 1.
    pub fragmentation_ratio: f64,
    /// Whether the circuit breaker is open.
    pub circuit_open: bool,
    /// How long the last reclaim took; none where there was none.
    pub last_reclaim: Option<Duration>,
}

/// Where the score goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trend {
    /// Up by more than 0.02.
    Improving,
    /// As it was, or nothing is known of before.
    Stable,
    /// Down by more than 0.02.
    Degrading,
}

impl Trend {
    /// All of them.
    pub const ALL: [Trend; 3] = [Trend::Improving, Trend::Stable, Trend::Degrading];

    /// What users see.
    pub fn name(self) -> &'static str {
        match self {
            Trend::Improving => "improving",
            Trend::Stable => "stable",
            Trend::Degrading => "degrading",
        }
    }
}

/// How an allocator does. See the module for how each is found.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What half of the allocations took at most: of the recent window where it has [`PERCENTILES_FROM`] of them, else since
    /// the start; none where none was timed.
    pub latency_p50: Option<Duration>,
    /// What 95 % took at most.
    pub latency_p95: Option<Duration>,
    /// What 99 % took at most.
    pub latency_p99: Option<Duration>,
    /// 0: as little as can be expected; 1: most of the memory is wasted.
    pub fragmentation_score: f64,
    /// 0: there is room; 1: full.
    pub memory_pressure: f64,
    /// Recent requests that were refused, as a part of all.
    pub error_rate: f64,
    /// Recent allocations that were slower than the latency limit, as a part of those that were timed.
    pub slow_rate: f64,
    /// Slabs that the fast path served recently, as a part of all; 0 where all that was asked for was refused.
    pub cache_efficiency: f64,
    /// Whether nobody is served for now.
    pub circuit_breaker_open: bool,
    /// All of it in one number: 1 is best.
    pub health_score: f64,
    /// Where the score goes.
    pub recent_trend: Trend,
    /// How long the last reclaim took; none where there was none.
    pub last_reclaim_duration: Option<Duration>,
    /// How long the recent window is.
    pub window: Duration,
}

/// How far a value is from where nothing is lost to where all is.
fn share(value: f64, (from, to): (f64, f64)) -> f64 {
    ((value - from) / (to - from)).clamp(0.0, 1.0)
}

/// A rate: counts that are read one after the other may make the part the larger. None where there is nothing.
fn rate(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| ratio(part, whole).min(1.0))
}

impl Health {
    /// What `now` says, with the rates of what was counted since `earlier`, so long ago. No trend yet.
    fn between(earlier: &Reading, now: &Reading, window: Duration) -> Health {
        let since = |of: fn(&Reading) -> u64| of(now).saturating_sub(of(earlier));
        let (made, errors) = (since(|reading| reading.allocations), since(|reading| reading.errors));
        let error_rate = rate(errors, made + errors).unwrap_or(0.0);
        let recent = now.latency.minus(&earlier.latency);
        let slow_rate = rate(since(|reading| reading.slow), recent.count()).unwrap_or(0.0);
        // One that serves nobody is not to look better than one that serves few.
        let of_nothing = if errors > 0 { 0.0 } else { 1.0 };
        let served = since(|reading| reading.served);
        let cache_efficiency = rate(since(|reading| reading.fast_hits), served).unwrap_or(of_nothing);
        let used = rate(now.in_use_bytes, now.limit_bytes).unwrap_or(0.0);
        let memory_pressure = share(used, PRESSURE);
        let fragmentation_score = share(now.fragmentation_ratio, FRAGMENTATION);
        let damage = match (now.damaged, since(|reading| reading.damaged)) {
            (0, _) => 0.0,
            (_, 0) => OLD_DAMAGE,
            _ => 1.0,
        };
        let lost = ERRORS_WEIGHT * share(error_rate, ERRORS)
            + SLOW_WEIGHT * share(slow_rate, SLOW)
            + DAMAGE_WEIGHT * damage
            + PRESSURE_WEIGHT * memory_pressure
            + MISSES_WEIGHT * share(1.0 - cache_efficiency, MISSES)
            + FRAGMENTATION_WEIGHT * fragmentation_score;
        let cap = if now.circuit_open { OPEN_CIRCUIT_CAP } else { 1.0 };
        let latency = if recent.count() >= PERCENTILES_FROM { &recent } else { &now.latency };
        let percentile = |percent| latency.percentile(percent).map(Duration::from_nanos);
        Health {
            latency_p50: percentile(50.0),
            latency_p95: percentile(95.0),
            latency_p99: percentile(99.0),
            fragmentation_score,
            memory_pressure,
            error_rate,
            slow_rate,
            cache_efficiency,
            circuit_breaker_open: now.circuit_open,
            health_score: (1.0 - lost).clamp(0.0, cap),
            recent_trend: Trend::Stable,
            last_reclaim_duration: now.last_reclaim,
            window,
        }
    }
}

/// Watches one allocator. It looks when it is asked, however seldom that is.
#[derive(Debug)]
pub struct HealthMonitor {
    interval: Duration,
    /// None before the first look, where that begins the recent window.
    marks: Option<Marks>,
    /// The score of the interval before; none where there was none.
    score: Option<f64>,
}

#[derive(Debug)]
struct Marks {
    /// At the start of the interval before the current one: the start of the recent window.
    before: Mark,
    /// At the start of the current interval.
    start: Mark,
}

#[derive(Clone, Debug)]
struct Mark {
    at: Now,
    reading: Reading,
}

impl HealthMonitor {
    /// A monitor of an allocator that begins now, and has counted nothing yet.
    pub fn new(now: Now, interval: Duration) -> HealthMonitor {
        let mark = Mark { at: now, reading: Reading::default() };
        HealthMonitor { interval, marks: Some(Marks { before: mark.clone(), start: mark }), score: None }
    }

    /// A monitor whose recent window begins with its first look: for who knows no time before.
    pub fn from_first_look(interval: Duration) -> HealthMonitor {
        HealthMonitor { interval, marks: None, score: None }
    }

    /// How the allocator does, from what is read of it now.
    pub fn observe(&mut self, now: Now, reading: Reading) -> Health {
        let mark = Mark { at: now, reading };
        let age_max = self.interval.saturating_mul(AGE_INTERVALS_MAX);
        let marks = match &mut self.marks {
            Some(marks) if now.since(marks.start.at) <= age_max => marks,
            // What was counted before may all be long over.
            marks => {
                self.score = None;
                marks.insert(Marks { before: mark.clone(), start: mark.clone() })
            }
        };
        let is_over = now.since(marks.start.at) >= self.interval;
        if is_over {
            marks.before = std::mem::replace(&mut marks.start, mark.clone());
        }
        let window = now.since(marks.before.at);
        let mut health = Health::between(&marks.before.reading, &mark.reading, window);
        health.recent_trend = match self.score.map(|score| health.health_score - score) {
            Some(change) if change > TREND_STEP => Trend::Improving,
            Some(change) if change < -TREND_STEP => Trend::Degrading,
            _ => Trend::Stable,
        };
        if is_over {
            self.score = Some(health.health_score);
        }
        health
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
