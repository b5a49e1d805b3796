//! Advice: what a client says of how it uses a block, passed on to the system for the block's whole pages, or done here.
//!
//! Seven are hints: they change how the system treats pages, and no byte. What a hint leaves behind is undone before the
//! pages serve anybody else: the block's record has a flag for that, so that who frees a block without hints pays nothing.
//! A hint is for the place where the block lies. What a write replaces, or compaction moves, lies elsewhere, without it.
//!
//! Three discard the content: it is zeros from there on, and the pages go back at once. They are one: the system's own
//! lazy way (`MADV_FREE`) may bring old bytes back, and its way for files (`MADV_REMOVE`) has nothing to do with memory that
//! has none.

use super::os::{OsError, Treatment};
use super::segment::Exclusive;
use super::{AccessError, Heap, SlabLocation};
use rustix::io::Errno;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::warn;

/// Slabs and segments that may have hints at a time: pages that are treated unlike their neighbours are a mapping of their
/// own, so each may take two of the 65,530 that a process has by default.
const ADVISED_MAX: u64 = 8192;

/// What clients may say of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// It is used soon: its pages are made now.
    WillNeed,
    /// From front to back.
    Sequential,
    /// Here and there.
    Random,
    /// In huge pages, where they fit.
    HugePage,
    /// In small ones.
    NoHugePage,
    /// Pages of the same content may become one.
    Mergeable,
    /// Not any more.
    Unmergeable,
    /// Its content is not needed.
    Free,
    /// As free.
    DontNeed,
    /// As free.
    Remove,
}

impl Advice {
    /// All of them.
    pub const ALL: [Advice; 10] = [
        Advice::WillNeed,
        Advice::Sequential,
        Advice::Random,
        Advice::HugePage,
        Advice::NoHugePage,
        Advice::Mergeable,
        Advice::Unmergeable,
        Advice::Free,
        Advice::DontNeed,
        Advice::Remove,
    ];

    /// The advice's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Advice::WillNeed => "willneed",
            Advice::Sequential => "sequential",
            Advice::Random => "random",
            Advice::HugePage => "hugepage",
            Advice::NoHugePage => "nohugepage",
            Advice::Mergeable => "mergeable",
            Advice::Unmergeable => "unmergeable",
            Advice::Free => "free",
            Advice::DontNeed => "dontneed",
            Advice::Remove => "remove",
        }
    }

    /// Whether the content is zeros afterwards.
    pub fn discards(self) -> bool {
        matches!(self, Advice::Free | Advice::DontNeed | Advice::Remove)
    }

    /// What the system is told.
    ///
    /// # Panics
    /// If it discards.
    fn treatment(self) -> Treatment {
        match self {
            Advice::WillNeed => Treatment::WillNeed,
            Advice::Sequential => Treatment::Sequential,
            Advice::Random => Treatment::Random,
            Advice::HugePage => Treatment::HugePages,
            Advice::NoHugePage => Treatment::SmallPages,
            Advice::Mergeable => Treatment::Mergeable,
            Advice::Unmergeable => Treatment::Unmergeable,
            Advice::Free | Advice::DontNeed | Advice::Remove => {
                unreachable!("the system is told no such thing")
            }
        }
    }
}

/// What became of an advice; of several pieces of a block, the greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdviceOutcome {
    /// There was nothing that it could be for: the block has no whole page.
    #[default]
    Nothing,
    /// The system does not know it.
    Unsupported,
    /// The system could not do it, or too many blocks have hints.
    Refused,
    /// It was done.
    Applied,
}

impl AdviceOutcome {
    /// All of them.
    pub const ALL: [AdviceOutcome; 4] =
        [AdviceOutcome::Nothing, AdviceOutcome::Unsupported, AdviceOutcome::Refused, AdviceOutcome::Applied];

    /// What users see.
    pub fn name(self) -> &'static str {
        match self {
            AdviceOutcome::Nothing => "nothing",
            AdviceOutcome::Unsupported => "unsupported",
            AdviceOutcome::Refused => "refused",
            AdviceOutcome::Applied => "applied",
        }
    }

    fn of(result: Result<(), OsError>) -> AdviceOutcome {
        match result.map_err(|error| error.errno) {
            Ok(()) => AdviceOutcome::Applied,
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => AdviceOutcome::Unsupported,
            Err(_) => AdviceOutcome::Refused,
        }
    }
}

/// How often each advice came to what, in the orders of [`Advice::ALL`] and [`AdviceOutcome::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdviceStats(pub [[u64; AdviceOutcome::ALL.len()]; Advice::ALL.len()]);

/// What is known of hints.
#[derive(Debug, Default)]
pub(super) struct Advised {
    may_merge: bool,
    /// Slabs and segments that have some.
    places: AtomicU64,
    counts: [[AtomicU64; AdviceOutcome::ALL.len()]; Advice::ALL.len()],
}

