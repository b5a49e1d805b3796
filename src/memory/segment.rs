//! Segment records: who may touch a slab's bytes right now, which parts of it were written, and how often.
//!
//! A record is the only authority on access, so that its rules alone make the copying code sound:
//!
//! ```text
//!            claim             hold                 write
//!   FREE ───────────▶ 1 holder ─────▶ n holders   1 holder ─────▶ EXCLUSIVE ─────▶ 1 holder
//!     ▲                  │   ◀─────                                  (bytes change)
//!     │     release      ▼    release
//!     └───────────── EXCLUSIVE (scrubbed)
//! ```
//!
//! The only holder may become the OWNER, for whom the slab is plain memory: nobody else gets in until it is given back.
//! A free slab on its way through magazines is CLOSED: the one magazine or batch that lists it has it alone.
//!
//! Shared references to the bytes exist only while there are holders; bytes change only while the record is exclusive.
//! A slab whose bytes changed by themselves ends RETIRED: from there no way leads on.
//!
//! Five flags travel with the count, in the same word. DRAINING: the client freed the slab while readers held it.
//! OVERDUE: those readers have had their time. It is only ever set beside DRAINING, and it takes nothing away: holders
//! may look at it and let go, and until they do the bytes stay as they are. DAMAGED: whoever holds the slab last retires
//! it. ADVISED: the system treats its pages unlike those of its neighbours, which whoever is the last to let go undoes. These
//! end when the slab is free. WRITTEN stays with a free slab, until its pages go back to the system: something
//! was written since, so its pages are there, and a look whether all of it is zero costs no fault.

mod exclusive;

pub(super) use exclusive::Exclusive;

use crate::sync::{AtomicU32, AtomicU64, Backoff, Ordering};

/// Low bits of the state word count holders; the rest, below the flags, counts writes, for the `ETag`. That leaves 43
/// bits for writes: three months at a million a second, all to one block.
const HOLDER_BITS: u32 = 16;
const HOLDERS: u64 = (1 << HOLDER_BITS) - 1;
/// In place of a holder count: one thread is changing the bytes.
const EXCLUSIVE: u64 = HOLDERS;
/// In place of a holder count: the slab was damaged, and is out of use for good.
const RETIRED: u64 = HOLDERS - 1;
/// In place of a holder count: the slab is free, and lies in a magazine or a batch.
const CLOSED: u64 = HOLDERS - 2;
/// In place of a holder count: one owner reads and writes the bytes as plain memory, and lets nobody else in.
const OWNED: u64 = HOLDERS - 3;
/// Holders at most. One more is refused; it is far above what the connection limit lets arise.
const HOLDERS_MAX: u64 = HOLDERS - 4;
/// The client freed the slab while readers held it.
const DRAINING: u64 = 1 << 63;
/// Those readers have had their time.
const OVERDUE: u64 = 1 << 62;
/// A byte was written since the slab's pages came. The one flag that a free slab may have.
const WRITTEN: u64 = 1 << 61;
/// Bytes changed that nobody wrote.
const DAMAGED: u64 = 1 << 60;
/// Hints about its pages were given to the system. Beside holders, and until they are undone.
const ADVISED: u64 = 1 << 59;
const FLAGS: u64 = DRAINING | OVERDUE | WRITTEN | DAMAGED | ADVISED;
const WRITES_MAX: u64 = (ADVISED >> HOLDER_BITS) - 1;

/// The record of one slab. All zero is a free slab whose bytes are zero.
#[derive(Debug, Default)]
pub(super) struct SegmentRecord {
    /// Draining << 63 | overdue << 62 | written << 61 | damaged << 60 | advised << 59 | writes << 16 | holders. Changed by
    /// compare-and-swap, and by whoever is exclusive; see the drawing above.
    state: AtomicU64,
    /// One bit for each 32nd of the slab that may be other than zero. Written while exclusive, read by holders.
    dirty: AtomicU32,
    /// Whose slab it is, in the words of whoever allocated it; 0: nobody's who could say where it lies. Written by the
    /// one that the slab was given to, read by whoever would like to move it: a hint, which the owner confirms.
    owner: AtomicU32,
}

