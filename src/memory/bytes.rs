//! The bytes of one class's slabs: copied in, lent out, zeroed, given back. Beside `os.rs` the file with
//! unsafe code; what arenas need of it has a file of its own, `bytes/bump.rs`.
//!
//! Every method is safe to call at any time from any thread: the slab's record ([`super::segment`]) is entered first,
//! and it alone decides. Bytes are lent as shared slices only to holders and change only under exclusive access.
#![allow(unsafe_code)] // raw memory is touched here and in os.rs, nowhere else

mod bump;
mod ownership;
mod spans;
mod usable;

pub(super) use bump::{Bump, PIECE_ALIGN_BYTES};
pub(crate) use ownership::OwnedSlab;
pub(super) use usable::Protection;

use super::dirty;
use super::guard::{Guards, Watch};
use super::layout::{Layout, spread};
use super::os::{OsError, Reservation, SideTable, ZeroIsValid, page_size};
use super::segment::{AccessError, Exclusive, SegmentRecord};
use super::{Buffer, Heap, Home, SlabLocation};
use crate::sync::{AtomicU64, Ordering};
use bytes::BufMut;
use bytes::buf::UninitSlice;
use spans::Spans;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

// SAFETY: outside the model checker a record is two plain atomic words, for which zero is a value; nothing to drop.
unsafe impl ZeroIsValid for SegmentRecord {}

/// What parts never written are read from. Never pool memory, and never written: it lives in read-only data.
pub(crate) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Memory and records of all slabs of one size, whose `layout.rs` says where each lies; or of slabs that are as long as
/// they are made ([`Slabs::form`]), each named by its first page.
#[derive(Debug)]
pub(super) struct Slabs {
    layout: Layout,
    count: u64,
    /// How long each slab is; none where all have one size.
    spans: Option<Spans>,
    pub(super) canaries: bool,
    /// Huge pages are asked for.
    is_huge: bool,
    /// What tells them from all others: an owned slab is one of these, or is refused.
    serial: NonZeroU64,
    /// Before `region`: nothing is told of a region that is gone.
    _watch: Option<Watch>,
    region: Reservation,
    records: SideTable<SegmentRecord>,
    guards: Option<Arc<Guards>>,
    /// There were no more guards to be had for these slabs. That was told.
    guards_ended: AtomicBool,
    /// The region below this offset is readable and writable. Grows under the class's lock, read by anyone.
    usable_bytes: AtomicU64,
}

impl Slabs {
    pub(super) fn slab_bytes(&self) -> u64 {
        self.layout.slab_bytes()
    }

    /// How many slabs there is address space for.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    #[inline]
    pub(super) fn record(&self, index: u64) -> &SegmentRecord {
        assert!(index < self.count, "slab {index} of {}", self.count);
        self.records.get(spread(index))
    }

    /// Bytes of one slab. Where slabs have lengths of their own, for whoever holds it, or has it alone.
    #[inline]
    pub(super) fn bytes_of(&self, index: u64) -> u64 {
        match &self.spans {
            None => self.layout.slab_bytes(),
            Some(spans) => spans.bytes_of(index),
        }
    }

    /// Offsets of one slab in the region.
    #[inline]
    fn span(&self, index: u64) -> Range<u64> {
        assert!(index < self.count, "slab {index} of {}", self.count);
        match &self.spans {
            None => self.layout.span(index),
            Some(spans) => spans.span(index),
        }
    }

    /// Whether a range of a slab reads as zeros. The slab was written since its pages came, or that costs a fault.
    ///
    /// # Panics
    /// If the access is to another slab, the slab was never committed, or the range is outside of it.
    #[inline]
    pub(super) fn reads_zero(&self, index: u64, access: &Exclusive<'_>, range: Range<u64>) -> bool {
        assert!(access.is_for(self.record(index)), "slab {index} was to be read with access to another");
        let usable = self.usable_bytes.load(Ordering::Acquire); // as in `claim`
        assert!(self.span(index).end <= usable, "slab {index} was never committed");
        // SAFETY: both assertions: the slab was committed, and the access is to it and exclusive, so its bytes do not
        // change before that ends, which is after the slice.
        is_zero(&unsafe { self.lend(index) }[in_memory(range.start)..in_memory(range.end)])
    }

