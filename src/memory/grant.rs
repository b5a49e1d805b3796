//! Grants: who may have room, decided on one word of granted bytes, and nowhere else.
//!
//! A grant is a promise: bytes that are in use from here on, and become slabs later ([`Heap::back`]). So a request for
//! many slabs is one decision, and room can be gathered for somebody who waits. What lies in magazines is granted too,
//! ahead of whoever takes it, so that the fast path changes no shared word.
//!
//! A grant that does not fit is decided again with the gate closed: nobody goes to a magazine any more, all magazines are
//! emptied, and granted is in use, exactly. Only that second decision refuses. The gate then stays closed until the pool
//! has slack: while it is nearly full, magazines would only be filled to be emptied again.

use super::magazine::OpenRack;
use super::{AllocateError, Heap};
use crate::sync::{AtomicU32, Ordering};

/// Whom to tell that room was freed.
pub(super) struct RoomFreed(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for RoomFreed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("RoomFreed")
    }
}

/// The pool has slack while at least this part of it is not granted.
const SLACK_SHARE: u64 = 16;

/// The way to the magazines.
///
/// Read under a rack's lock; whoever closes it takes each rack's lock afterwards. So who comes to a rack later finds it
/// closed, and what was done there before is seen.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// `NEARLY_FULL` | how many keep it closed.
    word: AtomicU32,
}

/// The pool was short of room, and has no slack yet.
const NEARLY_FULL: u32 = 1 << 31;

impl Gate {
    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.word.load(Ordering::Relaxed) != 0
    }

    /// Keeps it closed until what is returned is dropped.
    pub(super) fn close(&self) -> ClosedGate<'_> {
        self.word.fetch_add(1, Ordering::Relaxed); // ordered by the racks' locks
        ClosedGate(self)
    }

    fn is_nearly_full(&self) -> bool {
        self.word.load(Ordering::Relaxed) & NEARLY_FULL != 0
    }

    fn set_nearly_full(&self) {
        if !self.is_nearly_full() {
            self.word.fetch_or(NEARLY_FULL, Ordering::Relaxed);
        }
    }

    fn clear_nearly_full(&self) {
        self.word.fetch_and(!NEARLY_FULL, Ordering::Relaxed);
    }
}

/// Keeps the gate closed.
#[derive(Debug)]
#[must_use]
pub(super) struct ClosedGate<'a>(&'a Gate);

