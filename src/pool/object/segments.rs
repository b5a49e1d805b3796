//! A part of a large object's content: the segments that it lies in, in order, and one hold on each of them.
//!
//! ```text
//!   offset   0        4 MiB     5 MiB                9 MiB
//!            ├─────────┼─────────┼────────────────────┤
//!            segment 0  segment 1  segment 2              each whole pages, anywhere in memory
//! ```
//!
//! A segment may be held by several lists, of versions that share it. Only where there is one hold its bytes may change.

use super::Upkeep;
use crate::memory::{AccessError, Backed, Edit, SlabLocation};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Segments that are zeroed where they are freed: of 4 MiB that takes 0.06 to 0.25 ms each.
const SCRUBBED_AT_ONCE: usize = 2;

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    /// Its first byte, as an offset in the content.
    start: u64,
    location: SlabLocation,
}

/// A part of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::pool) struct Part {
    pub(in crate::pool) location: SlabLocation,
    /// Where the segment begins in the content.
    pub(in crate::pool) start: u64,
    /// What part of the content it is.
    pub(in crate::pool) range: Range<u64>,
}

impl Part {
    /// The part as a range of the segment.
    pub(in crate::pool) fn within(&self) -> Range<u64> {
        self.range.start - self.start..self.range.end - self.start
    }
}

/// See the module. Dropped, it lets go of all of them.
#[derive(Debug)]
pub(in crate::pool) struct Segments {
    upkeep: Arc<Upkeep>,
    list: Vec<Segment>,
    /// What they hold of the content, slack included.
    range: Range<u64>,
    /// Where the content ends. What lies behind it is zero.
    size_bytes: u64,
}

impl Segments {
    /// Bytes of the record of one.
    pub(super) const RECORD_BYTES: u64 = size_of::<Segment>() as u64;

    /// None, at `start` of a content of so many bytes.
    pub(super) fn none(upkeep: &Arc<Upkeep>, start: u64, size_bytes: u64) -> Segments {
        Segments { upkeep: Arc::clone(upkeep), list: Vec::new(), range: start..start, size_bytes }
    }

    /// Memory that is the caller's, from `start` on.
    pub(in crate::pool) fn of(
        upkeep: &Arc<Upkeep>,
        start: u64,
        size_bytes: u64,
        backed: impl IntoIterator<Item = Backed>,
    ) -> Segments {
        let mut segments = Segments::none(upkeep, start, size_bytes);
        for backed in backed {
            match backed {
                Backed::Slab(location) => segments.push(location),
                Backed::Run(locations) => {
                    segments.list.reserve_exact(locations.len());
                    locations.into_iter().for_each(|location| segments.push(location));
                }
            }
        }
        segments
    }

    fn push(&mut self, location: SlabLocation) {
        self.list.push(Segment { start: self.range.end, location });
        self.range.end += self.upkeep.heap.slab_bytes(location);
    }

