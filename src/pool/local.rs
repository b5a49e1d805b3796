//! The engine that keeps its allocations in this process: a heap, a table, and per slot what changes often.

use super::drain::Drains;
use super::id::{AllocationId, Key};
use super::inflight::Inflight;
use super::order::Order;
use super::table::{LockedEntry, Record, Table};
use super::{
    AllocateError, AllocateRequest, Allocation, Config, Cursor, NotFound, Page, PoolStats, Unavailable,
};
use crate::clock::Now;
use crate::memory::{Heap, SlabLocation};
use crate::slot::{self, PerSlot};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Entries a slot takes from the table at a time.
const FRESH_ENTRIES: u32 = 64;
/// Entries one listing looks at, over all slots.
const LIST_LOOKS_MAX: usize = 65_536;
/// End of a free list.
const NO_ENTRY: u32 = u32::MAX >> 1;

/// See the module.
#[derive(Debug)]
pub(super) struct Local {
    heap: Arc<Heap>,
    table: Table,
    slots: PerSlot<Mutex<Slot>>,
    allocation_size_max: u64,
    drains: Drains,
    /// Set once, when the service stops.
    closed: AtomicBool,
}

/// What one slot owns: free entries, and the order of the allocations made through it. An allocation returns to the
/// slot that made it, whichever thread frees it.
#[derive(Debug)]
struct Slot {
    /// First of the free entries; each links to the next.
    free: u32,
    order: Order,
    live: u64,
}

impl Local {
    pub(super) fn new(heap: Arc<Heap>, config: &Config) -> Local {
        const ALLOCATIONS_MAX: u64 = 1 << super::id::INDEX_BITS;
        let default_max = (heap.limit_bytes() / heap.smallest_class_bytes()).min(ALLOCATIONS_MAX);
        let default_max = u32::try_from(default_max).expect("2^24 fits in 32 bits");
        let allocations_max = config.max_allocations.unwrap_or(default_max).min(1 << super::id::INDEX_BITS);
        let largest = heap.largest_class_bytes();
        Local {
            table: Table::new(allocations_max),
            slots: PerSlot::new(|slot| Mutex::new(Slot { free: NO_ENTRY, order: Order::new(slot), live: 0 })),
            allocation_size_max: config.max_allocation_size.unwrap_or(largest).min(largest),
            heap,
            drains: Drains::new(Duration::from_secs(config.drain_seconds)),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn heap(&self) -> &Arc<Heap> {
        &self.heap
    }

    pub(super) fn drains(&self) -> &Drains {
        &self.drains
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(super) fn allocate(&self, request: &AllocateRequest, now: Now) -> Result<Allocation, AllocateError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Unavailable.into());
        }
        let size_bytes = request.size_bytes;
        let fitting = self.heap.class_for(size_bytes);
        let class = match fitting {
            Some((class, actual))
                if size_bytes <= self.allocation_size_max && actual <= self.heap.limit_bytes() =>
            {
                class
            }
            _ => return Err(self.too_large(size_bytes, fitting.map(|(_, actual)| actual))),
        };
        let location = self.heap.allocate(class).inspect_err(|_| self.drains.memory_is_needed(&self.heap))?;
        let deadline = request.lease.map(|lease| now.after(lease));
        match self.enter(size_bytes, location, deadline, now) {
            Some((index, record)) => Ok(self.describe(index, &record)),
            None => {
                self.heap.free(location);
                Err(AllocateError::TableFull { allocations_max: self.table.allocations_max() })
            }
        }
    }

    #[cold]
    fn too_large(&self, size_bytes: u64, actual_size_bytes: Option<u64>) -> AllocateError {
        let size_bytes_max = self
            .heap
            .largest_class_within(self.heap.limit_bytes())
            .unwrap_or(0)
            .min(self.allocation_size_max);
        AllocateError::TooLarge { size_bytes, actual_size_bytes, size_bytes_max }
    }

    /// Enters a new allocation into the table; none where the table is full.
    fn enter(
        &self,
        size_bytes: u64,
        location: SlabLocation,
        deadline: Option<Now>,
        now: Now,
    ) -> Option<(u32, Record)> {
        let key = Key::random();
        let mine = slot::current();
        let mut slot = self.slots.of(mine).lock();
        let index = match slot.pop_free(&self.table) {
            Some(index) => index,
            None => {
                drop(slot);
                let index = self.find_entry(mine)?;
                slot = self.slots.of(mine).lock();
                index
            }
        };
        let created = slot.order.next_key(now.0);
        let record = Record { key, size_bytes, location, created: Now(created), deadline };
        let entry = self.table.used(index);
        entry.publish(&record);
        slot.order.append(&self.table, index, created);
        slot.live += 1;
        Some((index, record))
    }

    /// The slot has no free entry: takes fresh ones from the table, or one that another slot has free.
    #[cold]
    fn find_entry(&self, mine: usize) -> Option<u32> {
        {
            let mut slot = self.slots.of(mine).lock();
            // Under the slot's lock, so that entries taken are in a free list before anyone looks for them there.
            if let Some((first, count)) = self.table.take_fresh(FRESH_ENTRIES) {
                (first + 1..first + count).rev().for_each(|index| slot.push_free(&self.table, index));
                return Some(first);
            }
        }
        // All slots stand still, so a free entry anywhere is found.
        let mut slots: Vec<_> = self.slots.iter().map(Mutex::lock).collect();
        slots.iter_mut().find_map(|slot| slot.pop_free(&self.table))
    }

