//! Freed at once, zeroed later: segments that leave what is in use before they are zeroed, one by one or very many together.

use super::super::bytes::OwnedSlab;
use super::super::segment::Exclusive;
use super::super::{Heap, SizeClass, SlabLocation};
use super::{SEGMENT_BYTES_MAX, SLICE_SEGMENTS_MAX};
use crate::memory::os::page_size;
use std::sync::atomic::Ordering;

impl Heap {
    /// As [`Heap::free`], but what the last holder would have to zero is zeroed later, by [`Heap::scrub_slice`]: it is no
    /// longer in use from here on. For whoever frees more than it may take the time for.
    pub(crate) fn free_unscrubbed(&self, location: SlabLocation) {
        let (slabs, index) = self.slabs(location);
        match slabs.record(index).release() {
            Some(access)
                if location.is_run()
                    && (access.dirty() != 0 || access.is_advised())
                    && !access.is_damaged() =>
            {
                self.scrub_later(index, access);
            }
            Some(access) => self.free_past_magazine(location, access),
            None => self.tell_room_freed(),
        }
    }

    /// As [`Heap::free_unscrubbed`], of many. Of more than a slice of work their pages are joined with their neighbours
    /// later too, and their room is free in one step, which is told once.
    pub(crate) fn free_all_unscrubbed(&self, locations: impl ExactSizeIterator<Item = SlabLocation>) {
        if locations.len() <= SLICE_SEGMENTS_MAX {
            return locations.for_each(|location| self.free_unscrubbed(location));
        }
        let (mut locations, mut bytes) = (locations, 0);
        while locations.len() > 0 {
            let part: Vec<_> = locations.by_ref().take(SLICE_SEGMENTS_MAX).collect();
            bytes += self.free_part_unscrubbed(&part);
        }
        self.ungrant(bytes);
        self.scarce.wake();
        self.tell_room_freed();
    }

    /// Puts segments where they wait to be zeroed; returns their bytes, which are granted still.
    fn free_part_unscrubbed(&self, locations: &[SlabLocation]) -> u64 {
        let slabs = &self.large.slabs;
        let mut released = Vec::with_capacity(locations.len());
        let (mut bytes, mut drained_bytes) = (0, 0);
        for location in locations {
            let (_, index) = self.slabs(*location);
            match slabs.record(index).release() {
                Some(access) if access.is_damaged() => self.free_past_magazine(*location, access),
                Some(access) => {
                    let segment_bytes = slabs.bytes_of(index);
                    bytes += segment_bytes;
                    drained_bytes += if access.was_draining() { segment_bytes } else { 0 };
                    released.push((index..index + segment_bytes / page_size(), access));
                }
                None => {} // the caller tells
            }
        }
        self.draining_bytes.fetch_sub(drained_bytes, Ordering::Relaxed);
        let mut account = self.large.lock();
        for (pages, access) in released {
            access.stay_closed_written();
            account.end_segment(&pages);
            account.scrubbing_pages += pages.end - pages.start;
            account.unscrubbed.push_back(pages.start);
        }
        bytes
    }

    /// As [`Heap::free_owned`], of all of a slab or a segment, but a segment is zeroed later, as by
    /// [`Heap::free_unscrubbed`].
    pub(crate) fn free_owned_unscrubbed(&self, class: SizeClass, slab: OwnedSlab) {
        let index = slab.index();
        let is_later = self.zeroes_on_free
            && SlabLocation::new(class, index).is_run()
            && self.large.slabs.record(index).dirty() != 0;
        if is_later {
            self.scrub_later(index, self.large.slabs.disown(slab));
        } else {
            let bytes = self.owned_len(class, &slab);
            self.free_owned(class, slab, bytes);
        }
    }

    fn scrub_later(&self, index: u64, access: Exclusive<'_>) {
        self.leave_use(index, &access);
        access.stay_closed_written();
        self.large.lock().unscrubbed.push_back(index);
        self.scarce.wake();
        self.tell_room_freed();
    }

    /// Zeroes what was freed without: one segment, or as many small ones as a slice of work is. False where there is none.
    pub(crate) fn scrub_slice(&self) -> bool {
        let slabs = &self.large.slabs;
        let mut taken = Vec::new();
        {
            let (mut account, mut dirty_bytes) = (self.large.lock(), 0);
            while let Some(&index) = account.unscrubbed.front() {
                let record = slabs.record(index);
                let is_dirty = record.dirty() != 0 || record.is_advised(); // as much work, or less
                dirty_bytes += if is_dirty { slabs.bytes_of(index) } else { 0 };
                let is_more = taken.len() == SLICE_SEGMENTS_MAX || dirty_bytes > SEGMENT_BYTES_MAX;
                if is_more && !taken.is_empty() {
                    break;
                }
                account.unscrubbed.pop_front();
                taken.push(index);
            }
        }
        if taken.is_empty() {
            return false;
        }
        let zero = |index: &u64| {
            let access = slabs.record(*index).reopen();
            if access.is_advised() {
                self.undo_advice(SlabLocation::new(SizeClass::RUNS, *index), &access);
            }
            if access.dirty() != 0 {
                slabs.scrub(*index, &access);
            }
            slabs.dissolve(*index, access)
        };
        let zeroed: Vec<_> = taken.iter().map(zero).collect();
        let mut account = self.large.lock();
        for pages in zeroed {
            account.scrubbing_pages -= pages.end - pages.start;
            account.runs.free(pages);
        }
        drop(account);
        self.scarce.wake();
        true
    }

    /// Whether [`Heap::scrub_slice`] has something to do.
    pub(crate) fn has_unscrubbed(&self) -> bool {
        self.unscrubbed() > 0
    }

    /// Segments that wait to be zeroed.
    pub(in crate::memory) fn unscrubbed(&self) -> usize {
        self.large.lock().unscrubbed.len()
    }
}
