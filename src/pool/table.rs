//! The allocation table: id → allocation, the one source of truth about what is live.
//!
//! An array that grows by chunks of 1024 entries which never move, so a look-up is two array accesses and needs no
//! lock on the table. An entry has two halves: the durable one says what the allocation is, the volatile one how it
//! is linked up in this process. An allocation is live from the Release store of its key to the store of zero there.

use super::id::Key;
use super::order::Link;
use super::place::Place;
use super::tags::TagNumber;
use crate::clock::Now;
use crate::lock::{ByteGuard, ByteLock};
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::OnceLock;

/// Entries in a chunk.
const CHUNK_ENTRIES: u32 = 1024;
/// In place of a deadline: the allocation lives until freed.
const NO_DEADLINE: u64 = 0;
/// In place of the number of an arena plus one.
const NO_ARENA: u32 = 0;
const NANOSECONDS: u64 = 1_000_000_000;

/// What an allocation is. One cache line, laid out so that it can later lie in a file.
///
/// Written by whoever owns the entry before the key is stored, or under the entry's lock afterwards; read under the
/// lock. `created` is also read by the creation order of the owning slot, under that slot's lock.
#[derive(Debug, Default)]
#[repr(C, align(64))]
struct DurableEntry {
    /// Lower word of the key; zero while the entry is not live. Storing it is what makes an allocation begin or end.
    key_low: AtomicU64,
    key_high: AtomicU32,
    /// The tag's number plus one, or zero.
    tag: AtomicU32,
    size_bytes: AtomicU64,
    /// Where the bytes lie: a `Place`.
    place: AtomicU64,
    /// When the allocation was made, in `Now` nanoseconds; no two of one slot are equal.
    created: AtomicU64,
    /// When it ends by itself, or `NO_DEADLINE`.
    deadline: AtomicU64,
    /// The number of the arena that it ends with, plus one, or zero.
    arena: AtomicU32,
    /// When the content was last read or written, in whole seconds of `Now`, rounded up; zero where it never was. Beyond
    /// 136 years of uptime it stands still.
    touched: AtomicU32,
    /// Where the entry hangs in its slot's wheel of leases. Under that slot's lock. It means nothing outside of this
    /// process; it lies here because the line has room, and next to the deadline that goes with it.
    lease_links: AtomicU64,
}

/// How an entry is linked up in this process.
#[derive(Debug, Default)]
struct VolatileEntry {
    lock: ByteLock,
    /// 1 while the first upload writes into the allocation's own segments, which are then the upload's to free. Under
    /// the entry's lock. See `content.rs`.
    lent: AtomicU8,
    /// While live: the slot that made the allocation, and the chunk of its creation order that lists it, in one word
    /// so that they are never read apart. While free: the next free entry. See `order.rs`.
    link: AtomicU32,
}

#[cfg(not(any(feature = "loom", feature = "shuttle")))]
const _: () = assert!(size_of::<DurableEntry>() == 64, "an entry's durable half is one cache line");
#[cfg(not(any(feature = "loom", feature = "shuttle")))]
const _: () =
    assert!(size_of::<VolatileEntry>() == 8, "metadata is bounded: 64 + 8 bytes here, 16 a slab, 4 in order");

fn deadline_word(deadline: Option<Now>) -> u64 {
    deadline.map_or(NO_DEADLINE, |deadline| deadline.0.max(1))
}

/// When something touched at `now` was touched, as an entry stores it.
fn touched_word(now: Now) -> u32 {
    u32::try_from(now.0 / NANOSECONDS + 1).unwrap_or(u32::MAX)
}

#[derive(Debug)]
struct Chunk {
    durable: Box<[DurableEntry]>,
    volatile: Box<[VolatileEntry]>,
}

/// The table. Bounded by `allocations_max`; costs memory only for chunks that were used.
#[derive(Debug)]
pub(super) struct Table {
    chunks: Box<[OnceLock<Chunk>]>,
    allocations_max: u32,
    /// Entries from here on were never used. Changed by compare-and-swap so that it never passes the bound.
    fresh: AtomicU32,
}

/// What an entry says of a live allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: Key,
    pub(super) size_bytes: u64,
    pub(super) place: Place,
    pub(super) created: Now,
    pub(super) deadline: Option<Now>,
    pub(super) tag: Option<TagNumber>,
    /// The number of the arena that it ends with.
    pub(super) arena: Option<u32>,
}

impl Table {
    /// Bytes of one entry, both halves.
    pub(super) const ENTRY_BYTES: u64 = (size_of::<DurableEntry>() + size_of::<VolatileEntry>()) as u64;

    pub(super) fn new(allocations_max: u32) -> Table {
        let chunks = (0..allocations_max.div_ceil(CHUNK_ENTRIES)).map(|_| OnceLock::new()).collect();
        Table { chunks, allocations_max, fresh: AtomicU32::new(0) }
    }

    pub(super) fn allocations_max(&self) -> u32 {
        self.allocations_max
    }

