//! Large blocks: what no class holds is made of runs of whole pages, in segments of at most 4 MiB.
//!
//! ```text
//!   block of 10 MiB  =  segment (4 MiB) + segment (4 MiB) + segment (2 MiB)     cut out of one free run, or of several
//! ```
//!
//! A segment is a slab of its own length: readers hold it, its dirty mask says what was written, and it is zeroed when
//! the last holder lets go, all by its record. Its place is a [`SlabLocation`] whose class is [`SizeClass::RUNS`] and whose
//! index is its first page, so that everything that is done with a slab is done with it. Only where its pages come
//! from and go to is different, and stands here: `runs.rs` decides which, `bytes/spans.rs` makes slabs of them.
//!
//! Freed pages stay held, with their memory: whoever comes next finds them there. They are free memory like that of
//! the classes: reclaimed when somebody else needs it (`scarce.rs`), and given back when they lie idle (`idle.rs`).

use super::bytes::{OwnedSlab, Protection, Slabs};
use super::os::{HUGE_PAGE_BYTES, OsError, page_size};
use super::reclaim::ReclaimAction;
use super::runs::{Runs, Taken};
use super::segment::{AccessError, Exclusive, SegmentRecord};
use super::{AllocateError, Config, Heap, SizeClass, SlabLocation};
use crate::sync::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Bytes of a segment at most: what a write beside readers copies, and what is zeroed at one go (0.06 to 0.25 ms).
pub(crate) const SEGMENT_BYTES_MAX: u64 = 4 << 20;

/// Segments, and runs, that a block is made of within a slice of work, and that are noted under one hold of the lock: 1 to
/// 4 µs each where their records are new.
const SLICE_SEGMENTS_MAX: usize = 256;

/// Bytes whose memory is given back in one call: 4 MiB cost 0.25 ms.
const RECLAIM_BYTES_MAX: u64 = 4 << 20;

/// Address space for large blocks, in pools: so much more than could ever be used that one piece finds a hole, however the
/// others lie. In several pieces a block needs no more than one pool.
const REGION_POOLS: u64 = 4;

/// Bytes of records for each page that a segment may begin at: its record, its length, and a bit.
const PAGE_METADATA_BYTES: u64 = size_of::<SegmentRecord>() as u64 + 5;
/// Tables that these stand in, of each of which a segment touches a page.
const TABLES: u64 = 3;

/// The runs region.
#[derive(Debug)]
pub(super) struct Large {
    slabs: Slabs,
    account: Mutex<Account>,
    huge_pages: bool,
}

#[derive(Debug)]
struct Account {
    runs: Runs,
    /// Segments that somebody holds, and their pages.
    segments: u64,
    used_pages: u64,
    /// Pages ever taken.
    taken_pages: u64,
    /// Of those used, pages of segments of a huge page and more; and of those, pages that huge pages can be had for.
    eligible_pages: u64,
    huge_pages: u64,
    /// Pages of segments that nobody holds, and that are being zeroed or wait for it.
    scrubbing_pages: u64,
    retired_pages: u64,
    /// First pages of segments that wait to be zeroed.
    unscrubbed: VecDeque<u64>,
    /// Held free pages that nobody needed in the last interval.
    idle_pages: u64,
    segments_max: u64,
}

impl Large {
    pub(super) fn new(config: &Config, protection: &Protection) -> Result<Large, OsError> {
        let pages = config.max_pool_size.div_ceil(page_size()).saturating_mul(REGION_POOLS);
        let huge_pages = protection.huge_multiple_bytes.is_some();
        let align = if huge_pages { HUGE_PAGE_BYTES / page_size() } else { 1 };
        Ok(Large {
            slabs: Slabs::reserve_spans(pages, protection)?,
            account: Mutex::new(Account {
                runs: Runs::new(pages, config.large_fit, align),
                segments: 0,
                used_pages: 0,
                taken_pages: 0,
                eligible_pages: 0,
                huge_pages: 0,
                scrubbing_pages: 0,
                retired_pages: 0,
                unscrubbed: VecDeque::new(),
                idle_pages: 0,
                segments_max: 0,
            }),
            huge_pages,
        })
    }

    #[inline]
    pub(super) fn slabs(&self) -> &Slabs {
        &self.slabs
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock()
    }

    /// Bytes of free pages that are held.
    pub(super) fn free_bytes(&self) -> u64 {
        self.lock().runs.held().pages() * page_size()
    }

