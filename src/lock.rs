//! A lock of one byte, held for a few instructions: of an entry of the allocation table, of a rack of magazines.

use crate::sync::{AtomicU8, Backoff, Ordering};
use std::marker::PhantomData;

/// A one-byte spin lock. Whoever holds it makes no system call and never awaits. Whoever holds an entry's waits for nothing
/// but a record; whoever holds a rack's may wait for a class's lock, so it is tried where there is another way.
#[derive(Debug, Default)]
pub(crate) struct ByteLock(AtomicU8);

/// Holds the lock until dropped. Not `Send`, so that a future holding it across an await does not compile.
#[derive(Debug)]
pub(crate) struct ByteGuard<'a> {
    lock: &'a ByteLock,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl ByteLock {
    /// Takes the lock if nobody has it.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<ByteGuard<'_>> {
        // A look first, so that a lock that is busy is not written. Acquire pairs with the Release in `drop`.
        let is_free = self.0.load(Ordering::Relaxed) == 0;
        let taken = is_free && self.0.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        // Made only then: whoever drops a guard unlocks.
        taken.then(|| ByteGuard { lock: self, stays_on_its_thread: PhantomData })
    }

    /// Takes the lock, waiting for whoever has it.
    pub(crate) fn lock(&self) -> ByteGuard<'_> {
        let mut backoff = Backoff::new();
        // Acquire pairs with the Release in `drop`: we see what the last holder wrote.
        while self.0.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            backoff.wait();
        }
        ByteGuard { lock: self, stays_on_its_thread: PhantomData }
    }
}

impl Drop for ByteGuard<'_> {
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
    fn loom_who_tries_in_vain_leaves_the_lock_to_its_holder() {
        crate::sync::model(|| {
            let shared = Arc::new((ByteLock::default(), AtomicU64::new(0)));
            let add = |shared: &(ByteLock, AtomicU64)| {
                let Some(_guard) = shared.0.try_lock() else { return 0 };
                let value = shared.1.load(Ordering::Relaxed);
                shared.1.store(value + 1, Ordering::Relaxed);
                1
            };
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || add(&shared) + add(&shared))
            };
            let added = add(&shared) + other.join().expect("no panic");
            let _guard = shared.0.try_lock().expect("nobody has it");
            assert_eq!(shared.1.load(Ordering::Relaxed), added);
        });
    }

    #[test]
    fn loom_two_holders_never_overlap_and_see_each_others_writes() {
        crate::sync::model(|| {
            let shared = Arc::new((ByteLock::default(), AtomicU64::new(0)));
            let add = |shared: &(ByteLock, AtomicU64)| {
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
