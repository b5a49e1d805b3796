//! Slabs that were freed while readers hold them: what may be asked of them, and what may be said to their readers.

use super::{Heap, SlabLocation};

impl Heap {
    /// Whether readers hold a slab beside the client that allocated it.
    pub fn has_readers(&self, location: SlabLocation) -> bool {
        let (slabs, index) = self.slabs(location);
        slabs.record(index).holders() > 1
    }

    /// Whether a slab was freed and readers still hold it.
    pub fn is_draining(&self, location: SlabLocation) -> bool {
        let (slabs, index) = self.slabs(location);
        slabs.record(index).is_draining()
    }

    /// Says that the readers of a freed slab have had their time: [`super::Pin::is_overdue`] tells them. False if none
    /// are left. What they hold stays as it is until they let go.
    pub fn mark_overdue(&self, location: SlabLocation) -> bool {
        let (slabs, index) = self.slabs(location);
        slabs.record(index).mark_overdue()
    }
}
