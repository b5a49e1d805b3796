//! Free runs of pages: which pages of the runs region nobody has, and which of them a large block gets. Arithmetic only.
//!
//! A free run is either *held*, which has pages that read as zeros and count in the pool's size, or a *hole*, which is
//! address space without memory. Neighbours of one kind are always one run, so a run is known by its first page, and
//! found by its length:
//!
//! ```text
//!   │ in use │ held ─────── │ in use │ hole ── │ held ── │ hole ───────────────────── (fresh address space)
//!              by address: 1 → 14, 23 → 7 …      by size: (7, 23), (14, 1) …
//! ```
//!
//! Everything takes O(log n) of n free runs, for each run that a block is made of. The strategies, and that
//! neighbours are joined at once, are those of D. E. Knuth, The Art of Computer Programming, volume 1, section 2.5.

use super::config::Fit;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Free runs that first-fit looks at before it takes the one that fits best: a bound on its time, which has none by itself.
const FIRST_FIT_LOOKS_MAX: usize = 256;

/// Free runs of one kind.
#[derive(Debug, Default)]
pub(super) struct FreeRuns {
    /// First page → pages.
    by_address: BTreeMap<u64, u64>,
    /// (Pages, first page).
    by_size: BTreeSet<(u64, u64)>,
    pages: u64,
}

impl FreeRuns {
    /// How many pages they have together.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// How many runs there are.
    pub(super) fn count(&self) -> u64 {
        self.by_address.len() as u64
    }

    /// Pages of the longest one.
    pub(super) fn longest(&self) -> u64 {
        self.by_size.last().map_or(0, |(pages, _)| *pages)
    }

    /// Adds free pages; returns how many neighbours they were joined with.
    fn add(&mut self, run: Range<u64>) -> u64 {
        debug_assert!(!run.is_empty(), "a run has pages");
        self.pages += run.end - run.start;
        let (mut start, mut end, mut joined) = (run.start, run.end, 0);
        if let Some((&before, &pages)) = self.by_address.range(..run.start).next_back() {
            debug_assert!(before + pages <= run.start, "pages {run:?} are free twice");
            if before + pages == run.start {
                self.remove(before, pages);
                (start, joined) = (before, joined + 1);
            }
        }
        if let Some(&pages) = self.by_address.get(&run.end) {
            self.remove(run.end, pages);
            (end, joined) = (run.end + pages, joined + 1);
        }
        self.by_address.insert(start, end - start);
        self.by_size.insert((end - start, start));
        joined
    }

    fn remove(&mut self, start: u64, pages: u64) {
        self.by_address.remove(&start);
        self.by_size.remove(&(pages, start));
    }

    /// Takes the first `pages` of the run at `start`.
    fn take(&mut self, start: u64, pages: u64) -> Range<u64> {
        let length = *self.by_address.get(&start).expect("the caller found it here");
        self.remove(start, length);
        self.pages -= pages;
        if length > pages {
            self.by_address.insert(start + pages, length - pages);
            self.by_size.insert((length - pages, start + pages));
        }
        start..start + pages
    }

    /// The first page of a run of at least `pages`.
    fn find(&self, pages: u64, fit: Fit) -> Option<u64> {
        let best = || self.by_size.range((pages, 0)..).next().map(|(_, start)| *start);
        match fit {
            Fit::Best => best(),
            Fit::Worst => {
                self.by_size.last().filter(|(longest, _)| *longest >= pages).map(|(_, start)| *start)
            }
            Fit::First => {
                let mut looked_at = self.by_address.iter().take(FIRST_FIT_LOOKS_MAX);
                looked_at.find(|(_, length)| **length >= pages).map(|(start, _)| *start).or_else(best)
            }
        }
    }

    /// Where a run of `pages` would be taken: the free run, and the first page in it, which is a multiple of `align` where
    /// there is a run long enough for that.
    fn place(&self, pages: u64, fit: Fit, align: u64) -> Option<(u64, u64)> {
        let aligned = (align > 1).then(|| self.find(pages.saturating_add(align - 1), fit)).flatten();
        match aligned {
            Some(start) => Some((start, start.next_multiple_of(align))),
            None => self.find(pages, fit).map(|start| (start, start)),
        }
    }

