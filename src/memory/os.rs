//! The OS floor: address space reserved, made writable, given back and zeroed. One of the two files with unsafe code.
//!
//! A [`Reservation`] is address space without memory. [`Reservation::commit`] makes a run of it usable;
//! [`Reservation::decommit`] lets the system have the run's pages back while the run stays usable. Nobody may rely on
//! a decommitted run reading as zeros: whoever needs zeros zeroes first. Every call can fail and says so by value.
//! A [`SideTable`] is an array of records on such memory: all zeros at first, resident only where it was touched.
#![allow(unsafe_code)] // the floor: the rest of the crate decides in indices

use rustix::mm::{self, Advice, MapFlags, MprotectFlags, ProtFlags};
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;

/// A system call about memory failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} of {bytes} bytes failed: {errno}")]
pub struct OsError {
    /// The call: `mmap`, `mprotect` or `madvise`.
    pub call: &'static str,
    /// How many bytes it was about.
    pub bytes: u64,
    /// What the system answered.
    pub errno: rustix::io::Errno,
}

/// Bytes in a page of this system.
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Address space of our own, unmapped on drop. Offsets count from its start.
#[derive(Debug)]
pub(super) struct Reservation {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a Reservation is an address and a length; the mapping behind it belongs to the process, not to a thread.
unsafe impl Send for Reservation {}
// SAFETY: the methods that take `&self` are system calls, which are thread-safe, or state who may touch the bytes.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `bytes` of address space (rounded up to whole pages), without memory behind it.
    ///
    /// # Errors
    /// [`OsError`] where the address space or the number of mappings is exhausted, or `bytes` is beyond what the
    /// machine can address.
    pub(super) fn reserve(bytes: u64) -> Result<Reservation, OsError> {
        let error = |errno| OsError { call: "mmap", bytes, errno };
        let rounded =
            bytes.max(1).checked_next_multiple_of(page_size()).and_then(|bytes| usize::try_from(bytes).ok());
        let length = rounded.ok_or(error(rustix::io::Errno::NOMEM))?;
        faults::gate().map_err(error)?;
        // SAFETY: a fresh private mapping at an address of the system's choice touches nobody's memory.
        let base = unsafe {
            mm::mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(error)?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(error(rustix::io::Errno::NOMEM))?;
        Ok(Reservation { base, bytes: length })
    }

    /// Bytes reserved.
    pub(super) fn len(&self) -> u64 {
        self.bytes as u64
    }

    /// Makes a run of whole pages readable and writable. It reads as zeros unless it was committed before.
    ///
    /// # Errors
    /// [`OsError`] where the system grants no more memory or mappings; the run is then as before.
    ///
    /// # Panics
    /// If the run is not whole pages inside the reservation.
    pub(super) fn commit(&self, run: Range<u64>) -> Result<(), OsError> {
        let (start, length) = self.pages(&run);
        let error = |errno| OsError { call: "mprotect", bytes: length as u64, errno };
        faults::gate().map_err(error)?;
        // SAFETY: `pages` asserted that the run lies inside this mapping, which lives as long as `self`. Only access
        // is added, so no reference anywhere becomes invalid.
        unsafe { mm::mprotect(start, length, MprotectFlags::READ | MprotectFlags::WRITE) }.map_err(error)
    }

    /// Gives the pages of a committed run back to the system. The run stays usable; its content is lost.
    ///
    /// # Errors
    /// [`OsError`] where the system refuses; the pages are then still resident.
    ///
    /// # Panics
    /// If the run is not whole pages inside the reservation.
    ///
    /// # Safety
    /// - While the call runs, no reference to a byte of the run exists, and none is made.
    pub(super) unsafe fn decommit(&self, run: Range<u64>) -> Result<(), OsError> {
        let (start, length) = self.pages(&run);
        let error = |errno| OsError { call: "madvise", bytes: length as u64, errno };
        faults::gate().map_err(error)?;
        // SAFETY: `pages` asserted that the run lies inside this mapping; the caller vouches that nobody sees its
        // bytes change.
        unsafe { mm::madvise(start, length, Advice::LinuxDontNeed) }.map_err(error)
    }

    /// Writes zeros over a range of committed bytes.
    ///
    /// # Panics
    /// If the range is not inside the reservation.
    ///
    /// # Safety
    /// - The range was committed.
    /// - While the call runs, no reference to a byte of the range exists, and none is made.
    pub(super) unsafe fn zero(&self, range: Range<u64>) {
        let start = self.address(&range);
        let length =
            usize::try_from(range.end - range.start).expect("a range inside the reservation fits in usize");
        // SAFETY: `address` asserted that the range lies inside this mapping; the caller vouches that it is
        // writable and that nobody else looks.
        unsafe { start.write_bytes(0, length) }
    }

    /// Touches the pages of a committed run, so that later writes do not fault.
    ///
    /// # Errors
    /// [`OsError`] where the system has no pages to give.
    ///
    /// # Panics
    /// If the run is not whole pages inside the reservation.
    pub(super) fn populate(&self, run: Range<u64>) -> Result<(), OsError> {
        let (start, length) = self.pages(&run);
        let error = |errno| OsError { call: "madvise", bytes: length as u64, errno };
        faults::gate().map_err(error)?;
        // SAFETY: `pages` asserted that the run lies inside this mapping; populating changes no byte.
        unsafe { mm::madvise(start, length, Advice::LinuxPopulateWrite) }.map_err(error)
    }

    /// Start and length of a run as the system calls want them.
    fn pages(&self, run: &Range<u64>) -> (*mut c_void, usize) {
        let page = page_size();
        assert!(
            run.start.is_multiple_of(page) && run.end.is_multiple_of(page),
            "run {run:?} is not whole pages"
        );
        let start = self.address(run);
        (
            start.cast(),
            usize::try_from(run.end - run.start).expect("a run inside the reservation fits in usize"),
        )
    }

    /// Address of the first byte of `range`, which lies inside the reservation and is not inverted.
    pub(super) fn address(&self, range: &Range<u64>) -> *mut u8 {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "{range:?} is outside {} bytes",
            self.bytes
        );
        let offset = usize::try_from(range.start).expect("an offset inside the reservation fits in usize");
        // SAFETY: the offset was asserted to be at most the mapping's length, so the sum stays inside it.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `reserve` and is owned by `self` alone; whoever hands out references to
        // its bytes keeps the Reservation alive meanwhile.
        let unmapped = unsafe { mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping failed: {unmapped:?}");
    }
}

/// Types for which all-zero bytes are a value, and whose drop does nothing.
///
/// # Safety
/// - An all-zero bit pattern is a valid value of the type.
/// - The type needs no drop.
/// - Its alignment is at most a page.
pub(super) unsafe trait ZeroIsValid: Send + Sync + Default {}

// SAFETY: an atomic word is a plain word, for which zero is a value; nothing to drop.
unsafe impl ZeroIsValid for std::sync::atomic::AtomicU64 {}
// SAFETY: as above.
unsafe impl ZeroIsValid for std::sync::atomic::AtomicU16 {}

/// A fixed number of zero-initialised records that never move. Costs memory only where it was touched.
#[derive(Debug)]
pub(super) struct SideTable<T> {
    /// Under the model checker, whose atomics are not plain words, an ordinary array.
    #[cfg(any(feature = "loom", feature = "shuttle"))]
    records: Box<[T]>,
    #[cfg(not(any(feature = "loom", feature = "shuttle")))]
    region: Reservation,
    count: u64,
    records_are: std::marker::PhantomData<T>,
}

impl<T: ZeroIsValid> SideTable<T> {
    /// Makes a table of `count` records, all zero.
    ///
    /// # Errors
    /// [`OsError`] where the address space for it cannot be had.
    pub(super) fn new(count: u64) -> Result<SideTable<T>, OsError> {
        #[cfg(any(feature = "loom", feature = "shuttle"))]
        return Ok(SideTable {
            records: (0..count).map(|_| T::default()).collect(),
            count,
            records_are: std::marker::PhantomData,
        });
        #[cfg(not(any(feature = "loom", feature = "shuttle")))]
        {
            let bytes = count.saturating_mul(size_of::<T>() as u64);
            let region = Reservation::reserve(bytes)?;
            region.commit(0..region.len())?;
            Ok(SideTable { region, count, records_are: std::marker::PhantomData })
        }
    }

