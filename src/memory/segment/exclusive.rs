//! What whoever has a slab alone may do with its record: the other end of every arrow that leads to EXCLUSIVE.

use super::{ADVISED, CLOSED, DAMAGED, DRAINING, HOLDER_BITS, RETIRED, SegmentRecord, WRITES_MAX, WRITTEN};
use crate::sync::Ordering;

/// Exclusive access to one slab's bytes. Made by the record, one at a time; ends as a write or as a free slab.
#[derive(Debug)]
#[must_use]
pub(in crate::memory) struct Exclusive<'a>(pub(super) &'a SegmentRecord);

impl Exclusive<'_> {
    /// Whether this is access to the slab of `record`.
    pub(in crate::memory) fn is_for(&self, record: &SegmentRecord) -> bool {
        std::ptr::eq(self.0, record)
    }

    pub(in crate::memory) fn dirty(&self) -> u32 {
        self.0.dirty()
    }

    /// Whether readers held the slab when its client freed it.
    pub(in crate::memory) fn was_draining(&self) -> bool {
        self.0.state.load(Ordering::Relaxed) & DRAINING != 0
    }

    /// Whether anything was written to the slab since its pages came.
    pub(in crate::memory) fn was_written(&self) -> bool {
        self.0.was_written()
    }

    /// Whether bytes changed that nobody wrote.
    pub(in crate::memory) fn is_damaged(&self) -> bool {
        self.0.is_damaged()
    }

    /// Whether hints about its pages are to be undone.
    pub(in crate::memory) fn is_advised(&self) -> bool {
        self.0.is_advised()
    }

    /// They are undone.
    pub(in crate::memory) fn forget_advised(&self) {
        self.set_state(self.state() & !ADVISED);
    }

    /// Says that bytes changed that nobody wrote.
    pub(in crate::memory) fn set_damaged(&self) {
        self.set_state(self.state() | DAMAGED);
    }

    /// Notes that the slab's pages may be there.
    pub(in crate::memory) fn note_written(&self) {
        self.set_state(self.state() | WRITTEN);
    }

    /// Notes that the slab's pages went back to the system.
    pub(in crate::memory) fn forget_written(&self) {
        self.set_state(self.state() & !WRITTEN);
    }

    fn state(&self) -> u64 {
        self.0.state.load(Ordering::Relaxed)
    }

    /// Relaxed: nobody but us changes the state while it is exclusive, and whoever takes over synchronises with the
    /// store that ends that.
    fn set_state(&self, state: u64) {
        self.0.state.store(state, Ordering::Relaxed);
    }

    /// Marks parts as written, before their bytes change.
    pub(in crate::memory) fn raise_dirty(&self, mask: u32) {
        if mask != 0 && !self.was_written() {
            self.set_state(self.state() | WRITTEN);
        }
        self.0.dirty.store(self.0.dirty.load(Ordering::Relaxed) | mask, Ordering::Relaxed);
    }

    /// Says which parts may be other than zero, after all others became zero.
    pub(in crate::memory) fn set_dirty(&self, mask: u32) {
        self.0.dirty.store(mask, Ordering::Relaxed);
    }

    /// Writes counted so far.
    pub(in crate::memory) fn writes(&self) -> u64 {
        self.0.writes()
    }

    /// Ends a change of the bytes: back to one holder, with `writes` counted in all.
    pub(in crate::memory) fn end(self, writes: u64) {
        debug_assert!(writes <= WRITES_MAX, "{writes} writes are more than can be counted");
        let kept = self.state() & (WRITTEN | DAMAGED | ADVISED);
        self.0.state.store(kept | writes << HOLDER_BITS | 1, Ordering::Release); // pairs with the Acquire in `hold`
    }

    /// The slab stays closed: nobody can hold it, or claim it, until it is opened from where it lies then. Its bytes are
    /// all zero. For what nobody holds and no reader drained.
    #[inline]
    pub(in crate::memory) fn stay_closed(self) {
        debug_assert!(self.dirty() == 0 && !self.is_advised(), "a slab was closed as it was used");
        self.set_state(self.state() & WRITTEN | CLOSED); // handed on by a rack's lock
    }

    /// As [`Exclusive::stay_closed`], of a slab with written parts, or hints, which whoever opens it zeroes, and undoes.
    pub(in crate::memory) fn stay_closed_written(self) {
        self.set_state(self.state() & (WRITTEN | ADVISED) | CLOSED); // handed on by a lock
    }

    /// The slab is free from here on; its bytes are all zero.
    pub(in crate::memory) fn make_free(self) {
        debug_assert_eq!(self.dirty(), 0, "a slab became free with written parts");
        debug_assert!(!self.is_damaged() && !self.is_advised(), "a damaged or advised slab became free");
        self.0.set_owner(0);
        self.0.state.store(self.state() & WRITTEN, Ordering::Release); // pairs with the Acquire in `leave_free`
    }

    /// The slab is out of use for good: nobody holds it or writes to it any more.
    pub(in crate::memory) fn make_retired(self) {
        self.0.set_owner(0);
        self.0.state.store(RETIRED, Ordering::Relaxed); // nobody comes after us
    }
}
