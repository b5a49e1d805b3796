//! The scarce path: what happens when fresh bytes cannot be had. It finds the memory for a request that was granted.
//!
//! A granted request is never refused any more: what is in use, it included, is within the limit, so what its slab
//! takes beyond is held by free slabs of some class. One request at a time takes this path. It raises a flag that sends
//! every other one here too, to wait for its turn; while it is up nobody else takes a slab, so free memory only grows,
//! and the request is backed by slabs taken from whichever classes have free ones. That may take time; slabs still
//! being scrubbed are waited for. Whoever must not wait tries it ([`Heap::try_back_scarce`]): one slice of work, if it is
//! nobody else's turn.

use super::class::Source;
use super::compact::Sweep;
use super::grant::ClosedGate;
use super::large::Taker;
use super::os::OsError;
use super::reclaim::ReclaimAction;
use super::{AllocateError, Backed, Heap, Shape, SizeClass, SlabLocation};
use crate::sync::{Condvar, Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
    _closed: ClosedGate<'a>,
}

impl<'a> Turn<'a> {
    fn take(heap: &'a Heap) -> Turn<'a> {
        Turn::begin(heap, heap.scarce.turn.lock())
    }

    /// None where somebody else has it.
    fn try_take(heap: &'a Heap) -> Option<Turn<'a>> {
        heap.scarce.turn.try_lock().map(|turn| Turn::begin(heap, turn))
    }

    fn begin(heap: &'a Heap, turn: MutexGuard<'a, ()>) -> Turn<'a> {
        let scarce = &heap.scarce;
        scarce.raised.store(true, Ordering::Relaxed); // published by the class locks taken next
        Turn { scarce, _turn: turn, _closed: heap.close_magazines() }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.scarce.raised.store(false, Ordering::Relaxed);
    }
}

/// What the scarce path has swept of which class, over its slices.
#[derive(Debug, Default)]
struct Swept(Option<(SizeClass, Sweep)>);

impl Swept {
    /// The sweep of a class, which now wants so many slabs. Another class's is over.
    fn of(&mut self, class: SizeClass, wanted: u64) -> &mut Sweep {
        if self.0.as_ref().is_none_or(|(swept, _)| *swept != class) {
            self.0 = None;
        }
        let (_, sweep) = self.0.get_or_insert_with(|| (class, Sweep::new(wanted)));
        sweep.wanted = wanted;
        sweep
    }
}

impl Heap {
    /// As [`Heap::allocate`], but does no more than one slice of work, about a millisecond, and waits for nobody. None:
    /// the bytes are granted, and it takes more to make a slab of them, which [`Heap::back`] does.
    ///
    /// # Errors
    /// As [`Heap::allocate`].
    #[inline]
    pub(crate) fn try_allocate(&self, class: SizeClass) -> Result<Option<SlabLocation>, AllocateError> {
        match self.take_from_magazine(class) {
            Some(index) => Ok(Some(SlabLocation::new(class, index))),
            None => self.try_allocate_past_magazine(class),
        }
    }

    #[cold]
    fn try_allocate_past_magazine(&self, class: SizeClass) -> Result<Option<SlabLocation>, AllocateError> {
        if let Some(index) = self.refill(class, false) {
            return Ok(Some(SlabLocation::new(class, index)));
        }
        let bytes = self.class_bytes(class);
        self.grant(bytes)?;
        let backed = match self.back_one(class) {
            Ok(None) => self.try_back_scarce(class),
            backed => backed,
        };
        backed.inspect_err(|_| self.give_back(bytes))
    }

    /// Finds the memory for a granted slab of `class`, which [`Heap::back_unless_scarce`] did not, if a slice of work is
    /// enough, and nobody else is at it. None: it takes more.
    ///
    /// # Errors
    /// As [`Heap::back`].
    #[cold]
    pub(crate) fn try_back_scarce(&self, class: SizeClass) -> Result<Option<SlabLocation>, AllocateError> {
        Ok(self.try_back_shape_scarce(Shape::Slab(class))?.map(Backed::only))
    }

