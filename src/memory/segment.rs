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
//! A free slab on its way through magazines stays EXCLUSIVE: the one magazine or batch that lists it has it alone.
//!
//! Shared references to the bytes exist only while there are holders; bytes change only while the record is exclusive.
//!
//! Two flags travel with the count, in the same word. DRAINING: the client freed the slab while readers held it.
//! OVERDUE: those readers have had their time. It is only ever set beside DRAINING, and it takes nothing away: holders
//! may look at it and let go, and until they do the bytes stay as they are. Both end when the slab is free.

use crate::sync::{AtomicU32, AtomicU64, Backoff, Ordering};

/// Low bits of the state word count holders; the rest, below the flags, counts writes, for the `ETag`. That leaves 46
/// bits for writes: 2 years at a million a second.
const HOLDER_BITS: u32 = 16;
const HOLDERS: u64 = (1 << HOLDER_BITS) - 1;
/// In place of a holder count: one thread is changing the bytes.
const EXCLUSIVE: u64 = HOLDERS;
/// Holders at most. One more is refused; it is far above what the connection limit lets arise.
const HOLDERS_MAX: u64 = HOLDERS - 1;
/// The client freed the slab while readers held it.
const DRAINING: u64 = 1 << 63;
/// Those readers have had their time.
const OVERDUE: u64 = 1 << 62;
const FLAGS: u64 = DRAINING | OVERDUE;

/// The record of one slab. All zero is a free slab whose bytes are zero.
#[derive(Debug, Default)]
pub(super) struct SegmentRecord {
    /// Draining << 63 | overdue << 62 | writes << 16 | holders. Changed by compare-and-swap; see the drawing above.
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
    /// The slab is free: the location is stale.
    #[error("the slab is free")]
    Free,
    /// Others hold the slab, so its bytes must not change.
    #[error("the slab has other holders")]
    Shared,
    /// As many holders as can be counted.
    #[error("the slab has {HOLDERS_MAX} holders")]
    TooManyHolders,
}

