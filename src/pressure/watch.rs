//! What one look after the other comes to: each makes a sample of all that bounds the memory, and an [`Outlook`].
//!
//! Two things bound it, and either may end us: the pool's limit, and a limit of the system. Each has a forecaster of its
//! own, for they do not move together, and the worse forecast of both is published.

use super::{Action, Forecaster, Outlook, Reading, Sample, Watermarks};
use crate::clock::Now;
use std::time::Duration;

/// Rates follow what is counted with this delay, however often is looked: a change shows by two thirds after so long.
const RATE_DELAY: Duration = Duration::from_secs(5);
/// The system's fullness is told as a ratio; as a sample it is so many parts of as many.
const PARTS: u64 = 1 << 40;

/// What is read in one look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// When.
    pub at: Now,
    /// What the gauge shows.
    pub reading: Reading,
    /// Bytes in use of the pool.
    pub used_bytes: u64,
    /// The pool's limit.
    pub limit_bytes: u64,
    /// Actual bytes ever allocated.
    pub allocated_bytes: u64,
}

/// Remembers what it takes to make an outlook of a look.
#[derive(Clone, Debug)]
pub struct Watch {
    watermarks: Watermarks,
    pool: Forecaster,
    /// None before the system has a limit. Where it has none any more, what was seen of it is kept: it may be back.
    system: Option<Forecaster>,
    last: Option<Look>,
    /// Bytes in a second; none before the second look.
    rates: Option<Rates>,
}

#[derive(Clone, Copy, Debug)]
struct Rates {
    allocation: f64,
    free: f64,
}

impl Watch {
    /// Nothing was seen yet.
    pub fn new(watermarks: Watermarks) -> Watch {
        Watch { watermarks, pool: Forecaster::new(watermarks), system: None, last: None, rates: None }
    }

    /// What is to be expected after this look. None where there is no pool to look at.
    pub fn observe(&mut self, look: Look) -> Option<Outlook> {
        self.measure(&look);
        let seconds = Duration::from_nanos(look.at.0).as_secs_f64();
        // A sample may be refused that came out of turn; the forecast of those before stands then.
        let _ =
            self.pool.record(Sample { seconds, used_bytes: look.used_bytes, total_bytes: look.limit_bytes });
        let system = look.reading.system_ratio.and_then(|ratio| {
            // A gap is no more to it than one between looks: it begins anew after a long one.
            let system = self.system.get_or_insert_with(|| Forecaster::new(self.watermarks));
            let _ = system.record(Sample { seconds, used_bytes: parts(ratio), total_bytes: PARTS });
            system.forecast()
        });
        let mut forecast = self.pool.forecast()?;
        if let Some(system) = system {
            forecast = forecast.or_worse(system);
        }
        // The level is left later than a ratio says, and stalls raise it.
        forecast.action = forecast.action.max(Action::of(look.reading.level, None));
        let rates = self.rates.unwrap_or(Rates { allocation: 0.0, free: 0.0 });
        Some(Outlook {
            at: look.at,
            forecast,
            allocation_bytes_per_second: rates.allocation,
            free_bytes_per_second: rates.free,
        })
    }

    fn measure(&mut self, look: &Look) {
        let Some(last) = self.last.replace(*look) else { return };
        let seconds = look.at.since(last.at).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let allocated = look.allocated_bytes.saturating_sub(last.allocated_bytes);
        // What was there and what came, less what is still there. The counters are read one after the other, so a rest may
        // be missing for an instant.
        let freed = (last.used_bytes + allocated).saturating_sub(look.used_bytes);
        #[expect(clippy::cast_precision_loss, reason = "rates need few digits")]
        let now = Rates { allocation: allocated as f64 / seconds, free: freed as f64 / seconds };
        let weight = 1.0 - (-seconds / RATE_DELAY.as_secs_f64()).exp();
        let follow = |rate: f64, now: f64| rate + weight * (now - rate);
        self.rates = Some(self.rates.map_or(now, |rates| Rates {
            allocation: follow(rates.allocation, now.allocation),
            free: follow(rates.free, now.free),
        }));
    }
}

