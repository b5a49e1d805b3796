//! One size class: which of its slabs are held, which of those are free, and what that costs.
//!
//! A slab index is in one of three places:
//!
//! ```text
//!   not held ──(budget)──▶ free ──take──▶ in a client's hands ──scrub──▶ free
//!       ▲                   │
//!       └──── reclaim ◀─────┘
//! ```
//!
//! One that was found damaged when it was free, or let go of, is retired: it stays held, and goes nowhere any more.
//!
//! Slabs are handed out lowest index first, so that the top of the range empties and whole runs can be reclaimed.

use super::bytes::{Protection, Slabs};
use super::index_set::IndexSet;
use super::layout::Layout;
use super::os::{OsError, SideTable, page_size};
use super::segment::SegmentRecord;
use parking_lot::{Mutex, MutexGuard};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

/// Surplus free slabs given back at one free, at most: as long as a client may be kept waiting for it.
const SURPLUS_SLABS_MAX: u64 = 64;

/// A size class: its slabs, and the lock-guarded account of them.
#[derive(Debug)]
pub(super) struct Class {
    slabs: Slabs,
    /// Free slabs kept at most.
    max_free: u64,
    account: Mutex<Account>,
}

/// Numbers of one class, in slabs unless they say bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStats {
    /// Size of a slab, in bytes.
    pub slab_size_bytes: u64,
    /// Slabs held from the budget: used + free + being scrubbed + retired.
    pub total: u64,
    /// Slabs in clients' hands, or still held by a reader.
    pub used: u64,
    /// Slabs ready for the next client.
    pub free: u64,
    /// Slabs being zeroed after a client freed them.
    pub scrubbing: u64,
    /// Slabs out of use for good, because something wrote to them that had no right to.
    pub retired: u64,
    /// Slabs ever taken from the budget, those made ready at start included.
    pub created: u64,
    /// Times a slab was given out.
    pub allocations: u64,
    /// Times a slab was given to a client after an earlier client freed it.
    pub reused: u64,
    /// Bytes of whole pages that may be resident.
    pub committed_bytes: u64,
}

/// What one class holds. Guarded by the class's lock, which is held for a few instructions, or one slice of reclaim.
#[derive(Debug)]
pub(super) struct Account {
    free: IndexSet,
    /// Free or used slabs that had a client before; the next client is a reuse.
    served: IndexSet,
    /// Slabs below `fresh` that gave their bytes back.
    reclaimed: IndexSet,
    /// No slab from here on was ever held.
    fresh: u64,
    /// Where the slabs lie.
    layout: Layout,
    /// For each page, how many held slabs overlap it. None where slabs are whole pages: there it is always one.
    page_holds: Option<SideTable<AtomicU16>>,
    stats: ClassStats,
}

impl Class {
    /// Reserves a class for `count` slabs.
    pub(super) fn reserve(
        slab_bytes: u64,
        count: u64,
        max_free: Option<u32>,
        protection: &Protection,
    ) -> Result<Class, OsError> {
        let slabs = Slabs::reserve(slab_bytes, count, protection)?;
        let layout = slabs.layout();
        let pages = layout.pages_of(0..count).end;
        let page_holds =
            if slab_bytes.is_multiple_of(page_size()) { None } else { Some(SideTable::new(pages)?) };
        Ok(Class {
            slabs,
            max_free: max_free.map_or(u64::MAX, u64::from),
            account: Mutex::new(Account {
                free: IndexSet::new(count)?,
                served: IndexSet::new(count)?,
                reclaimed: IndexSet::new(count)?,
                fresh: 0,
                layout,
                page_holds,
                stats: ClassStats { slab_size_bytes: slab_bytes, ..ClassStats::default() },
            }),
        })
    }

    pub(super) fn slabs(&self) -> &Slabs {
        &self.slabs
    }

    pub(super) fn slab_bytes(&self) -> u64 {
        self.slabs.slab_bytes()
    }

    /// Free slabs kept at most.
    pub(super) fn max_free(&self) -> u64 {
        self.max_free
    }