impl SegmentRecord {
    /// FREE → 1 holder, 0 writes. False if it was not free.
    pub(super) fn claim(&self) -> bool {
        // Acquire pairs with the Release in `make_free`: whoever claims sees the zeros that scrubbing left.
        self.state.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Adds a holder, waiting out a write in progress.
    pub(super) fn hold(&self) -> Result<(), AccessError> {
        let mut backoff = Backoff::new();
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            match state & HOLDERS {
                0 => return Err(AccessError::Free),
                EXCLUSIVE => {
                    backoff.wait();
                    state = self.state.load(Ordering::Relaxed);
                }
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
            assert!(holders != 0 && holders != EXCLUSIVE, "released a slab that nobody holds");
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

    /// Drops the only holder, who gets exclusive access; none, and nothing changed, where there are others.
    ///
    /// # Panics
    /// If nobody holds the slab.
    #[inline]
    pub(super) fn release_unshared(&self) -> Option<Exclusive<'_>> {
        let state = self.state.load(Ordering::Relaxed);
        let holders = state & HOLDERS;
        assert!(holders != 0 && holders != EXCLUSIVE, "released a slab that nobody holds");
        if state & (FLAGS | HOLDERS) != 1 {
            return None;
        }
        // Acquire: as in `release`. Where a reader just came, it is looked at again there.
        let closed = self.state.compare_exchange(state, EXCLUSIVE, Ordering::Acquire, Ordering::Relaxed);
        closed.is_ok().then_some(Exclusive(self))
    }

    /// Makes the only holder's access exclusive.
    pub(super) fn begin_write(&self) -> Result<Exclusive<'_>, AccessError> {
        let state = self.state.load(Ordering::Relaxed);
        match state & HOLDERS {
            0 => Err(AccessError::Free),
            1 => self
                .state
                // Acquire pairs with the Release in `release`: readers that left are done before bytes change.
                .compare_exchange(state, state | EXCLUSIVE, Ordering::Acquire, Ordering::Relaxed)
                .map(|_| Exclusive(self))
                .map_err(|_| AccessError::Shared),
            _ => Err(AccessError::Shared),
        }
    }

    /// A slab that was closed has a holder again: its first. For whoever took it from where it lay closed, and so has it
    /// alone.
    ///
    /// # Panics
    /// If it is not closed.
    #[inline]
    pub(super) fn open(&self) {
        // No exchange: nobody else changes the word of a closed slab. What zeroed it came before by the lock, or the stack,
        // by which it was handed here. Release pairs with the Acquire in `hold`.
        assert_eq!(self.state.load(Ordering::Relaxed), EXCLUSIVE, "a slab was given out that is not closed");
        self.state.store(1, Ordering::Release);
    }

    /// A slab that was closed is free. For whoever took it from where it lay closed.
    ///
    /// # Panics
    /// If it is not closed.
    pub(super) fn free_closed(&self) {
        assert_eq!(self.state.load(Ordering::Relaxed), EXCLUSIVE, "a slab was freed that is not closed");
        self.state.store(0, Ordering::Release); // pairs with the Acquire in `claim` and `close_free`
    }

    /// FREE → EXCLUSIVE, so that nobody can claim the slab. None if it was not free.
    pub(super) fn close_free(&self) -> Option<Exclusive<'_>> {
        let closed = self.state.compare_exchange(0, EXCLUSIVE, Ordering::Acquire, Ordering::Relaxed); // see `claim`
        closed.is_ok().then_some(Exclusive(self))
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

    /// Writes counted since the slab was claimed.
    pub(super) fn writes(&self) -> u64 {
        (self.state.load(Ordering::Relaxed) & !FLAGS) >> HOLDER_BITS
    }

    /// Holders now; none while a thread changes the bytes.
    pub(super) fn holders(&self) -> u64 {
        match self.state.load(Ordering::Relaxed) & HOLDERS {
            EXCLUSIVE => 0,
            holders => holders,
        }
    }

    /// The parts that may be other than zero. For holders, and for whoever has exclusive access.
    pub(super) fn dirty(&self) -> u32 {
        self.dirty.load(Ordering::Relaxed) // ordered by `hold` or `begin_exclusive`
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

/// Whether `state` is that of a slab that was freed and has holders.
fn has_lingering_readers(state: u64) -> bool {
    let holders = state & HOLDERS;
    state & DRAINING != 0 && holders != 0 && holders != EXCLUSIVE
}

/// Exclusive access to one slab's bytes. Made by the record, one at a time; ends as a write or as a free slab.
#[derive(Debug)]
#[must_use]
pub(super) struct Exclusive<'a>(&'a SegmentRecord);

impl Exclusive<'_> {
    /// Whether this is access to the slab of `record`.
    pub(super) fn is_for(&self, record: &SegmentRecord) -> bool {
        std::ptr::eq(self.0, record)
    }

    pub(super) fn dirty(&self) -> u32 {
        self.0.dirty()
    }

    /// Whether readers held the slab when its client freed it.
    pub(super) fn was_draining(&self) -> bool {
        self.0.state.load(Ordering::Relaxed) & DRAINING != 0
    }

    /// Marks parts as written, before their bytes change.
    pub(super) fn raise_dirty(&self, mask: u32) {
        self.0.dirty.store(self.0.dirty.load(Ordering::Relaxed) | mask, Ordering::Relaxed);
    }

    /// Says which parts may be other than zero, after all others became zero.
    pub(super) fn set_dirty(&self, mask: u32) {
        self.0.dirty.store(mask, Ordering::Relaxed);
    }

    /// Writes counted so far.
    pub(super) fn writes(&self) -> u64 {
        self.0.writes()
    }

    /// Ends a change of the bytes: back to one holder, with `writes` counted in all.
    pub(super) fn end(self, writes: u64) {
        self.0.state.store(writes << HOLDER_BITS | 1, Ordering::Release); // pairs with the Acquire in `hold`
    }

    /// The slab stays closed: nobody can hold it, or claim it, until it is opened from where it lies then. Its bytes are
    /// all zero. For what nobody holds and no reader drained.
    #[inline]
    pub(super) fn stay_closed(self) {
        debug_assert_eq!(self.dirty(), 0, "a slab was closed with written parts");
        debug_assert_eq!(
            self.0.state.load(Ordering::Relaxed),
            EXCLUSIVE,
            "a slab was closed that counts writes"
        );
    }

    /// The slab is free from here on; its bytes are all zero.
    pub(super) fn make_free(self) {
        debug_assert_eq!(self.dirty(), 0, "a slab became free with written parts");
        self.0.set_owner(0);
        self.0.state.store(0, Ordering::Release); // pairs with the Acquire in `claim` and `close_free`
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn a_record_walks_the_drawing() {
        let record = SegmentRecord::default();
        assert_eq!(record.hold(), Err(AccessError::Free));
        assert_eq!(record.begin_write().err(), Some(AccessError::Free));
        assert!(record.claim());
        assert!(!record.claim(), "a slab has one owner");
        let access = record.begin_write().expect("the only holder");
        access.raise_dirty(5);
        let writes = access.writes() + 1;
        access.end(writes);
        assert_eq!((record.writes(), record.holders(), record.dirty()), (1, 1, 5));
        assert_eq!(record.hold(), Ok(()));
        assert_eq!(
            record.begin_write().err(),
            Some(AccessError::Shared),
            "bytes never change under a reader"
        );
        assert!(record.set_draining() && !record.set_draining());
        assert!(record.release().is_none());
        assert_eq!(record.writes(), 1, "draining is no write");
        let last = record.release().expect("the last holder scrubs");
        assert!(last.was_draining());
        last.set_dirty(0);
        record.set_owner(7);
        last.make_free();
        assert_eq!((record.writes(), record.holders(), record.owner()), (0, 0, 0));
        let closed = record.close_free().expect("free");
        assert!(!record.claim());
        closed.make_free();
        assert!(record.claim());
    }

    #[test]
    fn only_readers_of_a_freed_slab_are_overdue_and_the_next_owner_begins_anew() {
        let record = SegmentRecord::default();
        assert!(!record.mark_overdue(), "nobody holds it");
        assert!(record.claim());
        record.begin_write().expect("the only holder").end((1 << 46) - 1);
        record.hold().expect("held");
        assert!(!record.mark_overdue() && !record.is_draining(), "it is live");
        assert!(record.set_draining());
        assert!(record.release().is_none());
        assert!(record.is_draining() && !record.is_overdue());
        assert!(record.mark_overdue() && record.mark_overdue(), "marking twice is marking once");
        assert!(record.is_overdue() && record.is_draining());
        assert_eq!(record.writes(), (1 << 46) - 1, "flags are no writes");
        let last = record.release().expect("the last holder scrubs");
        assert!(last.was_draining());
        assert!(!record.is_draining() && !record.mark_overdue(), "its last reader has left");
        last.make_free();
        assert!(!record.mark_overdue() && !record.is_overdue());
        assert!(record.claim());
        assert!(!record.is_overdue() && !record.is_draining());
    }

    #[test]
    fn a_closed_slab_can_only_be_opened_or_freed() {
        let record = SegmentRecord::default();
        record.close_free().expect("free").stay_closed();
        assert!(!record.claim() && record.close_free().is_none());
        assert_eq!((record.holders(), record.is_draining(), record.mark_overdue()), (0, false, false));
        record.open();
        assert_eq!((record.holders(), record.writes()), (1, 0));
        record.release().expect("the only holder").stay_closed();
        record.free_closed();
        assert!(record.claim());
        assert!(std::panic::catch_unwind(|| record.open()).is_err(), "it is held");
        assert!(std::panic::catch_unwind(|| record.free_closed()).is_err(), "it is held");
    }

    #[test]
    fn holders_are_bounded() {
        let record = SegmentRecord::default();
        assert!(record.claim());
        for _ in 1..HOLDERS_MAX {
            record.hold().expect("below the bound");
        }
        assert_eq!(record.hold(), Err(AccessError::TooManyHolders));
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use loom::{cell::UnsafeCell, sync::Arc, thread};

    /// A slab of one byte, so that loom sees every unsynchronised access to it.
    struct Slab {
        record: SegmentRecord,
        byte: UnsafeCell<u8>,
    }

    #[allow(unsafe_code)]
    impl Slab {
        fn held() -> Arc<Slab> {
            let slab = Arc::new(Slab { record: SegmentRecord::default(), byte: UnsafeCell::new(0) });
            assert!(slab.record.claim());
            slab
        }
        fn read(&self) -> u8 {
            // SAFETY: loom checks what the record promises.
            self.byte.with(|byte| unsafe { *byte })
        }
        fn write(&self, value: u8) {
            // SAFETY: loom checks what the record promises.
            self.byte.with_mut(|byte| unsafe { *byte = value });
        }
    }

    #[test]
    fn loom_bytes_never_change_under_a_holder() {
        crate::sync::model(|| {
            let slab = Slab::held();
            let reader = {
                let slab = Arc::clone(&slab);
                thread::spawn(move || {
                    if slab.record.hold().is_ok() {
                        let first = slab.read();
                        assert_eq!(slab.read(), first);
                        assert!(slab.record.release().is_none());
                    }
                })
            };
            if let Ok(access) = slab.record.begin_write() {
                slab.write(7);
                access.end(1);
            }
            reader.join().expect("no panic");
        });
    }

    #[test]
    fn loom_the_last_holder_scrubs_and_the_next_owner_reads_zero() {
        crate::sync::model(|| {
            let slab = Slab::held();
            let access = slab.record.begin_write().expect("the only holder");
            slab.write(7);
            access.end(1);
            slab.record.hold().expect("held");
            let drop_one = |slab: &Slab| {
                assert_eq!(slab.read(), 7, "a holder reads what was written until it lets go");
                if let Some(last) = slab.record.release() {
                    slab.write(0);
                    last.make_free();
                }
            };
            let other = {
                let slab = Arc::clone(&slab);
                thread::spawn(move || drop_one(&slab))
            };
            drop_one(&slab);
            if slab.record.claim() {
                assert_eq!(slab.read(), 0, "never a byte of an earlier owner");
            }
            other.join().expect("no panic");
        });
    }

    /// A sweep marks a slab that it takes for draining, while its last reader leaves and the next owner comes.
    #[test]
    fn loom_the_next_owner_of_a_slab_is_never_overdue() {
        crate::sync::model(|| {
            let slab = Slab::held();
            slab.record.hold().expect("held");
            assert!(slab.record.set_draining());
            assert!(slab.record.release().is_none());
            let sweep = {
                let slab = Arc::clone(&slab);
                thread::spawn(move || slab.record.mark_overdue())
            };
            let last = slab.record.release().expect("the only reader");
            slab.write(0);
            last.make_free();
            assert!(slab.record.claim());
            assert!(!slab.record.is_overdue() && !slab.record.is_draining());
            sweep.join().expect("no panic");
            assert!(!slab.record.is_overdue(), "the mark came too late and was left out");
            assert_eq!(slab.record.holders(), 1);
            slab.record.begin_write().expect("the only holder").end(1);
        });
    }
}
