//! Grants: who may have room, decided by one compare-and-swap on the bytes in use, and nowhere else.
//!
//! A grant is a promise: bytes that are in use from here on, and become slabs later ([`Heap::back`]). So a request for
//! many slabs is one decision, room can be gathered for somebody who waits, and a refusal costs one load.

use super::{AllocateError, Heap};
use std::sync::atomic::Ordering;

/// Whom to tell that room was freed.
pub(super) struct RoomFreed(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for RoomFreed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("RoomFreed")
    }
}

impl Heap {
    /// Promises `bytes` to the caller, who turns them into slabs with [`Heap::back`], or gives them back. They are in
    /// use from here on. This is the one place where a memory refusal is made.
    ///
    /// # Errors
    /// [`AllocateError::Exhausted`] if, and only if, at one instant the bytes in use and these exceeded the limit.
    #[inline]
    pub fn grant(&self, bytes: u64) -> Result<(), AllocateError> {
        match self.in_use.try_take(bytes) {
            Ok(in_use) => {
                self.note_peak(in_use);
                Ok(())
            }
            Err(in_use_bytes) => Err(AllocateError::Exhausted {
                requested_bytes: bytes,
                in_use_bytes,
                limit_bytes: self.limit_bytes(),
            }),
        }
    }

    #[inline]
    fn note_peak(&self, in_use: u64) {
        // Almost always false: the shared line of the peak is then only read.
        if in_use > self.peak_in_use_bytes.load(Ordering::Relaxed) {
            self.peak_in_use_bytes.fetch_max(in_use, Ordering::Relaxed);
        }
    }

    /// Takes what it can of `bytes`, for somebody who gathers room, and returns how much that was.
    pub fn grant_some(&self, bytes: u64) -> u64 {
        let (some, in_use) = self.in_use.take_some(bytes);
        self.note_peak(in_use);
        some
    }

    /// Takes a grant back that was of no use because something else was refused. Tells nobody.
    pub(crate) fn ungrant(&self, bytes: u64) {
        self.return_granted(bytes);
    }

    /// Gives back granted bytes that did not become slabs.
    pub fn give_back(&self, bytes: u64) {
        self.return_granted(bytes);
        self.tell_room_freed();
    }

    /// Has `told` called whenever bytes in use became fewer, or a reader let go of a slab. It is called without any
    /// lock of the heap, by whichever thread that happens on; it must be quick. Only the first such call counts.
    pub fn when_room_is_freed(&self, told: impl Fn() + Send + Sync + 'static) {
        // A second one would be a second pool on the same heap, which is not done.
        let _ = self.room_freed.set(RoomFreed(Box::new(told)));
    }

    #[inline]
    pub(super) fn tell_room_freed(&self) {
        if let Some(RoomFreed(told)) = self.room_freed.get() {
            told();
        }
    }
}