    /// Bytes of records and of the account when every slab was held at least once.
    pub(super) fn metadata_bytes_max(&self) -> u64 {
        let slabs = self.slabs.count();
        let pages = self.slabs.layout().pages_of(0..slabs).end;
        let counted = (!self.slab_bytes().is_multiple_of(page_size())).then_some(pages);
        Account::metadata_bytes_of(slabs, counted) + slabs * size_of::<SegmentRecord>() as u64
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock()
    }

    /// Gives a free slab to a client: lowest index first.
    pub(super) fn take_free(&self, account: &mut Account) -> Option<u64> {
        let index = account.free.lowest()?;
        account.free.remove(index);
        let claimed = self.slabs.claim(index);
        assert!(claimed, "slab {index} was in the free set and not free");
        account.stats.free -= 1;
        account.stats.used += 1;
        account.stats.allocations += 1;
        if !account.served.insert(index) {
            account.stats.reused += 1;
        }
        Some(index)
    }

    /// Makes a slab that was not held a free one. The caller has taken its bytes from the budget.
    ///
    /// # Errors
    /// [`OsError`] where the system grants no memory; nothing changed then.
    pub(super) fn add_fresh(&self, account: &mut Account) -> Result<u64, OsError> {
        let index = account.reclaimed.lowest().unwrap_or(account.fresh);
        self.slabs.commit(index)?;
        if !account.reclaimed.remove(index) {
            account.fresh += 1;
        }
        account.hold_pages(index);
        account.free.insert(index);
        account.stats.total += 1;
        account.stats.free += 1;
        account.stats.created += 1;
        Ok(index)
    }

    /// A client let go of a slab: it is being scrubbed from now on, and counts as free memory.
    pub(super) fn begin_scrub(&self, account: &mut Account) {
        account.stats.used -= 1;
        account.stats.scrubbing += 1;
    }

    /// A client let go of a damaged slab.
    pub(super) fn retire_used(&self, account: &mut Account) {
        account.stats.used -= 1;
        account.stats.retired += 1;
    }

    /// A free slab is damaged.
    pub(super) fn retire_free(&self, account: &mut Account, index: u64) {
        account.free.remove(index);
        account.stats.free -= 1;
        account.stats.retired += 1;
    }

    /// A slab was scrubbed and is free. Returns bytes that go back to the budget, where the class has free slabs
    /// enough already.
    pub(super) fn end_scrub(&self, account: &mut Account, index: u64) -> u64 {
        account.stats.scrubbing -= 1;
        account.stats.free += 1;
        account.free.insert(index);
        let surplus = account.free.len().saturating_sub(self.max_free);
        if surplus > 0 { self.reclaim(account, surplus.min(SURPLUS_SLABS_MAX)).unwrap_or(0) } else { 0 }
    }

    /// Takes up to `slabs_max` free slabs out of the class, highest index first, and gives their pages back to the
    /// system. Returns the bytes that the caller gives back to the budget.
    ///
    /// The pages that a reclaimed slab shares with one still held stay resident.
    ///
    /// # Errors
    /// [`OsError`] where the system does not take pages back; those slabs then stay free.
    pub(super) fn reclaim(&self, account: &mut Account, slabs_max: u64) -> Result<u64, OsError> {
        let mut bytes = 0;
        let mut failure = None;
        for _ in 0..slabs_max {
            // One contiguous run of free slabs at a time, so that it leaves in one call.
            let Some(run) = account.highest_free_run(slabs_max - bytes / self.slab_bytes()) else { break };
            let pages = account.release_pages(run.clone());
            if !pages.is_empty()
                && let Err(error) = self.slabs.decommit(pages.clone())
            {
                account.retake_pages(run);
                failure = Some(error);
                break;
            }
            for index in run.clone() {
                account.free.remove(index);
                account.served.remove(index);
                account.reclaimed.insert(index);
            }
            let slabs = run.end - run.start;
            account.stats.free -= slabs;
            account.stats.total -= slabs;
            bytes += slabs * self.slab_bytes();
            if bytes / self.slab_bytes() >= slabs_max {
                break;
            }
        }
        match failure {
            Some(error) if bytes == 0 => Err(error),
            _ => Ok(bytes),
        }
    }
}

impl Account {
    pub(super) fn stats(&self) -> ClassStats {
        self.stats
    }

