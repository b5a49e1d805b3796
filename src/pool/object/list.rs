//! The list of objects: number → version. Grows by chunks that never move.
//!
//! A number is looked up under the lock of the entry that names it, and given back after the entry names another, or
//! none; so who looks up finds what the entry meant.

use super::segments::Part;
use super::{Object, Reading, Segments, Upkeep};
use crate::memory::{Backed, Heap, page_size};
use crate::pool::content::Placement;
use crate::pool::handover::Handover;
use crate::pool::place::{ObjectNumber, Place};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Slots in a chunk.
const CHUNK_SLOTS: u32 = 1024;
/// Versions beside those that entries name: each thread has one at most on its way into an entry, or out of it.
const UNDER_WAY_MAX: u32 = 1 << 14;
/// End of the list of free slots.
const NO_SLOT: u32 = u32::MAX;

/// What a number stands for.
#[derive(Debug)]
enum Slot {
    /// Nothing; the next free slot.
    Free(u32),
    Taken(Arc<Object>),
}

type Chunk = Box<[Mutex<Slot>]>;

/// Slots that are free.
#[derive(Debug)]
struct FreeSlots {
    /// The first that was used before.
    first: u32,
    /// From here on none ever was.
    fresh: u32,
}

/// Numbers of large objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectStats {
    /// Live large objects.
    pub objects: u64,
    /// Their actual bytes.
    pub bytes: u64,
    /// Segments that they lie in.
    pub segments: u64,
}

/// See the module.
#[derive(Debug)]
pub(in crate::pool) struct Objects {
    upkeep: Arc<Upkeep>,
    chunks: Box<[OnceLock<Chunk>]>,
    free: Mutex<FreeSlots>,
    count: AtomicU64,
    bytes: AtomicU64,
    segments: AtomicU64,
}

impl Objects {
    /// For so many allocations at most.
    pub(in crate::pool) fn new(heap: &Arc<Heap>, handover: &Arc<Handover>, allocations_max: u32) -> Objects {
        let upkeep = Upkeep {
            heap: Arc::clone(heap),
            handover: Arc::clone(handover),
            versions: AtomicU64::new(0),
            segments: AtomicU64::new(0),
        };
        let slots = allocations_max.saturating_add(UNDER_WAY_MAX);
        Objects {
            upkeep: Arc::new(upkeep),
            chunks: (0..slots.div_ceil(CHUNK_SLOTS)).map(|_| OnceLock::new()).collect(),
            free: Mutex::new(FreeSlots { first: NO_SLOT, fresh: 0 }),
            count: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            segments: AtomicU64::new(0),
        }
    }

    pub(in crate::pool) fn upkeep(&self) -> &Arc<Upkeep> {
        &self.upkeep
    }

    fn slot(&self, number: ObjectNumber) -> &Mutex<Slot> {
        let (chunk, at) = (number.index() / CHUNK_SLOTS, number.index() % CHUNK_SLOTS);
        let chunk = self.chunks[chunk as usize].get().expect("the number came from this list");
        &chunk[at as usize]
    }

    /// Where a block with this memory lies, with so many writes counted; an object is entered for a run.
    pub(in crate::pool) fn place(&self, backed: Backed, size_bytes: u64, writes: u64) -> Place {
        match backed {
            Backed::Slab(location) => Place::of_slab(location),
            run @ Backed::Run(_) => self.enter(Segments::of(&self.upkeep, 0, size_bytes, [run]), writes),
        }
    }

    /// Where a block with these segments lies.
    pub(in crate::pool) fn enter(&self, segments: Segments, writes: u64) -> Place {
        Place::of_object(self.insert(Arc::new(Object::new(segments, writes))))
    }

    /// A number for a version.
    pub(super) fn insert(&self, object: Arc<Object>) -> ObjectNumber {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(object.segments().range().end, Ordering::Relaxed);
        self.segments.fetch_add(object.segments().count(), Ordering::Relaxed);
        let mut free = self.free.lock();
        let number = if free.first == NO_SLOT { free.fresh } else { free.first };
        let chunk = self.chunks.get((number / CHUNK_SLOTS) as usize);
        let chunk = chunk.expect("an object for each allocation, and for each thread that replaces one");
        chunk.get_or_init(|| (0..CHUNK_SLOTS).map(|_| Mutex::new(Slot::Free(NO_SLOT))).collect());
        let number = ObjectNumber::new(number);
        match std::mem::replace(&mut *self.slot(number).lock(), Slot::Taken(object)) {
            Slot::Free(_) if free.first == NO_SLOT => free.fresh += 1,
            Slot::Free(next) => free.first = next,
            Slot::Taken(_) => unreachable!("the slot was free"),
        }
        number
    }

