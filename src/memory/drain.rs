//! Slabs that were freed while readers hold them: what may be asked of them, and what may be said to their readers.

use super::{Heap, SlabLocation};
use std::sync::atomic::Ordering;

impl Heap {
    /// Whether readers hold a slab beside the client that allocated it.
    #[cfg(all(test, not(feature = "loom")))]
    pub(crate) fn has_readers(&self, location: SlabLocation) -> bool {
        let (slabs, index) = self.slabs(location);
        slabs.record(index).holders() > 1
    }

    /// Counts a slab as draining that the caller is about to free, and that readers hold: ahead of [`Heap::free`], for
    /// whoever has to note it before the last of them can be gone. A second time changes nothing.
    ///
    /// # Panics
    /// If nobody holds the slab.
    pub(crate) fn begin_draining(&self, location: SlabLocation) {
        let (slabs, index) = self.slabs(location);
        let record = slabs.record(index);
        assert!(record.holders() > 0, "a slab drains that nobody holds");
        if record.set_draining() {
            self.draining_bytes.fetch_add(slabs.bytes_of(index), Ordering::Relaxed);
        }
    }

    /// Whether a slab was freed and readers still hold it.
    pub(crate) fn is_draining(&self, location: SlabLocation) -> bool {
        let (slabs, index) = self.slabs(location);
        slabs.record(index).is_draining()
    }

    /// Says that the readers of a freed slab have had their time: [`super::Pin::is_overdue`] tells them. False if none
    /// are left. What they hold stays as it is until they let go.
    pub(crate) fn mark_overdue(&self, location: SlabLocation) -> bool {
        let (slabs, index) = self.slabs(location);
        slabs.record(index).mark_overdue()
    }
}
