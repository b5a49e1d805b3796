//! Waiting for an object. Why nobody sleeps beside one: `stock.rs`.

use super::stock::Stock;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Somebody waits for an object.
pub(super) struct Waiting<'a, T>(&'a Stock<T>);

impl<'a, T> Waiting<'a, T> {
    /// Of somebody who was counted as waiting before.
    pub(super) fn new(stock: &'a Stock<T>) -> Waiting<'a, T> {
        Waiting(stock)
    }

    /// To be called before a look for an object, and the result given to `sleep` after one in vain.
    pub(super) fn look(&self) -> u64 {
        self.0.census.lock().changes
    }

    /// Sleeps until something changed since `seen`; false where nothing did until the deadline.
    pub(super) fn sleep(&self, seen: u64, deadline: Instant) -> bool {
        let mut census = self.0.census.lock();
        while census.changes == seen {
            if self.0.changed.wait_until(&mut census, deadline).timed_out() && census.changes == seen {
                return false;
            }
        }
        true
    }
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
