//! The scarce path: what happens when fresh bytes cannot be had. It finds the memory for a request that was granted.
//!
//! A granted request is never refused any more: what is in use, it included, is within the limit, so what its slab
//! takes beyond is held by free slabs of some class. One request at a time takes this path. It raises a flag that sends
//! every other one here too, to wait for its turn; while it is up nobody else takes a slab, so free memory only grows,
//! and the request is backed by slabs taken from whichever classes have free ones. That may take time; slabs still
//! being scrubbed are waited for.

use super::class::Class;
use super::{AllocateError, Heap, SizeClass, SlabLocation};
use crate::sync::{Condvar, Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Slabs reclaimed under one hold of a class's lock. Giving back a page of its own each costs 2 to 17 µs, so the
/// lock is free again after about 1 ms.
const RECLAIM_SLICE_SLABS: u64 = 64;

/// A scrub that is waited for signals its end; this bounds the wait if it is over before anyone waits.
const SCRUB_WAIT: Duration = Duration::from_millis(1);

/// Who is on the scarce path.
#[derive(Debug, Default)]
pub(super) struct Scarce {
    /// Held by the one request that is being served.
    turn: Mutex<()>,
    /// Up while a request is being served. Written under `turn`; read under a class's lock, whose Acquire pairs with
    /// the Release of the scarce path's own hold of it, so that nobody allocates past a raised flag.
    raised: AtomicBool,
    scrubbed: Mutex<()>,
    /// Signalled when a slab becomes free while the flag is up.
    scrub_ended: Condvar,
}

impl Scarce {
    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// Wakes the request that waits for a scrub, if there is one.
    pub(super) fn wake(&self) {
        if self.is_raised() {
            drop(self.scrubbed.lock());
            self.scrub_ended.notify_all();
        }
    }
}

/// Lowers the flag however the scarce path ends.
struct Turn<'a> {
    scarce: &'a Scarce,
    _turn: MutexGuard<'a, ()>,
}

impl<'a> Turn<'a> {
    fn take(scarce: &'a Scarce) -> Turn<'a> {
        let turn = scarce.turn.lock();
        scarce.raised.store(true, Ordering::Relaxed); // published by the class locks taken next
        Turn { scarce, _turn: turn }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.scarce.raised.store(false, Ordering::Relaxed);
    }
}

impl Heap {
    /// Finds the memory for a granted slab of `class`.
    #[cold]
    pub(super) fn back_scarce(&self, class: SizeClass) -> Result<SlabLocation, AllocateError> {
        let _turn = Turn::take(&self.scarce);
        let room = &self.classes[usize::from(class.0)];
        let system = |error| AllocateError::System { requested_bytes: room.slab_bytes(), error };
        loop {
            {
                let mut account = room.lock();
                if let Some(index) = room.take_free(&mut account) {
                    return Ok(SlabLocation::new(class, index));
                }
                if self.budget.take(room.slab_bytes()) {
                    let taken = self.take_fresh(room, &mut account);
                    return taken.map(|index| SlabLocation::new(class, index)).map_err(system);
                }
            }
            if !self.reclaim_slice(room).map_err(system)? {
                let mut scrubbed = self.scarce.scrubbed.lock();
                self.scarce.scrub_ended.wait_for(&mut scrubbed, SCRUB_WAIT);
            }
        }
    }

    /// Takes free slabs from the class that has most free bytes, about as many as `room` needs for one slab, at most
    /// one slice. False if no class has any: what is free is still being scrubbed.
    fn reclaim_slice(&self, room: &Class) -> Result<bool, super::OsError> {
        let free_bytes = |class: &Class| {
            let stats = class.lock().stats();
            stats.free * stats.slab_size_bytes
        };
        let fullest = self.classes.iter().max_by_key(|class| free_bytes(class)).expect("a heap has a class");
        let missing = room.slab_bytes() - (self.limit_bytes() - self.budget.held()).min(room.slab_bytes());
        let slabs = missing.div_ceil(fullest.slab_bytes()).clamp(1, RECLAIM_SLICE_SLABS);
        let reclaimed = fullest.reclaim(&mut fullest.lock(), slabs)?;
        self.budget.give_back(reclaimed);
        Ok(reclaimed > 0)
    }
}
