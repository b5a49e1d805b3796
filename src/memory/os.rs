//! The OS floor: address space reserved, made writable, given back and zeroed. One of the files with unsafe code: see `bytes.rs`.
//!
//! A [`Reservation`] is address space without memory. [`Reservation::commit`] makes a run of it usable;
//! [`Reservation::decommit`] lets the system have the run's pages back while the run stays usable, and reads as zeros: it is
//! private memory that no file is behind (madvise(2), MADV_DONTNEED). Every call can fail and says so by value.
//! A [`SideTable`] is an array of records on such memory: all zeros at first, resident only where it was touched.
//! Whoever touches a guard page is ended with SIGSEGV; [`tell_guard_hits`] has that told in one line before.
#![allow(unsafe_code)] // the floor: the rest of the crate decides in indices

use rustix::mm::{self, Advice, MapFlags, MprotectFlags, ProtFlags};
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::OnceLock;

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

impl OsError {
    /// No free range of addresses is so long.
    pub(super) fn no_address_space(bytes: u64) -> OsError {
        OsError { call: "mmap", bytes, errno: rustix::io::Errno::NOMEM }
    }
}

/// Bytes in a page of this system.
#[inline]
pub fn page_size() -> u64 {
    // Asking takes 10 ns and more.
    static PAGE_SIZE: OnceLock<u64> = OnceLock::new();
    *PAGE_SIZE.get_or_init(|| rustix::param::page_size() as u64)
}

/// `MADV_GUARD_INSTALL` of Linux 6.13 (include/uapi/asm-generic/mman-common.h): pages become markers that fault, without
/// a mapping of their own. Before that the number is unknown, which is `EINVAL`.
const GUARD_INSTALL: libc::c_int = 102;

/// Bytes in a huge page: what the smallest page table but one maps, on every machine with pages of 4 KiB.
pub(super) const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Address space of our own, unmapped on drop. Offsets count from its start.
#[derive(Debug)]
pub(super) struct Reservation {
    base: NonNull<u8>,
    bytes: usize,
    /// Mapped before `base`, to bring it to its alignment, and in all.
    bytes_before: usize,
    bytes_mapped: usize,
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
        Reservation::reserve_aligned(bytes, page_size())
    }

    /// As [`Reservation::reserve`], at an address that is a multiple of `align`, a power of two and whole pages.
    ///
    /// # Errors
    /// As there.
    pub(super) fn reserve_aligned(bytes: u64, align: u64) -> Result<Reservation, OsError> {
        let error = |errno| OsError { call: "mmap", bytes, errno };
        let no_memory = || error(rustix::io::Errno::NOMEM);
        let rounded = bytes.max(1).checked_next_multiple_of(page_size());
        let bytes = rounded.and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(no_memory)?;
        let slack = usize::try_from(align - page_size()).map_err(|_| no_memory())?;
        let length = bytes.checked_add(slack).ok_or_else(no_memory)?;
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
        let align = usize::try_from(align).map_err(|_| no_memory())?;
        let bytes_before = (base as usize).next_multiple_of(align) - base as usize;
        // SAFETY: at most `align` less a page, which the mapping is longer by; both addresses are whole pages.
        let base = unsafe { base.cast::<u8>().add(bytes_before) };
        let base = NonNull::new(base).ok_or_else(no_memory)?;
        Ok(Reservation { base, bytes, bytes_before, bytes_mapped: length })
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

    /// Gives the pages of a committed run back to the system. The run stays usable; its content is zeros.
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

    /// Says how the system is to treat a run: it changes no byte.
    ///
    /// # Errors
    /// [`OsError`] where the system does not know the advice, or has no mapping left for a run that differs from those
    /// beside it.
    ///
    /// # Panics
    /// If the run is not whole pages inside the reservation.
    pub(super) fn advise(&self, run: Range<u64>, treatment: Treatment) -> Result<(), OsError> {
        let (start, length) = self.pages(&run);
        let error = |errno| OsError { call: "madvise", bytes: length as u64, errno };
        let advice = match treatment {
            Treatment::NoDump => Advice::LinuxDontDump,
            Treatment::HugePages => Advice::LinuxHugepage,
            Treatment::SmallPages => Advice::LinuxNoHugepage,
            Treatment::AnyOrder => Advice::Normal,
            Treatment::Sequential => Advice::Sequential,
            Treatment::Random => Advice::Random,
            Treatment::WillNeed => Advice::WillNeed,
            Treatment::Mergeable => Advice::LinuxMergeable,
            Treatment::Unmergeable => Advice::LinuxUnmergeable,
        };
        faults::gate().map_err(error)?;
        // SAFETY: `pages` asserted that the run lies inside this mapping; none of these changes a byte.
        unsafe { mm::madvise(start, length, advice) }.map_err(error)
    }

    /// Makes a page fault at every access, by a marker: without a mapping of its own. It stays when pages around it go.
    /// Nothing may have been written to it.
    ///
    /// # Errors
    /// [`OsError`]: with `EINVAL` where the kernel has no markers.
    ///
    /// # Panics
    /// If the run is not whole pages inside the reservation.
    pub(super) fn install_guard_marker(&self, run: Range<u64>) -> Result<(), OsError> {
        let (start, length) = self.pages(&run);
        let error = |errno| OsError { call: "madvise", bytes: length as u64, errno };
        faults::gate().map_err(error)?;
        if faults::markers_are_refused() {
            return Err(error(rustix::io::Errno::INVAL));
        }
        // SAFETY: `pages` asserted that the run lies inside this mapping. No slab lies on a guard page (`layout.rs`), so
        // no reference to its bytes exists.
        let outcome = unsafe { libc::madvise(start, length, GUARD_INSTALL) };
        if outcome == 0 {
            return Ok(());
        }
        let errno = std::io::Error::last_os_error();
        Err(error(rustix::io::Errno::from_io_error(&errno).unwrap_or(rustix::io::Errno::NOMEM)))
    }

    /// Makes a page fault at every access, by taking its access rights: it becomes a mapping of its own.
    ///
    /// # Errors
    /// [`OsError`] where the process has as many mappings as it may.
    ///
    /// # Panics
    /// If the run is not whole pages inside the reservation.
    pub(super) fn forbid_access(&self, run: Range<u64>) -> Result<(), OsError> {
        let (start, length) = self.pages(&run);
        let error = |errno| OsError { call: "mprotect", bytes: length as u64, errno };
        faults::gate().map_err(error)?;
        // SAFETY: `pages` asserted that the run lies inside this mapping. No slab lies on a guard page (`layout.rs`), so
        // no reference to its bytes exists.
        unsafe { mm::mprotect(start, length, MprotectFlags::empty()) }.map_err(error)
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
        // SAFETY: the mapping was made by `reserve_aligned` and begins there: so far before `base`.
        let start = unsafe { self.base.as_ptr().sub(self.bytes_before) };
        // SAFETY: the mapping is owned by `self` alone; whoever hands out references to its bytes keeps the Reservation
        // alive meanwhile.
        let unmapped = unsafe { mm::munmap(start.cast(), self.bytes_mapped) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping failed: {unmapped:?}");
    }
}

/// How the system is to treat a reservation, or a run of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// Its bytes stand in no core dump.
    NoDump,
    /// Huge pages where they fit.
    HugePages,
    /// No huge pages, whatever the system does by itself: what was not touched stays without memory.
    SmallPages,
    /// Nothing is known of the order of accesses, as at first.
    AnyOrder,
    /// It is read from front to back.
    Sequential,
    /// It is read here and there.
    Random,
    /// What was swapped out is wanted soon.
    WillNeed,
    /// Pages of the same content, in any process, may become one.
    Mergeable,
    /// Pages are of their own, also those that became one.
    Unmergeable,
}

