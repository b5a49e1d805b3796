//! The bytes of one class's slabs: copied in, lent out, zeroed, given back. One of the two files with unsafe code.
//!
//! Every method is safe to call at any time from any thread: the slab's record ([`super::segment`]) is entered first,
//! and it alone decides. Bytes are lent as shared slices only to holders and change only under exclusive access.
#![allow(unsafe_code)] // raw memory is touched here and in os.rs, nowhere else

use super::dirty;
use super::os::{OsError, Reservation, SideTable, ZeroIsValid, page_size};
use super::segment::{AccessError, Exclusive, SegmentRecord};
use super::{Heap, SlabLocation};
use crate::sync::{AtomicU64, Ordering};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

// SAFETY: outside the model checker a record is two plain atomic words, for which zero is a value; nothing to drop.
unsafe impl ZeroIsValid for SegmentRecord {}

/// What parts never written are read from. Never pool memory, and never written: it lives in read-only data.
pub static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Address space is made usable in runs of this many bytes, or of one slab where that is larger.
const COMMIT_RUN_BYTES: u64 = 64 << 10;

/// Memory and records of all slabs of one size. Slab `i` lies at `i * slab_bytes`, without gaps.
#[derive(Debug)]
pub(super) struct Slabs {
    slab_bytes: u64,
    count: u64,
    region: Reservation,
    records: SideTable<SegmentRecord>,
    /// The region below this offset is readable and writable. Grows under the class's lock, read by anyone.
    usable_bytes: AtomicU64,
}

impl Slabs {
    /// Reserves address space for `count` slabs of `slab_bytes`. No memory is used yet.
    pub(super) fn reserve(slab_bytes: u64, count: u64) -> Result<Slabs, OsError> {
        let region = Reservation::reserve(slab_bytes.saturating_mul(count))?;
        Ok(Slabs {
            slab_bytes,
            count,
            region,
            records: SideTable::new(count)?,
            usable_bytes: AtomicU64::new(0),
        })
    }

    pub(super) fn slab_bytes(&self) -> u64 {
        self.slab_bytes
    }