    /// Takes up to `count` entries that were never used: the first one's index and how many. None left → none.
    pub(super) fn take_fresh(&self, count: u32) -> Option<(u32, u32)> {
        let end = |fresh: u32| fresh.saturating_add(count).min(self.allocations_max);
        let taken = self.fresh.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fresh| {
            (fresh < self.allocations_max).then(|| end(fresh))
        });
        let first = taken.ok()?;
        for index in [first, end(first) - 1] {
            self.chunks[place(index).0].get_or_init(Chunk::new);
        }
        Some((first, end(first) - first))
    }

    /// The entry at `index`, if it was ever used.
    pub(super) fn get(&self, index: u32) -> Option<Entry<'_>> {
        let (chunk, at) = place(index);
        let chunk = self.chunks.get(chunk)?.get()?;
        Some(Entry { durable: &chunk.durable[at], volatile: &chunk.volatile[at] })
    }

    /// The entry at an index that `take_fresh` once returned.
    pub(super) fn used(&self, index: u32) -> Entry<'_> {
        self.get(index).expect("the index came from this table")
    }

    /// Bytes of all chunks made so far, and of the list of chunks.
    pub(super) fn metadata_bytes(&self) -> u64 {
        let chunks = self.chunks.iter().filter(|chunk| chunk.get().is_some()).count();
        let list = (self.chunks.len() * size_of::<OnceLock<Chunk>>()) as u64;
        chunks as u64 * u64::from(CHUNK_ENTRIES) * Table::ENTRY_BYTES + list
    }
}

/// Chunk and place in it of an index.
fn place(index: u32) -> (usize, usize) {
    ((index / CHUNK_ENTRIES) as usize, (index % CHUNK_ENTRIES) as usize)
}

impl Chunk {
    fn new() -> Chunk {
        Chunk {
            durable: (0..CHUNK_ENTRIES).map(|_| DurableEntry::default()).collect(),
            volatile: (0..CHUNK_ENTRIES).map(|_| VolatileEntry::default()).collect(),
        }
    }
}

/// Both halves of one entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    durable: &'a DurableEntry,
    volatile: &'a VolatileEntry,
}

impl<'a> Entry<'a> {
    /// Begins an allocation: writes everything, the key last. For the owner of a free entry.
    #[inline]
    pub(super) fn publish(self, record: &Record, created: Now) {
        let durable = self.durable;
        self.volatile.lent.store(0, Ordering::Relaxed);
        durable.key_high.store(record.key.high, Ordering::Relaxed);
        durable.tag.store(TagNumber::word(record.tag), Ordering::Relaxed);
        durable.size_bytes.store(record.size_bytes, Ordering::Relaxed);
        durable.place.store(record.place.word(), Ordering::Relaxed);
        durable.created.store(created.0, Ordering::Relaxed);
        durable.deadline.store(deadline_word(record.deadline), Ordering::Relaxed);
        durable.arena.store(record.arena.map_or(NO_ARENA, |number| number + 1), Ordering::Relaxed);
        durable.touched.store(0, Ordering::Relaxed);
        durable.key_low.store(record.key.low, Ordering::Release); // pairs with the Acquire in `read`
    }

    pub(super) fn lock(self) -> LockedEntry<'a> {
        LockedEntry { entry: self, _guard: self.volatile.lock.lock() }
    }

    /// Whether the allocation with this key is live, without the lock: what is seen may just have changed.
    pub(super) fn is_live(self, key: Key) -> bool {
        let durable = self.durable;
        durable.key_low.load(Ordering::Relaxed) == key.low
            && durable.key_high.load(Ordering::Relaxed) == key.high
    }

    /// When the lease ends, or the end of time. For the owning slot's wheel, under that slot's lock: a renewal may just
    /// be storing a later one.
    pub(super) fn deadline(self) -> Now {
        match self.durable.deadline.load(Ordering::Relaxed) {
            NO_DEADLINE => Now(u64::MAX),
            deadline => Now(deadline),
        }
    }

    /// Bytes that were asked for, by this allocation or the one before. For whoever only wants to know how large it is.
    pub(super) fn size_bytes(self) -> u64 {
        self.durable.size_bytes.load(Ordering::Relaxed)
    }

    /// The tag. For the owning slot's creation order, under that slot's lock.
    pub(super) fn tag(self) -> Option<TagNumber> {
        TagNumber::from_word(self.durable.tag.load(Ordering::Relaxed))
    }

    pub(super) fn lease_links(self) -> u64 {
        self.durable.lease_links.load(Ordering::Relaxed)
    }

    /// Under the owning slot's lock.
    pub(super) fn set_lease_links(self, links: u64) {
        self.durable.lease_links.store(links, Ordering::Relaxed);
    }

    /// When the allocation was made. For the owning slot's creation order, under that slot's lock.
    pub(super) fn created(self) -> u64 {
        self.durable.created.load(Ordering::Relaxed)
    }

    /// The slot whose creation order lists the entry; none where no order does. A live entry is listed.
    pub(super) fn slot(self) -> Option<usize> {
        Link::slot(self.link())
    }

    pub(super) fn link(self) -> u32 {
        self.volatile.link.load(Ordering::Relaxed)
    }

    /// Under the owning slot's lock.
    pub(super) fn set_link(self, link: u32) {
        self.volatile.link.store(link, Ordering::Relaxed);
    }
}