#[cfg(not(any(feature = "loom", feature = "shuttle")))]
const _: () = assert!(size_of::<SegmentRecord>() == 16, "metadata is bounded: 16 bytes a slab");

/// Why a record could not be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The slab is free, wherever it lies, or retired: the location is stale.
    #[error("the slab is free")]
    Free,
    /// Others hold the slab, so its bytes must not change.
    #[error("the slab has other holders")]
    Shared,
    /// The slab has an owner, who reads and writes it as plain memory.
    #[error("the slab is owned")]
    Owned,
    /// As many holders as can be counted.
    #[error("the slab has {HOLDERS_MAX} holders")]
    TooManyHolders,
}

impl SegmentRecord {
    /// FREE → 1 holder, 0 writes. False if it was not free.
    pub(super) fn claim(&self) -> bool {
        self.leave_free(1)
    }

    /// From FREE to `holders`, which is a count, or EXCLUSIVE. False if it was not free.
    fn leave_free(&self, holders: u64) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & !WRITTEN == 0 {
            // Acquire pairs with the Release in `make_free`: whoever comes sees the zeros that scrubbing left.
            match self.state.compare_exchange_weak(
                state,
                state | holders,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Adds a holder, waiting out a write in progress.
    pub(super) fn hold(&self) -> Result<(), AccessError> {
        let mut backoff = Backoff::new();
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            match state & HOLDERS {
                0 | CLOSED | RETIRED => return Err(AccessError::Free),
                EXCLUSIVE => {
                    backoff.wait();
                    state = self.state.load(Ordering::Relaxed);
                }
                OWNED => return Err(AccessError::Owned),
                HOLDERS_MAX => return Err(AccessError::TooManyHolders),
                // Acquire pairs with the Release in `end`: a holder sees every byte written before.
                _ => match self.state.compare_exchange_weak(
                    state,
                    state + 1,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => return Ok(()),
                    Err(now) => state = now,
                },
            }
        }
    }

    /// Drops a holder. The last one gets exclusive access: it scrubs the slab and makes it free.
    #[must_use]
    pub(super) fn release(&self) -> Option<Exclusive<'_>> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let holders = state & HOLDERS;
            assert!(is_held(state), "released a slab that nobody holds");
            let last = holders == 1;
            // Its writes count no more.
            let next = if last { state & FLAGS | EXCLUSIVE } else { state - 1 };
            // Release: our reads of the bytes happen before whoever scrubs them. Acquire pairs with the other
            // holders' Release: the last one scrubs after all their reads.
            match self.state.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return last.then_some(Exclusive(self)),
                Err(now) => state = now,
            }
        }
    }

    /// Drops the only holder, who gets exclusive access; none, and nothing changed, where there are others, or the slab
    /// is damaged.
    ///
    /// # Panics
    /// If nobody holds the slab.
    #[inline]
    pub(super) fn release_unshared(&self) -> Option<Exclusive<'_>> {
        let state = self.state.load(Ordering::Relaxed);
        assert!(is_held(state), "released a slab that nobody holds");
        if state & (FLAGS & !WRITTEN | HOLDERS) != 1 {
            return None;
        }
        // Acquire: as in `release`. Where a reader just came, it is looked at again there.
        let next = state & WRITTEN | EXCLUSIVE;
        let closed = self.state.compare_exchange(state, next, Ordering::Acquire, Ordering::Relaxed);
        closed.is_ok().then_some(Exclusive(self))
    }

    /// Makes the only holder's access exclusive.
    pub(super) fn begin_write(&self) -> Result<Exclusive<'_>, AccessError> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            match state & HOLDERS {
                0 | CLOSED | RETIRED => return Err(AccessError::Free),
                OWNED => return Err(AccessError::Owned),
                // Acquire pairs with the Release in `release`: readers that left are done before bytes change.
                1 => match self.state.compare_exchange(
                    state,
                    state | EXCLUSIVE,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => return Ok(Exclusive(self)),
                    // Not only holders come and go: a flag may have been set meanwhile.
                    Err(now) => state = now,
                },
                _ => return Err(AccessError::Shared),
            }
        }
    }

    /// The only holder becomes the owner; false, and nothing changed, where there are others.
    #[inline]
    pub(super) fn own(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        // Acquire: as in `begin_write`.
        let next = state & !HOLDERS | OWNED;
        state & HOLDERS == 1
            && self.state.compare_exchange(state, next, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Marks parts as written, before their bytes change. For the owner.
    #[inline]
    pub(super) fn raise_dirty_owned(&self, mask: u32) {
        let state = self.state.load(Ordering::Relaxed);
        if mask != 0 && state & WRITTEN == 0 {
            self.state.store(state | WRITTEN, Ordering::Relaxed); // nobody else changes the word of an owned slab
        }
        self.dirty.store(self.dirty.load(Ordering::Relaxed) | mask, Ordering::Relaxed);
    }

    /// The owner lets go, and has exclusive access. For the owner.
    ///
    /// # Panics
    /// If the slab is not owned.
    #[inline]
    pub(super) fn disown(&self) -> Exclusive<'_> {
        let state = self.state.load(Ordering::Relaxed);
        assert!(state & HOLDERS == OWNED, "a slab was given back that nobody owns");
        // No exchange: nobody else changes the word of an owned slab. Whoever has it next synchronises with the lock, or the
        // store, by which it is handed on.
        self.state.store(state & (WRITTEN | DAMAGED) | EXCLUSIVE, Ordering::Relaxed);
        Exclusive(self)
    }

    /// A slab that was closed has a holder again: its first. For whoever took it from where it lay closed, and so has it
    /// alone. `may_open` is told whether it was written, and may keep it closed; false then.
    ///
    /// # Panics
    /// If it is not closed.
    #[inline]
    pub(super) fn open(&self, may_open: impl FnOnce(bool) -> bool) -> bool {
        self.leave_closed(1, may_open)
    }

    /// As [`SegmentRecord::open`], but the slab has an owner.
    ///
    /// # Panics
    /// If it is not closed.
    #[inline]
    pub(super) fn open_owned(&self, may_open: impl FnOnce(bool) -> bool) -> bool {
        self.leave_closed(OWNED, may_open)
    }

    #[inline]
    fn leave_closed(&self, holders: u64, may_open: impl FnOnce(bool) -> bool) -> bool {
        // No exchange: nobody else changes the word of a closed slab. What zeroed it came before by the lock, or the stack,
        // by which it was handed here. Release pairs with the Acquire in `hold`.
        let state = self.state.load(Ordering::Relaxed);
        assert!(state & !WRITTEN == CLOSED, "a slab was given out that is not closed");
        if !may_open(state & WRITTEN != 0) {
            return false;
        }
        self.state.store(state & WRITTEN | holders, Ordering::Release);
        true
    }

    /// Exclusive access to a closed slab. For whoever took it from where it lay closed, and so has it alone.
    ///
    /// # Panics
    /// If it is not closed.
    pub(super) fn reopen(&self) -> Exclusive<'_> {
        let state = self.state.load(Ordering::Relaxed);
        assert_eq!(state & !(WRITTEN | ADVISED), CLOSED, "a slab was looked at that is not closed");
        self.state.store(state & (WRITTEN | ADVISED) | EXCLUSIVE, Ordering::Relaxed); // nobody else changes it
        Exclusive(self)
    }

    /// A slab that was closed is free. For whoever took it from where it lay closed.
    ///
    /// # Panics
    /// If it is not closed.
    pub(super) fn free_closed(&self) {
        let state = self.state.load(Ordering::Relaxed);
        assert_eq!(state & !WRITTEN, CLOSED, "a slab was freed that is not closed");
        self.state.store(state & WRITTEN, Ordering::Release); // pairs with the Acquire in `leave_free`
    }

    /// FREE → EXCLUSIVE, so that nobody can claim the slab. None if it was not free.
    pub(super) fn close_free(&self) -> Option<Exclusive<'_>> {
        self.leave_free(EXCLUSIVE).then_some(Exclusive(self))
    }

    /// Notes that the client freed the slab while readers hold it. For the holder that frees. Whether that is new.
    pub(super) fn set_draining(&self) -> bool {
        self.state.fetch_or(DRAINING, Ordering::Relaxed) & DRAINING == 0 // travels with the count: same word
    }

    /// Whether the slab was freed and readers still hold it.
    pub(super) fn is_draining(&self) -> bool {
        has_lingering_readers(self.state.load(Ordering::Relaxed))
    }

    /// Says that the readers of a freed slab have had their time. False if none are left: whoever has the slab next
    /// is never called overdue.
    pub(super) fn mark_overdue(&self) -> bool {
        let mark = |state| has_lingering_readers(state).then_some(state | OVERDUE);
        // By compare-and-swap: the last reader may leave, and the slab be given out again, between look and mark.
        // Relaxed: the flag orders nothing, holders only look at it.
        self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, mark).is_ok()
    }

    /// Whether its holders should let go. For holders.
    pub(super) fn is_overdue(&self) -> bool {
        self.state.load(Ordering::Relaxed) & OVERDUE != 0
    }

    /// Says that bytes of the slab changed that nobody wrote: it is retired when its last holder lets go. For holders.
    /// Whether that is new.
    pub(super) fn set_damaged(&self) -> bool {
        self.state.fetch_or(DAMAGED, Ordering::Relaxed) & DAMAGED == 0 // travels with the count: same word
    }

    /// Whether bytes changed that nobody wrote. For holders.
    pub(super) fn is_damaged(&self) -> bool {
        self.state.load(Ordering::Relaxed) & DAMAGED != 0
    }

    /// Says that hints about its pages are given to the system. For holders, beside whom another may be writing: that is
    /// waited out. Whether it is new.
    pub(super) fn set_advised(&self) -> bool {
        let mut backoff = Backoff::new();
        loop {
            let state = self.state.load(Ordering::Relaxed);
            if state & HOLDERS == EXCLUSIVE {
                backoff.wait();
            } else if !is_held(state) || state & ADVISED != 0 {
                return false;
            } else if self
                .state
                // Relaxed: the flag orders nothing, who is the last to let go finds it in the word that says so.
                .compare_exchange_weak(state, state | ADVISED, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                return true;
            }
        }
    }

    /// Whether hints about its pages are to be undone. For holders, and for whoever has exclusive access.
    pub(super) fn is_advised(&self) -> bool {
        self.state.load(Ordering::Relaxed) & ADVISED != 0
    }

    /// Whether anything was written to the slab since its pages came.
    pub(super) fn was_written(&self) -> bool {
        self.state.load(Ordering::Relaxed) & WRITTEN != 0
    }

    /// Whether the slab is out of use for good.
    #[cfg(all(test, not(feature = "loom")))]
    pub(super) fn is_retired(&self) -> bool {
        self.state.load(Ordering::Relaxed) & HOLDERS == RETIRED
    }

    /// Writes counted since the slab was claimed.
    pub(super) fn writes(&self) -> u64 {
        (self.state.load(Ordering::Relaxed) & !FLAGS) >> HOLDER_BITS
    }

    /// Holders now; none while a thread changes the bytes.
    pub(super) fn holders(&self) -> u64 {
        let state = self.state.load(Ordering::Relaxed);
        if is_held(state) { state & HOLDERS } else { 0 }
    }

    /// The parts that may be other than zero. For holders, and for whoever has exclusive access.
    pub(super) fn dirty(&self) -> u32 {
        self.dirty.load(Ordering::Relaxed) // ordered by `hold` or `begin_write`
    }

    /// Whose slab it is; 0 where nobody said.
    pub(super) fn owner(&self) -> u32 {
        self.owner.load(Ordering::Relaxed) // a hint; the owner's own lock orders what is done with it
    }

    /// Says whose slab it is. For its holder.
    pub(super) fn set_owner(&self, owner: u32) {
        self.owner.store(owner, Ordering::Relaxed); // see `owner`
    }
}

/// Whether `state` is that of a slab that has holders.
fn is_held(state: u64) -> bool {
    !matches!(state & HOLDERS, 0 | CLOSED | RETIRED | EXCLUSIVE | OWNED)
}

/// Whether `state` is that of a slab that was freed and has holders.
fn has_lingering_readers(state: u64) -> bool {
    state & DRAINING != 0 && is_held(state)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;

#[cfg(all(test, feature = "loom"))]
mod loom_tests;
