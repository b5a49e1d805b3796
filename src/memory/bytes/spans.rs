//! Slabs of any length: pages become a slab, and free pages again. Each is named by its first page.
//!
//! That no two slabs have a page in common is held here, by a bit for each page: whoever forms a slab raises the bits of
//! its pages, all of which were down, and whoever dissolves it lowers them. So what makes lending sound does not depend on
//! who decides which pages go where (`runs.rs`).

use super::{Protection, Slabs};
use crate::memory::layout::Layout;
use crate::memory::os::{OsError, SideTable, page_size};
use crate::memory::segment::Exclusive;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use std::ops::Range;

/// Pages that one word of bits stands for.
const WORD_PAGES: u64 = u64::BITS as u64;

/// How long slabs are, and which pages have one. Both cost memory only where there ever was a slab.
#[derive(Debug)]
pub(super) struct Spans {
    /// Pages of the slab that begins at a page; 0: none does. Written while the slab's record is exclusive.
    lengths: SideTable<AtomicU32>,
    /// A bit for each page that is part of a slab.
    taken: SideTable<AtomicU64>,
}

impl Spans {
    fn new(pages: u64) -> Result<Spans, OsError> {
        Ok(Spans { lengths: SideTable::new(pages)?, taken: SideTable::new(pages.div_ceil(WORD_PAGES))? })
    }

    #[inline]
    pub(super) fn bytes_of(&self, page: u64) -> u64 {
        // Relaxed: a holder came by the record, after the one who formed the slab.
        u64::from(self.lengths.get(page).load(Ordering::Relaxed)) * page_size()
    }

    #[inline]
    pub(super) fn span(&self, page: u64) -> Range<u64> {
        let start = page * page_size();
        start..start + self.bytes_of(page)
    }

    /// The words of a range of pages, each with its bits.
    fn words(&self, pages: &Range<u64>) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let Range { start, end } = *pages;
        (start / WORD_PAGES..end.div_ceil(WORD_PAGES)).map(move |word| {
            let first = start.max(word * WORD_PAGES) - word * WORD_PAGES;
            let bits = end.min((word + 1) * WORD_PAGES) - word * WORD_PAGES - first;
            (self.taken.get(word), u64::MAX >> (WORD_PAGES - bits) << first)
        })
    }

    /// The pages are part of a slab.
    ///
    /// # Panics
    /// If one of them is already.
    pub(super) fn raise(&self, pages: &Range<u64>) {
        for (word, bits) in self.words(pages) {
            // Acquire pairs with the Release in `lower`: what was done with the pages before is over.
            let before = word.fetch_or(bits, Ordering::Acquire);
            assert_eq!(before & bits, 0, "pages {pages:?} are part of another slab");
        }
    }

    /// The pages are part of no slab any more.
    pub(super) fn lower(&self, pages: &Range<u64>) {
        for (word, bits) in self.words(pages) {
            word.fetch_and(!bits, Ordering::Release);
        }
    }
}

impl Slabs {
    /// Reserves address space for slabs of whole pages, `pages` in all. No memory is used yet, and there is no slab.
    pub(in crate::memory) fn reserve_spans(pages: u64, protection: &Protection) -> Result<Slabs, OsError> {
        let layout = Layout::packed(page_size(), page_size());
        let is_huge = protection.huge_multiple_bytes.is_some();
        Slabs::reserve_region(layout, pages, Some(Spans::new(pages)?), is_huge, protection)
    }

    pub(super) fn spans(&self) -> &Spans {
        self.spans.as_ref().expect("slabs of one size are not formed")
    }

    /// Pages from the first to the highest that ever was committed.
    pub(in crate::memory) fn usable_pages(&self) -> u64 {
        self.usable_bytes.load(Ordering::Relaxed) / page_size()
    }

    /// Makes a slab of pages that are part of none, which read as zeros: exclusive access to it. `were_held` says that the
    /// pages may be there, so that a look at them costs no fault.
    ///
    /// # Panics
    /// If one of the pages is part of another slab, or was never committed.
    pub(in crate::memory) fn form(&self, pages: Range<u64>, were_held: bool) -> Exclusive<'_> {
        let length = u32::try_from(pages.end - pages.start).expect("no machine has 16 TiB in one piece");
        let usable = self.usable_bytes.load(Ordering::Acquire); // pairs with the Release in `commit`
        assert!(length > 0 && pages.end * page_size() <= usable, "pages {pages:?} were never committed");
        self.spans().raise(&pages);
        let access = self.record(pages.start).close_free().expect("pages that are part of no slab");
        self.spans().lengths.get(pages.start).store(length, Ordering::Relaxed); // published by the record
        if were_held {
            access.note_written();
        }
        access
    }

    /// A slab is no more; returns its pages. Its bytes are all zero.
    ///
    /// # Panics
    /// If the access is to another slab.
    pub(in crate::memory) fn dissolve(&self, index: u64, access: Exclusive<'_>) -> Range<u64> {
        assert!(access.is_for(self.record(index)), "slab {index} was to end with access to another");
        let pages = index..index + self.bytes_of(index) / page_size();
        self.spans().lengths.get(index).store(0, Ordering::Relaxed);
        access.forget_written();
        access.make_free();
        self.spans().lower(&pages);
        pages
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use loom::{cell::UnsafeCell, sync::Arc, thread};

    /// What was done with pages is over, for whoever makes a slab of them next, even if no lock stands between.
    #[test]
    fn loom_pages_are_handed_on_by_their_bits_alone() {
        crate::sync::model(|| {
            let spans = Arc::new((Spans::new(8).expect("an array"), UnsafeCell::new(0)));
            spans.0.raise(&(0..4));
            let other = {
                let spans = Arc::clone(&spans);
                thread::spawn(move || {
                    // The pages are ours until their bits are lowered: the model fails where both may be here at once.
                    spans.1.with_mut(|_| ());
                    spans.0.lower(&(0..4));
                })
            };
            if spans.0.taken.get(0).load(Ordering::Relaxed) == 0 {
                spans.0.raise(&(2..3));
                spans.1.with_mut(|_| ());
            }
            other.join().expect("no panic");
        });
    }
}