    /// Bytes of pages ever taken for blocks.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.lock().taken_pages * page_size()
    }

    #[cfg(any(test, debug_assertions))]
    pub(super) fn check(&self) {
        self.lock().runs.check();
    }
}

impl Account {
    fn use_pages(&mut self, pages: u64) {
        self.used_pages += pages;
        self.taken_pages += pages;
    }

    fn begin_segment(&mut self, pages: Range<u64>) {
        self.segments += 1;
        self.segments_max = self.segments_max.max(self.segments);
        let (eligible, huge) = huge_pages_of(&pages);
        self.eligible_pages += eligible;
        self.huge_pages += huge;
    }

    /// Nobody holds a segment any more.
    fn end_segment(&mut self, pages: &Range<u64>) {
        self.segments -= 1;
        self.used_pages -= pages.end - pages.start;
        let (eligible, huge) = huge_pages_of(pages);
        self.eligible_pages -= eligible;
        self.huge_pages -= huge;
    }
}

/// Pages of a segment of a huge page and more, and those of them that lie in whole, aligned ones.
fn huge_pages_of(pages: &Range<u64>) -> (u64, u64) {
    let huge = HUGE_PAGE_BYTES / page_size();
    let length = pages.end - pages.start;
    if length < huge {
        return (0, 0);
    }
    let aligned = (pages.end / huge * huge).saturating_sub(pages.start.next_multiple_of(huge));
    (length, aligned)
}

/// How pages are to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// In segments, of as many runs as it takes.
    Segments,
    /// As one segment, however long.
    InOne,
}

/// Who takes pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taker {
    /// Whether it is on the scarce path.
    pub(super) has_turn: bool,
    /// Whether it may take no longer than a slice of work.
    pub(super) in_slice: bool,
}

impl Taker {
    /// Whether pages may be taken in several holds of the lock: then everybody else waits for the turn's end.
    fn may_take_parts(self) -> bool {
        self.has_turn && !self.in_slice
    }
}

impl Heap {
    /// Bytes of whole pages that hold `size_bytes`; none where no number says them.
    pub(crate) fn page_bytes_for(size_bytes: u64) -> Option<u64> {
        size_bytes.max(1).checked_next_multiple_of(page_size())
    }

    /// Takes segments of `bytes` in all, whole pages that were granted to the caller, each with the caller as its only
    /// holder. None where the scarce path has to find memory for them first, or it takes longer than the caller may; nothing
    /// changed then.
    ///
    /// # Errors
    /// As [`Heap::back`].
    pub(super) fn take_segments(
        &self,
        bytes: u64,
        manner: Manner,
        taker: Taker,
    ) -> Result<Option<Vec<SlabLocation>>, AllocateError> {
        let segments_min = bytes / SEGMENT_BYTES_MAX;
        if taker.in_slice && manner == Manner::Segments && segments_min > SLICE_SEGMENTS_MAX as u64 {
            return Ok(None);
        }
        let mut segments = Vec::new();
        let mut missing = bytes / page_size();
        while missing > 0 {
            let at_once = self.take_pages(missing, manner, taker);
            let taken = match at_once {
                Ok(None) if manner == Manner::Segments && taker.may_take_parts() => {
                    self.take_pages_in_parts(missing)
                }
                outcome => outcome,
            };
            let taken = match taken {
                Ok(Some(taken)) => taken,
                outcome => {
                    segments.into_iter().for_each(|segment| self.unform(segment));
                    let system = |error| AllocateError::System { requested_bytes: bytes, error };
                    return outcome.map(|_| None).map_err(system);
                }
            };
            for taken in taken {
                segments.extend(cut(&taken.pages, manner).map(|pages| self.form(pages, taken.held)));
            }
            missing = match self.retire_damaged(&mut segments) {
                Ok(pages) => pages,
                Err(error) => {
                    segments.into_iter().for_each(|segment| self.unform(segment));
                    return Err(error);
                }
            };
        }
        Ok(Some(segments))
    }

