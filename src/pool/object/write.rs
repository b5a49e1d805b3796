//! Small writes to a large object: in place, where nobody sees the bytes change, and they are few.

use super::Object;
use crate::pool::content::Placement;
use std::ops::Range;
use std::sync::Arc;

/// Segments beside those that the body goes to which are zeroed under the entry's lock.
const ZEROED_MAX: usize = 1;

impl Object {
    /// Writes a body that ends inside of the content. False, and nothing changed, where somebody else has this version, or
    /// one of the segments that would change, or a replacement would have to zero more than is right under a lock. The caller
    /// has the entry's lock, and its first upload is not under way: so nobody comes by this version, or its segments,
    /// meanwhile.
    pub(in crate::pool) fn write_in_place(
        version: &Arc<Object>,
        placement: Placement,
        pieces: &[&[u8]],
    ) -> bool {
        if Arc::strong_count(version) > 1 {
            return false;
        }
        let segments = version.segments();
        let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let range = placement.offset()..placement.offset() + length;
        let changed = segments.numbers(&range);
        if changed.clone().any(|at| version.is_shared(at)) {
            return false;
        }
        if placement == Placement::Replace {
            let Some(zeroed) = version.written_outside(&changed) else { return false };
            for at in changed.clone().chain(zeroed) {
                segments.zero_part_outside(&segments.part(at, &segments.range()), &range);
            }
        }
        let mut offset = range.start;
        for piece in pieces {
            segments.fill(offset, piece);
            offset += piece.len() as u64;
        }
        version.set_writes(version.writes() + 1);
        true
    }

    /// Whether anybody has this version, or a segment of it, beside the entry that names it. The caller has its lock.
    pub(super) fn has_other_users(version: &Arc<Object>) -> bool {
        let segments = version.segments();
        let heap = &segments.upkeep().heap;
        Arc::strong_count(version) > 1 || segments.all().any(|part| heap.has_other_holders(part.location))
    }

    /// Whether another version has the segment of that number too.
    fn is_shared(&self, at: usize) -> bool {
        let segments = self.segments();
        let part = segments.part(at, &segments.range());
        segments.upkeep().heap.has_other_holders(part.location)
    }

    /// The segments that were written, except for those of these numbers; none where there are more than may be zeroed, or
    /// another version has one too.
    fn written_outside(&self, except: &Range<usize>) -> Option<Vec<usize>> {
        let segments = self.segments();
        let heap = &segments.upkeep().heap;
        let written = segments.all().enumerate().filter(|(_, part)| heap.is_written(part.location));
        let zeroed: Vec<_> =
            written.map(|(at, _)| at).filter(|at| !except.contains(at)).take(ZEROED_MAX + 1).collect();
        let is_right = zeroed.len() <= ZEROED_MAX && !zeroed.iter().any(|at| self.is_shared(*at));
        is_right.then_some(zeroed)
    }
}