    /// How many slabs there is address space for.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn record(&self, index: u64) -> &SegmentRecord {
        self.records.get(index)
    }

    /// Where the region lies: first address and length.
    #[cfg(all(test, not(feature = "loom")))]
    pub(super) fn address_range(&self) -> (usize, usize) {
        let length = usize::try_from(self.region.len()).expect("the region was reserved");
        (self.region.address(&(0..0)) as usize, length)
    }

    /// Offsets of one slab in the region.
    fn span(&self, index: u64) -> Range<u64> {
        assert!(index < self.count, "slab {index} of {}", self.count);
        index * self.slab_bytes..(index + 1) * self.slab_bytes
    }

    /// Makes the bytes of a slab, and of all below it, usable. One caller at a time.
    pub(super) fn commit(&self, index: u64) -> Result<(), OsError> {
        let usable = self.usable_bytes.load(Ordering::Relaxed);
        let needed = self.span(index).end;
        if needed > usable {
            let end = needed.next_multiple_of(page_size().max(COMMIT_RUN_BYTES)).min(self.region.len());
            self.region.commit(usable..end)?;
            self.usable_bytes.store(end, Ordering::Release); // pairs with the Acquire in `claim`
        }
        Ok(())
    }

    /// Touches the pages of committed slabs, so that their first write does not fault.
    pub(super) fn populate(&self, slabs: Range<u64>) -> Result<(), OsError> {
        if slabs.is_empty() {
            return Ok(());
        }
        let (start, end) = (self.span(slabs.start).start, self.span(slabs.end - 1).end);
        assert!(end <= self.usable_bytes.load(Ordering::Relaxed), "slabs {slabs:?} were never committed");
        self.region.populate(start / page_size() * page_size()..end.next_multiple_of(page_size()))
    }

    /// Gives a free slab to its first holder; false if it is not free.
    ///
    /// # Panics
    /// If the slab was never committed.
    pub(super) fn claim(&self, index: u64) -> bool {
        // Everything below relies on this: a slab that can have holders is readable and writable.
        let usable = self.usable_bytes.load(Ordering::Acquire); // pairs with the Release in `commit`
        assert!(self.span(index).end <= usable, "slab {index} was never committed");
        self.record(index).claim()
    }

    /// Closes a free slab, which then lies in a magazine or a batch; false if it is not free.
    ///
    /// # Panics
    /// If the slab was never committed.
    pub(super) fn close(&self, index: u64) -> bool {
        let usable = self.usable_bytes.load(Ordering::Acquire); // as in `claim`
        assert!(self.span(index).end <= usable, "slab {index} was never committed");
        self.record(index).close_free().map(Exclusive::stay_closed).is_some()
    }

    /// Changes the bytes of a slab that has exactly one holder.
    ///
    /// # Errors
    /// [`AccessError`] where the slab is free or shared.
    pub(super) fn change(&self, index: u64) -> Result<Change<'_>, AccessError> {
        Ok(Change { slabs: self, index, access: self.record(index).begin_write()? })
    }

    /// Copies what was written of one slab into another, which has exactly one holder, was never written, and counts
    /// as many writes from then on. Readers of the first are kept out meanwhile.
    ///
    /// # Errors
    /// [`AccessError`] where either of them is free or shared; nothing was changed then.
    pub(super) fn copy_slab(&self, from: u64, to: u64) -> Result<(), AccessError> {
        let source = self.record(from).begin_write()?;
        let target = self.change(to);
        let writes = source.writes();
        let copied = target.map(|target| {
            let start = self.span(from).start;
            for (part, written) in dirty::parts(self.slab_bytes, source.dirty(), 0..self.slab_bytes) {
                if written {
                    let length = usize::try_from(part.end - part.start).expect("a slab fits in memory");
                    let address = self.region.address(&(start + part.start..start + part.end));
                    // SAFETY: `address` asserted the bounds; what was written was committed before. Access to the slab
                    // is exclusive until `source` ends below, so nobody changes these bytes while the slice lives.
                    let bytes = unsafe { std::slice::from_raw_parts(address, length) };
                    target.copy(part.start, bytes);
                }
            }
            target.end(writes);
        });
        source.end(writes);
        copied
    }

    /// The bytes of a slab, for a holder.
    ///
    /// # Safety
    /// - The caller is a holder of the slab (`claim` returned true or the record's `hold` returned `Ok`) for as long
    ///   as the slice lives, and keeps `self` alive as long.
    unsafe fn lend(&self, index: u64) -> &[u8] {
        let span = self.span(index);
        let length = usize::try_from(self.slab_bytes).expect("a slab fits in memory");
        let start = self.region.address(&span);
        // SAFETY: `address` asserted the bounds; a held slab was claimed, so it is committed. Its bytes do not change
        // while it has this holder: `change`, `release` and `decommit` need exclusive access, which the record refuses.
        unsafe { std::slice::from_raw_parts(start, length) }
    }

    /// Zeroes everything that was written of a slab outside `kept`.
    ///
    /// # Panics
    /// If the access is to another slab.
    pub(super) fn scrub_outside(&self, index: u64, access: &Exclusive<'_>, kept: Range<u64>) {
        assert!(access.is_for(self.record(index)), "slab {index} was to be scrubbed with access to another");
        let start = self.span(index).start;
        let (before, after) = (0..kept.start, kept.end..self.slab_bytes);
        for (part, written) in [before, after]
            .into_iter()
            .flat_map(|outside| dirty::parts(self.slab_bytes, access.dirty(), outside))
        {
            if written {
                // SAFETY: only a committed slab is ever written. Access to it is exclusive, by the assertion above:
                // no slice of it is lent and nobody else writes.
                unsafe { self.region.zero(start + part.start..start + part.end) };
            }
        }
        access.set_dirty(access.dirty() & dirty::mask_of(self.slab_bytes, &kept));
    }

    /// Zeroes everything that was written of a slab.
    ///
    /// # Panics
    /// If the access is to another slab.
    pub(super) fn scrub(&self, index: u64, access: &Exclusive<'_>) {
        self.scrub_outside(index, access, 0..0);
    }

    /// Gives whole pages back to the system. All slabs that overlap them must be free; none can be claimed meanwhile.
    ///
    /// # Errors
    /// [`OsError`] where the system refuses; the pages are then still resident and still zeros.
    ///
    /// # Panics
    /// If a slab that overlaps the pages is not free.
    pub(super) fn decommit(&self, pages: Range<u64>) -> Result<(), OsError> {
        let bytes = pages.start * page_size()..(pages.end * page_size()).min(self.region.len());
        let overlapping = bytes.start / self.slab_bytes..bytes.end.div_ceil(self.slab_bytes).min(self.count);
        let closed: Vec<Exclusive<'_>> = overlapping
            .map(|index| {
                self.record(index)
                    .close_free()
                    .expect("pages are given back only while all slabs on them are free")
            })
            .collect();
        // SAFETY: every slab that overlaps the run is closed: it was free, so no slice of it is lent, and it cannot
        // be claimed before it is made free again below. Slabs are zeroed before they are free, so nothing is lost
        // and nobody relies on what the pages read as afterwards.
        let given_back = unsafe { self.region.decommit(bytes) };
        closed.into_iter().for_each(Exclusive::make_free);
        given_back
    }
}

