//! The circuit breaker: after so many failures in a row it refuses at once, for a while, instead of trying in vain.
//!
//! ```text
//!   closed ──threshold failures in a row──▶ open ──its time is over──▶ one try ──success──▶ closed
//!                                            ▲                            │
//!                                            └──────────failure───────────┘
//! ```
//!
//! Time comes in as an argument. None of this is on the way of an allocation while nothing fails.

use crate::clock::Now;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Failures in a row that open it; 0: it never opens.
    threshold: u64,
    open_for: Duration,
    failures: AtomicU64,
    /// Until when it is open, in nanoseconds; 0: it is closed. All are relaxed: they order nothing, and a failure more or
    /// less that is tried beside another thread's does no harm.
    open_until: AtomicU64,
    opened: AtomicU64,
}

impl Breaker {
    pub(super) fn new(threshold: u64, open_for: Duration) -> Breaker {
        Breaker {
            threshold,
            open_for,
            failures: AtomicU64::new(0),
            open_until: AtomicU64::new(0),
            opened: AtomicU64::new(0),
        }
    }

    /// How long it is still open; none where an allocation may be tried. Whoever is the first after its time is over tries
    /// for all: the others are refused until that is done, or as long again.
    pub(super) fn open_for(&self, now: Now) -> Option<Duration> {
        let until = self.open_until.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        if now.0 < until {
            return Some(Now(until).since(now));
        }
        let again = now.after(self.open_for).0;
        let is_first =
            self.open_until.compare_exchange(until, again, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_first { None } else { Some(self.open_for) }
    }

    /// Whether it is open, for those who only look.
    pub(super) fn is_open(&self) -> bool {
        self.open_until.load(Ordering::Relaxed) != 0
    }

    /// An allocation failed. Whether that opened it.
    pub(super) fn failed(&self, now: Now) -> bool {
        if self.threshold == 0 {
            return false;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures < self.threshold {
            return false;
        }
        let before = self.open_until.swap(now.after(self.open_for).0.max(1), Ordering::Relaxed);
        if before == 0 {
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
        before == 0
    }

    /// An allocation was served, or a slab came back. Whether that closed it.
    pub(super) fn succeeded(&self) -> bool {
        self.failures.store(0, Ordering::Relaxed);
        self.open_until.swap(0, Ordering::Relaxed) != 0
    }

    /// Whether a success has anything to change.
    pub(super) fn has_failed(&self) -> bool {
        self.failures.load(Ordering::Relaxed) != 0
    }

    /// How often it opened.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_opens_after_so_many_failures_in_a_row_and_closes_with_a_success() {
        let breaker = Breaker::new(3, Duration::from_secs(30));
        assert!(!breaker.failed(Now(1)) && !breaker.failed(Now(1)));
        breaker.succeeded();
        assert!(!breaker.failed(Now(1)) && !breaker.failed(Now(1)) && !breaker.is_open());
        assert!(breaker.failed(Now(1)));
        assert_eq!(breaker.open_for(Now(1 + SECOND)), Some(Duration::from_secs(29)));
        assert!(breaker.succeeded() && !breaker.is_open() && breaker.opened() == 1);
        assert_eq!(breaker.open_for(Now(2)), None);
    }

    #[test]
    fn when_its_time_is_over_one_tries_for_all_and_opens_it_again_in_vain() {
        let breaker = Breaker::new(1, Duration::from_secs(30));
        assert!(breaker.failed(Now(0)));
        let later = Now(30 * SECOND);
        assert_eq!(breaker.open_for(later), None, "one may try");
        assert_eq!(breaker.open_for(later), Some(Duration::from_secs(30)), "the others may not");
        assert!(!breaker.failed(later), "it was open");
        assert!(breaker.open_for(Now(59 * SECOND)).is_some());
        assert_eq!((breaker.open_for(Now(60 * SECOND)), breaker.opened()), (None, 1));
    }

    #[test]
    fn without_a_threshold_it_never_opens() {
        let breaker = Breaker::new(0, Duration::from_secs(30));
        assert!((0..1000).all(|_| !breaker.failed(Now(1))) && !breaker.is_open());
    }
}