    /// Takes one run of `pages`.
    fn take_one(&mut self, pages: u64, fit: Fit, align: u64) -> Option<Range<u64>> {
        let (start, first) = self.place(pages, fit, align)?;
        let before = self.take(start, first + pages - start);
        if first > start {
            self.add(start..first);
        }
        Some(first..before.end)
    }

    /// How many runs have `pages` together, the longest first; none if these are more than `runs_max`.
    fn runs_for(&self, pages: u64, runs_max: usize) -> Option<usize> {
        if pages == 0 {
            return Some(0);
        }
        let mut sum = 0;
        let longest_first = self.by_size.iter().rev().take(runs_max);
        let mut sums = longest_first.map(|(pages, _)| {
            sum += pages;
            sum
        });
        sums.position(|sum| sum >= pages).map(|before| before + 1)
    }

    /// Takes a run of `pages`, or the longest there is where none has as many.
    fn take_at_most(&mut self, pages: u64, fit: Fit) -> Option<Range<u64>> {
        self.take_one(pages, fit, 1).or_else(|| {
            let (longest, start) = *self.by_size.last()?;
            Some(self.take(start, longest))
        })
    }
}

/// Pages that were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) pages: Range<u64>,
    /// They have memory, and read as zeros.
    pub(super) held: bool,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Blocks that were given out.
    pub(super) allocations: u64,
    /// Of these, all of whose pages were held free ones.
    pub(super) hits: u64,
    /// Runs that came back.
    pub(super) frees: u64,
    /// Of these, those that were joined with a neighbour.
    pub(super) coalesced_frees: u64,
    /// Neighbours that were joined.
    pub(super) coalesces: u64,
}

/// All free runs of the region.
#[derive(Debug)]
pub(super) struct Runs {
    fit: Fit,
    /// Pages of a huge page, at whose multiples runs of as many and more begin if they can; 1: anywhere.
    align: u64,
    held: FreeRuns,
    holes: FreeRuns,
    counts: Counts,
    /// The fewest held free pages since the last look.
    low_water: u64,
}

impl Runs {
    /// A region of `pages`, all of it one hole. Runs of `align` pages and more begin at a multiple of that if they can.
    pub(super) fn new(pages: u64, fit: Fit, align: u64) -> Runs {
        let mut holes = FreeRuns::default();
        holes.add(0..pages);
        Runs { fit, align, held: FreeRuns::default(), holes, counts: Counts::default(), low_water: 0 }
    }

