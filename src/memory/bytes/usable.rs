//! How address space becomes memory: slabs are made usable run by run, with their guards, before they can be held.

use super::{Slabs, Spans};
use crate::memory::guard::{Guards, Watch};
use crate::memory::layout::{Layout, RECORDS_SPREAD};
use crate::memory::os::{HUGE_PAGE_BYTES, OsError, Reservation, SideTable, Treatment, page_size};
use crate::sync::{AtomicU64, Ordering};
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tracing::warn;

/// A number for the slabs of one class: no two of this process have the same.
fn serial() -> NonZeroU64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    NonZeroU64::new(number).expect("nobody reserves memory 2^64 times")
}

/// How a class's slabs are protected, and what pages they get.
#[derive(Clone, Debug, Default)]
pub(in crate::memory) struct Protection {
    /// Slabs are looked at before they are given out.
    pub(in crate::memory) canaries: bool,
    /// How guards are made; none: there are none.
    pub(in crate::memory) guards: Option<Arc<Guards>>,
    /// Huge pages are asked for where slabs are multiples of this; none: nowhere.
    pub(in crate::memory) huge_multiple_bytes: Option<u64>,
}

impl Slabs {
    /// Reserves address space for `count` slabs of `slab_bytes`. No memory is used yet.
    pub(in crate::memory) fn reserve(
        slab_bytes: u64,
        count: u64,
        protection: &Protection,
    ) -> Result<Slabs, OsError> {
        let is_huge =
            protection.huge_multiple_bytes.is_some_and(|multiple| slab_bytes.is_multiple_of(multiple));
        let align = if is_huge { HUGE_PAGE_BYTES } else { page_size() };
        let layout = match protection.guards {
            Some(_) => Layout::guarded(slab_bytes, page_size(), align),
            None => Layout::packed(slab_bytes, page_size()),
        };
        Slabs::reserve_region(layout, count, None, is_huge, protection)
    }

    /// Reserves the region of slabs that lie by `layout`; `spans` says how long they are where they differ.
    pub(super) fn reserve_region(
        layout: Layout,
        count: u64,
        spans: Option<Spans>,
        is_huge: bool,
        protection: &Protection,
    ) -> Result<Slabs, OsError> {
        let slab_bytes = layout.slab_bytes();
        let bytes = layout.region_bytes(count);
        let region = match is_huge {
            true => Reservation::reserve_aligned(bytes, HUGE_PAGE_BYTES)?,
            false => Reservation::reserve(bytes)?,
        };
        let pages = if is_huge { Treatment::HugePages } else { Treatment::SmallPages }; // as `treatment`
        // A kernel that does not know this advice has no huge pages at all, and resident memory follows the pool.
        let _ = region.advise(0..region.len(), pages);
        if let Err(error) = region.advise(0..region.len(), Treatment::NoDump) {
            warn!(slab_size_bytes = slab_bytes, %error, "core dumps will show the content of blocks");
        }
        Ok(Slabs {
            layout,
            count,
            canaries: protection.canaries,
            is_huge,
            serial: serial(),
            _watch: layout.is_guarded().then(|| Watch::begin(&region, layout)),
            spans,
            records: SideTable::new(count.next_multiple_of(RECORDS_SPREAD))?,
            region,
            guards: protection.guards.clone().filter(|_| layout.is_guarded()),
            guards_ended: AtomicBool::new(false),
            usable_bytes: AtomicU64::new(0),
        })
    }

    /// Makes the bytes of a slab, and of all below it, usable. One caller at a time.
    ///
    /// # Errors
    /// [`OsError`] where the system grants no memory for them, or for their guards.
    pub(in crate::memory) fn commit(&self, index: u64) -> Result<(), OsError> {
        let usable = self.usable_bytes.load(Ordering::Relaxed);
        if self.layout.span(index).end > usable {
            let end = self.layout.usable_end(index).min(self.region.len());
            self.region.commit(usable..end)?;
            self.install_guards(usable..end)?;
            self.usable_bytes.store(end, Ordering::Release); // pairs with the Acquire in `claim`
        }
        Ok(())
    }

    /// Puts a guard behind each run that begins in `bytes`, none of which was ever usable.
    fn install_guards(&self, bytes: Range<u64>) -> Result<(), OsError> {
        let Some(guards) = &self.guards else { return Ok(()) };
        for (slabs_guarded, page) in self.layout.guards_in(bytes) {
            if !guards.install(&self.region, page)? {
                if !self.guards_ended.swap(true, std::sync::atomic::Ordering::Relaxed) {
                    let (slab_size_bytes, first_slab) = (self.slab_bytes(), slabs_guarded.saturating_sub(1));
                    warn!(
                        slab_size_bytes,
                        first_slab, "no more guard pages can be had: from this slab on there are none"
                    );
                }
                break;
            }
        }
        Ok(())
    }

    /// Touches the pages of committed slabs, so that their first write does not fault.
    pub(in crate::memory) fn populate(&self, slabs: Range<u64>) -> Result<(), OsError> {
        if slabs.is_empty() {
            return Ok(());
        }
        assert!(
            self.span(slabs.end - 1).end <= self.usable_bytes.load(Ordering::Relaxed),
            "slabs {slabs:?} were never committed"
        );
        let pages_of = |slabs: Range<u64>| {
            let pages = self.layout.pages_of(slabs);
            pages.start * page_size()..pages.end * page_size()
        };
        if self.layout.is_guarded() {
            // A guard cannot be touched: what lies between them, piece by piece.
            return slabs.into_iter().try_for_each(|index| self.region.populate(pages_of(index..index + 1)));
        }
        self.region.populate(pages_of(slabs))
    }

    /// Where a slab begins in the region.
    pub(in crate::memory) fn start_of(&self, index: u64) -> u64 {
        self.span(index).start
    }

    /// The whole pages of a slab, as offsets in the region; empty where it has none to itself.
    pub(in crate::memory) fn pages_inside(&self, index: u64) -> Range<u64> {
        let span = self.span(index);
        let start = span.start.next_multiple_of(page_size());
        start..(span.end / page_size() * page_size()).max(start)
    }

    /// Says how the system is to treat whole pages of a slab. For holders.
    ///
    /// # Errors
    /// As [`Reservation::advise`].
    pub(in crate::memory) fn advise(&self, pages: Range<u64>, treatment: Treatment) -> Result<(), OsError> {
        self.region.advise(pages, treatment)
    }

    /// Touches whole pages of a slab, so that later writes do not fault. For holders.
    ///
    /// # Errors
    /// [`OsError`] where the system has no pages to give, or does not know how.
    pub(in crate::memory) fn populate_pages(&self, pages: Range<u64>) -> Result<(), OsError> {
        self.region.populate(pages)
    }

    /// How the system is to treat pages of these slabs, where nobody wants anything else.
    pub(in crate::memory) fn treatment(&self) -> Treatment {
        if self.is_huge { Treatment::HugePages } else { Treatment::SmallPages }
    }

    /// Where the region lies: first address and length.
    #[cfg(all(test, not(feature = "loom")))]
    pub(in crate::memory) fn address_range(&self) -> (usize, usize) {
        let length = usize::try_from(self.region.len()).expect("the region was reserved");
        (self.region.address(&(0..0)) as usize, length)
    }

    /// Whether guards are markers of the kernel.
    #[cfg(all(test, not(feature = "loom")))]
    pub(in crate::memory) fn has_guard_markers(&self) -> bool {
        self.guards.as_ref().is_some_and(|guards| guards.are_markers())
    }
}