    /// As [`Heap::try_back_scarce`], for a block of any shape.
    ///
    /// # Errors
    /// As [`Heap::back`].
    #[cold]
    pub(crate) fn try_back_shape_scarce(&self, shape: Shape) -> Result<Option<Backed>, AllocateError> {
        let Some(_turn) = Turn::try_take(self) else { return Ok(None) };
        if let Some(backed) = self.take_in_turn(shape, true)? {
            return Ok(Some(backed));
        }
        self.make_room(shape, &mut Swept::default())?;
        self.take_in_turn(shape, true)
    }

    /// Finds the memory for a granted slab of `class`, however long that takes.
    #[cold]
    pub(super) fn back_scarce(&self, class: SizeClass) -> Result<SlabLocation, AllocateError> {
        self.back_shape_scarce(Shape::Slab(class)).map(Backed::only)
    }

    /// As [`Heap::back_scarce`], for a block of any shape.
    #[cold]
    pub(super) fn back_shape_scarce(&self, shape: Shape) -> Result<Backed, AllocateError> {
        let _turn = Turn::take(self);
        let mut swept = Swept::default();
        loop {
            if let Some(backed) = self.take_in_turn(shape, false)? {
                return Ok(backed);
            }
            if !self.make_room(shape, &mut swept)? {
                let mut scrubbed = self.scarce.scrubbed.lock();
                self.scarce.scrub_ended.wait_for(&mut scrubbed, SCRUB_WAIT);
            }
        }
    }

    /// Free memory, or fresh, for whoever has the turn.
    fn take_in_turn(&self, shape: Shape, in_slice: bool) -> Result<Option<Backed>, AllocateError> {
        let Shape::Slab(class) = shape else {
            return self.take_run(shape, Taker { has_turn: true, in_slice });
        };
        let taken = self.take_undamaged(|| {
            let room = self.class(class);
            let mut account = room.lock();
            let taken = self.take_free_or_fresh(room, &mut account)?;
            Ok(taken.map(|(index, _)| {
                account.count_source(Source::Reclaim);
                SlabLocation::new(class, index)
            }))
        })?;
        Ok(taken.map(Backed::Slab))
    }

    /// Takes free memory from the class that has most of it, or from the free runs, about as much as the block needs, at
    /// most one slice. False if nobody has any: what is free is still being scrubbed.
    fn make_room(&self, shape: Shape, swept: &mut Swept) -> Result<bool, AllocateError> {
        let mut fullest = (0, SizeClass(0));
        for (number, other) in (0..=u8::MAX).zip(&self.classes) {
            let stats = other.lock().stats();
            fullest = fullest.max((stats.free * stats.slab_size_bytes, SizeClass(number)));
        }
        let (free_bytes, fullest) = fullest;
        let requested_bytes = self.shape_bytes(shape);
        let system = |error| AllocateError::System { requested_bytes, error };
        let run_bytes = self.large.free_bytes();
        let needed = match shape {
            // Free runs are its own already.
            Shape::Run(bytes) => bytes - run_bytes.min(bytes),
            _ => requested_bytes,
        };
        let missing = needed - (self.limit_bytes() - self.budget.held()).min(needed);
        if run_bytes > free_bytes && !matches!(shape, Shape::Run(_)) {
            return self.reclaim_runs(missing.max(1), ReclaimAction::Backing).map(|_| true).map_err(system);
        }
        if free_bytes == 0 {
            if missing == 0 && matches!(shape, Shape::Span(_)) && run_bytes == 0 {
                return Err(system(OsError::no_address_space(requested_bytes)));
            }
            return Ok(self.scrub_slice());
        }
        let slabs = missing.div_ceil(self.class(fullest).slab_bytes()).max(1);
        self.reclaim_slice(fullest, swept.of(fullest, slabs), ReclaimAction::Backing).map_err(system)?;
        Ok(true)
    }
}