/// How many of [`PARTS`] a ratio is; all of them where it is more than one.
fn parts(ratio: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "it is between 0 and a power of two"
    )]
    let parts = (ratio.clamp(0.0, 1.0) * PARTS as f64) as u64;
    parts
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use super::super::{Gauge, SystemReading, Trend};
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    const LIMIT: u64 = 1000;

    /// A gauge whose system is so many per cent full, and a watch.
    struct Place {
        gauge: Gauge,
        system_percent: Arc<AtomicU64>,
        watch: Watch,
    }

    impl Place {
        fn new() -> Place {
            let gauge = Gauge::default();
            let system_percent = Arc::new(AtomicU64::new(0));
            let its = system_percent.clone();
            gauge.read_system_by(Box::new(move || SystemReading {
                used_bytes: its.load(Ordering::Relaxed),
                limit_bytes: if its.load(Ordering::Relaxed) > 0 { 100 } else { 0 },
                psi_avg10: None,
            }));
            Place { gauge, system_percent, watch: Watch::new(Watermarks::default()) }
        }

        fn look(&mut self, second: u64, used: u64, system_percent: u64, allocated: u64) -> Outlook {
            self.system_percent.store(system_percent, Ordering::Relaxed);
            let at = Now(1).after(Duration::from_secs(second));
            let reading = self.gauge.observe(used, LIMIT, at);
            let look = Look { at, reading, used_bytes: used, limit_bytes: LIMIT, allocated_bytes: allocated };
            self.watch.observe(look).expect("there is a pool")
        }
    }

    #[test]
    fn the_first_look_says_what_is_and_a_climb_says_what_will_be() {
        let mut place = Place::new();
        let first = place.look(0, 100, 0, 100);
        assert!(first.forecast.predicted.iter().all(|ratio| (ratio - 0.1).abs() < 1e-9), "{first:?}");
        assert_eq!(first.forecast.action, Action::Monitor);
        assert_eq!((first.allocation_bytes_per_second, first.free_bytes_per_second), (0.0, 0.0));
        let last = (1..=12).map(|at| place.look(at * 5, 100 + at * 25, 0, 100 + at * 25)).last();
        let last = last.expect("there were some");
        assert!(last.forecast.predicted[2] > 0.8, "{last:?}");
        assert_eq!(last.forecast.trend, Trend::Critical);
        assert!((last.allocation_bytes_per_second - 5.0).abs() < 1e-9, "{last:?}");
        assert!(last.free_bytes_per_second.abs() < 1e-9, "{last:?}");
    }

    #[test]
    fn a_system_that_fills_is_foretold_although_the_pool_stands_still() {
        let mut place = Place::new();
        let last =
            (0..=12).map(|at| place.look(at * 5, 100, 20 + at * 4, 100)).last().expect("there were some");
        assert!(last.forecast.ratio > 0.67 && last.forecast.predicted[0] > 0.85, "{last:?}");
        assert!(last.forecast.action >= Action::AggressiveReclaim, "{last:?}");
        // Its limit goes, and what was expected of it.
        let without = place.look(65, 100, 0, 100);
        assert!(
            without.forecast.predicted[2] < 0.2 && without.forecast.action == Action::Monitor,
            "{without:?}"
        );
        // It is there again: what was seen of it before counts.
        let again = place.look(70, 100, 76, 100);
        assert!(again.forecast.predicted[0] > 0.85 && again.forecast.trend == Trend::Critical, "{again:?}");
    }

    #[test]
    fn a_level_that_is_left_late_keeps_its_action() {
        let mut place = Place::new();
        assert_eq!(place.look(0, 760, 0, 760).forecast.action, Action::GentleReclaim);
        // Still high, by hysteresis, and getting less.
        assert_eq!(place.look(5, 740, 0, 760).forecast.action, Action::GentleReclaim);
        assert_eq!(place.look(10, 700, 0, 760).forecast.action, Action::Monitor);
    }

    #[test]
    fn rates_are_of_what_came_and_went_and_follow_at_one_pace_however_often_is_looked() {
        for step in [1_u64, 5] {
            let mut place = Place::new();
            // 20 bytes come in a second, and as many go.
            for at in (0..=60).step_by(usize::try_from(step).expect("small")) {
                place.look(at, 500, 0, at * 20);
            }
            let after = |seconds: u64, place: &mut Place| {
                let looks = (1..=seconds / step).map(|at| place.look(60 + at * step, 500, 0, 1200));
                looks.last().expect("there were some")
            };
            let outlook = after(5, &mut place);
            for rate in [outlook.allocation_bytes_per_second, outlook.free_bytes_per_second] {
                assert!((rate - 20.0 * (-1.0_f64).exp()).abs() < 1e-9, "{step}: {outlook:?}");
            }
        }
    }

    #[test]
    fn a_look_out_of_turn_changes_nothing() {
        let mut place = Place::new();
        place.look(5, 100, 0, 100);
        let again = place.look(5, 200, 0, 200);
        assert_eq!(again.allocation_bytes_per_second, 0.0);
        let back = place.look(3, 900, 0, 900);
        assert!(back.forecast.ratio < 0.3, "{back:?}");
    }
}