    pub(super) fn held(&self) -> &FreeRuns {
        &self.held
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes `pages` as one run: held ones, else fresh ones for which `may_take` grants so many pages. None where neither
    /// can be had; nothing changed then.
    pub(super) fn take_one(&mut self, pages: u64, may_take: impl FnOnce(u64) -> bool) -> Option<Taken> {
        let align = if pages >= self.align { self.align } else { 1 };
        let taken = match self.held.take_one(pages, self.fit, align) {
            Some(pages) => Taken { pages, held: true },
            None => {
                self.holes.find(pages, self.fit).filter(|_| may_take(pages))?;
                let pages = self.holes.take_one(pages, self.fit, align).expect("it was just found");
                Taken { pages, held: false }
            }
        };
        self.note_taken(taken.held);
        Some(taken)
    }

    /// Takes `pages` in as few runs as can be, `runs_max` at most: one if there is one, else several, held ones first.
    /// `may_take` grants what has to be fresh, and is asked once more where one run of it is refused. None where it is not
    /// granted, or takes more runs; nothing changed then.
    pub(super) fn take(
        &mut self,
        pages: u64,
        runs_max: usize,
        may_take: impl Fn(u64) -> bool,
    ) -> Option<Vec<Taken>> {
        if let Some(taken) = self.take_one(pages, &may_take) {
            return Some(vec![taken]);
        }
        // The region has as many pages as the pool, and more: fresh ones are only a matter of the budget.
        let fresh = pages.saturating_sub(self.held.pages);
        if fresh > self.holes.pages {
            return None;
        }
        let runs = self.held.runs_for(pages - fresh, runs_max)?;
        self.holes.runs_for(fresh, runs_max - runs)?;
        if fresh > 0 && !may_take(fresh) {
            return None;
        }
        let mut taken = Vec::new();
        for (held, count) in [(true, pages - fresh), (false, fresh)] {
            let (mut left, free) = (count, if held { &mut self.held } else { &mut self.holes });
            while left > 0 {
                let pages = free.take_at_most(left, self.fit).expect("there are as many");
                left -= pages.end - pages.start;
                taken.push(Taken { pages, held });
            }
        }
        self.note_taken(fresh == 0);
        Some(taken)
    }

    /// Pages of holes.
    pub(super) fn hole_pages(&self) -> u64 {
        self.holes.pages
    }

    /// Takes `pages` of a kind, or a part of them: as few runs as can be, `runs_max` at most. None are left where it takes
    /// nothing. Whoever takes a block so calls [`Runs::note_taken`] when it is whole.
    pub(super) fn take_part(&mut self, held: bool, pages: u64, runs_max: usize) -> Vec<Taken> {
        let (mut left, mut taken) = (pages, Vec::new());
        let free = if held { &mut self.held } else { &mut self.holes };
        while left > 0
            && taken.len() < runs_max
            && let Some(pages) = free.take_at_most(left, self.fit)
        {
            left -= pages.end - pages.start;
            taken.push(Taken { pages, held });
        }
        self.low_water = self.low_water.min(self.held.pages);
        taken
    }

    /// A block was taken, all of its pages held ones or not.
    pub(super) fn note_taken(&mut self, is_hit: bool) {
        self.counts.allocations += 1;
        self.counts.hits += u64::from(is_hit);
        self.low_water = self.low_water.min(self.held.pages);
    }

    /// Pages of a block came back, with their memory.
    pub(super) fn free(&mut self, run: Range<u64>) {
        let joined = self.held.add(run);
        self.counts.frees += 1;
        self.counts.coalesces += joined;
        self.counts.coalesced_frees += u64::from(joined > 0);
    }

    /// Takes held free pages whose memory is wanted elsewhere: the end of the run at the highest address, at most
    /// `pages_max` of it. They come back as a hole ([`Runs::add_hole`]), or as they were ([`Runs::put_back`]).
    pub(super) fn take_held(&mut self, pages_max: u64) -> Option<Range<u64>> {
        let (&start, &length) = self.held.by_address.last_key_value()?;
        let pages = length.min(pages_max);
        self.held.take(start, length);
        if length > pages {
            self.held.add(start..start + length - pages);
        }
        self.low_water = self.low_water.min(self.held.pages);
        Some(start + length - pages..start + length)
    }

    /// Takes the first held free pages from `page` on, at most `pages_max` of them, for a look. They come back by
    /// [`Runs::put_back`].
    pub(super) fn take_held_from(&mut self, page: u64, pages_max: u64) -> Option<Range<u64>> {
        let before = self.held.by_address.range(..page).next_back();
        let (start, length) = before
            .filter(|(start, length)| *start + *length > page)
            .or_else(|| self.held.by_address.range(page..).next())
            .map(|(start, length)| (*start, *length))?;
        let first = start.max(page);
        self.held.take(start, length);
        let run = first..(start + length).min(first + pages_max);
        for rest in [start..run.start, run.end..start + length] {
            if !rest.is_empty() {
                self.held.add(rest);
            }
        }
        Some(run)
    }

    /// The memory of free pages is gone.
    pub(super) fn add_hole(&mut self, run: Range<u64>) {
        self.holes.add(run);
    }

    /// Held pages that were taken, and not used.
    pub(super) fn put_back(&mut self, taken: Taken) {
        if taken.held {
            self.held.add(taken.pages)
        } else {
            self.holes.add(taken.pages)
        };
    }

    /// The fewest held free pages since the last call.
    pub(super) fn take_low_water(&mut self) -> u64 {
        std::mem::replace(&mut self.low_water, self.held.pages).min(self.held.pages)
    }

    /// Asserts that runs are apart from each other, and that both indices and the sums agree.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn check(&self) {
        for free in [&self.held, &self.holes] {
            assert_eq!(free.by_address.len(), free.by_size.len());
            assert_eq!(free.pages, free.by_address.values().sum::<u64>());
            assert!(free.by_address.iter().all(|(start, pages)| free.by_size.contains(&(*pages, *start))));
            let ends = free.by_address.iter().zip(free.by_address.keys().skip(1));
            for ((start, pages), next) in ends {
                assert!(start + pages < *next, "neighbours are one run");
            }
        }
        for (start, pages) in &self.held.by_address {
            let after = self.holes.by_address.range(..start + pages).next_back();
            assert!(after.is_none_or(|(hole, length)| hole + length <= *start), "a page is free twice");
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