/// An entry under its lock.
#[derive(Debug)]
pub(super) struct LockedEntry<'a> {
    entry: Entry<'a>,
    _guard: ByteGuard<'a>,
}

impl LockedEntry<'_> {
    /// What the entry says, if it is live.
    pub(super) fn read(&self) -> Option<Record> {
        let durable = self.entry.durable;
        let low = durable.key_low.load(Ordering::Acquire); // pairs with the Release in `publish`
        (low != 0).then(|| self.record(Key { low, high: durable.key_high.load(Ordering::Relaxed) }))
    }

    /// What the entry says, if it is live and has that key.
    #[inline]
    pub(super) fn read_of(&self, key: Key) -> Option<Record> {
        let durable = self.entry.durable;
        let low = durable.key_low.load(Ordering::Acquire); // as in `read`
        let is_it = low == key.low && durable.key_high.load(Ordering::Relaxed) == key.high;
        is_it.then(|| self.record(key))
    }

    /// What a live entry with that key says.
    #[inline]
    fn record(&self, key: Key) -> Record {
        let durable = self.entry.durable;
        let deadline = durable.deadline.load(Ordering::Relaxed);
        Record {
            key,
            size_bytes: durable.size_bytes.load(Ordering::Relaxed),
            place: Place::from_word(durable.place.load(Ordering::Relaxed)),
            created: Now(durable.created.load(Ordering::Relaxed)),
            deadline: (deadline != NO_DEADLINE).then_some(Now(deadline)),
            tag: TagNumber::from_word(durable.tag.load(Ordering::Relaxed)),
            arena: durable.arena.load(Ordering::Relaxed).checked_sub(1),
        }
    }

    /// From now on the lease ends at `deadline`.
    pub(super) fn set_deadline(&self, deadline: Now) {
        self.entry.durable.deadline.store(deadline_word(Some(deadline)), Ordering::Relaxed);
    }

    /// It ends with its arena no more.
    pub(super) fn leave_arena(&self) {
        self.entry.durable.arena.store(NO_ARENA, Ordering::Relaxed);
    }

    /// The content is read or written at `now`.
    #[inline]
    pub(super) fn touch(&self, now: Now) {
        self.entry.durable.touched.store(touched_word(now), Ordering::Relaxed);
    }

    /// When the content was last read or written, to a second, which is never told too early; when the allocation was made
    /// where it never was.
    pub(super) fn touched(&self) -> Now {
        let seconds = u64::from(self.entry.durable.touched.load(Ordering::Relaxed));
        Now(self.entry.created().max(seconds * NANOSECONDS))
    }

    /// Whether an upload writes into the allocation's own segments.
    pub(super) fn is_lent(&self) -> bool {
        self.entry.volatile.lent.load(Ordering::Relaxed) != 0
    }

    pub(super) fn set_lent(&self, lent: bool) {
        self.entry.volatile.lent.store(u8::from(lent), Ordering::Relaxed);
    }

    /// Commits another version of the content: the place alone selects it.
    pub(super) fn set_place(&self, place: Place) {
        // Release pairs with the Acquire in the entry's lock, under which it is read; alone it is the commit of a version
        // to whoever reads the entry without this process's locks, as a pool file will be read.
        self.entry.durable.place.store(place.word(), Ordering::Release);
    }

    /// Ends the allocation: its id is dead from here on.
    pub(super) fn clear(&self) {
        self.entry.durable.key_low.store(0, Ordering::Release); // pairs with the Acquire in `read`
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;
    use loom::{sync::Arc, thread};

    fn record(number: u64) -> Record {
        Record {
            key: Key { low: number, high: u32::try_from(number).expect("a small number") },
            size_bytes: number,
            place: Place::from_word(number),
            created: Now(number),
            deadline: Some(Now(number)),
            tag: None,
            arena: None,
        }
    }

    /// One thread frees an allocation and makes the next one in the same entry, as its slot does; another looks up.
    #[test]
    fn loom_a_look_up_sees_an_allocation_whole_or_not_at_all() {
        crate::sync::model(|| {
            let halves = Arc::new((DurableEntry::default(), VolatileEntry::default()));
            let entry = |halves: &(DurableEntry, VolatileEntry)| {
                Entry { durable: &halves.0, volatile: &halves.1 }.lock().read()
            };
            Entry { durable: &halves.0, volatile: &halves.1 }.publish(&record(1), Now(1));
            let writer = {
                let halves = Arc::clone(&halves);
                thread::spawn(move || {
                    let entry = Entry { durable: &halves.0, volatile: &halves.1 };
                    entry.lock().clear();
                    entry.publish(&record(2), Now(2));
                })
            };
            if let Some(seen) = entry(&halves) {
                assert!(seen == record(1) || seen == record(2), "{seen:?}");
            }
            writer.join().expect("no panic");
            assert_eq!(entry(&halves), Some(record(2)));
        });
    }
}
