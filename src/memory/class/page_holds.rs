//! Which pages of a class may be resident: each is held by the slabs on it that are held.

use super::Account;
use crate::memory::os::page_size;
use std::ops::Range;
use std::sync::atomic::Ordering;

impl Account {
    /// Adds to the holds of a page whose slabs are counted; returns how many there are now.
    pub(super) fn add_page_holds(&self, page: u64, holds: i16) -> u16 {
        let counter = self.page_holds.as_ref().expect("only pages that slabs share are counted").get(page);
        let now = counter.load(Ordering::Relaxed).checked_add_signed(holds).expect("each hold ends once");
        counter.store(now, Ordering::Relaxed); // under the class's lock
        now
    }

    /// Counts a newly held slab on its pages.
    pub(super) fn hold_pages(&mut self, index: u64) {
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
    pub(super) fn release_pages(&mut self, slabs: Range<u64>) -> Range<u64> {
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
    pub(super) fn retake_pages(&mut self, slabs: Range<u64>) {
        slabs.for_each(|index| self.hold_pages(index));
    }
}