    /// Retires the segments that a stray write damaged, and says how many pages others have to have in their place, which
    /// are granted.
    ///
    /// # Errors
    /// As [`Heap::retire_given`], when all of them are retired.
    fn retire_damaged(&self, segments: &mut Vec<SlabLocation>) -> Result<u64, AllocateError> {
        let is_damaged = |segment: &SlabLocation| self.large.slabs.record(segment.index()).is_damaged();
        let (mut missing, mut outcome) = (0, Ok(()));
        if segments.iter().any(is_damaged) {
            for damaged in segments.extract_if(.., |segment| is_damaged(segment)) {
                missing += self.slab_bytes(damaged) / page_size();
                outcome = outcome.and(self.retire_given(damaged));
            }
        }
        outcome.map(|()| missing)
    }

    /// Takes free pages out of the runs: held ones, and fresh ones within the budget, which are made usable. None also where
    /// that takes more runs than one hold of the lock is long enough for.
    fn take_pages(&self, pages: u64, manner: Manner, taker: Taker) -> Result<Option<Vec<Taken>>, OsError> {
        let mut account = self.large.lock();
        // Read under the lock that everybody takes who takes memory: see scarce.rs.
        if !taker.has_turn && self.scarce.is_raised() {
            return Ok(None);
        }
        let may_take = |pages: u64| self.budget.take(pages * page_size());
        let taken = match manner {
            Manner::Segments => account.runs.take(pages, SLICE_SEGMENTS_MAX, may_take),
            Manner::InOne => account.runs.take_one(pages, may_take).map(|taken| vec![taken]),
        };
        let Some(taken) = taken else { return Ok(None) };
        let end = taken.iter().filter(|taken| !taken.held).map(|taken| taken.pages.end).max();
        if let Some(Err(error)) = end.map(|end| self.large.slabs.commit(end - 1)) {
            for taken in taken {
                if !taken.held {
                    self.budget.give_back((taken.pages.end - taken.pages.start) * page_size());
                }
                account.runs.put_back(taken);
            }
            return Err(error);
        }
        account.use_pages(pages);
        Ok(Some(taken))
    }

    /// Makes a segment of pages that were taken. Where a stray write damaged them its record says so.
    fn form(&self, pages: Range<u64>, were_held: bool) -> SlabLocation {
        let slabs = &self.large.slabs;
        let index = pages.start;
        let access = slabs.form(pages, were_held);
        if were_held && slabs.canaries && !slabs.ends_are_zero(index, &access) {
            access.set_damaged();
        }
        let end = index + slabs.bytes_of(index) / page_size();
        access.end(0);
        self.large.lock().begin_segment(index..end);
        SlabLocation::new(SizeClass::RUNS, index)
    }

    /// A segment that was just formed, and is not needed: its pages are free again, and still granted.
    #[cold]
    fn unform(&self, segment: SlabLocation) {
        let index = segment.index();
        let access = self.large.slabs.record(index).release().expect("nobody else knows it");
        let pages = self.large.slabs.dissolve(index, access);
        let mut account = self.large.lock();
        account.end_segment(&pages);
        account.runs.put_back(Taken { pages, held: true });
    }

    /// Takes one run of whole pages that hold `size_bytes`, in one piece, as plain memory: all zeros, unless what was
    /// freed is not zeroed. Its class is [`SizeClass::RUNS`].
    ///
    /// # Errors
    /// As [`Heap::allocate`], and [`AllocateError::System`] where no free address range is as long.
    pub(crate) fn take_owned_run(&self, size_bytes: u64) -> Result<OwnedSlab, AllocateError> {
        let bytes = Heap::page_bytes_for(size_bytes).unwrap_or(u64::MAX);
        self.grant(bytes)?;
        match self.back_shape(super::Shape::Span(bytes)) {
            Ok(backed) => Ok(self.own(backed.only())),
            Err(error) => {
                self.give_back(bytes);
                Err(error)
            }
        }
    }

    /// Bytes of an owned slab of a class, or of a run.
    pub(crate) fn owned_len(&self, class: SizeClass, slab: &OwnedSlab) -> u64 {
        self.slabs_of(class).bytes_of(slab.index())
    }

    /// One holder more: of a segment that another version of a block's content shares. It ends by [`Heap::free`].
    ///
    /// # Errors
    /// [`AccessError`] where the segment is free, or has as many holders as can be counted.
    pub(crate) fn hold(&self, location: SlabLocation) -> Result<(), AccessError> {
        let (slabs, index) = self.slabs(location);
        slabs.record(index).hold()
    }

    /// Whether a segment has holders beside the caller, who is one.
    pub(crate) fn has_other_holders(&self, location: SlabLocation) -> bool {
        let (slabs, index) = self.slabs(location);
        slabs.record(index).holders() > 1
    }

