//! Slots: as many as there are CPUs, one for each thread, so that threads rarely write the same cache line.
//!
//! A thread gets its slot at first use, in turn. Two threads may share one; whatever is kept per slot is therefore
//! guarded or atomic, and a slot only makes contention unlikely.

use crossbeam_utils::CachePadded;
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Slots at most: enough for every machine we have seen, and it bounds what is kept per slot.
pub const SLOTS_MAX: usize = 256;

/// Number of slots: CPUs of this process when first asked, at most [`SLOTS_MAX`].
pub fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(SLOTS_MAX)))
}

/// The calling thread's slot, below [`count`].
#[inline]
pub fn current() -> usize {
    const NONE: usize = usize::MAX;
    thread_local!(static SLOT: Cell<usize> = const { Cell::new(NONE) });
    #[cold]
    fn choose() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let slot = NEXT.fetch_add(1, Ordering::Relaxed) % count();
        SLOT.with(|chosen| chosen.set(slot));
        slot
    }
    let slot = SLOT.with(Cell::get);
    if slot == NONE { choose() } else { slot }
}

/// One `T` for each slot, each on cache lines of its own.
#[derive(Debug)]
pub struct PerSlot<T>(Box<[CachePadded<T>]>);

impl<T> PerSlot<T> {
    /// Makes one value for each slot.
    pub fn new(mut make: impl FnMut(usize) -> T) -> PerSlot<T> {
        PerSlot((0..count()).map(|slot| CachePadded::new(make(slot))).collect())
    }

    /// The calling thread's value.
    #[inline]
    pub fn mine(&self) -> &T {
        &self.0[current()]
    }

    /// The value of one slot.
    ///
    /// # Panics
    /// If `slot` is not below [`count`].
    #[inline]
    pub fn of(&self, slot: usize) -> &T {
        &self.0[slot]
    }

    /// All values, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|value| &**value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_slot_and_all_slots_are_below_the_count() {
        let slots: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4 * count())
                .map(|_| {
                    scope.spawn(|| {
                        assert_eq!(current(), current());
                        current()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("the thread does not panic")).collect()
        });
        assert!(slots.iter().all(|slot| *slot < count()));
        for slot in 0..count() {
            assert!(slots.contains(&slot), "slot {slot} serves no thread");
        }
    }
}
