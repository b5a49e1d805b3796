//! First uploads that broke off: what they left in the allocation's own segments is zeroed before anybody may write there
//! again. Much of it is the janitor's work; meanwhile the segments stay lent, so they read as zeros and nobody writes.

use super::Object;
use crate::pool::id::Key;
use crate::pool::local::Local;
use crate::pool::place::PlaceKind;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that are zeroed where an upload breaks off: 0.2 ms.
const AT_ONCE_BYTES: u64 = 16 << 20;

/// What such an upload left.
#[derive(Debug)]
pub(in crate::pool) struct Broken {
    /// The entry, and the key that it must still have.
    pub(in crate::pool) target: (u32, Key),
    pub(in crate::pool) lent: Arc<Object>,
    /// What was written, and is not zeroed yet.
    pub(in crate::pool) written: Range<u64>,
}

impl Broken {
    /// Zeroes a slice of it; false where nothing is left.
    fn zero_slice(&mut self) -> bool {
        let end = self.written.end.min(self.written.start + AT_ONCE_BYTES);
        let segments = self.lent.segments();
        for part in segments.parts(self.written.start..end) {
            segments.zero_part_outside(&part_of_all(segments, &part), &(0..0));
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
    /// Zeroes what an upload left, here or in the janitor's time.
    pub(super) fn clean_up(&self, broken: Broken) {
        let is_much = broken.written.end - broken.written.start > AT_ONCE_BYTES;
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
            && self.objects().look(number, |object| Arc::ptr_eq(object, &broken.lent))
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