    /// Changes the bytes of a slab that has exactly one holder.
    ///
    /// # Errors
    /// [`AccessError`] where the slab is free or shared.
    pub(super) fn change(&self, index: u64) -> Result<Change<'_>, AccessError> {
        Ok(Change { slabs: self, index, access: self.record(index).begin_write()? })
    }

    /// The bytes of an owned slab.
    ///
    /// # Panics
    /// If the slab is one of other slabs.
    #[inline]
    pub(super) fn owned<'a>(&'a self, slab: &'a OwnedSlab) -> &'a [u8] {
        let index = self.index_of(slab);
        // SAFETY: `slab` is the one `OwnedSlab` of its slab, by the rules of `own` and `disown`: nobody else is a holder or
        // has exclusive access. It is borrowed as long as the slice lives, so it is not given back, nor its bytes changed. An
        // owned slab was claimed, and so committed.
        unsafe { self.lend(index) }
    }

    /// A part of the bytes of an owned slab, to be written: it counts as written from here on.
    ///
    /// # Panics
    /// If the slab is one of other slabs, or the range is outside of it.
    #[inline]
    pub(super) fn owned_mut<'a>(&'a self, slab: &'a mut OwnedSlab, range: Range<u64>) -> &'a mut [u8] {
        let index = self.index_of(slab);
        let span = self.span(index);
        let (start, slab_bytes) = (span.start, span.end - span.start);
        assert!(
            range.start <= range.end && range.end <= slab_bytes,
            "{range:?} is outside a slab of {slab_bytes} bytes"
        );
        self.record(index).raise_dirty_owned(dirty::mask_of(slab_bytes, &range));
        let address = self.region.address(&(start + range.start..start + range.end));
        // SAFETY: `address` asserted that the range lies inside the region, and the assertion above that it lies inside this
        // slab, which was claimed and so committed. There is one `OwnedSlab` of it, borrowed mutably as long as the slice
        // lives, so no other slice of the slab lives; and the record lets nobody else in.
        unsafe { std::slice::from_raw_parts_mut(address, in_memory(range.end - range.start)) }
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
            let slab_bytes = self.bytes_of(from);
            for (part, written) in dirty::parts(slab_bytes, source.dirty(), 0..slab_bytes) {
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
    /// - The caller is a holder of the slab (`claim` returned true or the record's `hold` returned `Ok`), or has exclusive
    ///   access to it, for as long as the slice lives, and keeps `self` alive as long.
    /// - The slab was committed: so was every slab that ever had a holder.
    unsafe fn lend(&self, index: u64) -> &[u8] {
        let span = self.span(index);
        let start = self.region.address(&span);
        // SAFETY: `address` asserted the bounds; the caller vouches that it is committed. Its bytes do not change while it
        // has this holder: `change`, `release` and `decommit` need exclusive access, which the record refuses; and the
        // caller changes none.
        unsafe { std::slice::from_raw_parts(start, in_memory(span.end - span.start)) }
    }

    /// Zeroes everything that was written of a slab outside `kept`.
    ///
    /// # Panics
    /// If the access is to another slab.
    pub(super) fn scrub_outside(&self, index: u64, access: &Exclusive<'_>, kept: Range<u64>) {
        assert!(access.is_for(self.record(index)), "slab {index} was to be scrubbed with access to another");
        let span = self.span(index);
        let (start, slab_bytes) = (span.start, span.end - span.start);
        let (before, after) = (0..kept.start, kept.end..slab_bytes);
        for (part, written) in
            [before, after].into_iter().flat_map(|outside| dirty::parts(slab_bytes, access.dirty(), outside))
        {
            if written {
                // SAFETY: only a committed slab is ever written. Access to it is exclusive, by the assertion above:
                // no slice of it is lent and nobody else writes.
                unsafe { self.region.zero(start + part.start..start + part.end) };
            }
        }
        access.set_dirty(access.dirty() & dirty::mask_of(slab_bytes, &kept));
    }

    /// Makes all of a slab zeros by giving its pages back to the system; what shares a page with another slab, and all of it
    /// where the system does not take them, is overwritten.
    ///
    /// # Panics
    /// If the access is to another slab, or the slab was never committed.
    pub(super) fn discard(&self, index: u64, access: &Exclusive<'_>) {
        assert!(access.is_for(self.record(index)), "slab {index} was to be discarded with access to another");
        let (span, pages) = (self.span(index), self.pages_inside(index));
        let usable = self.usable_bytes.load(Ordering::Acquire); // as in `claim`
        assert!(span.end <= usable, "slab {index} was never committed");
        // SAFETY: the pages lie wholly inside the slab, access to which is exclusive by the assertion above: no slice of it
        // is lent and nobody else writes. They read as zeros afterwards, which is what the slab is to be.
        if pages.is_empty() || unsafe { self.region.decommit(pages.clone()) }.is_err() {
            return self.scrub(index, access);
        }
        self.scrub_outside(index, access, pages.start - span.start..pages.end - span.start);
        access.set_dirty(0);
        if pages == span {
            access.forget_written(); // looking at it would only bring pages back
        }
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
        let overlapping = self.layout.slabs_on(bytes.clone());
        let overlapping = overlapping.start..overlapping.end.min(self.count);
        let closed: Vec<(bool, Exclusive<'_>)> = overlapping
            .map(|index| {
                let access = self.record(index).close_free();
                let span = self.span(index);
                let is_whole = bytes.start <= span.start && span.end <= bytes.end;
                (is_whole, access.expect("pages are given back only while all slabs on them are free"))
            })
            .collect();
        // SAFETY: every slab that overlaps the run is closed: it was free, so no slice of it is lent, and it cannot
        // be claimed before it is made free again below. Slabs are zeroed before they are free, so nothing is lost
        // and nobody relies on what the pages read as afterwards.
        let given_back = unsafe { self.region.decommit(bytes) };
        for (is_whole, access) in closed {
            if is_whole && given_back.is_ok() {
                access.forget_written(); // looking at it would only bring pages back
            }
            access.make_free();
        }
        given_back
    }

    /// Gives pages that are part of no slab back to the system.
    ///
    /// # Errors
    /// [`OsError`] where the system refuses; the pages are then still resident and still zeros.
    ///
    /// # Panics
    /// If one of the pages is part of a slab.
    pub(in crate::memory) fn decommit_unformed(&self, pages: Range<u64>) -> Result<(), OsError> {
        self.spans().raise(&pages); // as if they were a slab: nobody makes one of them meanwhile
        // SAFETY: a slab has its pages' bits up as long as it can have holders, and `raise` found them down: no reference to
        // a byte of these pages exists, and none is made before `lower`. They were part of a slab before, and so usable;
        // their bytes were zeroed, so nobody relies on what they read as afterwards.
        let given_back = unsafe { self.region.decommit(pages.start * page_size()..pages.end * page_size()) };
        self.spans().lower(&pages);
        given_back
    }
}

/// An offset in a slab, as an index.
#[inline]
pub(super) fn in_memory(offset: u64) -> usize {
    usize::try_from(offset).expect("a slab fits in memory")
}

/// Whether all bytes are zero.
#[inline]
fn is_zero(bytes: &[u8]) -> bool {
    /// As many as stay in the fastest cache beside those that are looked at.
    const STEP: usize = 4096;
    if let Some(few) = bytes.as_array::<64>() {
        return *few == [0; 64]; // without a call: what every allocation does
    }
    bytes.chunks(STEP).all(|part| *part == ZEROS[..part.len()])
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
        let span = slabs.span(self.index);
        let (start, slab_bytes) = (span.start, span.end - span.start);
        assert!(within.end <= slab_bytes, "{within:?} is outside a slab of {slab_bytes} bytes");
        self.access.raise_dirty(dirty::mask_of(slab_bytes, &within));
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

    /// Makes all of it zeros, and gives its pages back.
    pub(super) fn discard(&self) {
        self.slabs.discard(self.index, &self.access);
    }

    /// Whether `range` reads as zeros.
    pub(super) fn reads_zero(&self, range: Range<u64>) -> bool {
        self.slabs.reads_zero(self.index, &self.access, range)
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

/// A reader's hold on a slab: its bytes stay as they are, and the slab is not reused, until the pin is dropped. Not for those
/// who embed the heap: a hold is only as good as those are who free by location, and the pool is the one that does.
#[derive(Debug)]
pub(crate) struct Pin {
    heap: Arc<Heap>,
    location: SlabLocation,
}

impl Pin {
    /// Holds the slab at `location`.
    ///
    /// # Errors
    /// [`AccessError`] where the slab is free or has as many holders as can be counted.
    pub(crate) fn new(heap: &Arc<Heap>, location: SlabLocation) -> Result<Pin, AccessError> {
        let (slabs, index) = heap.slabs(location);
        slabs.record(index).hold()?;
        Ok(Pin { heap: Arc::clone(heap), location })
    }

    /// Whether the slab was freed and its readers have had their time: whoever holds this should let go.
    pub(crate) fn is_overdue(&self) -> bool {
        let (slabs, index) = self.heap.slabs(self.location);
        slabs.record(index).is_overdue()
    }

    /// The slabs and the index in them that are held.
    pub(super) fn slabs(&self) -> (&Slabs, u64) {
        self.heap.slabs(self.location)
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

/// A hold for the length of a look.
#[derive(Debug)]
pub(super) struct Look<'a> {
    heap: &'a Heap,
    location: SlabLocation,
}

impl<'a> Look<'a> {
    /// Holds the slab at `location`.
    ///
    /// # Errors
    /// As [`Pin::new`].
    pub(super) fn new(heap: &'a Heap, location: SlabLocation) -> Result<Look<'a>, AccessError> {
        let (slabs, index) = heap.slabs(location);
        slabs.record(index).hold()?;
        Ok(Look { heap, location })
    }

    /// Whether `range` reads as zeros.
    pub(super) fn reads_zero(&self, range: Range<u64>) -> bool {
        let (slabs, index) = self.heap.slabs(self.location);
        // SAFETY: `new` made us a holder and only `drop` ends that; the heap, and so the slabs, outlive us.
        is_zero(&unsafe { slabs.lend(index) }[in_memory(range.start)..in_memory(range.end)])
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.heap.release(self.location);
    }
}

/// The room behind the content.
// SAFETY: the chunk is the room's first bytes, all of it: a `&mut [u8]` of an owned slab, borrowed as long as the buffer is.
// Bytes of a slab are initialised, zeros at first; and the count that `advance_mut` is told moves within the room.
unsafe impl<H: Home> BufMut for Buffer<H> {
    #[inline]
    fn remaining_mut(&self) -> usize {
        self.room()
    }

    #[inline]
    unsafe fn advance_mut(&mut self, count: usize) {
        self.add_filled(count); // asserts that there is as much room
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        UninitSlice::new(self.room_mut())
    }
}

/// What a stray write or read does: for tests, which show that it is found.
#[cfg(all(test, not(feature = "loom")))]
impl Slabs {
    /// Writes one byte where nobody may, `offset` bytes from the slab's beginning.
    pub(super) fn poke(&self, index: u64, offset: u64, byte: u8) {
        let at = self.span(index).start + offset;
        let target = self.region.address(&(at..at + 1));
        // SAFETY: `address` asserted that the byte lies inside the region; tests call this while nobody else touches it,
        // and where it may not be touched the process is meant to end.
        unsafe { target.write_volatile(byte) };
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
