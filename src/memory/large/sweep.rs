//! The sweep's part of free runs: held free pages are zeros, and what is not was written by somebody who has no right to.

use super::super::{Heap, SizeClass, SlabLocation, Violation};
use super::Taken;
use crate::memory::os::page_size;

/// What a look at free pages found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::memory) struct Looked {
    pub(in crate::memory) bytes: u64,
    /// They were damaged, and are out of use.
    pub(in crate::memory) is_retired: bool,
}

impl Heap {
    /// Looks at held free pages from `page` on, about `bytes_max` of them, and moves it behind them. None where there are
    /// no more.
    ///
    /// Pages that are damaged are retired, if there is room for that still: where all room is granted somebody is about to
    /// take them, and looks too.
    pub(in crate::memory) fn look_at_run(&self, page: &mut u64, bytes_max: u64) -> Option<Looked> {
        let slabs = &self.large.slabs;
        let mut account = self.large.lock(); // keeps everybody from taking them
        let pages = account.runs.take_held_from(*page, bytes_max.div_ceil(page_size()))?;
        *page = pages.end;
        let (index, bytes) = (pages.start, (pages.end - pages.start) * page_size());
        let access = slabs.form(pages.clone(), true);
        let is_zero = slabs.reads_zero(index, &access, 0..bytes);
        if is_zero || !self.in_use.take(bytes) {
            let pages = slabs.dissolve(index, access);
            account.runs.put_back(Taken { pages, held: true });
            return Some(Looked { bytes, is_retired: false });
        }
        access.make_retired();
        account.retired_pages += bytes / page_size();
        drop(account);
        self.note_violation(Violation::UseAfterFree, SlabLocation::new(SizeClass::RUNS, index));
        Some(Looked { bytes, is_retired: true })
    }
}