    /// Nobody holds a segment any more: from here on its bytes are free memory.
    fn leave_use(&self, index: u64, access: &Exclusive<'_>) {
        let bytes = self.large.slabs.bytes_of(index);
        if access.was_draining() {
            self.draining_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        let mut account = self.large.lock();
        account.end_segment(&(index..index + bytes / page_size()));
        account.scrubbing_pages += bytes / page_size();
        drop(account);
        self.ungrant(bytes);
    }

    /// The last holder of a segment let go: it is zeroed, and its pages are free.
    pub(super) fn free_segment(&self, location: SlabLocation, access: Exclusive<'_>) {
        let index = location.index();
        self.leave_use(index, &access);
        self.scrub_segment(index, access);
        self.tell_room_freed();
    }

    /// Zeroes a segment that nobody holds, and frees its pages.
    fn scrub_segment(&self, index: u64, access: Exclusive<'_>) {
        let slabs = &self.large.slabs;
        if access.dirty() != 0 {
            slabs.scrub(index, &access);
        }
        let pages = slabs.dissolve(index, access);
        let mut account = self.large.lock();
        account.scrubbing_pages -= pages.end - pages.start;
        account.runs.free(pages);
        drop(account);
        self.scarce.wake();
    }

    /// The last holder of a damaged segment let go. Its bytes stay in use.
    #[cold]
    pub(super) fn retire_segment(&self, location: SlabLocation, access: Exclusive<'_>) {
        let (slabs, index) = (&self.large.slabs, location.index());
        let bytes = slabs.bytes_of(index);
        if access.was_draining() {
            self.draining_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        slabs.scrub(index, &access); // what its client wrote stays nobody's
        access.make_retired();
        let mut account = self.large.lock();
        account.end_segment(&(index..index + bytes / page_size()));
        account.retired_pages += bytes / page_size();
        drop(account);
        self.tell_room_freed(); // a write may wait for just this reader
    }

    /// Gives the memory of held free pages back, at most a slice and about `bytes` of it. Returns how much that was.
    ///
    /// # Errors
    /// [`OsError`] where the system takes no pages back; nothing changed then.
    pub(super) fn reclaim_runs(&self, bytes: u64, action: ReclaimAction) -> Result<u64, OsError> {
        let pages_max = bytes.min(RECLAIM_BYTES_MAX).div_ceil(page_size());
        let Some(pages) = self.large.lock().runs.take_held(pages_max) else { return Ok(0) };
        let began = crate::latency::Stopwatch::start();
        let given_back = self.large.slabs.decommit_unformed(pages.clone());
        let mut account = self.large.lock();
        if let Err(error) = given_back {
            account.runs.put_back(Taken { pages, held: true });
            return Err(error);
        }
        let bytes = (pages.end - pages.start) * page_size();
        account.runs.add_hole(pages);
        drop(account);
        self.budget.give_back(bytes);
        self.reclaimed.count(action, bytes, began);
        Ok(bytes)
    }

    /// An interval is over: held pages that nobody needed in it are idle.
    pub(super) fn end_idle_interval_of_runs(&self) {
        let mut account = self.large.lock();
        account.idle_pages = account.runs.take_low_water();
    }

    /// Gives a slice of idle pages back; false where there are none.
    pub(super) fn reclaim_idle_runs(&self) -> bool {
        let idle_pages = self.large.lock().idle_pages;
        if idle_pages == 0 {
            return false;
        }
        let given_back = self.reclaim_runs(idle_pages * page_size(), ReclaimAction::Idle);
        let mut account = self.large.lock();
        account.idle_pages = match given_back {
            Ok(bytes) if bytes > 0 => account.idle_pages.saturating_sub(bytes / page_size()),
            Ok(_) | Err(_) => 0, // nothing to be done about it before the next interval
        };
        true
    }
}

mod later;
mod parts;
mod stats;
mod sweep;

pub use stats::LargeStats;

/// The segments of a run.
fn cut(run: &Range<u64>, manner: Manner) -> impl Iterator<Item = Range<u64>> + use<> {
    let Range { start, end } = *run;
    let pages_max = match manner {
        Manner::Segments => SEGMENT_BYTES_MAX / page_size(),
        Manner::InOne => end - start,
    };
    let step = usize::try_from(pages_max).expect("a run fits into memory");
    (start..end).step_by(step).map(move |first| first..end.min(first + pages_max))
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
