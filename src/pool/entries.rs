//! Entries of the table: which are free, and how one becomes an allocation. Each slot has its own.

use super::lag::LeaseLag;
use super::lease::Wheel;
use super::local::Local;
use super::moving::owner_of;
use super::order::Order;
use super::place::PlaceKind;
use super::table::{Record, Table};
use crate::clock::Now;
use crate::memory::{Budget, SizeCounts};
use crate::slot;
use parking_lot::Mutex;
use std::sync::atomic::Ordering;

/// Entries a slot takes from the table at a time.
const FRESH_ENTRIES: u32 = 64;
/// Entries that a slot claims ahead, and twice as many it may keep claimed.
const CLAIMS_AHEAD: u64 = 32;
/// End of a free list.
const NO_ENTRY: u32 = u32::MAX >> 1;

/// What one slot owns: free entries, and the order and the leases of the allocations made through it. An allocation
/// returns to the slot that made it, whichever thread frees it.
#[derive(Debug)]
pub(super) struct Slot {
    /// First of the free entries; each links to the next.
    free: u32,
    /// Entries that were claimed ahead, for whoever comes to this slot next.
    claims: u64,
    pub(super) order: Order,
    pub(super) wheel: Wheel,
    pub(super) live: u64,
    /// Actual bytes of the live allocations.
    pub(super) live_bytes: u64,
    /// Bytes that were asked for of these.
    pub(super) live_requested_bytes: u64,
    pub(super) lease_lag: LeaseLag,
    /// The sizes that clients asked for; large objects and members of arenas apart: they say nothing about classes.
    pub(super) sizes: SizeCounts,
    /// Large objects and members of arenas ever made. All other allocations are in `sizes`.
    pub(super) classless_made: u64,
}

impl Slot {
    /// A slot without entries.
    pub(super) fn new(number: usize) -> Slot {
        Slot {
            free: NO_ENTRY,
            claims: 0,
            order: Order::new(number),
            wheel: Wheel::new(),
            live: 0,
            live_bytes: 0,
            live_requested_bytes: 0,
            lease_lag: LeaseLag::default(),
            sizes: SizeCounts::default(),
            classless_made: 0,
        }
    }

    pub(super) fn pop_free(&mut self, table: &Table) -> Option<u32> {
        let index = self.free;
        if index == NO_ENTRY {
            return None;
        }
        self.free = table.used(index).link();
        Some(index)
    }

    /// Takes up to `count` free entries.
    fn pop_many(&mut self, table: &Table, count: usize, taken: &mut Vec<u32>) {
        for _ in 0..count {
            let Some(index) = self.pop_free(table) else { return };
            taken.push(index);
        }
    }

    pub(super) fn push_free(&mut self, table: &Table, index: u32) {
        table.used(index).set_link(self.free);
        self.free = index;
    }
}

impl Local {
    /// Does something with the calling thread's slot, under its lock.
    pub(super) fn with_slot<T>(&self, act: impl FnOnce(&mut Slot) -> T) -> T {
        act(&mut self.slots().mine().lock())
    }

    /// Makes an entry that was taken live, in the slot that is locked. Returns when it was created: that may have moved on
    /// by a few nanoseconds, so that the creation order is one.
    #[inline]
    pub(super) fn enter(&self, slot: &mut Slot, index: u32, record: &Record, now: Now) -> Now {
        let created = slot.order.next_key(record.created.0);
        // Listed first: whoever finds it live finds its slot by that.
        slot.order.append(self.table(), index, created);
        if let PlaceKind::Slab(location) = record.place.kind() {
            self.heap().set_owner(location, owner_of(index));
        }
        self.table().used(index).publish(record, Now(created));
        slot.live += 1;
        let actual_bytes = self.actual_bytes(record);
        slot.live_bytes += actual_bytes;
        slot.live_requested_bytes += record.size_bytes;
        match record.place.kind() {
            PlaceKind::Slab(_) => slot.sizes.count(record.size_bytes, actual_bytes, 1),
            PlaceKind::Object(_) => slot.classless_made += 1,
        }
        if let Some(deadline) = record.deadline {
            self.hang(slot, index, deadline, now);
        }
        Now(created)
    }