/// Exclusive access to the bytes of one slab, for a change that nobody sees half done. Ends with [`Change::end`].
#[derive(Debug)]
#[must_use]
pub(super) struct Change<'a> {
    slabs: &'a Slabs,
    index: u64,
    access: Exclusive<'a>,
}

impl Change<'_> {
    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    /// If the bytes do not fit into the slab.
    pub(super) fn copy(&self, offset: u64, bytes: &[u8]) {
        let slabs = self.slabs;
        let within = offset..offset + bytes.len() as u64;
        assert!(within.end <= slabs.slab_bytes, "{within:?} is outside a slab of {} bytes", slabs.slab_bytes);
        self.access.raise_dirty(dirty::mask_of(slabs.slab_bytes, &within));
        let start = slabs.span(self.index).start;
        let target = slabs.region.address(&(start + within.start..start + within.end));
        // SAFETY: `address` asserted that the target lies inside the region, and the assertion above that it lies
        // inside this slab, which was claimed and so committed. Access is exclusive: no slice of the slab is lent,
        // and no other thread writes; so `bytes`, a shared slice, does not overlap it either.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }

    /// Zeroes everything outside `kept`.
    pub(super) fn zero_outside(&self, kept: Range<u64>) {
        self.slabs.scrub_outside(self.index, &self.access, kept);
    }

    /// Writes counted so far.
    pub(super) fn writes(&self) -> u64 {
        self.access.writes()
    }

    /// Ends the change, with `writes` counted in all from now on.
    pub(super) fn end(self, writes: u64) {
        self.access.end(writes);
    }
}

/// A reader's hold on a slab: its bytes stay as they are, and the slab is not reused, until the pin is dropped.
#[derive(Debug)]
pub struct Pin {
    heap: Arc<Heap>,
    location: SlabLocation,
}

impl Pin {
    /// Holds the slab at `location`.
    ///
    /// # Errors
    /// [`AccessError`] where the slab is free or has as many holders as can be counted.
    pub fn new(heap: &Arc<Heap>, location: SlabLocation) -> Result<Pin, AccessError> {
        let (slabs, index) = heap.slabs(location);
        slabs.record(index).hold()?;
        Ok(Pin { heap: Arc::clone(heap), location })
    }