    /// Looks at a version, under the lock of the entry that names it.
    pub(super) fn look<T>(&self, number: ObjectNumber, look: impl FnOnce(&Arc<Object>) -> T) -> T {
        match &*self.slot(number).lock() {
            Slot::Taken(object) => look(object),
            Slot::Free(_) => unreachable!("an entry names an object that there is"),
        }
    }

    /// Writes counted on a version, under the lock of the entry that names it.
    pub(in crate::pool) fn writes(&self, number: ObjectNumber) -> u64 {
        self.look(number, |object| object.writes())
    }

    /// How many writes a version is of, and a read of it, under the lock of the entry that names it: nothing to read of one
    /// that is zeros. None where it has as many readers as can be counted.
    pub(in crate::pool) fn read(&self, number: ObjectNumber) -> Option<(u64, Option<Reading>)> {
        self.look(number, |object| match object.reads_zero() {
            true => Some((object.writes(), None)),
            false => Reading::new(object).map(|reading| (object.writes(), Some(reading))),
        })
    }

    /// Whether anybody has a version, or a segment of it, beside the entry that names it, which is locked.
    pub(in crate::pool) fn is_shared(&self, number: ObjectNumber) -> bool {
        self.look(number, Object::has_other_users)
    }

    /// As [`Object::write_in_place`], under the lock of the entry that names it.
    pub(in crate::pool) fn write_in_place(
        &self,
        number: ObjectNumber,
        placement: Placement,
        pieces: &[&[u8]],
    ) -> bool {
        self.look(number, |object| Object::write_in_place(object, placement, pieces))
    }

    /// A version's segments from an offset on, as far as so many bytes, and at most so many of them; and where the last ends
    /// of all that there are. Under the lock of the entry that names it, as long as they are used.
    pub(in crate::pool) fn parts_from(
        &self,
        number: ObjectNumber,
        from: u64,
        bytes_max: u64,
        count_max: usize,
    ) -> (Vec<Part>, u64) {
        self.look(number, |object| {
            let segments = object.segments();
            let all = segments.range().end;
            let end = all.min(from.saturating_add(bytes_max));
            (segments.parts(from.min(end)..end).take(count_max).collect(), all)
        })
    }

    /// Lengths of a version's segments.
    #[cfg(all(test, not(feature = "loom")))]
    pub(in crate::pool) fn segment_lengths(&self, number: ObjectNumber) -> Vec<u64> {
        let length = |part: super::segments::Part| part.range.end - part.range.start;
        self.look(number, |object| object.segments().all().map(length).collect())
    }

    /// Takes a version out that no entry names any more.
    pub(in crate::pool) fn remove(&self, number: ObjectNumber) -> Arc<Object> {
        let mut free = self.free.lock();
        let slot = std::mem::replace(&mut *self.slot(number).lock(), Slot::Free(free.first));
        free.first = number.index();
        drop(free);
        let Slot::Taken(object) = slot else { unreachable!("an entry named an object that there is") };
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(object.segments().range().end, Ordering::Relaxed);
        self.segments.fetch_sub(object.segments().count(), Ordering::Relaxed);
        object
    }

    pub(in crate::pool) fn stats(&self) -> ObjectStats {
        ObjectStats {
            objects: self.count.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            segments: self.segments.load(Ordering::Relaxed),
        }
    }

    /// What those bytes can become at most while nothing is replaced: as many objects as there is room for, each larger than
    /// the largest class, and each page a segment of its own.
    pub(in crate::pool) fn metadata_bytes_max(&self) -> u64 {
        let heap = &self.upkeep.heap;
        let objects = heap.limit_bytes() / heap.largest_class_bytes();
        let object = (size_of::<Object>() + 2 * size_of::<usize>() + size_of::<Mutex<Slot>>()) as u64;
        let segments = heap.limit_bytes() / page_size();
        objects * object + segments * Segments::RECORD_BYTES
    }

    /// Bytes of the list, and of the records about all versions.
    pub(in crate::pool) fn metadata_bytes(&self) -> u64 {
        let chunks = self.chunks.iter().filter(|chunk| chunk.get().is_some()).count();
        let chunk = CHUNK_SLOTS as usize * size_of::<Mutex<Slot>>();
        let list = self.chunks.len() * size_of::<OnceLock<Chunk>>();
        (chunks * chunk + list) as u64 + self.upkeep.metadata_bytes()
    }
}
