//! Creation order: what lets a list of allocations be read in the order they were made, page by page.
//!
//! Each slot keeps the entries it made in chunks of up to 256, oldest first. An entry knows its chunk and a chunk
//! counts its members, so leaving is O(1); the hole stays until the chunk is compacted. A chunk that empties
//! vanishes; two neighbours that are both sparse become one. So the order costs 4 to 16 bytes an allocation,
//! whatever was freed in between.
//!
//! ```text
//!   chunks by first key   [ 100.. │ 7 3 · 9 ] [ 212.. │ · 4 8 ] [ 340.. │ 3 ]      · = left
//! ```
//!
//! A cursor is a creation time, not a place, so it stays right when everything around it has gone.

use super::table::Table;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Places in a chunk.
const CHUNK_PLACES: usize = 256;
/// Two neighbours with no more members than this together are merged.
const MERGE_MEMBERS_MAX: u32 = 128;
/// What a listed entry's link says: `1 | slot (8 bits) | chunk (23 bits)`. A link of the free list has the top bit
/// clear.
#[derive(Debug)]
pub(super) struct Link;

impl Link {
    const IN_ORDER: u32 = 1 << 31;
    const CHUNK_BITS: u32 = 23;

    /// The link of a member of that chunk of that slot.
    fn of_member(slot: usize, chunk: u32) -> u32 {
        debug_assert!(chunk >> Link::CHUNK_BITS == 0, "2^24 entries make fewer than 2^23 chunks");
        let slot = u32::try_from(slot).expect("there are at most 256 slots");
        Link::IN_ORDER | slot << Link::CHUNK_BITS | chunk
    }

    fn chunk(link: u32) -> u32 {
        link & ((1 << Link::CHUNK_BITS) - 1)
    }

    /// The slot of a listed entry; none for the link of a free one.
    pub(super) fn slot(link: u32) -> Option<usize> {
        (link & Link::IN_ORDER != 0).then_some(((link & !Link::IN_ORDER) >> Link::CHUNK_BITS) as usize)
    }
}

/// The creation order of one slot. Every method is called under that slot's lock.
#[derive(Debug)]
pub(super) struct Order {
    slot: usize,
    chunks: Vec<OrderChunk>,
    /// Numbers of chunks that are not in use.
    vacant: Vec<u32>,
    /// First creation time → chunk number. The last one is where entries are added.
    by_key: BTreeMap<u64, u32>,
    tail: Option<u32>,
    last_key: u64,
}

#[derive(Debug, Default)]
struct OrderChunk {
    first_key: u64,
    /// Entries in creation order. One that left may still stand here, and may even stand here twice.
    entries: Vec<u32>,
    /// Entries that are still members.
    members: u32,
}

impl Order {
    /// What one entry costs here at most: neighbours that hold less than a quarter of their places are merged.
    pub(super) const ENTRY_BYTES_MAX: u64 = 16;

    pub(super) fn new(slot: usize) -> Order {
        Order {
            slot,
            chunks: Vec::new(),
            vacant: Vec::new(),
            by_key: BTreeMap::new(),
            tail: None,
            last_key: 0,
        }
    }

    /// A creation time for an allocation made at `now`: that, or just after the last one where the two are equal.
    pub(super) fn next_key(&mut self, now: u64) -> u64 {
        self.last_key = now.max(self.last_key + 1);
        self.last_key
    }

    /// Adds an entry whose creation time came last from [`Order::next_key`].
    pub(super) fn append(&mut self, table: &Table, entry: u32, key: u64) {
        let full = |chunk: u32| self.chunks[chunk as usize].entries.len() == CHUNK_PLACES;
        let number = match self.tail {
            Some(tail) if !full(tail) => tail,
            sealed => {
                let number = self.new_chunk(key);
                if let Some(sealed) = sealed {
                    self.merge_around(table, sealed);
                }
                number
            }
        };
        let chunk = &mut self.chunks[number as usize];
        chunk.entries.push(entry);
        chunk.members += 1;
        table.used(entry).set_link(Link::of_member(self.slot, number));
    }

