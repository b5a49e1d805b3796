//! Whom the policy turns away: each request that takes memory is asked about once, when it comes.
//!
//! | priority | `hard` | `graduated`, in addition |
//! |---|---|---|
//! | low | deferred from level high on, rejected from critical on | as normal, where that is more |
//! | normal | | from 85 % full on one in ten deferred; from 95 % on seven in ten rejected, the others deferred |
//! | high | | |
//!
//! Level and fullness are those of the instant. A request that may wait for room does not wait here: what is deferred is
//! refused at once, and may come back. The hard limit comes after this, and holds for all.

use super::breaker::{Breaker, BreakerStats, Open, Trial};
use super::draw::Draw;
use super::{Admission, Policy, Priority};
use crate::clock::Now;
use crate::memory::{self, Heap};
use crate::pool::AllocateError;
use crate::pressure::{Gauge, HYSTERESIS, Level, Reading, Source};
use crate::units::Factor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Under the policy graduated: from where on some of priority normal are deferred, and how many of ten.
const SOME_DEFERRED_FROM: Factor = Factor::thousandths(850);
const SOME_DEFERRED: u64 = 1;
/// From where on none of them is let in, and how many of ten are rejected.
const MOST_REJECTED_FROM: Factor = Factor::thousandths(950);
const MOST_REJECTED: u64 = 7;

/// A request that the policy turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("priority {} is turned away at level {}, {fullness} full, by the policy {}", priority.name(), level.name(), policy.name())]
pub struct TurnedAway {
    /// How much it matters; of a batch, the least of its entries.
    pub priority: Priority,
    /// The policy.
    pub policy: Policy,
    /// The level at that instant.
    pub level: Level,
    /// What turned it away: what decides the level, or whose fullness it was.
    pub decided_by: Source,
    /// How full memory was, rounded down.
    pub fullness: Factor,
    /// From how little fullness on it is let in; where tasks stall for lack of memory, when that is over too.
    pub admitted_below: Factor,
}

/// What becomes of a request, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Admitted,
    Deferred,
    Rejected,
}

/// What was turned away, and how the breaker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdmissionStats {
    /// The policy.
    pub policy: Policy,
    /// Requests deferred, by priority. A batch is one.
    pub deferred: [u64; Priority::ALL.len()],
    /// Requests rejected, by priority.
    pub rejected: [u64; Priority::ALL.len()],
    /// The circuit breaker.
    pub breaker: BreakerStats,
}

/// See the module.
#[derive(Debug)]
pub(in crate::pool) struct Doorkeeper {
    policy: Policy,
    /// Requests of this priority, by its number, and above are let in unasked.
    unasked_from: u8,
    gauge: Arc<Gauge>,
    breaker: Breaker,
    some: Draw,
    most: Draw,
    deferred: [AtomicU64; Priority::ALL.len()],
    rejected: [AtomicU64; Priority::ALL.len()],
}

impl Doorkeeper {
    pub(in crate::pool) fn new(config: &Admission, gauge: Arc<Gauge>) -> Doorkeeper {
        let breaker = Breaker::new(config.breaker_threshold, config.breaker_open);
        let unasked_from = match config.policy {
            _ if breaker.is_on() => Priority::High as u8 + 1,
            Policy::Graduated => Priority::High as u8,
            Policy::Hard => Priority::Normal as u8,
        };
        Doorkeeper {
            policy: config.policy,
            unasked_from,
            gauge,
            breaker,
            some: Draw::new(fastrand::u64(..)),
            most: Draw::new(fastrand::u64(..)),
            deferred: Default::default(),
            rejected: Default::default(),
        }
    }

    pub(in crate::pool) fn gauge(&self) -> &Arc<Gauge> {
        &self.gauge
    }

    /// Whether a request has to be asked about: else [`Doorkeeper::admit`] would let it in, and what becomes of it is
    /// nothing to [`Doorkeeper::served`].
    #[inline]
    pub(in crate::pool) fn asks(&self, priority: Priority) -> bool {
        (priority as u8) < self.unasked_from
    }