    /// The record at `index`.
    ///
    /// # Panics
    /// If `index` is not below the table's count.
    #[inline]
    pub(super) fn get(&self, index: u64) -> &T {
        assert!(index < self.count, "record {index} of {}", self.count);
        #[cfg(any(feature = "loom", feature = "shuttle"))]
        return &self.records[usize::try_from(index).expect("the table fits in memory")];
        #[cfg(not(any(feature = "loom", feature = "shuttle")))]
        {
            let first = self.region.base.cast::<T>();
            // SAFETY: `new` reserved room for `count` records, and the index was asserted to be below that.
            let record = unsafe { first.add(usize::try_from(index).expect("the table fits in memory")) };
            // SAFETY: the record lies inside the mapping, which `new` made readable and writable, page-aligned (so
            // aligned for T, see ZeroIsValid) and zero, a valid T. Only shared references are ever handed out, for at
            // most the table's life, and the mapping is private to the table.
            unsafe { record.as_ref() }
        }
    }
}

#[cfg(test)]
pub(crate) mod faults {
    //! Makes the nth system call of this thread fail, so that every error path is walked.

    use std::cell::Cell;

    thread_local!(static FAIL_AT: Cell<Option<u64>> = const { Cell::new(None) });

    /// The call after `successes` more ones fails, once.
    pub(crate) fn fail_after(successes: u64) {
        FAIL_AT.set(Some(successes));
    }

    /// No call fails any more; true if the planned failure was still to come.
    pub(crate) fn disarm() -> bool {
        FAIL_AT.take().is_some()
    }

    pub(super) fn gate() -> Result<(), rustix::io::Errno> {
        match FAIL_AT.get() {
            Some(0) => {
                FAIL_AT.set(None);
                Err(rustix::io::Errno::NOMEM)
            }
            Some(successes) => {
                FAIL_AT.set(Some(successes - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[cfg(not(test))]
mod faults {
    /// The place where tests make a system call fail.
    #[inline(always)]
    pub(super) fn gate() -> Result<(), rustix::io::Errno> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_space_beyond_the_machine_is_an_error_value() {
        let refused = Reservation::reserve(u64::MAX).expect_err("no machine has that");
        assert_eq!(refused.call, "mmap");
        assert!(Reservation::reserve(1 << 60).is_err());
    }

    #[test]
    #[should_panic(expected = "is outside")]
    fn a_run_outside_the_reservation_is_refused() {
        let region = Reservation::reserve(page_size()).expect("one page can be had");
        let _ = region.commit(0..2 * page_size());
    }

    #[test]
    fn a_failing_call_is_reported_once_and_the_next_works() {
        let region = Reservation::reserve(page_size()).expect("one page can be had");
        faults::fail_after(0);
        let refused = region.commit(0..page_size()).expect_err("the planned failure");
        assert_eq!((refused.call, refused.bytes), ("mprotect", page_size()));
        assert!(!faults::disarm());
        region.commit(0..page_size()).expect("the next call works");
    }
}
