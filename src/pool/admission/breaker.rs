//! The circuit breaker of the pool: after so many refusals in a row for lack of memory, whoever asks for as much is refused
//! at once, for a while, instead of being tried in vain.
//!
//! ```text
//!            refused, threshold times in a row           its time is over
//!   closed ───────────────────────────────────▶ open ────────────────────▶ half open: one is tried
//!      ▲                                          │  ◀── and refused: for as long again ──┘  │
//!      └── a free makes room for the smallest ────┴──────────── or served ─────────────────┘
//! ```
//!
//! It knows sizes, at actual size: the smallest that was refused since it last closed. Open, it refuses those who ask for that
//! much or more, and nobody else; one who asks for less is tried, and if that is refused too, it is the smallest from then
//! on. Who is served with that much or more ends the row, or closes it. A free ends no row: only while it is open do frees
//! look, so that they pay for it only then. While one is tried the others are refused; one that ends without an answer to the
//! question, because it met a budget or its client hung up, leaves the next one to be tried.
//!
//! A request that is refused because it waited in vain counts like one that is refused at once; what the breaker itself, the
//! policy, a budget or a table refuses does not count.

use crate::clock::Now;
use crate::sync::{AtomicBool, Ordering, fence};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(in crate::pool) struct Breaker {
    /// Refusals in a row that open it; 0: it never opens.
    threshold: u32,
    open_for: Duration,
    pub(super) alarm: Alarm,
    /// As in the state, for those that are served: they look here first, without the lock. One more or less than there are,
    /// beside another thread's, does no harm.
    row: AtomicU32,
    opened: AtomicU64,
    state: Mutex<State>,
}

/// Tells those who free memory that the breaker is open, without a lock.
///
/// Whoever opens it raises the alarm, then looks for room; others free room, then look at the alarm. So one of the two sees
/// the other, and it does not stay open beside free room.
#[derive(Debug, Default)]
pub(in crate::pool) struct Alarm {
    is_raised: AtomicBool,
}

impl Alarm {
    fn raise(&self) {
        self.is_raised.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst); // before it is looked for room; pairs with the fence in `Bell::is_wanted`
    }

    fn lower(&self) {
        self.is_raised.store(false, Ordering::Relaxed);
    }

    /// Whether it is raised, for whoever has freed room and passed the fence in `Bell::is_wanted` since, and for who only looks.
    #[inline]
    pub(in crate::pool) fn is_raised(&self) -> bool {
        self.is_raised.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct State {
    /// Refusals since somebody was served with the smallest size or more.
    row: u32,
    /// The smallest size that was refused in the row, or while it was open.
    smallest_bytes: u64,
    /// Until when it is open; none: it is closed.
    until: Option<Now>,
    /// Until when it was open before somebody was tried who has not ended yet.
    before_trial: Option<Now>,
}

impl State {
    const CLOSED: State = State { row: 0, smallest_bytes: u64::MAX, until: None, before_trial: None };
}

/// It is open for a request of that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) smallest_bytes: u64,
    pub(super) left: Duration,
}

/// One that is tried for all. Dropped before anything is known of it, it leaves the next one to be tried.
#[derive(Debug)]
#[must_use]
pub(in crate::pool) struct Trial<'a> {
    breaker: &'a Breaker,
    /// Until when the breaker is open because of it: no other trial has the same.
    until: Now,
}

impl PartialEq for Trial<'_> {
    fn eq(&self, other: &Trial<'_>) -> bool {
        self.until == other.until
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let mut state = self.breaker.state.lock();
        if state.until == Some(self.until)
            && let Some(before) = state.before_trial.take()
        {
            state.until = Some(before);
        }
    }
}

/// How the breaker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerStats {
    /// Whether it can ever open.
    pub is_on: bool,
    /// Whether it has opened, and not closed since: whether requests are refused by it says [`BreakerStats::refuses`].
    pub is_open: bool,
    /// Times that it opened.
    pub opened: u64,
    /// The smallest size, at actual size, that was refused since it last closed; none where none was.
    pub smallest_refused_bytes: Option<u64>,
    /// Until when it refuses; none where it is closed.
    pub until: Option<Now>,
}