    fn new_chunk(&mut self, first_key: u64) -> u32 {
        let number = self.vacant.pop().unwrap_or_else(|| {
            self.chunks.push(OrderChunk::default());
            u32::try_from(self.chunks.len() - 1).expect("there are fewer chunks than entries")
        });
        self.chunks[number as usize].first_key = first_key;
        self.by_key.insert(first_key, number);
        self.tail = Some(number);
        number
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, table: &Table, entry: u32) {
        let link = table.used(entry).link();
        debug_assert!(link & Link::IN_ORDER != 0, "entry {entry} leaves an order it is not in");
        table.used(entry).set_link(0); // no member any more, for a merge below
        let number = Link::chunk(link);
        let is_tail = self.tail == Some(number);
        let chunk = &mut self.chunks[number as usize];
        chunk.members -= 1;
        if is_tail {
            // What was added last and leaves first makes no hole.
            if chunk.entries.last() == Some(&entry) {
                chunk.entries.pop();
            }
            if chunk.members == 0 {
                chunk.entries.clear();
            }
        } else if chunk.members == 0 {
            self.drop_chunk(number);
        } else if chunk.members.is_multiple_of(16) && chunk.members <= MERGE_MEMBERS_MAX / 2 {
            // Only now and then: an attempt that fails costs two look-ups in the tree.
            self.merge_around(table, number);
        }
    }

    fn drop_chunk(&mut self, number: u32) {
        let chunk = std::mem::take(&mut self.chunks[number as usize]);
        self.by_key.remove(&chunk.first_key);
        self.vacant.push(number);
    }

    /// Merges a chunk that is not the tail with a neighbour that is not the tail, where both are sparse.
    fn merge_around(&mut self, table: &Table, number: u32) {
        if self.chunks[number as usize].members == 0 {
            return self.drop_chunk(number);
        }
        let key = self.chunks[number as usize].first_key;
        let before = self.by_key.range(..key).next_back().map(|(_, chunk)| *chunk);
        let after =
            self.by_key.range((Bound::Excluded(key), Bound::Unbounded)).next().map(|(_, chunk)| *chunk);
        let pairs = [before.map(|before| (before, number)), after.map(|after| (number, after))];
        for (left, right) in pairs.into_iter().flatten() {
            let members = self.chunks[left as usize].members + self.chunks[right as usize].members;
            if self.tail != Some(right) && members <= MERGE_MEMBERS_MAX {
                let mut entries = self.members(table, left);
                entries.extend(self.members(table, right));
                for (_, entry) in &entries {
                    table.used(*entry).set_link(Link::of_member(self.slot, left));
                }
                let chunk = &mut self.chunks[left as usize];
                chunk.entries = entries.into_iter().map(|(_, entry)| entry).collect();
                chunk.members = members;
                debug_assert_eq!(chunk.entries.len(), members as usize);
                return self.drop_chunk(right);
            }
        }
    }

    /// Members of a chunk with their creation times, in that order.
    fn members(&self, table: &Table, number: u32) -> Vec<(u64, u32)> {
        // One word says slot and chunk: an entry that another slot has taken over meanwhile is never mistaken for ours.
        let ours = Link::of_member(self.slot, number);
        let is_member = |entry: u32| table.used(entry).link() == ours;
        let entries = self.chunks[number as usize].entries.iter().copied();
        let mut members: Vec<(u64, u32)> = entries
            .filter(|entry| is_member(*entry))
            .map(|entry| (table.used(entry).created(), entry))
            .collect();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Collects up to `count_max` members that are wanted and were created after `key`, in order, looking at `looks_max` places at most, or at
    /// one chunk where that is more.
    ///
    /// Returns them, and how far the order was looked through: everything up to that creation time is in the result.
    /// None means to the end.
    pub(super) fn after(
        &self,
        table: &Table,
        key: u64,
        count_max: usize,
        looks_max: usize,
        is_wanted: impl Fn(u32) -> bool,
    ) -> (Vec<(u64, u32)>, Option<u64>) {
        let mut found = Vec::new();
        let mut looks = 0;
        let first = self.by_key.range(..=key).next_back().map_or(0, |(first_key, _)| *first_key);
        for (first_key, number) in self.by_key.range(first..) {
            let places = self.chunks[*number as usize].entries.len();
            if looks > 0 && looks + places > looks_max {
                return (found, Some(first_key - 1));
            }
            looks += places;
            let members = self.members(table, *number).into_iter();
            found.extend(members.filter(|(created, entry)| *created > key && is_wanted(*entry)));
            if found.len() >= count_max {
                found.truncate(count_max);
                let last = found.last().map(|(created, _)| *created);
                return (found, last);
            }
        }
        (found, None)
    }

    /// Bytes of the chunks.
    pub(super) fn metadata_bytes(&self) -> u64 {
        let entries: usize =
            self.chunks.iter().map(|chunk| chunk.entries.capacity() * size_of::<u32>()).sum();
        (entries + self.chunks.capacity() * size_of::<OrderChunk>()) as u64
    }
}