    /// The live allocation of that id under its lock. One past its deadline is ended on the way.
    pub(super) fn look_up(
        &self,
        id: AllocationId,
        now: Now,
    ) -> Result<(u32, LockedEntry<'_>, Record), NotFound> {
        let (index, key) = id.decode().ok_or(NotFound(id))?;
        let entry = self.table.get(index).ok_or(NotFound(id))?.lock();
        let record = entry.read().filter(|record| record.key == key).ok_or(NotFound(id))?;
        if record.deadline.is_some_and(|deadline| deadline <= now) {
            self.end(index, entry, &record, now);
            return Err(NotFound(id));
        }
        Ok((index, entry, record))
    }

    pub(super) fn get(&self, id: AllocationId, now: Now) -> Result<Allocation, NotFound> {
        let (index, _entry, record) = self.look_up(id, now)?;
        Ok(self.describe(index, &record))
    }

    pub(super) fn free(&self, id: AllocationId, now: Now) -> Result<(), NotFound> {
        let (index, entry, record) = self.look_up(id, now)?;
        self.end(index, entry, &record, now);
        Ok(())
    }

    /// Ends a live allocation: the id first, so that nobody finds what is being taken apart.
    fn end(&self, index: u32, entry: LockedEntry<'_>, record: &Record, now: Now) {
        entry.clear();
        // A segment that is lent is freed by the upload that writes into it, which finds the id dead.
        let lent = entry.is_lent();
        drop(entry);
        {
            let mut slot = self.slots.of(self.table.used(index).slot()).lock();
            slot.order.remove(&self.table, index);
            slot.push_free(&self.table, index);
            slot.live -= 1;
        }
        // Last, so that whoever gets the memory finds an entry for it too: a table of as many entries as there are
        // slabs is never full while a slab is free.
        if !lent {
            self.drains.free(&self.heap, record.location, now);
        }
    }

    fn describe(&self, index: u32, record: &Record) -> Allocation {
        Allocation {
            id: AllocationId::new(index, record.key),
            size_bytes: record.size_bytes,
            actual_size_bytes: self.heap.slab_bytes(record.location),
            created: record.created,
            deadline: record.deadline,
        }
    }

    pub(super) fn list(&self, cursor: Option<Cursor>, limit: usize, now: Now) -> Page {
        let looks_max = LIST_LOOKS_MAX / slot::count();
        let start = cursor.unwrap_or(Cursor { created: 0, slot: u16::MAX });
        let mut found: Vec<(Cursor, u32)> = Vec::new();
        // Everything up to here was looked through in every slot.
        let mut horizon: Option<Cursor> = None;
        for (number, slot) in self.slots.iter().enumerate() {
            let number = u16::try_from(number).expect("there are at most 256 slots");
            // A slot after the cursor's may have made an allocation at the very same time.
            let after = if number > start.slot { start.created.saturating_sub(1) } else { start.created };
            let (members, end) = slot.lock().order.after(&self.table, after, limit + 1, looks_max);
            found.extend(
                members.into_iter().map(|(created, index)| (Cursor { created, slot: number }, index)),
            );
            if let Some(created) = end {
                let end = Cursor { created, slot: number };
                horizon = Some(horizon.map_or(end, |horizon| horizon.min(end)));
            }
        }
        found.sort_unstable();
        let mut allocations = Vec::with_capacity(found.len().min(limit));
        for (place, index) in found {
            if horizon.is_some_and(|horizon| place > horizon) {
                break;
            }
            if allocations.len() == limit {
                // `place` is the first that did not fit: the next page starts just before it.
                let before = Cursor { created: place.created - 1, slot: u16::MAX };
                let before = if place.slot == 0 { before } else { Cursor { slot: place.slot - 1, ..place } };
                return Page { allocations, next: Some(before) };
            }
            let record = self.table.used(index).lock().read();
            // It may have ended, and its entry begun anew, since the order was read.
            let record = record.filter(|record| record.created.0 == place.created);
            if let Some(record) =
                record.filter(|record| record.deadline.is_none_or(|deadline| deadline > now))
            {
                allocations.push(self.describe(index, &record));
            }
        }
        Page { allocations, next: horizon }
    }

    /// Bytes of the creation order.
    pub(super) fn order_bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.lock().order.metadata_bytes()).sum()
    }

    pub(super) fn stats(&self, inflight: &Inflight) -> PoolStats {
        let heap = self.heap.stats();
        PoolStats {
            active_allocations: self.slots.iter().map(|slot| slot.lock().live).sum(),
            allocated_bytes: heap.in_use_bytes.saturating_sub(heap.draining_bytes),
            allocations_max: u64::from(self.table.allocations_max()),
            metadata_bytes: heap.metadata_bytes + self.table.metadata_bytes() + self.order_bytes(),
            metadata_bytes_max: self.heap.metadata_bytes_max()
                + u64::from(self.table.allocations_max()) * (Table::ENTRY_BYTES + Order::ENTRY_BYTES_MAX),
            inflight_bytes: inflight.bytes(),
            inflight_bytes_max: inflight.bytes_max(),
            waiting_requests: 0,
            heap,
        }
    }
}

impl Slot {
    fn pop_free(&mut self, table: &Table) -> Option<u32> {
        let index = self.free;
        if index == NO_ENTRY {
            return None;
        }
        self.free = table.used(index).link();
        Some(index)
    }

    fn push_free(&mut self, table: &Table, index: u32) {
        table.used(index).set_link(self.free);
        self.free = index;
    }
}
