//! Taking back: what a holder lets go of is zeroed, and ready for the next client.

use super::segment::Exclusive;
use super::{Heap, SlabLocation};
use std::sync::atomic::Ordering;

impl Heap {
    /// The client that allocated the slab frees it: drops its hold. Where readers still hold the slab, its bytes stay
    /// in use, and are counted as draining, until the last of them is gone.
    ///
    /// # Panics
    /// If nobody holds the slab.
    #[inline]
    pub fn free(&self, location: SlabLocation) {
        if !self.free_unread(location) {
            self.begin_draining(location);
            self.release(location);
        }
    }

    /// As [`Heap::free`], where nobody else holds the slab; false, and nothing changed, where readers do.
    ///
    /// # Panics
    /// If nobody holds the slab.
    #[inline]
    pub(crate) fn free_unread(&self, location: SlabLocation) -> bool {
        let (slabs, index) = self.slabs(location);
        let Some(access) = slabs.record(index).release_unshared() else { return false };
        match self.put_into_magazine(location.class(), index, access) {
            None => self.tell_room_freed(),
            Some(access) => self.free_past_magazine(location, access),
        }
        true
    }

    /// Drops one hold on a slab. The last one scrubs it and makes it free.
    pub(super) fn release(&self, location: SlabLocation) {
        let (slabs, index) = self.slabs(location);
        match slabs.record(index).release() {
            Some(access) => self.free_past_magazine(location, access),
            None => self.tell_room_freed(), // a write may wait for just this reader
        }
    }

    /// Zeroes a slab that nobody holds any more, and makes it one of its class's free slabs.
    #[cold]
    pub(super) fn free_past_magazine(&self, location: SlabLocation, access: Exclusive<'_>) {
        if access.is_advised() {
            self.undo_advice(location, &access);
        }
        if access.is_damaged() {
            return self.retire_released(location, access);
        }
        if location.is_run() {
            return self.free_segment(location, access);
        }
        let (room, index) = (self.class(location.class()), location.index());
        // From here on the slab is nobody's. It leaves what is in use before it is zeroed: what is being scrubbed is free
        // memory, and a request that needs it waits for it instead of being refused.
        let (slabs, bytes) = (room.slabs(), room.slab_bytes());
        if access.was_draining() {
            self.draining_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        let mut account = room.lock();
        room.begin_scrub(&mut account);
        self.ungrant(bytes);
        if access.dirty() != 0 {
            drop(account); // zeroing up to 4 MiB is no work for a lock that others want
            slabs.scrub(index, &access);
            account = room.lock();
        }
        access.make_free();
        let surplus = room.end_scrub(&mut account, index);
        drop(account);
        self.scarce.wake();
        if surplus > 0 {
            self.reclaim_surplus(location.class(), surplus);
        }
        self.tell_room_freed();
    }
}
