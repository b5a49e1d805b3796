//! The bytes of one arena: chunks behind each other, given out from the beginning to the end.
//!
//! ```text
//!   place      0            4096                    12288
//!   chunks     [            ][                        ][   …
//!   given out  ─member─member──member──────▶ next
//! ```
//!
//! A place counts through all chunks as if they were one piece: a member may begin in one and end in the next, so no
//! chunk is left with a rest, and it never matters how large the pieces are that the heap has.
//!
//! Chunks are plain memory of one owner, the arena. Everything here is under its family's lock.

use crate::memory::{Heap, OwnedSlab, SizeClass, SlabLocation};
use crate::pool::local::Local;
use std::ops::Range;

/// Places are multiples of this, and so is what a member takes.
pub(super) const ALIGN_BYTES: u64 = 16;

/// A piece of memory on its way into an arena, in it, or on its way back.
#[derive(Debug)]
#[must_use = "a chunk is given back by `free`"]
pub(in crate::pool) struct Chunk {
    class: SizeClass,
    slab: OwnedSlab,
    bytes: u64,
    /// The place where it begins.
    start: u64,
    /// Bytes from its beginning on that may have been written.
    written_bytes: u64,
    /// Members of an arena that was committed which keep it.
    keepers: u32,
}

impl Chunk {
    /// Of a segment that the caller alone holds.
    pub(super) fn new(heap: &Heap, segment: SlabLocation) -> Chunk {
        let (class, slab) = (segment.class(), heap.own(segment));
        let bytes = heap.owned_len(class, &slab);
        Chunk { class, slab, bytes, start: 0, written_bytes: 0, keepers: 0 }
    }

    /// What it takes of the pool.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives it back to the heap. What was written there may still have to be zeroed.
    fn free(self, heap: &Heap) {
        heap.free_owned_unscrubbed(self.class, self.slab);
    }

    fn end(&self) -> u64 {
        self.start + self.bytes
    }

    /// The part of a range of places that lies in it, as a range of its own bytes.
    fn part(&self, range: &Range<u64>) -> Range<u64> {
        range.start.max(self.start) - self.start..range.end.min(self.end()) - self.start
    }
}

impl Local {
    /// Gives chunks back.
    pub(super) fn free_chunks(&self, chunks: Vec<Chunk>) {
        if chunks.is_empty() {
            return;
        }
        chunks.into_iter().for_each(|chunk| chunk.free(self.heap()));
        self.objects().upkeep().scrub_some();
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// By place.
    chunks: Vec<Chunk>,
    /// Where the last chunk ends.
    end: u64,
    /// Where the next member begins.
    next: u64,
}

impl Space {
    /// Bytes that can be given out without another chunk.
    pub(super) fn free_bytes(&self) -> u64 {
        self.end - self.next
    }

    /// Number of chunks that it has room for without another allocation of Rust's own allocator.
    pub(super) fn chunks_capacity(&self) -> usize {
        self.chunks.capacity()
    }

    /// Adds a chunk behind the last.
    pub(super) fn add(&mut self, mut chunk: Chunk) {
        chunk.start = self.end;
        self.end = chunk.end();
        self.chunks.push(chunk);
    }

    /// Gives out so many bytes, which are free, and says where they begin.
    pub(super) fn take(&mut self, bytes: u64) -> u64 {
        assert!(bytes <= self.free_bytes(), "{bytes} bytes taken of {}", self.free_bytes());
        let place = self.next;
        self.next += bytes;
        place
    }

    /// The chunks that a range of places lies in.
    fn chunks_of(&mut self, range: &Range<u64>) -> &mut [Chunk] {
        let first = self.chunks.partition_point(|chunk| chunk.end() <= range.start);
        let end = self.chunks.partition_point(|chunk| chunk.start < range.end);
        &mut self.chunks[first..end.max(first)]
    }

    /// Copies out what lies at a range of places.
    pub(super) fn read(&mut self, heap: &Heap, range: Range<u64>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(in_memory(range.end - range.start));
        for chunk in self.chunks_of(&range) {
            let part = chunk.part(&range);
            let all = heap.owned_bytes(chunk.class, &chunk.slab);
            bytes.extend_from_slice(&all[in_memory(part.start)..in_memory(part.end)]);
        }
        bytes
    }

