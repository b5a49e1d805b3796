//! The one budget: bytes held by all slabs never exceed the limit, at any instant, under any concurrency.

use crate::sync::{AtomicU64, Ordering};

/// Bytes (or whatever else is counted) held, and the limit they stay under.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Written by compare-and-swap alone, so that `held <= limit` is true of every value it ever has.
    held: AtomicU64,
    limit: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Budget {
        Budget { held: AtomicU64::new(0), limit }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Takes `bytes` if they fit; false, and nothing taken, if not.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        self.try_take(bytes).is_ok()
    }

    /// Takes `bytes` if they fit.
    ///
    /// # Errors
    /// What was held at the instant when they did not; nothing was taken then. Otherwise what is held with them.
    #[inline]
    pub(crate) fn try_take(&self, bytes: u64) -> Result<u64, u64> {
        let mut held = self.held.load(Ordering::Relaxed);
        loop {
            match held.checked_add(bytes) {
                Some(sum) if sum <= self.limit => {
                    // Relaxed: the number itself is all that is shared; slabs are handed over under class locks.
                    match self.held.compare_exchange_weak(held, sum, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => return Ok(sum),
                        Err(now) => held = now,
                    }
                }
                _ => return Err(held),
            }
        }
    }

    /// Takes as much of `bytes` as fits, and returns how much that was, and what is held with it.
    pub(crate) fn take_some(&self, bytes: u64) -> (u64, u64) {
        loop {
            let some = bytes.min(self.limit - self.held());
            if let Ok(held) = self.try_take(some) {
                return (some, held);
            }
        }
    }

    /// Gives back bytes that were taken.
    pub(crate) fn give_back(&self, bytes: u64) {
        let before = self.held.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{bytes} bytes given back of {before} held");
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn it_is_exact_to_the_byte() {
        let budget = Budget::new(100);
        assert!(budget.take(99));
        assert!(!budget.take(2));
        assert!(budget.take(1));
        assert!(!budget.take(1));
        assert!(budget.take(0));
        budget.give_back(100);
        assert_eq!(budget.held(), 0);
        assert!(!budget.take(u64::MAX), "a sum beyond u64 is a refusal, not a wrap");
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use loom::{sync::Arc, thread};

    #[test]
    fn loom_the_last_bytes_go_to_exactly_one_taker() {
        crate::sync::model(|| {
            let budget = Arc::new(Budget::new(3));
            assert!(budget.take(1));
            let takers: Vec<_> = (0..2)
                .map(|_| {
                    let budget = Arc::clone(&budget);
                    thread::spawn(move || budget.take(2))
                })
                .collect();
            let granted = takers
                .into_iter()
                .map(|taker| taker.join().expect("no panic"))
                .filter(|granted| *granted)
                .count();
            assert_eq!(granted, 1);
            assert_eq!(budget.held(), 3);
        });
    }

    #[test]
    fn loom_bytes_given_back_are_found_and_the_limit_holds_throughout() {
        crate::sync::model(|| {
            let budget = Arc::new(Budget::new(2));
            assert!(budget.take(2));
            let giver = {
                let budget = Arc::clone(&budget);
                thread::spawn(move || budget.give_back(1))
            };
            let granted = budget.take(1);
            assert!(budget.held() <= 2);
            giver.join().expect("no panic");
            assert_eq!(budget.held(), if granted { 2 } else { 1 });
        });
    }
}