    /// Lets a request in that takes so many bytes, at actual size, or says why not. A trial is held until what becomes of the
    /// request was told.
    #[cold]
    pub(in crate::pool) fn admit(
        &self,
        heap: &Heap,
        priority: Priority,
        bytes: u64,
        now: Now,
    ) -> Result<Option<Trial<'_>>, AllocateError> {
        // The policy first: who it turns away is not the one that the breaker tries for all.
        self.admit_by_policy(heap, priority, now)?;
        self.breaker.admit(bytes, now).map_err(|Open { smallest_bytes, left }| AllocateError::CircuitOpen {
            requested_bytes: bytes,
            smallest_refused_bytes: smallest_bytes,
            left,
        })
    }

    fn admit_by_policy(&self, heap: &Heap, priority: Priority, now: Now) -> Result<(), AllocateError> {
        let unasked = match self.policy {
            Policy::Hard => Priority::Normal,
            Policy::Graduated => Priority::High,
        };
        if priority >= unasked {
            return Ok(());
        }
        let reading = self.gauge.observe(heap.in_use_bytes(), heap.limit_bytes(), now);
        let high = self.gauge.watermarks().high.saturating_sub(HYSTERESIS);
        let by_level = match (priority, reading.level) {
            (Priority::Low, Level::Critical | Level::Emergency) => (Verdict::Rejected, high),
            (Priority::Low, Level::High) => (Verdict::Deferred, high),
            _ => (Verdict::Admitted, Factor::thousandths(0)),
        };
        let by_fullness = match self.policy {
            Policy::Hard => (Verdict::Admitted, Factor::thousandths(0)),
            Policy::Graduated => self.graduate(reading.ratio),
        };
        let (verdict, admitted_below, decided_by) = if by_fullness.0 > by_level.0 {
            (by_fullness.0, by_fullness.1, fuller(&reading))
        } else {
            (by_level.0, by_level.1, reading.source)
        };
        let turned_away = TurnedAway {
            priority,
            policy: self.policy,
            level: reading.level,
            decided_by,
            fullness: rounded_down(reading.ratio),
            admitted_below,
        };
        let place = priority as usize;
        match verdict {
            Verdict::Admitted => Ok(()),
            Verdict::Deferred => {
                self.deferred[place].fetch_add(1, Ordering::Relaxed);
                Err(AllocateError::AdmissionDeferred(turned_away))
            }
            Verdict::Rejected => {
                self.rejected[place].fetch_add(1, Ordering::Relaxed);
                Err(AllocateError::AdmissionRejected(turned_away))
            }
        }
    }

    /// What becomes of one of priority normal under the policy graduated, and where it would surely be let in.
    fn graduate(&self, ratio: f64) -> (Verdict, Factor) {
        if ratio >= MOST_REJECTED_FROM.as_f64() {
            let is_rejected = self.most.next() < MOST_REJECTED;
            let verdict = if is_rejected { Verdict::Rejected } else { Verdict::Deferred };
            return (verdict, MOST_REJECTED_FROM);
        }
        let is_deferred = ratio >= SOME_DEFERRED_FROM.as_f64() && self.some.next() < SOME_DEFERRED;
        (if is_deferred { Verdict::Deferred } else { Verdict::Admitted }, SOME_DEFERRED_FROM)
    }

    /// A request that was asked about was served with so many bytes.
    #[inline]
    pub(in crate::pool) fn served(&self, bytes: u64) {
        self.breaker.served(bytes);
    }

    /// A request was refused, whether it was asked about or not.
    #[cold]
    pub(in crate::pool) fn refused(&self, heap: &Heap, error: &AllocateError, now: Now) {
        match error {
            AllocateError::Memory(error) => {
                let (memory::AllocateError::Exhausted { requested_bytes, .. }
                | memory::AllocateError::System { requested_bytes, .. }) = error;
                let has_opened = self.breaker.refused(*requested_bytes, now);
                // Nobody tells of what was freed before it opened. Where the system refuses, what is free is no help.
                if has_opened && matches!(error, memory::AllocateError::Exhausted { .. }) {
                    self.breaker.has_room(heap.free_bytes());
                }
            }
            AllocateError::Waited { waited_ms, last } => {
                self.refused(heap, last, now.after(std::time::Duration::from_millis(*waited_ms)));
            }
            _ => {}
        }
    }

    /// Whether somebody who frees memory has to say so, with [`Doorkeeper::room_freed`]. For who has passed the fence in
    /// `Bell::is_wanted` since.
    #[inline]
    pub(in crate::pool) fn wants_room(&self) -> bool {
        self.breaker.alarm.is_raised()
    }

    /// Memory was freed.
    #[cold]
    pub(in crate::pool) fn room_freed(&self, heap: &Heap) {
        self.breaker.has_room(heap.free_bytes());
    }

    pub(in crate::pool) fn stats(&self) -> AdmissionStats {
        let read = |counts: &[AtomicU64; 3]| counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        AdmissionStats {
            policy: self.policy,
            deferred: read(&self.deferred),
            rejected: read(&self.rejected),
            breaker: self.breaker.stats(),
        }
    }
}

