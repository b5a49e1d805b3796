//! The lock of one entry: a byte, held for a few instructions.

use crate::sync::{AtomicU8, Backoff, Ordering};
use std::marker::PhantomData;

/// A one-byte spin lock. Whoever holds it makes no system call, waits for nothing and never awaits.
#[derive(Debug, Default)]
pub(super) struct EntryLock(AtomicU8);

/// Holds the lock until dropped. Not `Send`, so that a future holding it across an await does not compile.
#[derive(Debug)]
pub(super) struct EntryGuard<'a> {
    lock: &'a EntryLock,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl EntryLock {
    pub(super) fn lock(&self) -> EntryGuard<'_> {
        let mut backoff = Backoff::new();
        // Acquire pairs with the Release in `drop`: we see what the last holder wrote.
        while self.0.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            backoff.wait();
        }
        EntryGuard { lock: self, stays_on_its_thread: PhantomData }
    }
}

impl Drop for EntryGuard<'_> {
    fn drop(&mut self) {
        self.lock.0.store(0, Ordering::Release); // pairs with the Acquire in `lock`
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use loom::sync::{Arc, atomic::AtomicU64};
    use loom::thread;

    #[test]
    fn loom_two_holders_never_overlap_and_see_each_others_writes() {
        crate::sync::model(|| {
            let shared = Arc::new((EntryLock::default(), AtomicU64::new(0)));
            let add = |shared: &(EntryLock, AtomicU64)| {
                let _guard = shared.0.lock();
                // A load and a store, not one atomic step: an overlap would lose an addition.
                let value = shared.1.load(Ordering::Relaxed);
                shared.1.store(value + 1, Ordering::Relaxed);
            };
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || add(&shared))
            };
            add(&shared);
            other.join().expect("no panic");
            let _guard = shared.0.lock();
            assert_eq!(shared.1.load(Ordering::Relaxed), 2);
        });
    }
}
