//! Those who wait for a slab: asleep, until one comes back or their time is over.
//!
//! Whoever frees a slab looks at one word, with no fence: a waiter that came at the same instant may be missed. So nobody
//! sleeps on without looking for itself: after [`LOOK_AFTER`] first, then after twice as long each time, up to
//! [`LOOK_AFTER_MAX`], so that many who wait long do not keep CPUs busy. Waiters are not served in order.

use super::allocator::{FAILING, SlabAllocator};
use super::error::SlabError;
use super::reference::{Memory, Owner, SlabRef};
use crate::memory::AllocateError;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A waiter looks for a slab by itself after so long.
const LOOK_AFTER: Duration = Duration::from_millis(5);
/// … and at least that often.
const LOOK_AFTER_MAX: Duration = Duration::from_millis(320);

/// When a wait of that length that begins now is over; a length that cannot be told is as good as a year.
pub(super) fn deadline_after(timeout: Duration) -> Instant {
    const LONG: Duration = Duration::from_secs(365 * 86_400);
    Instant::now() + timeout.min(LONG)
}

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
        let mut look_after = LOOK_AFTER;
        loop {
            let is_over = Instant::now() >= deadline;
            // Under the lock: who frees a slab from here on wakes us, or we find it.
            if let Some(found) = look() {
                return Some(found);
            }
            if is_over {
                return None;
            }
            self.freed.wait_until(&mut sleep, deadline.min(Instant::now() + look_after));
            look_after = (look_after * 2).min(LOOK_AFTER_MAX);
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

impl SlabAllocator {
    /// A slab, waiting up to `timeout` for one to be given back. The thread sleeps: in a task use
    /// `tokio::task::spawn_blocking` and [`SlabRef::into_shared`]. Those who wait are not served in order, and not sent away by
    /// the circuit breaker: it is asked once, before.
    ///
    /// ```
    /// # use {maas::slab::SlabAllocator, std::time::Duration};
    /// let allocator = SlabAllocator::builder(64, 1).build()?;
    /// let held = allocator.allocate()?;
    /// std::thread::scope(|scope| {
    ///     let waiter = scope.spawn(|| allocator.allocate_timeout(Duration::from_secs(10)).is_ok());
    ///     drop(held);
    ///     assert!(waiter.join().expect("no panic"));
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SlabError::Timeout`] where that was in vain; else as [`SlabAllocator::allocate`].
    pub fn allocate_timeout(&self, timeout: Duration) -> Result<SlabRef<'_>, SlabError> {
        self.allocate_until(deadline_after(timeout))
    }

    /// A slab, waiting until `deadline` for one to be given back: [`SlabAllocator::allocate_timeout`] for steps that share
    /// one deadline.
    ///
    /// # Errors
    /// As [`SlabAllocator::allocate_timeout`].
    pub fn allocate_until(&self, deadline: Instant) -> Result<SlabRef<'_>, SlabError> {
        let memory = self.wait_until(deadline).inspect_err(|error| self.not_served(error))?;
        let site = self.enter_site(&memory);
        Ok(SlabRef::new(Owner::Borrowed(self), memory, site))
    }

    /// Waits for a slab. The breaker is asked once: who waits already is not sent away by others' failures.
    fn wait_until(&self, deadline: Instant) -> Result<Memory, SlabError> {
        self.may_try()?;
        let began = Instant::now();
        let look = || {
            if self.is_closed() {
                return Some(Err(SlabError::Closed));
            }
            match self.heap.take_owned(self.class) {
                Ok(slab) => Some(Ok(slab)),
                Err(AllocateError::Exhausted { .. }) => None,
                Err(error) => Some(Err(self.refused(1, &error))),
            }
        };
        match self.waiting.until(deadline, look) {
            Some(Ok(slab)) => {
                if self.attention() & FAILING != 0 {
                    self.succeeded();
                }
                Ok(Memory::Slab(slab))
            }
            Some(Err(SlabError::Closed)) => Err(SlabError::Closed),
            Some(Err(error)) => self.fall_back(error),
            None => self.fall_back(SlabError::Timeout { waited: began.elapsed() }),
        }
    }
}