    /// A free entry of the slot that is locked, claimed; none where that takes more than looking at the slot.
    #[inline]
    pub(super) fn take_entry(&self, slot: &mut Slot) -> Option<u32> {
        if slot.claims == 0 {
            return None;
        }
        let index = slot.pop_free(self.table())?;
        slot.claims -= 1;
        Some(index)
    }

    /// Claims entries of the table, which [`Local::take_entries`] finds then; false, and none claimed, if, and only if,
    /// at one instant there were not as many that are neither live nor claimed.
    pub(super) fn claim_entries(&self, count: u64) -> bool {
        self.entries().take(count) || self.with_all_claims(|entries| entries.take(count))
    }

    /// Claims as many of these entries as there are, and says how many.
    pub(super) fn claim_some_entries(&self, count: u64) -> u64 {
        self.with_all_claims(|entries| entries.take_some(count).0)
    }

    /// Claims an entry, and a few ahead for the slot.
    #[cold]
    pub(super) fn claim_entry_and_some_ahead(&self) -> bool {
        self.with_slot(|slot| {
            // Under the slot's lock: who decides looks there after it said so.
            if slot.claims == 0 && !self.claims_are_called() && self.entries().take(CLAIMS_AHEAD) {
                slot.claims = CLAIMS_AHEAD;
            }
        });
        self.claim_entries(1)
    }

    /// An entry of the slot that is locked ended: it is free already, so whoever takes the claim finds it.
    #[inline]
    pub(super) fn keep_claim(&self, slot: &mut Slot) {
        slot.claims += 1;
        if slot.claims > 2 * CLAIMS_AHEAD || self.claims_are_called() {
            let kept = if self.claims_are_called() { 0 } else { CLAIMS_AHEAD };
            self.entries().give_back(slot.claims - kept);
            slot.claims = kept;
        }
    }

    /// Decides something about claims while no slot has any ahead.
    #[cold]
    fn with_all_claims<T>(&self, decision: impl FnOnce(&Budget) -> T) -> T {
        self.claims_called.fetch_add(1, Ordering::Relaxed); // ordered by the slots' locks
        for slot in self.slots().iter() {
            let mut slot = slot.lock();
            self.entries().give_back(std::mem::take(&mut slot.claims));
        }
        let decided = decision(self.entries());
        self.claims_called.fetch_sub(1, Ordering::Relaxed);
        decided
    }

    fn claims_are_called(&self) -> bool {
        self.claims_called.load(Ordering::Relaxed) != 0
    }

    /// Takes so many free entries, which the caller has claimed: they are there.
    pub(super) fn take_entries(&self, count: usize) -> Vec<u32> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let wanted = count - taken.len();
            self.with_slot(|slot| slot.pop_many(self.table(), wanted, &mut taken));
            if taken.len() < count {
                self.find_entries(count - taken.len(), &mut taken);
            }
        }
        taken
    }

    /// The slot has no free entry: gives it fresh ones of the table, or takes those that other slots have free.
    #[cold]
    fn find_entries(&self, count: usize, taken: &mut Vec<u32>) {
        let mine = slot::current();
        {
            let mut slot = self.slots().of(mine).lock();
            // Under the slot's lock, so that entries taken are in a free list before anyone looks for them there.
            if let Some((first, count)) = self.table().take_fresh(FRESH_ENTRIES) {
                (first..first + count).rev().for_each(|index| slot.push_free(self.table(), index));
                return;
            }
        }
        // All slots stand still, and no fresh entry is left. Entries that are live, or claimed, are never more than
        // there are, and one that ends is free before its claim is given back: so the claimed ones are found.
        let mut slots: Vec<_> = self.slots().iter().map(Mutex::lock).collect();
        let end = taken.len() + count;
        for slot in &mut slots {
            slot.pop_many(self.table(), end - taken.len(), taken);
        }
    }
}