impl BreakerStats {
    /// Whether requests are refused by it. Where it is open and does not, the next one is tried: it is half open.
    pub fn refuses(&self, now: Now) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

impl Breaker {
    pub(super) fn new(threshold: u32, open_for: Duration) -> Breaker {
        Breaker {
            threshold,
            open_for,
            alarm: Alarm::default(),
            row: AtomicU32::new(0),
            opened: AtomicU64::new(0),
            state: Mutex::new(State::CLOSED),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.threshold > 0
    }

    /// Whether a request of that size may be tried. Whoever is the first after its time is over is tried for all: the others
    /// are refused until that is done, or for as long again.
    pub(super) fn admit(&self, bytes: u64, now: Now) -> Result<Option<Trial<'_>>, Open> {
        if !self.alarm.is_raised() {
            return Ok(None);
        }
        let mut state = self.state.lock();
        match state.until {
            Some(until) if bytes >= state.smallest_bytes => {
                if now < until {
                    return Err(Open { smallest_bytes: state.smallest_bytes, left: until.since(now) });
                }
                let next = now.after(self.open_for);
                (state.until, state.before_trial) = (Some(next), Some(until));
                Ok(Some(Trial { breaker: self, until: next }))
            }
            _ => Ok(None),
        }
    }

    /// A request of that size was refused for lack of memory. Whether that opened it: then the caller looks whether there is
    /// room by now.
    #[must_use]
    pub(super) fn refused(&self, bytes: u64, now: Now) -> bool {
        if !self.is_on() {
            return false;
        }
        let smallest_bytes = {
            let mut state = self.state.lock();
            let is_as_large = bytes >= state.smallest_bytes;
            state.smallest_bytes = state.smallest_bytes.min(bytes);
            state.row = state.row.saturating_add(1);
            self.row.store(state.row, Ordering::Relaxed);
            // Whoever is tried would be refused too, if it was not this one.
            state.before_trial = None;
            match state.until {
                // The one that was tried may have left the trial before it comes to tell.
                Some(until) if is_as_large && now >= until => {
                    state.until = Some(now.after(self.open_for));
                    return false;
                }
                Some(_) => return false,
                None if state.row < self.threshold => return false,
                None => {}
            }
            state.until = Some(now.after(self.open_for));
            self.alarm.raise();
            state.smallest_bytes
        };
        self.opened.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(smallest_bytes, refused = self.threshold, open_for = ?self.open_for, "circuit breaker opens");
        true
    }

    /// A request of that size was served.
    #[inline]
    pub(super) fn served(&self, bytes: u64) {
        if self.row.load(Ordering::Relaxed) != 0 {
            self.end_row(bytes, "a request was served");
        }
    }

    /// So many bytes are free.
    #[cold]
    pub(super) fn has_room(&self, free_bytes: u64) {
        if self.alarm.is_raised() {
            self.end_row(free_bytes, "there is room");
        }
    }

    /// Ends the row if so many bytes were had, or can be.
    #[cold]
    fn end_row(&self, bytes: u64, because: &str) {
        let was_open = {
            let mut state = self.state.lock();
            if bytes < state.smallest_bytes {
                return;
            }
            self.row.store(0, Ordering::Relaxed);
            self.alarm.lower();
            std::mem::replace(&mut *state, State::CLOSED).until.is_some()
        };
        if was_open {
            tracing::info!(because, "circuit breaker closes");
        }
    }