impl Drop for ClosedGate<'_> {
    fn drop(&mut self) {
        self.0.word.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Heap {
    /// Promises `bytes` to the caller, who turns them into slabs with [`Heap::back`], or gives them back. They are in
    /// use from here on.
    ///
    /// # Errors
    /// [`AllocateError::Exhausted`] if, and only if, at one instant the bytes in use and these exceeded the limit.
    #[inline]
    pub(crate) fn grant(&self, bytes: u64) -> Result<(), AllocateError> {
        if self.in_use.take(bytes) {
            self.note_peak();
            return Ok(());
        }
        self.grant_exactly(bytes)
    }

    /// Decides with all magazines empty. This is the one place where a memory refusal is made.
    #[cold]
    fn grant_exactly(&self, bytes: u64) -> Result<(), AllocateError> {
        let taken = self.decide(|| self.in_use.try_take(bytes));
        taken.map(|_| self.note_peak()).map_err(|in_use_bytes| AllocateError::Exhausted {
            requested_bytes: bytes,
            in_use_bytes,
            limit_bytes: self.limit_bytes(),
        })
    }

    /// Does something while granted bytes are the bytes in use, exactly.
    fn decide<T>(&self, decision: impl FnOnce() -> T) -> T {
        let _closed = self.gate.close();
        self.gate.set_nearly_full();
        self.empty_magazines();
        decision()
    }

    /// Keeps the most that was ever in use: more was granted.
    #[inline]
    fn note_peak(&self) {
        // Mostly false: then the line is only read.
        if self.in_use.held() > self.peak_in_use_bytes.load(std::sync::atomic::Ordering::Relaxed) {
            self.note_new_peak();
        }
    }

    /// As [`Heap::note_peak`]: a slab left a magazine.
    #[inline]
    pub(super) fn note_peak_from(&self, rack: &OpenRack<'_>) {
        let granted = self.in_use.held();
        if granted > self.peak_in_use_bytes.load(std::sync::atomic::Ordering::Relaxed)
            && rack.is_new_low(granted)
        {
            self.note_new_peak();
        }
    }

    #[cold]
    fn note_new_peak(&self) {
        self.peak_in_use_bytes.fetch_max(self.in_use_bytes(), std::sync::atomic::Ordering::Relaxed);
    }

    /// Takes what it can of `bytes`, for somebody who gathers room, and returns how much that was.
    pub(crate) fn grant_some(&self, bytes: u64) -> u64 {
        let some = self.decide(|| self.in_use.take_some(bytes).0);
        self.note_peak();
        some
    }

    /// Takes a grant back that was of no use because something else was refused. Tells nobody.
    pub(crate) fn ungrant(&self, bytes: u64) {
        self.return_granted(bytes);
        // Where it was closed because the pool is nearly full, somebody opens it again.
        if self.gate.is_nearly_full()
            && self.in_use.held() <= self.limit_bytes() - self.limit_bytes() / SLACK_SHARE
        {
            self.gate.clear_nearly_full();
        }
    }

    /// Gives back granted bytes that did not become slabs.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.ungrant(bytes);
        self.tell_room_freed();
    }

    /// Has `told` called whenever bytes in use became fewer, or a reader let go of a slab. It is called without any
    /// lock of the heap, by whichever thread that happens on; it must be quick. Only the first such call counts.
    pub(crate) fn when_room_is_freed(&self, told: impl Fn() + Send + Sync + 'static) {
        // A second one would be a second pool on the same heap, which is not done.
        let _ = self.room_freed.set(RoomFreed(Box::new(told)));
    }

    /// Something was freed, or somebody let go of what others wait for.
    #[inline]
    pub(crate) fn tell_room_freed(&self) {
        if let Some(RoomFreed(told)) = self.room_freed.get() {
            told();
        }
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::super::Budget;
    use super::super::magazine::{Rack, Round};
    use super::*;
    use loom::{sync::Arc, thread};

    /// A pool of one slab: granted in `budget`, and in the magazine or in somebody's hands.
    struct Pool {
        gate: Gate,
        rack: Rack,
        budget: Budget,
    }

    fn pool() -> Pool {
        Pool { gate: Gate::default(), rack: Rack::new([(8, 1)].into_iter()), budget: Budget::new(8) }
    }

    /// What `Heap::put_into_magazine` does, and else the slow path.
    fn free(pool: &Pool) {
        if !pool.gate.is_closed()
            && let Some(rack) = pool.rack.try_open()
            && !pool.gate.is_closed()
        {
            return rack.put(0, Round::new(0, true));
        }
        pool.budget.give_back(8);
    }

    /// What `Heap::grant_exactly` does.
    fn decide(pool: &Pool) -> bool {
        let _closed = pool.gate.close();
        let rack = pool.rack.open();
        if rack.take(0).is_some() {
            pool.budget.give_back(8);
        }
        drop(rack);
        pool.budget.take(8)
    }

    /// Whoever is refused did not come after the free: of two that decide once it is over, one is granted.
    #[test]
    fn loom_a_decision_finds_what_was_freed_before_it_wherever_it_lies() {
        crate::sync::model(|| {
            let pool = Arc::new(pool());
            assert!(pool.budget.take(8));
            let freer = {
                let pool = Arc::clone(&pool);
                thread::spawn(move || free(&pool))
            };
            let early = decide(&pool);
            freer.join().expect("no panic");
            let late = decide(&pool);
            assert!(
                early ^ late,
                "the slab goes to exactly one, and to the late one if not to the early one"
            );
        });
    }

    /// Two decide at once; neither is refused for what the other is just taking out of the magazine.
    #[test]
    fn loom_of_two_that_decide_over_a_full_magazine_one_is_granted() {
        crate::sync::model(|| {
            let pool = Arc::new(pool());
            assert!(pool.budget.take(8));
            free(&pool);
            let other = {
                let pool = Arc::clone(&pool);
                thread::spawn(move || decide(&pool))
            };
            let mine = decide(&pool);
            assert!(mine ^ other.join().expect("no panic"));
        });
    }
}
