//! One size class: which of its slabs are held, which of those are free, and what that costs.
//!
//! A slab index is in one of three places:
//!
//! ```text
//!   not held ──(budget)──▶ free ──take──▶ in a client's hands, or in a magazine or the depot ──▶ free
//!       ▲                   │
//!       └──── reclaim ◀─────┘
//! ```
//!
//! Slabs are handed out lowest index first, so that the top of the range empties and whole runs can be reclaimed. Where
//! slabs share pages, live ones are moved down for that first (`compact.rs`), so that no reclaimed slab lies below a
//! held one, and no page is held for a part of it, but where somebody kept a slab from being moved.
//!
//! One that was found damaged when it was free, or let go of, is retired: it stays held, and goes nowhere any more.

mod page_holds;

use super::adaptation::{Keeping, Kept};
use super::bytes::{Protection, Slabs};
use super::compact::{Step, Sweep};
use super::depot::Depot;
use super::idle::IdleWork;
use super::index_set::IndexSet;
use super::layout::Layout;
use super::magazine::Round;
use super::os::{OsError, SideTable, page_size};
use super::segment::SegmentRecord;
use crate::slot;
use crate::sync::{Mutex, MutexGuard};
use std::ops::Range;
use std::sync::atomic::AtomicU16;

/// Slabs that a sweep looks at under one hold of the class's lock: a bit or two and a record each, about 10 µs.
const WALK_SLABS_MAX: u64 = 512;

/// Reclaimed slabs at the top of a class that are forgotten under one hold of its lock: a few ns each, about 20 µs.
pub(super) const SHRINK_SLABS_MAX: u64 = 4096;

/// Batches in a depot, for each slot.
const BATCHES_PER_SLOT: u32 = 2;

/// A size class: its slabs, the lock-guarded account of them, and free ones on their way between magazines.
#[derive(Debug)]
pub(super) struct Class {
    slabs: Slabs,
    depot: Depot,
    /// Free slabs kept at most, without those in magazines.
    max_free: u64,
    /// How many slabs are kept however long they are idle.
    keeping: Keeping,
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
    /// Slabs kept held, however long they lie idle.
    pub kept: u64,
    /// Slabs ever taken from the budget, those made ready at start included.
    pub created: u64,
    /// Times a slab was given out.
    pub allocations: u64,
    /// Times a slab was given to a client after an earlier client freed it.
    pub reused: u64,
    /// Of these allocations, how many took a free slab of the class past the magazines.
    pub from_class: u64,
    /// … how many a slab that was just taken from the budget.
    pub from_fresh: u64,
    /// … how many waited for memory to be reclaimed from other classes.
    pub from_reclaim: u64,
    /// Bytes of whole pages that may be resident.
    pub committed_bytes: u64,
}

/// Where a slab came from that did not come from a magazine.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// The class had a free one.
    Class,
    /// Fresh bytes.
    Fresh,
    /// Memory of other classes.
    Reclaim,
}

/// What one class holds. Guarded by the class's lock, which is held for a few instructions, or one slice of reclaim.
#[derive(Debug)]
pub(super) struct Account {
    free: IndexSet,
    /// Free slabs that had a client before; the next client is a reuse.
    served: IndexSet,
    /// Slabs below `fresh` that gave their bytes back.
    reclaimed: IndexSet,
    /// No slab from here on is held.
    fresh: u64,
    /// The most that `fresh` ever was: no record and no bitmap was touched from here on.
    fresh_max: u64,
    /// Runs that were reclaimed below a held slab since there last was no such gap: at least as many as there are.
    gaps: u64,
    /// What an interval has left to be done; see `idle.rs`.
    pub(super) idle: IdleWork,
    /// What is kept however long it is idle; see `adaptation.rs`.
    pub(super) kept: Kept,
    /// Where the slabs lie.
    layout: Layout,
    /// For each page, how many held slabs overlap it. None where slabs are whole pages: there it is always one.
    page_holds: Option<SideTable<AtomicU16>>,
    stats: ClassStats,
}