    /// Whether the slab was freed and its readers have had their time: whoever holds this should let go.
    pub fn is_overdue(&self) -> bool {
        let (slabs, index) = self.heap.slabs(self.location);
        slabs.record(index).is_overdue()
    }

    /// The parts of `range` that may be other than zero, with their offsets in the slab. Nothing is copied.
    ///
    /// # Panics
    /// If `range` is not inside the slab.
    pub fn written(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &[u8])> {
        let (slabs, index) = self.heap.slabs(self.location);
        let slab_bytes = slabs.slab_bytes();
        assert!(
            range.start <= range.end && range.end <= slab_bytes,
            "{range:?} is outside {slab_bytes} bytes"
        );
        let in_memory = |offset: u64| usize::try_from(offset).expect("a slab fits in memory");
        dirty::parts(slab_bytes, slabs.record(index).dirty(), range)
            .filter(|(_, written)| *written)
            .map(move |(part, _)| (part.start, &self.as_ref()[in_memory(part.start)..in_memory(part.end)]))
    }

    /// The bytes of `range`, in order: parts that were written as slices of the slab, all others from a static
    /// buffer of zeros. Nothing is copied; the slab is held until the last part is dropped. The parts share the pin, so
    /// that a [`std::sync::Weak`] to it tells whether any is left.
    ///
    /// # Panics
    /// If `range` is not inside the slab.
    pub fn read(self: Arc<Self>, range: Range<u64>) -> impl Iterator<Item = Bytes> {
        let (slabs, index) = self.heap.slabs(self.location);
        let slab_bytes = slabs.slab_bytes();
        assert!(
            range.start <= range.end && range.end <= slab_bytes,
            "{range:?} is outside {slab_bytes} bytes"
        );
        let written = slabs.record(index).dirty();
        let whole = Bytes::from_owner(Lent(self));
        dirty::parts(slab_bytes, written, range).flat_map(move |(part, written)| {
            // A written part leaves whole; zeros leave in pieces as long as the static buffer.
            let step = if written { slab_bytes } else { ZEROS.len() as u64 };
            let whole = whole.clone();
            let starts =
                (part.start..part.end).step_by(usize::try_from(step).expect("a slab fits in memory"));
            starts.map(move |start| {
                let end = (start + step).min(part.end);
                let in_memory = |offset: u64| usize::try_from(offset).expect("a slab fits in memory");
                if written {
                    whole.slice(in_memory(start)..in_memory(end))
                } else {
                    Bytes::from_static(&ZEROS[..in_memory(end - start)])
                }
            })
        })
    }
}