    pub(super) fn stats(&self) -> BreakerStats {
        let state = self.state.lock();
        BreakerStats {
            is_on: self.is_on(),
            is_open: state.until.is_some(),
            opened: self.opened.load(Ordering::Relaxed),
            smallest_refused_bytes: (state.row > 0).then_some(state.smallest_bytes),
            until: state.until,
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Now {
        Now(1).after(Duration::from_secs(seconds))
    }

    /// One that 100 bytes opened at the very beginning.
    fn opened() -> Breaker {
        let breaker = Breaker::new(3, OPEN_FOR);
        assert_eq!([200, 100, 300].map(|bytes| breaker.refused(bytes, at(0))), [false, false, true]);
        breaker
    }

    fn left(breaker: &Breaker, bytes: u64, now: Now) -> Option<u64> {
        // Whoever is tried has not ended yet.
        breaker.admit(bytes, now).map(std::mem::forget).err().map(|open| open.left.as_secs())
    }

    #[test]
    fn it_opens_after_so_many_refusals_in_a_row_for_the_smallest_of_them_and_all_above() {
        let breaker = opened();
        assert_eq!([99, 100, 1000].map(|bytes| left(&breaker, bytes, at(10))), [None, Some(20), Some(20)]);
        let stats = breaker.stats();
        assert_eq!((stats.is_open, stats.opened, stats.smallest_refused_bytes), (true, 1, Some(100)));
        assert!(!breaker.refused(50, at(10)), "it is open already");
        assert_eq!(left(&breaker, 50, at(10)), Some(20), "and what was refused since is the smallest");
    }

    #[test]
    fn a_row_ends_with_whoever_is_served_with_as_much_as_the_smallest_that_was_refused() {
        let breaker = Breaker::new(3, OPEN_FOR);
        for (served, opens) in [(99, true), (100, false), (101, false)] {
            assert!(!breaker.refused(200, at(0)) && !breaker.refused(100, at(0)));
            breaker.served(served);
            assert_eq!(breaker.refused(150, at(0)), opens, "{served}");
            breaker.served(u64::MAX);
            assert_eq!(breaker.stats().smallest_refused_bytes, None);
        }
    }

    #[test]
    fn a_free_that_makes_room_for_the_smallest_closes_it() {
        let breaker = opened();
        breaker.has_room(99);
        assert!(breaker.alarm.is_raised());
        breaker.has_room(100);
        assert!(!breaker.alarm.is_raised() && !breaker.stats().is_open);
        assert_eq!(left(&breaker, 1000, at(1)), None);
        assert!(!breaker.refused(1, at(1)), "the row began anew");
    }

    #[test]
    fn room_ends_no_row_while_it_is_closed() {
        let breaker = Breaker::new(2, OPEN_FOR);
        assert!(!breaker.refused(100, at(0)));
        breaker.has_room(1000);
        assert!(breaker.refused(100, at(0)));
    }

    #[test]
    fn when_its_time_is_over_one_is_tried_and_the_others_wait_for_what_becomes_of_it() {
        let breaker = opened();
        assert_eq!(left(&breaker, 100, at(29)), Some(1));
        assert_eq!(left(&breaker, 100, at(30)), None, "one is tried");
        assert_eq!(left(&breaker, 100, at(30)), Some(30), "the others are not");
        assert!(!breaker.refused(100, at(30)), "it was open, and is");
        assert_eq!((left(&breaker, 100, at(31)), breaker.stats().opened), (Some(29), 1));
        assert_eq!(left(&breaker, 100, at(60)), None, "the next one");
        breaker.served(100);
        assert_eq!(left(&breaker, 100, at(60)), None, "was served");
        assert!(!breaker.stats().is_open);
    }

    #[test]
    fn one_that_is_tried_and_ends_without_an_answer_leaves_the_next_one_to_be_tried() {
        let breaker = opened();
        assert_eq!([29, 30].map(|seconds| breaker.stats().refuses(at(seconds))), [true, false]);
        let trial = breaker.admit(100, at(30)).expect("its time is over");
        assert!(trial.is_some() && breaker.stats().refuses(at(31)));
        assert_eq!(left(&breaker, 100, at(31)), Some(29));
        drop(trial);
        assert!(breaker.stats().is_open && !breaker.stats().refuses(at(31)), "half open");
        assert_eq!(left(&breaker, 100, at(31)), None, "the next one");
        assert_eq!(left(&breaker, 100, at(32)), Some(29));
    }

    #[test]
    fn one_that_is_tried_and_refused_leaves_it_open_for_as_long_again_in_whichever_order_that_is_told() {
        let breaker = opened();
        let trial = breaker.admit(100, at(30));
        assert!(!breaker.refused(100, at(30)));
        drop(trial);
        assert_eq!(left(&breaker, 100, at(31)), Some(29));
        drop(breaker.admit(100, at(60)));
        assert!(!breaker.refused(50, at(60)), "a smaller one: it is half open still");
        assert!(!breaker.stats().refuses(at(60)) && !breaker.refused(100, at(60)));
        assert_eq!(left(&breaker, 100, at(61)), Some(29));
    }

    #[test]
    fn a_trial_that_outlives_its_time_takes_nothing_from_the_next() {
        let breaker = opened();
        let first = breaker.admit(100, at(30));
        let second = breaker.admit(100, at(60));
        assert!(first.as_ref().is_ok_and(Option::is_some) && second.as_ref().is_ok_and(Option::is_some));
        drop(first);
        assert_eq!(left(&breaker, 100, at(61)), Some(29));
        breaker.served(100);
        drop(second);
        assert!(!breaker.stats().is_open);
    }

    #[test]
    fn without_a_threshold_it_never_opens() {
        let breaker = Breaker::new(0, OPEN_FOR);
        assert!((0..1000).all(|_| !breaker.refused(1, at(0))) && !breaker.stats().is_open);
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use crate::memory::Budget;
    use crate::pool::queue::Bell;
    use loom::{sync::Arc, thread};

    /// The pool is full; one frees, one opens the breaker. Either who opens it finds the room, or who frees finds it open:
    /// never does it stay open beside free room that nobody told of.
    #[test]
    fn loom_whoever_frees_finds_it_open_or_is_found() {
        crate::sync::model(|| {
            let shared = Arc::new((Budget::new(1), Bell::default(), Alarm::default()));
            assert!(shared.0.take(1));
            let freer = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.0.give_back(1);
                    let _ = shared.1.is_wanted();
                    shared.2.is_raised()
                })
            };
            shared.2.raise();
            let found_room = shared.0.held() == 0;
            let was_told = freer.join().expect("no panic");
            assert!(found_room || was_told, "the breaker stays open beside free room");
        });
    }
}
