//! Moving: a live allocation's segment goes elsewhere, so that memory can be given back in whole pages.
//!
//! The heap asks for it, and this side decides under the entry's lock. Nobody remembers where an allocation's bytes lie
//! beyond that lock unless they hold the segment, or lent it, and then it stays. So for everybody else nothing happens:
//! the content, its version and its readers' view are the same before and after.

use super::local::Local;
use super::place::Place;
use crate::memory::SlabLocation;

/// What a segment's record says of its owner: the index of the entry, plus one.
pub(super) fn owner_of(index: u32) -> u32 {
    index + 1 // an index has 24 bits
}

impl Local {
    /// Moves the segment of an owner from one place to another, if it is the content of a live allocation that nobody
    /// reads and no upload fills. Copies under the entry's lock; waits for nothing.
    pub(super) fn move_segment(&self, owner: u32, from: SlabLocation, to: SlabLocation) -> bool {
        let index = owner - 1;
        let Some(entry) = self.table().get(index) else { return false };
        let entry = entry.lock();
        let is_its_content = entry.read().is_some_and(|record| record.place == Place::of_slab(from));
        // A lent segment is filled without the lock, by an upload that knows where it lies.
        if !is_its_content || entry.is_lent() {
            return false;
        }
        if self.heap().copy_slab(from, to).is_err() {
            return false; // somebody reads it
        }
        self.heap().set_owner(to, owner);
        entry.set_place(Place::of_slab(to));
        true
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
