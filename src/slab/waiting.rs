//! Those who wait for a slab: asleep, until one comes back or their time is over.
//!
//! Whoever frees a slab looks at one word, with no fence: a waiter that came at the same instant may be missed. So nobody
//! sleeps longer than [`LOOK_AFTER`] before looking for itself.

use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A waiter looks for a slab at least that often.
const LOOK_AFTER: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    waiters: AtomicU64,
    sleep: Mutex<()>,
    freed: Condvar,
}

impl Waiting {
    /// Calls `look` until it returns something, or `deadline` is over: at once, and then whenever a slab may have come back.
    /// `look` is called a last time after the deadline.
    pub(super) fn until<T>(&self, deadline: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if let Some(found) = look() {
            return Some(found);
        }
        let _waits = Waits::enter(self);
        let mut sleep = self.sleep.lock();
        loop {
            let is_over = Instant::now() >= deadline;
            // Under the lock: who frees a slab from here on wakes us, or we find it.
            if let Some(found) = look() {
                return Some(found);
            }
            if is_over {
                return None;
            }
            self.freed.wait_until(&mut sleep, deadline.min(Instant::now() + LOOK_AFTER));
        }
    }

    /// A slab came back: one of those who wait may look.
    #[inline]
    pub(super) fn wake_one(&self) {
        if self.waiters.load(Ordering::Relaxed) != 0 {
            drop(self.sleep.lock()); // nobody is between its look and its sleep now
            self.freed.notify_one();
        }
    }

    /// There is nothing to wait for any more.
    pub(super) fn wake_all(&self) {
        self.freed.notify_all();
    }

    /// How many wait.
    pub(super) fn waiters(&self) -> u64 {
        self.waiters.load(Ordering::Relaxed)
    }
}

/// Counts a waiter, as long as it waits.
struct Waits<'a>(&'a Waiting);

impl<'a> Waits<'a> {
    fn enter(waiting: &'a Waiting) -> Waits<'a> {
        waiting.waiters.fetch_add(1, Ordering::Relaxed);
        Waits(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}