    /// Copies bytes to a place.
    pub(super) fn write(&mut self, heap: &Heap, place: u64, mut bytes: &[u8]) {
        let range = place..place + bytes.len() as u64;
        for chunk in self.chunks_of(&range) {
            let part = chunk.part(&range);
            let (now, later) = bytes.split_at(in_memory(part.end - part.start));
            chunk.written_bytes = chunk.written_bytes.max(part.end);
            heap.owned_bytes_mut(chunk.class, &mut chunk.slab, part).copy_from_slice(now);
            bytes = later;
        }
        debug_assert!(bytes.is_empty(), "a member lies in chunks");
    }

    /// Zeroes what was written at a range of places.
    pub(super) fn zero(&mut self, heap: &Heap, range: Range<u64>) {
        for chunk in self.chunks_of(&range) {
            let part = chunk.part(&range);
            let written = part.start..part.end.min(chunk.written_bytes).max(part.start);
            heap.owned_bytes_mut(chunk.class, &mut chunk.slab, written).fill(0);
        }
    }

    /// Begins anew with the first chunk, all of which is zeros again, and gives out the others.
    pub(super) fn reset(&mut self, heap: &Heap) -> Vec<Chunk> {
        let others = if self.chunks.is_empty() { Vec::new() } else { self.chunks.split_off(1) };
        self.next = 0;
        self.end = self.chunks.first().map_or(0, Chunk::end);
        self.zero(heap, 0..self.end);
        self.chunks.iter_mut().for_each(|chunk| chunk.written_bytes = 0);
        others
    }

    /// Members, in the order of their places, keep the chunks that they lie in.
    pub(super) fn keep(&mut self, ranges: impl Iterator<Item = Range<u64>>) {
        let mut first = 0;
        for range in ranges {
            while self.chunks[first].end() <= range.start {
                first += 1;
            }
            let its_own = self.chunks[first..].iter_mut().take_while(|chunk| chunk.start < range.end);
            its_own.for_each(|chunk| chunk.keepers += 1);
        }
    }

    /// What lies between these ranges, which are in order, in the chunks that are there, as far as it may have been written:
    /// in pieces that lie in one chunk each.
    pub(super) fn gaps(&self, kept: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
        let (mut gaps, mut first, mut from) = (Vec::new(), 0, 0);
        let mut add = |gap: Range<u64>, first: &mut usize| {
            while *first < self.chunks.len() && self.chunks[*first].start < gap.end {
                let chunk = &self.chunks[*first];
                let part = gap.start.max(chunk.start)..gap.end.min(chunk.start + chunk.written_bytes);
                gaps.extend((part.start < part.end).then_some(part));
                if chunk.end() > gap.end {
                    break; // what follows may lie in it too
                }
                *first += 1;
            }
        };
        for range in kept {
            if from < range.start {
                add(from..range.start, &mut first);
            }
            from = range.end;
        }
        add(from..self.next.max(from), &mut first);
        gaps
    }

    /// A member that kept them ends.
    pub(super) fn end_keeping(&mut self, range: &Range<u64>) {
        self.chunks_of(range).iter_mut().for_each(|chunk| chunk.keepers -= 1);
    }

    /// Takes out the chunks that nobody keeps.
    pub(super) fn take_unkept(&mut self) -> Vec<Chunk> {
        self.chunks.extract_if(.., |chunk| chunk.keepers == 0).collect()
    }
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what lies in memory has a length that fits")
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::memory::Config;

    fn chunk_bytes(space: &Space) -> u64 {
        space.chunks.iter().map(Chunk::bytes).sum()
    }

    fn heap() -> Heap {
        let config = Config { slab_sizes: vec![1024, 4096], max_pool_size: 1 << 20, ..Config::default() };
        Heap::new(&config).expect("the configuration is right")
    }

    fn chunk(heap: &Heap, bytes: u64) -> Chunk {
        let (class, _) = heap.class_for(bytes).expect("a class");
        Chunk::new(heap, heap.allocate(class).expect("there is room"))
    }

