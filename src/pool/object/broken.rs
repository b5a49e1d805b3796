//! First uploads that broke off: what they left in the allocation's own segments is zeroed before anybody may write there
//! again. Much of it is the janitor's work; meanwhile the segments stay lent, so they read as zeros and nobody writes.
//!
//! Content that is discarded goes the same way: it reads as zeros from one instant on, and its pages go back while its segments
//! are lent.
//!
//! Only the entry keeps the segments for that. Where it ends, or its content is replaced, they are let go of with it, and
//! what is written there is zeroed like that of any other block that was freed.

use super::Object;
use crate::pool::id::Key;
use crate::pool::local::Local;
use crate::pool::place::PlaceKind;
use std::ops::Range;
use std::sync::{Arc, Weak};

/// Bytes that are zeroed where an upload breaks off: 0.2 ms.
const AT_ONCE_BYTES: u64 = 16 << 20;
/// Bytes whose pages are given back where content is discarded: 4 MiB take 0.25 ms.
const GIVEN_BACK_AT_ONCE_BYTES: u64 = 8 << 20;

/// What is to be done with what is left in segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum Cleaning {
    /// It is overwritten: who wrote there writes again.
    Zero,
    /// Its pages go back to the system.
    GiveBack,
}

impl Cleaning {
    /// Bytes that are cleaned in a slice.
    fn slice_bytes(self) -> u64 {
        match self {
            Cleaning::Zero => AT_ONCE_BYTES,
            Cleaning::GiveBack => GIVEN_BACK_AT_ONCE_BYTES,
        }
    }
}

/// What such an upload left, or what was discarded.
#[derive(Debug)]
pub(in crate::pool) struct Broken {
    /// The entry, and the key that it must still have.
    target: (u32, Key),
    lent: Weak<Object>,
    /// What was written, and is not zeroed yet.
    written: Range<u64>,
    cleaning: Cleaning,
}

impl Broken {
    /// Whether there is anything left that would have to be zeroed for its allocation.
    pub(in crate::pool) fn is_wanted(&self) -> bool {
        self.lent.strong_count() > 0
    }

    /// Zeroes a slice of it; false where nothing is left, or nobody wants it any more.
    fn zero_slice(&mut self) -> bool {
        // Kept for one slice: where the allocation ends meanwhile the segments are freed at the end of that.
        let Some(lent) = self.lent.upgrade() else { return false };
        let end = self.written.end.min(self.written.start + self.cleaning.slice_bytes());
        let segments = lent.segments();
        for part in segments.parts(self.written.start..end) {
            match self.cleaning {
                Cleaning::Zero => segments.zero_part_outside(&part_of_all(segments, &part), &(0..0)),
                Cleaning::GiveBack => segments.discard_part(&part),
            }
        }
        self.written.start = end;
        !self.written.is_empty()
    }
}

/// All of the segment that a part is of.
fn part_of_all(segments: &super::Segments, part: &super::segments::Part) -> super::segments::Part {
    let range = segments.span(&part.range);
    super::segments::Part { range, ..part.clone() }
}

impl Local {
    /// Zeroes what an upload into segments that were lent by its target left, or gives back the pages of what was discarded,
    /// here or in the janitor's time.
    pub(super) fn clean_up(
        &self,
        target: (u32, Key),
        lent: Arc<Object>,
        written: Range<u64>,
        cleaning: Cleaning,
    ) {
        let is_much = written.end - written.start > cleaning.slice_bytes();
        let broken = Broken { target, lent: Arc::downgrade(&lent), written, cleaning };
        drop(lent); // which frees the segments, where they are the allocation's no more
        let left = if is_much { self.handover().enter_broken(broken) } else { Some(broken) };
        if let Some(mut broken) = left {
            while broken.zero_slice() {}
            self.end_lending(&broken);
        }
    }

    /// Zeroes a slice of what uploads left; false if there is nothing.
    pub(in crate::pool) fn clean_slice(&self) -> bool {
        let Some(mut broken) = self.handover().take_broken() else { return false };
        if broken.zero_slice() {
            self.handover().put_broken_back(broken);
        } else {
            self.end_lending(&broken);
        }
        true
    }

    /// The segments are the allocation's again, if it is still there, and this its content.
    fn end_lending(&self, broken: &Broken) {
        let (index, key) = broken.target;
        let entry = self.table().used(index).lock();
        if let Some(record) = entry.read().filter(|record| record.key == key)
            && let PlaceKind::Object(number) = record.place.kind()
            && entry.is_lent()
            && self.objects().look(number, |object| {
                let is_this = std::ptr::eq(Arc::as_ptr(object), broken.lent.as_ptr());
                if is_this {
                    object.set_blank(false); // its segments are zeros by now
                }
                is_this
            })
        {
            entry.set_lent(false);
        }
        drop(entry);
        self.room_freed(); // a write may wait for just this upload
    }
}

/// Whether a heap holds nothing of what was written.
#[cfg(all(test, not(feature = "loom")))]
pub(super) fn is_clean(heap: &crate::memory::Heap, object: &Object) -> bool {
    object.segments().all().all(|part| !heap.is_written(part.location))
}