/// A share of a pin, as the owner of bytes that are lent.
struct Lent(Arc<Pin>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl AsRef<[u8]> for Pin {
    fn as_ref(&self) -> &[u8] {
        let (slabs, index) = self.heap.slabs(self.location);
        // SAFETY: `new` made this pin a holder and only `drop` ends that; the slice borrows the pin, which keeps the
        // heap, and so the slabs, alive.
        unsafe { slabs.lend(index) }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.heap.release(self.location);
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    fn one_slab(slab_bytes: u64) -> Slabs {
        let slabs = Slabs::reserve(slab_bytes, 4).expect("a little address space can be had");
        slabs.commit(1).expect("a little memory can be had");
        assert!(slabs.claim(1));
        slabs
    }

    fn write(slabs: &Slabs, index: u64, offset: u64, bytes: &[u8]) -> Result<(), AccessError> {
        let change = slabs.change(index)?;
        change.copy(offset, bytes);
        let writes = change.writes() + 1;
        change.end(writes);
        Ok(())
    }

    fn release(slabs: &Slabs, index: u64) -> bool {
        let last = slabs.record(index).release();
        last.map(|access| {
            slabs.scrub(index, &access);
            access.make_free();
        })
        .is_some()
    }

    fn content(slabs: &Slabs) -> Vec<u8> {
        // SAFETY: slab 1 is held by the test, which lives as long as the copy takes.
        unsafe { slabs.lend(1) }.to_vec()
    }

    #[test]
    fn written_parts_are_zeroed_at_release_and_neighbours_stay() {
        let slabs = one_slab(1000);
        assert!(slabs.claim(0));
        write(&slabs, 0, 990, &[9; 10]).expect("the only holder");
        write(&slabs, 1, 7, &[1, 2, 3]).expect("the only holder");
        assert_eq!(content(&slabs)[..11], [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0]);
        assert!(release(&slabs, 1));
        assert!(slabs.claim(1));
        assert_eq!(content(&slabs), vec![0; 1000]);
        // SAFETY: slab 0 is held by the test.
        assert_eq!(unsafe { slabs.lend(0) }[990..], [9; 10]);
    }

    #[test]
    fn a_copy_has_the_written_parts_and_the_count_of_writes_and_needs_both_slabs_alone() {
        let slabs = one_slab(1000);
        assert!(slabs.claim(0));
        write(&slabs, 1, 7, &[1, 2, 3]).expect("the only holder");
        write(&slabs, 1, 990, &[4; 10]).expect("the only holder");
        slabs.record(1).hold().expect("held");
        assert_eq!(slabs.copy_slab(1, 0), Err(AccessError::Shared), "it is read");
        assert!(!release(&slabs, 1));
        assert_eq!(slabs.copy_slab(1, 2), Err(AccessError::Free), "nobody holds the other");
        assert_eq!(slabs.copy_slab(1, 0), Ok(()));
        // SAFETY: slab 0 is held by the test.
        assert_eq!(unsafe { slabs.lend(0) }, content(&slabs));
        let states = [0, 1].map(|index| {
            let record = slabs.record(index);
            (record.writes(), record.holders(), record.dirty())
        });
        assert_eq!(states, [(2, 1, 1 | 1 << 30 | 1 << 31); 2]);
        assert!(release(&slabs, 1) && release(&slabs, 0));
    }

    #[test]
    fn a_shared_slab_is_not_written() {
        let slabs = one_slab(4096);
        slabs.record(1).hold().expect("held");
        assert_eq!(write(&slabs, 1, 0, &[1]), Err(AccessError::Shared));
        assert!(!release(&slabs, 1));
        write(&slabs, 1, 0, &[1]).expect("alone again");
    }

    #[test]
    #[should_panic(expected = "outside a slab")]
    fn a_write_past_the_end_is_refused() {
        let slabs = one_slab(1024);
        let _ = write(&slabs, 1, 1020, &[0; 5]);
    }

    #[test]
    #[should_panic(expected = "never committed")]
    fn a_slab_without_memory_is_never_given_out() {
        let slabs = Slabs::reserve(1 << 20, 4).expect("a little address space can be had");
        slabs.claim(3);
    }

    #[test]
    #[should_panic(expected = "only while all slabs on them are free")]
    fn pages_of_a_held_slab_are_never_given_back() {
        let slabs = one_slab(1024);
        let _ = slabs.decommit(0..1);
    }

    #[test]
    fn pages_given_back_leave_the_slab_usable() {
        let slabs = one_slab(4096);
        write(&slabs, 1, 0, &[7; 4096]).expect("the only holder");
        assert!(release(&slabs, 1));
        slabs.decommit(1..2).expect("the system takes pages back");
        assert!(slabs.claim(1));
        assert_eq!(content(&slabs), vec![0; 4096]);
    }

    #[test]
    fn a_failed_give_back_leaves_everything_as_it_was() {
        let slabs = one_slab(4096);
        assert!(release(&slabs, 1));
        super::super::os::faults::fail_after(0);
        assert_eq!(slabs.decommit(1..2).expect_err("the planned failure").call, "madvise");
        assert!(slabs.claim(1));
    }
}