/// What the process did at SIGSEGV before us. Written once, before the handler that reads it is there.
static BEFORE_US: OnceLock<libc::sigaction> = OnceLock::new();

/// Has a fault in a region that is watched told in one line before it ends the process. All other faults go where they
/// went before. Only the first call does something; where the system refuses, hits end the process without the line.
pub(super) fn tell_guard_hits() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let mut before = no_action();
        // SAFETY: the signal exists, no new action is named, and `before` is room for the old one.
        let asked = unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::null(), &raw mut before) };
        if asked != 0 || BEFORE_US.set(before).is_err() {
            return;
        }
        let mut ours = no_action();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) = on_fault;
        ours.sa_sigaction = handler as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        set_action(&ours);
    });
}

/// The action that a process begins with.
fn no_action() -> libc::sigaction {
    // SAFETY: a plain struct of the C library, for which zero is a value: the default action, nothing blocked.
    unsafe { std::mem::zeroed() }
}

fn set_action(action: &libc::sigaction) {
    // SAFETY: the signal exists, and `action` is one that the system gave us, the default, or `on_fault` with its
    // signature. Where the system refuses, the action stays as it is.
    let _ = unsafe { libc::sigaction(libc::SIGSEGV, action, std::ptr::null_mut()) };
}

/// Runs wherever a thread faults, so everything it calls is async-signal-safe: no lock, no memory, no panic.
extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: with SA_SIGINFO the system hands a valid pointer to a handler, for as long as it runs.
    let info = unsafe { &*info };
    // SAFETY: the union's field is that of this signal; what another process sends has a code of 0 or less.
    let address = unsafe { info.si_addr() } as usize;
    let is_fault = info.si_code > 0;
    let line = if is_fault { super::guard::line_about(address) } else { None };
    if let Some(line) = &line {
        let bytes = line.as_bytes();
        // SAFETY: the pointer and the length are those of a slice. One call, so that the line stays in one piece.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
    }
    // The instruction runs again when we return, and what was there before us has the fault; of ours it is the end.
    match BEFORE_US.get().filter(|_| line.is_none()) {
        Some(before) => set_action(before),
        None => set_action(&no_action()),
    }
    if !is_fault {
        // SAFETY: raising a signal in our own thread touches no memory. It comes when this handler has returned.
        let _ = unsafe { libc::raise(signal) };
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
// SAFETY: as above. Under a model checker tables are arrays of default values.
unsafe impl ZeroIsValid for crate::sync::AtomicU32 {}
// SAFETY: as above.
unsafe impl ZeroIsValid for std::sync::atomic::AtomicU16 {}
#[cfg(any(feature = "loom", feature = "shuttle"))]
// SAFETY: as above.
unsafe impl ZeroIsValid for crate::sync::AtomicU64 {}

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
            // Without this a record that is touched may cost 2 MiB where the system gives huge pages to everybody. A
            // system that does not know the advice has none.
            let _ = region.advise(0..region.len(), Treatment::SmallPages);
            region.commit(0..region.len())?;
            Ok(SideTable { region, count, records_are: std::marker::PhantomData })
        }
    }

    /// How many records there are.
    pub(super) fn count(&self) -> u64 {
        self.count
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
pub(crate) mod faults;

#[cfg(not(test))]
mod faults {
    /// The place where tests make a system call fail.
    #[inline(always)]
    pub(super) fn gate() -> Result<(), rustix::io::Errno> {
        Ok(())
    }

    /// Where tests take guard markers away.
    #[inline(always)]
    pub(super) fn markers_are_refused() -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