/// Whose fullness is more, whatever stalls.
fn fuller(reading: &Reading) -> Source {
    let is_system = reading.system_ratio.is_some_and(|system| system > reading.pool_ratio);
    if is_system { Source::System } else { Source::Pool }
}

/// A ratio in whole thousandths.
fn rounded_down(ratio: f64) -> Factor {
    /// So that 0.85, which is no binary fraction, is 850 thousandths.
    const SLACK: f64 = 1e-6;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from float saturates"
    )]
    Factor::thousandths((ratio * 1000.0 + SLACK) as u32)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::super::draw::TEN;
    use super::*;
    use crate::pressure::{SystemReading, Watermarks};

    const LIMIT: u64 = 1000;

    /// A heap of a thousand blocks of which so many are in use.
    fn heap(used: u64) -> Heap {
        let memory =
            memory::Config { slab_sizes: vec![8], max_pool_size: LIMIT * 8, ..memory::Config::default() };
        let heap = Heap::new(&memory).expect("the configuration is right");
        let (class, _) = heap.class_for(8).expect("a class");
        (0..used).for_each(|_| _ = heap.allocate(class).expect("there is room"));
        heap
    }

    fn doorkeeper(policy: Policy) -> Doorkeeper {
        Doorkeeper::new(&Admission { policy, ..Admission::default() }, Arc::new(Gauge::default()))
    }

    /// Of ten requests in thousandths of fullness: (admitted, deferred, rejected).
    fn ten(policy: Policy, priority: Priority, used: u64) -> (u64, u64, u64) {
        let (heap, doorkeeper) = (heap(used), doorkeeper(policy));
        let mut outcomes = (0, 0, 0);
        for _ in 0..TEN {
            let outcome = doorkeeper.admit(&heap, priority, 8, Now(1));
            assert!(outcome.is_ok() || doorkeeper.asks(priority), "it would not have been asked");
            match outcome {
                Ok(_) => outcomes.0 += 1,
                Err(AllocateError::AdmissionDeferred(_)) => outcomes.1 += 1,
                Err(AllocateError::AdmissionRejected(_)) => outcomes.2 += 1,
                Err(error) => panic!("{error}"),
            }
        }
        let stats = doorkeeper.stats();
        let place = priority as usize;
        assert_eq!((stats.deferred[place], stats.rejected[place]), (outcomes.1, outcomes.2));
        outcomes
    }

    #[test]
    fn each_policy_turns_away_whom_it_says_from_just_where_it_says() {
        use Policy::{Graduated, Hard};
        use Priority::{High, Low, Normal};
        for (policy, priority, used, expected) in [
            (Hard, Low, 749, (10, 0, 0)),
            (Hard, Low, 750, (0, 10, 0)),
            (Hard, Low, 899, (0, 10, 0)),
            (Hard, Low, 900, (0, 0, 10)),
            (Hard, Normal, 1000, (10, 0, 0)),
            (Hard, High, 1000, (10, 0, 0)),
            (Graduated, Low, 749, (10, 0, 0)),
            (Graduated, Low, 750, (0, 10, 0)),
            (Graduated, Low, 950, (0, 0, 10)),
            (Graduated, Normal, 849, (10, 0, 0)),
            (Graduated, Normal, 850, (9, 1, 0)),
            (Graduated, Normal, 949, (9, 1, 0)),
            (Graduated, Normal, 950, (0, 3, 7)),
            (Graduated, Normal, 1000, (0, 3, 7)),
            (Graduated, High, 1000, (10, 0, 0)),
        ] {
            assert_eq!(ten(policy, priority, used), expected, "{policy:?} {priority:?} {used}");
        }
    }

    #[test]
    fn low_is_never_better_off_than_normal_wherever_the_watermarks_are() {
        let mark = Factor::thousandths;
        let watermarks =
            Watermarks { moderate: mark(960), high: mark(970), critical: mark(980), emergency: mark(990) };
        let graduated = Admission { policy: Policy::Graduated, ..Admission::default() };
        let doorkeeper = Doorkeeper::new(&graduated, Arc::new(Gauge::new(watermarks)));
        let heap = heap(950);
        let rejected = (0..TEN)
            .filter(|_| {
                let outcome = doorkeeper.admit(&heap, Priority::Low, 8, Now(1));
                matches!(outcome, Err(AllocateError::AdmissionRejected(_)))
            })
            .count();
        assert_eq!(rejected, 7);
    }

    #[test]
    fn who_is_turned_away_is_told_the_numbers() {
        let doorkeeper = doorkeeper(Policy::Hard);
        let refused = doorkeeper.admit(&heap(812), Priority::Low, 8, Now(1));
        let expected = TurnedAway {
            priority: Priority::Low,
            policy: Policy::Hard,
            level: Level::High,
            decided_by: Source::Pool,
            fullness: Factor::thousandths(812),
            admitted_below: Factor::thousandths(730),
        };
        assert_eq!(refused, Err(AllocateError::AdmissionDeferred(expected)));
        assert_eq!(
            refused.expect_err("it was refused").to_string(),
            "deferred: priority low is turned away at level high, 0.812 full, by the policy hard"
        );
    }

    #[test]
    fn what_turned_somebody_away_is_the_level_s_source_or_whose_fullness_it_was() {
        let gauge = Arc::new(Gauge::default());
        let stalled = SystemReading { used_bytes: 96, limit_bytes: 100, psi_avg10: Some(50.0) };
        gauge.read_system_by(Box::new(move || SystemReading { used_bytes: 70, ..stalled }));
        let decided_by = |gauge: &Arc<Gauge>, policy, priority| {
            let doorkeeper = Doorkeeper::new(&Admission { policy, ..Admission::default() }, gauge.clone());
            match doorkeeper.admit(&heap(100), priority, 8, Now(1)) {
                Err(
                    AllocateError::AdmissionDeferred(turned_away)
                    | AllocateError::AdmissionRejected(turned_away),
                ) => turned_away.decided_by,
                outcome => panic!("{outcome:?}"),
            }
        };
        assert_eq!(decided_by(&gauge, Policy::Hard, Priority::Low), Source::Psi);
        let fuller = Arc::new(Gauge::default());
        fuller.read_system_by(Box::new(move || stalled));
        assert_eq!(decided_by(&fuller, Policy::Graduated, Priority::Normal), Source::System);
    }

    #[test]
    fn nobody_is_asked_about_whom_nothing_could_stop_but_the_limit() {
        let asked = |policy, breaker_threshold| {
            let config = Admission { policy, breaker_threshold, ..Admission::default() };
            let doorkeeper = Doorkeeper::new(&config, Arc::new(Gauge::default()));
            Priority::ALL.map(|priority| doorkeeper.asks(priority))
        };
        assert_eq!(asked(Policy::Hard, 0), [true, false, false]);
        assert_eq!(asked(Policy::Graduated, 0), [true, true, false]);
        assert_eq!(asked(Policy::Hard, 1), [true; 3]);
    }

    #[test]
    fn what_was_turned_away_by_the_policy_is_not_the_one_that_the_open_breaker_tries() {
        let config = Admission { breaker_threshold: 1, ..Admission::default() };
        let doorkeeper = Doorkeeper::new(&config, Arc::new(Gauge::default()));
        let heap = heap(LIMIT);
        let full =
            memory::AllocateError::Exhausted { requested_bytes: 8, in_use_bytes: 8000, limit_bytes: 8000 };
        doorkeeper.refused(&heap, &AllocateError::Memory(full), Now(1));
        let later = Now(1).after(config.breaker_open);
        let low = doorkeeper.admit(&heap, Priority::Low, 8, later);
        assert!(matches!(low, Err(AllocateError::AdmissionRejected(_))));
        let tried = doorkeeper.admit(&heap, Priority::High, 8, later);
        assert!(matches!(tried, Ok(Some(_))));
        let next = doorkeeper.admit(&heap, Priority::High, 8, later);
        let open = AllocateError::CircuitOpen {
            requested_bytes: 8,
            smallest_refused_bytes: 8,
            left: config.breaker_open,
        };
        assert_eq!(next, Err(open));
    }
}