    #[test]
    fn members_lie_across_the_ends_of_chunks_and_read_what_was_written() {
        let heap = heap();
        let mut space = Space::default();
        [1024, 4096, 1024].into_iter().for_each(|bytes| space.add(chunk(&heap, bytes)));
        assert_eq!((space.free_bytes(), chunk_bytes(&space)), (6144, 6144));
        let (first, second) = (space.take(1008), space.take(5120));
        assert_eq!((first, second, space.free_bytes()), (0, 1008, 16));
        let content: Vec<u8> = (0..5120_u32).map(|at| at.to_le_bytes()[0] | 1).collect();
        space.write(&heap, second, &content);
        assert_eq!(space.read(&heap, second..second + 5120), content);
        assert_eq!(space.read(&heap, 0..1008), vec![0; 1008]);
        space.zero(&heap, second..second + 2000);
        assert_eq!(space.read(&heap, second..second + 2000), vec![0; 2000]);
        assert_eq!(space.read(&heap, second + 2000..second + 5120), content[2000..]);
        let others = space.reset(&heap);
        assert_eq!((others.len(), space.free_bytes(), space.take(1024)), (2, 1024, 0));
        assert_eq!(space.read(&heap, 0..1024), vec![0; 1024]);
        others.into_iter().chain(space.take_unkept()).for_each(|chunk| chunk.free(&heap));
        assert_eq!(heap.in_use_bytes(), 0);
        heap.check();
    }

    #[test]
    fn what_lies_between_what_is_kept_is_told_chunk_by_chunk_as_far_as_it_was_written() {
        let heap = heap();
        let mut space = Space::default();
        (0..4).for_each(|_| space.add(chunk(&heap, 1024)));
        space.take(4096);
        space.write(&heap, 0, &[9; 3000]);
        let gaps = |space: &Space, kept: &[Range<u64>]| space.gaps(kept.iter().cloned());
        assert_eq!(gaps(&space, &[]), [0..1024, 1024..2048, 2048..3000]);
        assert_eq!(gaps(&space, &[0..16, 32..64, 1000..1500]), [16..32, 64..1000, 1500..2048, 2048..3000]);
        assert_eq!(gaps(&space, &[16..1024, 2048..2064]), [0..16, 1024..2048, 2064..3000]);
        // Of two chunks that are gone nothing is left to do.
        space.keep([0..16, 3072..4096].into_iter());
        space.take_unkept().into_iter().for_each(|chunk| chunk.free(&heap));
        assert_eq!(gaps(&space, &[0..16, 4000..4096]).as_slice(), std::slice::from_ref(&(16..1024)));
        for gap in gaps(&space, &[0..16, 4000..4096]) {
            space.zero(&heap, gap);
        }
        let left: Vec<u8> = [9; 16].into_iter().chain([0; 1008]).collect();
        assert_eq!(space.read(&heap, 0..1024), left);
        space.chunks.drain(..).for_each(|chunk| chunk.free(&heap));
    }

    #[test]
    fn a_chunk_stays_until_the_last_that_keeps_it_ends_and_places_stay_where_they_are() {
        let heap = heap();
        let mut space = Space::default();
        (0..3).for_each(|_| space.add(chunk(&heap, 1024)));
        let [low, across, high] = [space.take(16), space.take(2000), space.take(1000)];
        space.write(&heap, high, &[9; 1000]);
        space.keep([across..across + 2000, high..high + 1000].into_iter());
        assert_eq!((low, space.take_unkept().len()), (0, 0));
        space.end_keeping(&(across..across + 2000));
        let unkept = space.take_unkept();
        assert_eq!((unkept.len(), chunk_bytes(&space)), (1, 2048));
        assert_eq!(space.read(&heap, high..high + 1000), vec![9; 1000]);
        space.end_keeping(&(high..high + 1000));
        unkept.into_iter().chain(space.take_unkept()).for_each(|chunk| chunk.free(&heap));
        assert_eq!(heap.in_use_bytes(), 0);
    }
}
