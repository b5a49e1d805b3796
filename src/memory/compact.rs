//! Compaction: live slabs are moved down, so that whole pages become free at the top of a class.
//!
//! Only where slabs share pages: elsewhere a free slab is free pages already. A sweep goes down from the top of the
//! class. What is free there is counted; what is live is moved to the lowest free place below; what cannot be moved is
//! left where it is. So the top is free in the end, and leaves in one call (`reclaim.rs`).
//!
//! ```text
//!   before   A . B . . C . D        . free   A…D live   R read by somebody
//!   after    A D B C . . . .        the upper four leave
//!   or       A D B . . R . .        the upper two leave, then the two below R
//! ```
//!
//! The heap knows what to move and where to; whether a slab may be moved, only its owner can say. So the owner does it
//! ([`Heap::when_moving`]), under its own lock, by [`Heap::copy_slab`] and by storing the new location. It is asked
//! without any lock of the heap.

use super::{AccessError, Heap, SizeClass, SlabLocation};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Moves in one slice: each two class locks, the owner's lock, two records and the call, about 1 µs: 0.3 ms.
const SLICE_MOVES_MAX: u64 = 256;
/// Bytes moved in one slice, unless it is one slab: copied and zeroed 0.1 ms, and 0.3 ms where their pages come first.
const SLICE_MOVED_BYTES_MAX: u64 = 512 << 10;

/// Moves a slab's content for its owner: the owner's number, from where, and to where. Whether it did.
type Move = Box<dyn Fn(u32, SlabLocation, SlabLocation) -> bool + Send + Sync>;

/// Who moves, and what was moved.
#[derive(Default)]
pub(super) struct Compactor {
    mover: OnceLock<Move>,
    moves: AtomicU64,
    moved_bytes: AtomicU64,
    kept: AtomicU64,
}

impl std::fmt::Debug for Compactor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Compactor").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What compaction did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionStats {
    /// Live slabs that were moved.
    pub moves: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// Slabs that stayed where they were, because somebody read or filled them, or they were just ending.
    pub kept: u64,
}

/// How far a class has been swept from its top.
#[derive(Debug)]
pub(super) struct Sweep {
    /// Free slabs wanted at the top.
    pub(super) wanted: u64,
    /// Slabs from here on were looked at.
    pub(super) below: u64,
    /// Slabs from there on that are free.
    pub(super) cleared: u64,
    /// Slabs from there on that could not be moved.
    pub(super) skipped: u64,
}

/// One step of a sweep.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A live slab may be moved to a place that was taken for it.
    Move { from: u64, to: u64 },
    /// A few slabs were looked at.
    Walked,
    /// No free slab lies below.
    AllDone,
}

impl Sweep {
    /// A sweep from the top for so many free slabs.
    pub(super) fn new(wanted: u64) -> Sweep {
        Sweep { wanted, below: u64::MAX, cleared: 0, skipped: 0 }
    }
}

impl Compactor {
    pub(super) fn stats(&self) -> CompactionStats {
        CompactionStats {
            moves: self.moves.load(Ordering::Relaxed),
            moved_bytes: self.moved_bytes.load(Ordering::Relaxed),
            kept: self.kept.load(Ordering::Relaxed),
        }
    }
}

impl Heap {
    /// Has `mover` asked to move a slab whose owner is known ([`Heap::set_owner`]): it gets the owner's number, where the
    /// slab lies and a free place. It moves the content by [`Heap::copy_slab`], sees to it that everybody finds it there,
    /// and says whether it did; where it did, nobody may enter the old place any more. It is called without any lock of
    /// the heap, and must not allocate or free. Only the first such call counts.
    pub(crate) fn when_moving(
        &self,
        mover: impl Fn(u32, SlabLocation, SlabLocation) -> bool + Send + Sync + 'static,
    ) {
        // A second one would be a second pool on the same heap, which is not done.
        let _ = self.compactor.mover.set(Box::new(mover));
    }

    /// Whether there is anybody who moves slabs.
    pub(super) fn can_move(&self) -> bool {
        self.compactor.mover.get().is_some()
    }

    /// Says whose slab it is, in the caller's words; 0 is nobody. It is forgotten when the slab is free.
    pub(crate) fn set_owner(&self, location: SlabLocation, owner: u32) {
        let (slabs, index) = self.slabs(location);
        slabs.record(index).set_owner(owner);
    }

    /// Copies what was written of one slab into another of its class that was never written, with its count of writes.
    /// Each has one holder, who keeps it.
    ///
    /// # Errors
    /// [`AccessError`] where somebody else holds one of them; nothing was changed then.
    ///
    /// # Panics
    /// If they are not of one class.
    pub(crate) fn copy_slab(&self, from: SlabLocation, to: SlabLocation) -> Result<(), AccessError> {
        assert_eq!(from.class(), to.class(), "a copy is of the same size");
        self.slabs(from).0.copy_slab(from.index(), to.index())
    }

    /// One slice of a sweep. Whether there is more to be had of it.
    pub(super) fn clear_top(&self, class: SizeClass, sweep: &mut Sweep) -> bool {
        let Some(mover) = self.compactor.mover.get() else { return false };
        let room = self.class(class);
        let kept_before = sweep.skipped;
        let (mut steps, mut bytes) = (0, 0);
        let mut has_more = true;
        while has_more
            && sweep.cleared < sweep.wanted
            && steps < SLICE_MOVES_MAX
            && (bytes == 0 || bytes + room.slab_bytes() <= SLICE_MOVED_BYTES_MAX)
        {
            steps += 1;
            let step = room.step_down(&mut room.lock(), sweep);
            match step {
                Step::AllDone => has_more = false,
                Step::Walked => {}
                Step::Move { from, to } => {
                    bytes += room.slab_bytes();
                    if self.move_slab(class, mover, from, to) {
                        sweep.cleared += 1;
                    } else {
                        sweep.skipped += 1;
                    }
                }
            }
        }
        self.compactor.kept.fetch_add(sweep.skipped - kept_before, Ordering::Relaxed);
        has_more
    }

    /// Moves one slab to a place that was taken for it, if its owner lets it go.
    fn move_slab(&self, class: SizeClass, mover: &Move, from: u64, to: u64) -> bool {
        let room = self.class(class);
        let slabs = room.slabs();
        let owner = slabs.record(from).owner();
        // It may have been freed since the look.
        let is_moved =
            owner != 0 && mover(owner, SlabLocation::new(class, from), SlabLocation::new(class, to));
        let emptied = if is_moved { from } else { to };
        let access = slabs.record(emptied).release().expect("nobody else knows where it lies");
        slabs.scrub(emptied, &access);
        if access.is_advised() {
            self.undo_advice(SlabLocation::new(class, emptied), &access); // hints stay with the place that they were for
        }
        access.make_free();
        room.end_move(&mut room.lock(), emptied, is_moved.then_some(to));
        self.scarce.wake();
        if is_moved {
            self.compactor.moves.fetch_add(1, Ordering::Relaxed);
            self.compactor.moved_bytes.fetch_add(room.slab_bytes(), Ordering::Relaxed);
        }
        is_moved
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
