//! The scarce path: what happens when fresh bytes cannot be had. The one place where a memory refusal is made.
//!
//! One request at a time takes this path. It raises a flag that sends every other allocation here too, to wait for its
//! turn, and then looks at all classes at once: what is in use is then exact. Either that and the request exceed the
//! limit, and it is refused; or they do not, and it is granted. A granted request is never refused any more: while
//! the flag is up nobody else allocates, so free memory only grows, and it is backed by slabs taken from whichever
//! classes have free ones. That may take time; slabs still being scrubbed are waited for.

use super::class::{Account, Class};
use super::{AllocateError, Heap, SizeClass, SlabLocation};
use parking_lot::{Condvar, Mutex, MutexGuard};
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
    /// Grants or refuses a slab of `class`, by what is in use at one instant.
    #[cold]
    pub(super) fn allocate_scarce(&self, class: SizeClass) -> Result<SlabLocation, AllocateError> {
        let _turn = Turn::take(&self.scarce);
        let size = self.classes[usize::from(class.0)].slab_bytes();
        {
            // All classes stand still: nobody allocates, and no free is half counted.
            let accounts: Vec<MutexGuard<'_, Account>> = self.classes.iter().map(Class::lock).collect();
            let in_use = accounts
                .iter()
                .map(|account| account.stats())
                .map(|stats| stats.used * stats.slab_size_bytes)
                .sum::<u64>();
            let limit = self.limit_bytes();
            if in_use + size > limit {
                return Err(AllocateError::Exhausted {
                    requested_bytes: size,
                    in_use_bytes: in_use,
                    limit_bytes: limit,
                });
            }
        }
        self.back(class).map(|index| SlabLocation::new(class, index))
    }

    /// Finds the memory for a granted request.
    fn back(&self, class: SizeClass) -> Result<u64, AllocateError> {
        let room = &self.classes[usize::from(class.0)];
        let system = |error| AllocateError::System { requested_bytes: room.slab_bytes(), error };
        loop {
            {
                let mut account = room.lock();
                if let Some(index) = room.take_free(&mut account) {
                    self.count_taken(room.slab_bytes());
                    return Ok(index);
                }
                if self.budget.take(room.slab_bytes()) {
                    return self.take_fresh(room, &mut account).map_err(system);
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