impl Class {
    /// Reserves a class for `count` slabs, of which each slot keeps at most `rounds_max` in its magazine.
    pub(super) fn reserve(
        slab_bytes: u64,
        count: u64,
        max_free: Option<u32>,
        rounds_max: u64,
        keeping: Keeping,
        protection: &Protection,
    ) -> Result<Class, OsError> {
        let slabs = Slabs::reserve(slab_bytes, count, protection)?;
        let layout = slabs.layout();
        let slots = u32::try_from(slot::count()).expect("slots are few");
        // What may be free in all is bounded: nothing lies in the depot then, and what magazines may hold counts.
        let (batches, max_free) = match max_free {
            None => (BATCHES_PER_SLOT * slots, u64::MAX),
            Some(max_free) => (0, u64::from(max_free) - rounds_max * u64::from(slots)),
        };
        let pages = layout.pages_of(0..count).end;
        let page_holds =
            if slab_bytes.is_multiple_of(page_size()) { None } else { Some(SideTable::new(pages)?) };
        Ok(Class {
            slabs,
            depot: Depot::new(batches),
            max_free,
            keeping,
            account: Mutex::new(Account {
                free: IndexSet::new(count)?,
                served: IndexSet::new(count)?,
                reclaimed: IndexSet::new(count)?,
                fresh: 0,
                fresh_max: 0,
                gaps: 0,
                idle: IdleWork::default(),
                kept: Kept::new(&keeping),
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

    pub(super) fn depot(&self) -> &Depot {
        &self.depot
    }

    /// Free slabs kept at most.
    pub(super) fn max_free(&self) -> u64 {
        self.max_free
    }

    /// How many slabs are kept however long they are idle.
    pub(super) fn keeping(&self) -> &Keeping {
        &self.keeping
    }

    /// Bytes of records and of the account when every slab was held at least once.
    pub(super) fn metadata_bytes_max(&self) -> u64 {
        let slabs = self.slabs.count();
        let pages = self.slabs.layout().pages_of(0..slabs).end;
        let counted = (!self.slab_bytes().is_multiple_of(page_size())).then_some(pages);
        Account::metadata_bytes_of(slabs, counted) + slabs * size_of::<SegmentRecord>() as u64
    }

    /// None where somebody else has it.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Account>> {
        self.account.try_lock()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock()
    }

    /// Gives a free slab to a client: lowest index first.
    pub(super) fn take_free(&self, account: &mut Account) -> Option<u64> {
        let round = account.take_round()?;
        let claimed = self.slabs.claim(round.index());
        assert!(claimed, "slab {} was in the free set and not free", round.index());
        account.stats.allocations += 1;
        account.stats.reused += u64::from(round.served());
        Some(round.index())
    }

    /// Whether the class keeps only so many free slabs.
    pub(super) fn is_bounded(&self) -> bool {
        self.max_free != u64::MAX
    }

    /// Takes a free slab for a magazine: lowest index first.
    pub(super) fn take_round(&self, account: &mut Account) -> Option<Round> {
        let round = account.take_round()?;
        let closed = self.slabs.close(round.index());
        assert!(closed, "slab {} was in the free set and not free", round.index());
        Some(round)
    }

    /// Free slabs come back from a magazine or the depot.
    pub(super) fn put_rounds(&self, account: &mut Account, rounds: impl IntoIterator<Item = Round>) {
        for round in rounds {
            self.slabs.record(round.index()).free_closed();
            account.put_round(round);
        }
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
            account.fresh_max = account.fresh_max.max(account.fresh);
        }
        account.hold_pages(index);
        account.put_round(Round::new(index, false));
        account.stats.total += 1;
        account.stats.created += 1;
        Ok(index)
    }

    /// A client let go of a slab: it is being scrubbed from now on, and counts as free memory.
    pub(super) fn begin_scrub(&self, account: &mut Account) {
        account.stats.scrubbing += 1;
    }

    /// A damaged slab that was used, or lay in a magazine, is retired.
    pub(super) fn retire_used(&self, account: &mut Account) {
        account.stats.retired += 1;
    }

    /// A free slab is damaged.
    pub(super) fn retire_free(&self, account: &mut Account, index: u64) {
        account.free.remove(index);
        account.served.remove(index);
        account.stats.retired += 1;
    }

    /// A slab was scrubbed and is free. Returns how many free slabs the class has beyond those that it may keep.
    pub(super) fn end_scrub(&self, account: &mut Account, index: u64) -> u64 {
        account.stats.scrubbing -= 1;
        account.put_round(Round::new(index, true));
        account.free.len().saturating_sub(self.max_free)
    }

    /// Whether slabs share pages.
    pub(super) fn is_packed(&self) -> bool {
        !self.slab_bytes().is_multiple_of(page_size())
    }

    /// Takes the highest contiguous run of free slabs that is not below `floor`, or as many of it as `slabs_max`, out
    /// of the class, and gives the pages that no held slab overlaps any more back to the system, in one call. Returns
    /// how many slabs that were; their bytes are the caller's to give back to the budget.
    ///
    /// # Errors
    /// [`OsError`] where the system does not take the pages back; those slabs then stay free.
    pub(super) fn reclaim_run(
        &self,
        account: &mut Account,
        floor: u64,
        slabs_max: u64,
    ) -> Result<u64, OsError> {
        let Some(run) = account.highest_free_run(floor, slabs_max) else { return Ok(0) };
        let pages = account.release_pages(run.clone());
        if !pages.is_empty()
            && let Err(error) = self.slabs.decommit(pages)
        {
            account.retake_pages(run);
            return Err(error);
        }
        for index in run.clone() {
            account.free.remove(index);
            account.served.remove(index);
            account.reclaimed.insert(index);
        }
        let slabs = run.end - run.start;
        account.stats.total -= slabs;
        account.shrink_top();
        account.gaps = if account.reclaimed.len() == 0 { 0 } else { account.gaps + 1 };
        Ok(slabs)
    }

    /// The next step down of a sweep, which leaves the top of the class free: see [`super::compact`]. Where it is a move,
    /// the place was taken from the free slabs for the caller, who calls [`Class::end_move`].
    pub(super) fn step_down(&self, account: &mut Account, sweep: &mut Sweep) -> Step {
        for _ in 0..WALK_SLABS_MAX {
            sweep.below = sweep.below.min(account.fresh);
            let Some(place) = account.free.lowest().filter(|place| *place < sweep.below) else {
                return Step::AllDone;
            };
            let index = sweep.below - 1;
            sweep.below = index;
            if account.free.contains(index) {
                sweep.cleared += 1;
            } else if !account.reclaimed.contains(index) {
                let record = self.slabs.record(index);
                // Only a look: whoever owns it decides under its own lock.
                if record.owner() != 0 && record.holders() == 1 {
                    account.free.remove(place);
                    let claimed = self.slabs.record(place).claim(); // no look at it: what is moved there covers all that is read
                    assert!(claimed, "slab {place} was in the free set and not free");
                    account.stats.scrubbing += 1;
                    return Step::Move { from: index, to: place };
                }
                sweep.skipped += 1;
            }
            if sweep.cleared >= sweep.wanted {
                break;
            }
        }
        Step::Walked
    }

    /// A move has ended, done or not: `emptied` is free, scrubbed, and the other one is in the hands of its client.
    pub(super) fn end_move(&self, account: &mut Account, emptied: u64, moved_to: Option<u64>) {
        account.stats.scrubbing -= 1;
        if let Some(index) = moved_to {
            account.served.remove(index);
        }
        // Where it was not moved, the place is as it was.
        account.put_round(Round::new(emptied, moved_to.is_some()));
    }
}

impl Account {
    /// The class's numbers as far as they are kept here: what lies in magazines and in the depot counts as used.
    pub(super) fn stats(&self) -> ClassStats {
        let free = self.free.len();
        ClassStats {
            free,
            kept: self.kept.slabs(),
            used: self.stats.total - free - self.stats.scrubbing - self.stats.retired,
            ..self.stats
        }
    }

    /// Free slabs, without those in magazines and in the depot.
    pub(super) fn free_slabs(&self) -> u64 {
        self.free.len()
    }

    /// Counts an allocation by where its slab came from.
    pub(super) fn count_source(&mut self, source: Source) {
        match source {
            Source::Class => self.stats.from_class += 1,
            Source::Fresh => self.stats.from_fresh += 1,
            Source::Reclaim => self.stats.from_reclaim += 1,
        }
    }

    /// Takes the free slab of the lowest index.
    fn take_round(&mut self) -> Option<Round> {
        let index = self.free.lowest()?;
        self.free.remove(index);
        Some(Round::new(index, self.served.remove(index)))
    }

    fn put_round(&mut self, round: Round) {
        self.free.insert(round.index());
        if round.served() {
            self.served.insert(round.index());
        }
    }

    /// Resident bytes of the account itself, roughly: what its bitmaps can have touched.
    pub(super) fn metadata_bytes(&self) -> u64 {
        // Three bitmaps of one bit a slab, and two bytes a page, up to the highest slab ever held.
        let pages = self.layout.pages_of(0..self.fresh_max).end;
        Account::metadata_bytes_of(self.fresh_max, self.page_holds.as_ref().map(|_| pages))
    }

    /// The same of an account of so many slabs, on so many pages that are counted.
    fn metadata_bytes_of(slabs: u64, counted_pages: Option<u64>) -> u64 {
        slabs.div_ceil(8) * 3 + 2 * counted_pages.unwrap_or(0)
    }

    pub(super) fn fresh(&self) -> u64 {
        self.fresh
    }

    /// Slabs that were ever held.
    pub(super) fn fresh_max(&self) -> u64 {
        self.fresh_max
    }

    /// Slabs that are not held and lie below one that is, as far as is known.
    pub(super) fn gap_slabs(&self) -> u64 {
        self.reclaimed.len()
    }

    /// The fewest free slabs since the last call.
    pub(super) fn take_free_low_water(&mut self) -> u64 {
        self.free.take_low_water()
    }

    /// The lowest contiguous run of free slabs from `start` on, at most `slabs_max` of them; an empty one where to look
    /// on if there is none within a walk.
    pub(super) fn free_run_from(&self, start: u64, slabs_max: u64) -> Range<u64> {
        let end = self.fresh.min(start + WALK_SLABS_MAX).max(start);
        let Some(first) = (start..end).find(|index| self.free.contains(*index)) else { return end..end };
        let end = end.min(first + slabs_max);
        first..(first..end).find(|index| !self.free.contains(*index)).unwrap_or(end)
    }

    /// Slabs at the top that are not held are as if they never were.
    fn shrink_top(&mut self) {
        for _ in 0..SHRINK_SLABS_MAX {
            if self.fresh == 0 || !self.reclaimed.remove(self.fresh - 1) {
                return;
            }
            self.fresh -= 1;
        }
    }

    /// The lowest of so many free slabs that lie highest.
    pub(super) fn lowest_of_highest_free(&self, slabs: u64) -> Option<u64> {
        self.free.lowest_of_highest(slabs)
    }

    /// The first free slab from `index` on.
    pub(super) fn free_from(&self, index: u64) -> Option<u64> {
        self.free.first_from(index)
    }

    /// The highest contiguous run of free slabs, at most `slabs_max` of them, none below `floor`.
    fn highest_free_run(&self, floor: u64, slabs_max: u64) -> Option<Range<u64>> {
        let last = self.free.highest().filter(|last| *last >= floor && slabs_max > 0)?;
        let mut first = last;
        while first > floor && last - first + 1 < slabs_max && self.free.contains(first - 1) {
            first -= 1;
        }
        Some(first..last + 1)
    }

    /// Asserts what must be true between any two calls.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn check(&self) {
        let stats = self.stats;
        let placed = self.free.len() + stats.scrubbing + stats.retired;
        assert!(stats.total >= placed, "every held slab is in one place");
        assert_eq!(self.fresh, stats.total + self.reclaimed.len(), "slabs below fresh are held or reclaimed");
        assert!(stats.reused <= stats.allocations && self.fresh <= self.fresh_max);
        if self.page_holds.is_some() {
            let pages = self.layout.pages_of(0..self.fresh_max).end;
            let held = (0..pages).filter(|page| self.add_page_holds(*page, 0) > 0).count() as u64;
            assert_eq!(
                stats.committed_bytes,
                held * page_size(),
                "a page is committed while a held slab overlaps it"
            );
            // The last page, the two ends of each gap, and with guards what each run leaves over of a page.
            let beyond = stats.committed_bytes.saturating_sub(stats.total * stats.slab_size_bytes);
            let pages = 1 + 2 * self.gaps + self.layout.runs_of(self.fresh);
            assert!(beyond <= page_size() * pages, "{beyond} bytes with {} gaps", self.gaps);
        }
    }
}