    /// Resident bytes of the account itself, roughly: what its bitmaps can have touched.
    pub(super) fn metadata_bytes(&self) -> u64 {
        // Three bitmaps of one bit a slab, and two bytes a page, up to the highest slab ever held.
        Account::metadata_bytes_of(self.fresh, self.page_holds.as_ref().map(|_| self.pages_up_to_fresh()))
    }

    /// The same of an account of so many slabs, on so many pages that are counted.
    fn metadata_bytes_of(slabs: u64, counted_pages: Option<u64>) -> u64 {
        slabs.div_ceil(8) * 3 + 2 * counted_pages.unwrap_or(0)
    }

    fn pages_up_to_fresh(&self) -> u64 {
        self.layout.pages_of(0..self.fresh).end
    }

    pub(super) fn fresh(&self) -> u64 {
        self.fresh
    }

    /// The first free slab from `index` on.
    pub(super) fn free_from(&self, index: u64) -> Option<u64> {
        self.free.first_from(index)
    }

    /// The highest contiguous run of free slabs, at most `slabs_max` of them.
    fn highest_free_run(&self, slabs_max: u64) -> Option<Range<u64>> {
        let last = self.free.highest()?;
        let mut first = last;
        while first > 0 && last - first + 1 < slabs_max && self.free.contains(first - 1) {
            first -= 1;
        }
        Some(first..last + 1)
    }

    /// Adds to the holds of a page whose slabs are counted; returns how many there are now.
    fn add_page_holds(&self, page: u64, holds: i16) -> u16 {
        let counter = self.page_holds.as_ref().expect("only pages that slabs share are counted").get(page);
        let now = counter.load(Ordering::Relaxed).checked_add_signed(holds).expect("each hold ends once");
        counter.store(now, Ordering::Relaxed); // under the class's lock
        now
    }

    /// Counts a newly held slab on its pages.
    fn hold_pages(&mut self, index: u64) {
        if self.page_holds.is_none() {
            self.stats.committed_bytes += self.stats.slab_size_bytes;
            return;
        }
        for page in self.layout.pages_of(index..index + 1) {
            if self.add_page_holds(page, 1) == 1 {
                self.stats.committed_bytes += page_size();
            }
        }
    }

    /// Counts a run of slabs off its pages; returns the pages that no held slab overlaps any more. They are one run, with
    /// the guards between them: only the first and the last page of the slabs can be shared with a neighbour.
    fn release_pages(&mut self, slabs: Range<u64>) -> Range<u64> {
        let pages = self.layout.pages_of(slabs.clone());
        if self.page_holds.is_none() {
            self.stats.committed_bytes -= self.stats.slab_size_bytes * (slabs.end - slabs.start);
            return pages;
        }
        for index in slabs {
            for page in self.layout.pages_of(index..index + 1) {
                if self.add_page_holds(page, -1) == 0 {
                    self.stats.committed_bytes -= page_size();
                }
            }
        }
        let start = if self.add_page_holds(pages.start, 0) == 0 { pages.start } else { pages.start + 1 };
        let end = if self.add_page_holds(pages.end - 1, 0) == 0 { pages.end } else { pages.end - 1 };
        start..end.max(start)
    }

    /// Undoes [`Account::release_pages`].
    fn retake_pages(&mut self, slabs: Range<u64>) {
        slabs.for_each(|index| self.hold_pages(index));
    }

    /// Asserts what must be true between any two calls.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn check(&self) {
        let stats = self.stats;
        let placed = stats.used + stats.free + stats.scrubbing + stats.retired;
        assert_eq!(stats.total, placed, "every held slab is in one place");
        assert_eq!(stats.free, self.free.len(), "the free set holds the free slabs");
        assert_eq!(self.fresh, stats.total + self.reclaimed.len(), "slabs below fresh are held or reclaimed");
        assert!(stats.reused <= stats.allocations);
        if self.page_holds.is_some() {
            let held =
                (0..self.pages_up_to_fresh()).filter(|page| self.add_page_holds(*page, 0) > 0).count() as u64;
            assert_eq!(
                stats.committed_bytes,
                held * page_size(),
                "a page is committed while a held slab overlaps it"
            );
        }
    }
}