    /// What they hold of the content, slack included.
    pub(in crate::pool) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    pub(super) fn upkeep(&self) -> &Arc<Upkeep> {
        &self.upkeep
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(in crate::pool) fn count(&self) -> u64 {
        self.list.len() as u64
    }

    fn end_of(&self, at: usize) -> u64 {
        self.list.get(at + 1).map_or(self.range.end, |next| next.start)
    }

    /// The numbers of the segments that hold bytes of `range`.
    pub(super) fn numbers(&self, range: &Range<u64>) -> Range<usize> {
        if range.is_empty() {
            return 0..0;
        }
        let first = self.list.partition_point(|segment| segment.start <= range.start).saturating_sub(1);
        first..self.list.partition_point(|segment| segment.start < range.end)
    }

    /// What the segment of that number holds of `range`.
    pub(super) fn part(&self, at: usize, range: &Range<u64>) -> Part {
        let Segment { start, location } = self.list[at];
        Part { location, start, range: range.start.max(start)..range.end.min(self.end_of(at)) }
    }

    /// `range` segment by segment.
    ///
    /// # Panics
    /// If it is not inside of what they hold.
    pub(in crate::pool) fn parts(&self, range: Range<u64>) -> impl Iterator<Item = Part> {
        let is_inside = range.is_empty() || self.range.start <= range.start && range.end <= self.range.end;
        assert!(is_inside, "{range:?} is outside of {:?}", self.range);
        self.numbers(&range).map(move |at| self.part(at, &range))
    }

    /// All of it, segment by segment.
    pub(in crate::pool) fn all(&self) -> impl Iterator<Item = Part> {
        (0..self.list.len()).map(|at| self.part(at, &self.range))
    }

    /// What the segments that hold bytes of `range` hold in all; empty for an empty range.
    pub(in crate::pool) fn span(&self, range: &Range<u64>) -> Range<u64> {
        let numbers = self.numbers(range);
        if numbers.is_empty() {
            return range.start..range.start;
        }
        self.list[numbers.start].start..self.end_of(numbers.end - 1)
    }

    /// The end of a segment, or the beginning, that is nearest to `offset` and not behind it.
    pub(super) fn border_before(&self, offset: u64) -> u64 {
        let behind = self.list.partition_point(|segment| segment.start <= offset);
        if offset >= self.range.end {
            return self.range.end;
        }
        behind.checked_sub(1).map_or(self.range.start, |at| self.list[at].start)
    }

    /// The end of a segment, or the beginning, that is nearest to `offset` and not before it.
    pub(super) fn border_after(&self, offset: u64) -> u64 {
        let at = self.list.partition_point(|segment| segment.start < offset);
        self.list.get(at).map_or(self.range.end, |segment| segment.start)
    }

    /// Lets go of all segments but those that hold bytes of `kept`, which is not empty and inside.
    pub(super) fn keep(&mut self, kept: &Range<u64>) {
        let (span, numbers) = (self.span(kept), self.numbers(kept));
        let behind = self.list.split_off(numbers.end);
        let before = self.list.drain(..numbers.start);
        let gone: Vec<_> = before.chain(behind).collect();
        self.range = span;
        self.upkeep.heap.free_all_unscrubbed(gone.iter().map(|segment| segment.location));
        self.upkeep.scrub_some();
    }

    /// Adds what begins where this ends.
    pub(super) fn append(&mut self, mut behind: Segments) {
        assert_eq!(self.range.end, behind.range.start, "segments lie side by side");
        self.range.end = behind.range.end;
        self.list.append(&mut behind.list);
    }

    /// Holds the segments of `range` once more, which begins and ends with a segment: as a part of a version that shares
    /// them.
    ///
    /// # Errors
    /// [`AccessError`] where one has as many holders as can be counted.
    pub(super) fn share(&self, range: Range<u64>) -> Result<Segments, AccessError> {
        assert_eq!(self.span(&range), range, "segments are shared whole");
        let numbers = self.numbers(&range);
        let mut shared = Segments::none(&self.upkeep, range.start, self.size_bytes);
        shared.list.reserve_exact(numbers.len());
        for part in self.parts(range) {
            self.upkeep.heap.hold(part.location)?;
            shared.list.push(Segment { start: part.start, location: part.location });
            shared.range.end = part.range.end;
        }
        Ok(shared)
    }

    /// Copies `bytes` to `offset` of the content.
    ///
    /// # Panics
    /// If they do not fit, or somebody else holds a segment that they go to.
    pub(in crate::pool) fn fill(&self, offset: u64, bytes: &[u8]) {
        for part in self.parts(offset..offset + bytes.len() as u64) {
            let at = |byte: u64| usize::try_from(byte - offset).expect("inside of a slice");
            let piece = &bytes[at(part.range.start)..at(part.range.end)];
            self.edit(&part, &Edit { offset: part.within().start, pieces: &[piece], ..Edit::default() });
        }
    }

    /// Zeroes all of it but `kept`.
    ///
    /// # Panics
    /// If somebody else holds one of the segments.
    pub(in crate::pool) fn zero_outside(&self, kept: &Range<u64>) {
        for part in self.all() {
            self.zero_part_outside(&part, kept);
        }
    }

    /// Zeroes a whole segment but for `kept`.
    pub(super) fn zero_part_outside(&self, part: &Part, kept: &Range<u64>) {
        let start = kept.start.clamp(part.range.start, part.range.end);
        let kept = start..kept.end.clamp(start, part.range.end);
        let within = Part { range: kept, ..part.clone() }.within();
        self.edit(part, &Edit { zero_outside: Some(within), ..Edit::default() });
    }

    /// Makes the segment of a part all zeros, and gives its pages back.
    ///
    /// # Panics
    /// If somebody else holds it.
    pub(super) fn discard_part(&self, part: &Part) {
        let heap = &self.upkeep.heap;
        heap.discard(part.location, None).expect("nobody else holds a segment of what was discarded");
    }

    /// Looks for what a stray write left behind the content, if they hold its end. Before one of them drains.
    pub(in crate::pool) fn check_slack(&self) {
        if let Some(last) =
            self.list.last().filter(|last| (last.start..self.range.end).contains(&self.size_bytes))
        {
            self.upkeep.heap.check_slack(last.location, self.size_bytes - last.start);
        }
    }

    fn edit(&self, part: &Part, edit: &Edit<'_>) {
        let heap = &self.upkeep.heap;
        heap.edit(part.location, edit).expect("nobody else holds a segment that is being filled");
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        if !self.list.is_empty() {
            self.upkeep.heap.free_all_unscrubbed(self.list.iter().map(|segment| segment.location));
            self.upkeep.scrub_some();
        }
    }
}

impl Upkeep {
    /// Zeroes a little of what was freed, which may be all of it, and tells the janitor of the rest. Without a janitor it is
    /// all done here.
    pub(in crate::pool) fn scrub_some(&self) {
        for _ in 0..SCRUBBED_AT_ONCE {
            if !self.heap.scrub_slice() {
                return;
            }
        }
        if self.heap.has_unscrubbed() && !self.handover.wants_scrubs() {
            while self.heap.scrub_slice() {}
        }
    }

    /// Notes that a version of so many segments began.
    pub(super) fn begin_version(&self, segments: u64) {
        self.versions.fetch_add(1, Ordering::Relaxed);
        self.segments.fetch_add(segments, Ordering::Relaxed);
    }

    /// Notes that it ended.
    pub(super) fn end_version(&self, segments: u64) {
        self.versions.fetch_sub(1, Ordering::Relaxed);
        self.segments.fetch_sub(segments, Ordering::Relaxed);
    }

    /// Bytes of records about versions.
    pub(super) fn metadata_bytes(&self) -> u64 {
        // An `Arc` counts its holders beside what it holds.
        let version = (size_of::<super::Object>() + 2 * size_of::<usize>()) as u64;
        self.versions.load(Ordering::Relaxed) * version
            + self.segments.load(Ordering::Relaxed) * Segments::RECORD_BYTES
    }
}