impl Advised {
    pub(super) fn new(may_merge: bool) -> Advised {
        Advised { may_merge, ..Advised::default() }
    }

    pub(super) fn stats(&self) -> AdviceStats {
        AdviceStats(
            self.counts.each_ref().map(|row| row.each_ref().map(|count| count.load(Ordering::Relaxed))),
        )
    }

    /// Takes a place among those that have hints; false where there are as many as may be.
    fn begin(&self) -> bool {
        let one_more = |places: u64| (places < ADVISED_MAX).then_some(places + 1);
        // Relaxed: a number that only counts.
        self.places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn end(&self) {
        self.places.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Heap {
    /// Whether the system may be asked to make one page of several with the same content.
    pub fn may_merge(&self) -> bool {
        self.advised.may_merge
    }

    /// Counts what became of an advice.
    pub(crate) fn count_advice(&self, advice: Advice, outcome: AdviceOutcome) {
        self.advised.counts[advice as usize][outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Passes a hint on for the whole pages of a slab that have a byte of `range` in it. The caller holds it, or knows that
    /// somebody does for as long as this takes.
    ///
    /// # Panics
    /// If it discards: that is [`Heap::discard`].
    pub(crate) fn advise(&self, location: SlabLocation, range: Range<u64>, advice: Advice) -> AdviceOutcome {
        let (slabs, index) = self.slabs(location);
        let inside = slabs.pages_inside(index);
        let start = slabs.start_of(index);
        let page = super::page_size();
        let pages = inside.start.max((start + range.start) / page * page)
            ..inside.end.min((start + range.end).next_multiple_of(page));
        if pages.start >= pages.end {
            return AdviceOutcome::Nothing;
        }
        match advice {
            Advice::WillNeed => {
                // Of memory without a file the hint itself only brings back what was swapped out: to touch the pages does
                // that too, and makes those that there never were.
                let made = slabs.populate_pages(pages.clone());
                AdviceOutcome::of(made).max(AdviceOutcome::of(slabs.advise(pages, advice.treatment())))
            }
            Advice::Unmergeable => AdviceOutcome::of(slabs.advise(pages, advice.treatment())),
            _ => {
                let record = slabs.record(index);
                if !record.is_advised() {
                    if !self.advised.begin() {
                        return AdviceOutcome::Refused;
                    }
                    // Before the system is told: from here on it will be undone.
                    if !record.set_advised() {
                        self.advised.end();
                    }
                }
                AdviceOutcome::of(slabs.advise(pages, advice.treatment()))
            }
        }
    }

    /// Undoes what hints left behind, for whoever has exclusive access to a slab that nobody holds any more. Its content may
    /// be gone afterwards.
    ///
    /// What the system refuses is told and left: it knows the advice, so it is short of mappings, which `ADVISED_MAX` keeps
    /// away from here.
    #[cold]
    pub(super) fn undo_advice(&self, location: SlabLocation, access: &Exclusive<'_>) {
        let (slabs, index) = self.slabs(location);
        let pages = slabs.pages_inside(index);
        if self.advised.may_merge {
            slabs.discard(index, access); // to take merged pages apart would copy each, to be zeroed then
        }
        let merged = self.advised.may_merge.then_some(Treatment::Unmergeable);
        for treatment in [Treatment::AnyOrder, slabs.treatment()].into_iter().chain(merged) {
            match slabs.advise(pages.clone(), treatment) {
                // What the system does not know was not done either.
                Err(error) if AdviceOutcome::of(Err(error)) == AdviceOutcome::Refused => {
                    let (slab_size_bytes, slab) = (slabs.bytes_of(index), index);
                    warn!(slab_size_bytes, slab, ?treatment, %error, "a hint of an earlier client was not undone");
                }
                _ => {}
            }
        }
        access.forget_advised();
        self.advised.end();
    }

    /// KiB of large blocks, and of free runs, that are resident.
    #[cfg(all(test, not(feature = "loom")))]
    pub(crate) fn large_resident_kib(&self) -> u64 {
        let (start, length) = self.large.slabs().address_range();
        super::tests::resident_kib(start..start + length)
    }

    /// Makes a slab that nobody else holds all zeros, and gives its pages back to the system, with so many writes counted.
    ///
    /// # Errors
    /// [`AccessError`] where the slab is free or others hold it; nothing was changed.
    pub(crate) fn discard(&self, location: SlabLocation, writes: Option<u64>) -> Result<(), AccessError> {
        let (slabs, index) = self.slabs(location);
        let change = slabs.change(index)?;
        change.discard();
        let writes = writes.unwrap_or_else(|| change.writes());
        change.end(writes);
        Ok(())
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
