//! The engine that keeps its allocations in this process: a heap, a table, and per slot what changes often.

use super::admission::Doorkeeper;
use super::arena::Arenas;
use super::drain::Drains;
use super::entries::Slot;
use super::handover::Handover;
use super::id::{AllocationId, Key};
use super::inflight::Inflight;
use super::janitor::Janitor;
use super::object::Objects;
use super::place::{ObjectNumber, Place, PlaceKind};
use super::plan::Plan;
use super::queue::Queue;
use super::relief::Relief;
use super::table::{LockedEntry, Record, Table};
use super::tags::{TagShare, Tags};
use super::{AllocateError, AllocateRequest, Allocation, Config, NotFound, Unavailable};
use crate::clock::Now;
use crate::memory::{self, Budget, Heap, Shape, SizeClass, SlabLocation};
use crate::pressure::Gauge;
use crate::slot::PerSlot;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// What became of a request at once.
#[derive(Debug)]
pub(super) enum Started<'a> {
    Made(Allocation),
    /// All that it takes is claimed; it is still to be made.
    Claimed(Plan<'a>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Local {
    heap: Arc<Heap>,
    table: Table,
    /// Entries that are live, claimed, or set aside: never more than the table has.
    entries: Budget,
    /// How many decide about claims: slots claim none ahead meanwhile.
    pub(super) claims_called: AtomicU32,
    tags: Tags,
    doorkeeper: Arc<Doorkeeper>,
    queue: Arc<Queue>,
    slots: PerSlot<Mutex<Slot>>,
    pub(super) allocation_size_max: u64,
    objects: Objects,
    drains: Drains,
    handover: Arc<Handover>,
    arenas: Arenas,
    inflight: Inflight,
    pub(super) janitor: Janitor,
    pub(super) relief: Relief,
    /// Set once, when the service stops.
    closed: AtomicBool,
    /// Held while leases are taken from a wheel and ended.
    pub(super) reaping: Mutex<()>,
    /// A slot that had no lease has one.
    pub(super) leases_begun: Notify,
}

impl Local {
    pub(super) fn new(heap: Arc<Heap>, config: &Config, gauge: Arc<Gauge>) -> Arc<Local> {
        const ALLOCATIONS_MAX: u64 = 1 << super::id::INDEX_BITS;
        let default_max = (heap.limit_bytes() / heap.smallest_class_bytes()).min(ALLOCATIONS_MAX);
        let default_max = u32::try_from(default_max).expect("2^24 fits in 32 bits");
        let allocations_max = config.max_allocations.unwrap_or(default_max).min(1 << super::id::INDEX_BITS);
        let handover = Arc::new(Handover::default());
        // An object has a page at least.
        let objects_max = u32::try_from(heap.limit_bytes() / memory::page_size()).unwrap_or(u32::MAX);
        let local = Arc::new(Local {
            table: Table::new(allocations_max),
            entries: Budget::new(u64::from(allocations_max)),
            claims_called: AtomicU32::new(0),
            tags: Tags::new(&config.budgets),
            doorkeeper: Arc::new(Doorkeeper::new(&config.admission, gauge)),
            queue: Arc::new(Queue::default()),
            slots: PerSlot::new(|number| Mutex::new(Slot::new(number))),
            allocation_size_max: config.max_allocation_size.unwrap_or(u64::MAX).min(heap.limit_bytes()),
            objects: Objects::new(&heap, &handover, allocations_max.min(objects_max)),
            heap,
            drains: Drains::new(Duration::from_secs(config.drain_seconds)),
            handover,
            arenas: Arenas::default(),
            inflight: Inflight::new(config.max_inflight_bytes),
            janitor: Janitor::default(),
            relief: Relief::default(),
            closed: AtomicBool::new(false),
            reaping: Mutex::new(()),
            leases_begun: Notify::new(),
        });
        let (queue, weak) = (Arc::clone(&local.queue), Arc::downgrade(&local));
        let doorkeeper = Arc::clone(&local.doorkeeper);
        local.heap.when_room_is_freed(move || {
            // The doorkeeper after the bell, which fences; and one branch, for neither of them mostly wants anything.
            if (queue.bell.is_wanted() | doorkeeper.wants_room())
                && let Some(local) = Weak::upgrade(&weak)
            {
                local.room_freed();
            }
        });
        let weak = Arc::downgrade(&local);
        local.heap.when_moving(move |owner, from, to| {
            Weak::upgrade(&weak).is_some_and(|local| local.move_segment(owner, from, to))
        });
        local
    }

    pub(super) fn doorkeeper(&self) -> &Doorkeeper {
        &self.doorkeeper
    }

    pub(super) fn handover(&self) -> &Handover {
        &self.handover
    }

    pub(super) fn heap(&self) -> &Arc<Heap> {
        &self.heap
    }

    pub(super) fn drains(&self) -> &Drains {
        &self.drains
    }

    pub(super) fn arenas(&self) -> &Arenas {
        &self.arenas
    }

    pub(super) fn inflight(&self) -> &Inflight {
        &self.inflight
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn entries(&self) -> &Budget {
        &self.entries
    }

    pub(super) fn tags(&self) -> &Tags {
        &self.tags
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn slots(&self) -> &PerSlot<Mutex<Slot>> {
        &self.slots
    }

    /// Makes one allocation of what lies ready: the way that most requests go. None where that is not all there is to it:
    /// then [`Local::allocate`] is to be asked.
    #[inline(always)] // what it makes is written to where it goes, not copied there: a third of its time
    pub(super) fn allocate_at_once(&self, request: &AllocateRequest, now: Now) -> Option<Allocation> {
        let is_plain = request.tag.is_none() && request.size_bytes <= self.allocation_size_max;
        if !is_plain || self.is_closed() {
            return None;
        }
        let (class, _) = self.heap.class_for(request.size_bytes)?;
        let location = self.heap.allocate_ready(class)?;
        let made = self.make(request, location, now).ok()?;
        self.passed_waiters();
        Some(made)
    }

    /// Actual bytes of a large object with content of that size.
    pub(super) fn object_bytes(&self, size_bytes: u64) -> u64 {
        let (_, bytes) = Heap::run_shape(size_bytes).expect("it was allocated");
        bytes
    }

    /// Actual bytes of a block.
    #[inline]
    pub(super) fn actual_bytes(&self, record: &Record) -> u64 {
        match record.place.kind() {
            PlaceKind::Slab(location) => self.heap.slab_bytes(location),
            PlaceKind::Object(_) => self.object_bytes(record.size_bytes),
        }
    }

    #[inline(always)] // see `allocate_at_once`
    fn make(
        &self,
        request: &AllocateRequest,
        location: SlabLocation,
        now: Now,
    ) -> Result<Allocation, AllocateError> {
        let record = Record {
            key: Key::random(),
            size_bytes: request.size_bytes,
            place: Place::of_slab(location),
            created: now,
            deadline: request.lease.map(|lease| now.after(lease)),
            tag: None,
            arena: None,
        };
        let entered = self.with_slot(|slot| {
            let index = self.take_entry(slot)?;
            Some((index, self.enter(slot, index, &record, now)))
        });
        let (index, created) = match entered {
            Some(entered) => entered,
            None => self.enter_claimed(location, &record, now)?,
        };
        Ok(self.describe(index, &Record { created, ..record }))
    }

    /// Makes one allocation. Of a slab without a tag there is nothing to plan.
    pub(super) fn allocate(&self, request: &AllocateRequest, now: Now) -> Result<Started<'_>, AllocateError> {
        if self.is_closed() {
            return Err(Unavailable.into());
        }
        let class = match self.shape_for(request.size_bytes)? {
            (Shape::Slab(class), _) if request.tag.is_none() => class,
            _ => {
                let mut plan = Plan::new(self, std::slice::from_ref(request))?;
                plan.claim(now)?;
                return Ok(Started::Claimed(plan));
            }
        };
        let location = match self.heap.try_allocate(class) {
            Ok(location) => location,
            Err(_) => self.take_slab(class, now)?,
        };
        let Some(location) = location else {
            return self.start_claimed(request, now);
        };
        let made = self.make(request, location, now)?;
        self.passed_waiters();
        Ok(Started::Made(made))
    }

    /// Enters an allocation whose slot has no entry at hand. Where there is none at all, its slab is freed.
    #[cold]
    fn enter_claimed(
        &self,
        location: SlabLocation,
        record: &Record,
        now: Now,
    ) -> Result<(u32, Now), AllocateError> {
        self.claim_entry(now).inspect_err(|_| self.heap.free(location))?;
        let index = self.take_entries(1)[0];
        Ok((index, self.with_slot(|slot| self.enter(slot, index, record, now))))
    }

    /// Goes on with a request whose bytes are granted, and whose slab takes more than a slice of work.
    #[cold]
    fn start_claimed(&self, request: &AllocateRequest, now: Now) -> Result<Started<'_>, AllocateError> {
        let mut plan = Plan::new(self, std::slice::from_ref(request)).expect("it was granted");
        self.claim_entry(now).inspect_err(|_| self.heap.give_back(plan.need().bytes))?;
        plan.claimed();
        Ok(Started::Claimed(plan))
    }

    /// Claims an entry of the table, ending leases that are over if that is what it takes.
    fn claim_entry(&self, now: Now) -> Result<(), AllocateError> {
        let claim = || if self.claim_entry_and_some_ahead() { Ok(()) } else { Err(()) };
        let full = |()| AllocateError::TableFull { allocations_max: self.table.allocations_max() };
        self.unless_due(now, claim).map_err(full)
    }

    /// A request was served at once: those who wait were passed over.
    pub(super) fn passed_waiters(&self) {
        if self.queue.bell.newcomer() {
            self.queue.offer(self); // one of them may have been for the last time
        }
    }

    /// A slab, even if that takes ending leases that are over; none where its bytes are granted, and it takes more than a
    /// slice of work to make it.
    pub(super) fn take_slab(
        &self,
        class: SizeClass,
        now: Now,
    ) -> Result<Option<SlabLocation>, memory::AllocateError> {
        let slab = self.unless_due(now, || self.heap.try_allocate(class));
        slab.inspect_err(|_| self.drains.memory_is_needed(&self.heap))
    }

    /// Makes all the allocations or none.
    pub(super) async fn allocate_all(
        &self,
        requests: &[AllocateRequest],
        now: Now,
    ) -> Result<Vec<Allocation>, AllocateError> {
        if self.is_closed() {
            return Err(Unavailable.into());
        }
        let mut plan = Plan::new(self, requests)?;
        plan.claim(now)?;
        self.fulfil(&mut plan, now).await
    }

    /// Makes the allocations of a plan that was claimed at once.
    pub(super) async fn fulfil(
        &self,
        plan: &mut Plan<'_>,
        now: Now,
    ) -> Result<Vec<Allocation>, AllocateError> {
        let made = plan.fulfil(now).await?;
        self.passed_waiters();
        Ok(made)
    }

    /// The live allocation of that id under its lock. One past its deadline is ended on the way.
    #[inline(always)] // with what it finds in registers: as a call it took a tenth of a free
    pub(super) fn look_up(
        &self,
        id: AllocationId,
        now: Now,
    ) -> Result<(u32, LockedEntry<'_>, Record), NotFound> {
        let (index, key) = id.decode().ok_or(NotFound(id))?;
        let entry = self.table.get(index).ok_or(NotFound(id))?.lock();
        let record = entry.read_of(key).ok_or(NotFound(id))?;
        if record.arena.is_none() && record.deadline.is_none_or(|deadline| deadline > now) {
            return Ok((index, entry, record));
        }
        drop(entry);
        self.look_up_ending(id, index, &record, now)
    }

    /// As [`Local::look_up`], of an entry whose lease is over, or that ends with an arena.
    #[cold]
    fn look_up_ending(
        &self,
        id: AllocationId,
        index: u32,
        record: &Record,
        now: Now,
    ) -> Result<(u32, LockedEntry<'_>, Record), NotFound> {
        if record.arena.is_some() {
            return self.look_up_attached(id, index, record, now);
        }
        self.end_due(index, record.key, now);
        Err(NotFound(id))
    }

    pub(super) fn get(&self, id: AllocationId, now: Now) -> Result<Allocation, NotFound> {
        if id.is_member() {
            return self.get_member(id, now);
        }
        let (index, entry, record) = self.look_up(id, now)?;
        drop(entry);
        self.describe_found(index, &record, now).ok_or(NotFound(id))
    }

    /// Ends an allocation, and says how many bytes its block had.
    pub(super) fn free(&self, id: AllocationId, now: Now) -> Result<u64, NotFound> {
        if id.is_member() {
            return self.free_member(id, now);
        }
        let (index, entry, record) = self.look_up(id, now)?;
        self.end(index, entry, &record, now);
        if let Some(number) = record.arena {
            self.detach(number, index, record.key);
        }
        Ok(self.actual_bytes(&record))
    }

    /// Ends a live allocation: the id first, so that nobody finds what is being taken apart.
    pub(super) fn end(&self, index: u32, entry: LockedEntry<'_>, record: &Record, now: Now) {
        entry.clear();
        // Segments that are lent are freed by the upload that writes into them, which finds the id dead.
        let lent = entry.is_lent();
        drop(entry);
        let bytes = self.actual_bytes(record);
        {
            let slot = self.table.used(index).slot().expect("a live entry is listed, until here");
            let mut slot = self.slots.of(slot).lock();
            slot.order.remove(&self.table, index);
            slot.wheel.remove(&self.table, index);
            slot.push_free(&self.table, index);
            self.keep_claim(&mut slot);
            slot.live -= 1;
            slot.live_bytes -= bytes;
            slot.live_requested_bytes -= record.size_bytes;
            if let Some(deadline) = record.deadline.filter(|deadline| *deadline <= now) {
                slot.lease_lag.count(deadline, now);
            }
        }
        if let Some(tag) = record.tag {
            self.tags.end_allocation(TagShare { tag, bytes });
        }
        // Last, so that whoever gets the memory finds an entry for it too: a table of as many entries as there are
        // slabs is never full while a slab is free.
        match record.place.kind() {
            PlaceKind::Slab(location) if !lent => {
                self.drains.free(&self.heap, location, record.size_bytes, now);
            }
            PlaceKind::Slab(_) => self.room_freed(),
            PlaceKind::Object(number) => self.end_object(number, lent, now),
        }
    }

    #[cold]
    fn end_object(&self, number: ObjectNumber, lent: bool, now: Now) {
        let object = self.objects.remove(number);
        if lent {
            drop(object);
            self.room_freed();
        } else {
            self.drains.retire(object, 0..u64::MAX, now);
        }
    }

    /// Tells those who wait that something was freed, and the doorkeeper.
    pub(super) fn room_freed(&self) {
        if self.queue.bell.is_wanted() {
            self.queue.offer(self);
        }
        if self.doorkeeper.wants_room() {
            self.doorkeeper.room_freed(&self.heap);
        }
    }

    /// Tells those who wait for room in an arena that something there was freed, or that it has ended.
    pub(super) fn freed_in_arena(&self, number: u32) {
        if self.queue.bell.is_wanted() {
            self.queue.look_at_arena(number);
        }
    }

    /// What a record says that was read a moment ago; none if the allocation has ended since, and its tag with it.
    pub(super) fn describe_live(&self, index: u32, record: &Record) -> Option<Allocation> {
        let described = self.describe(index, record);
        (record.tag.is_none() || self.table.used(index).is_live(record.key)).then_some(described)
    }

    #[inline(always)] // see `allocate_at_once`
    pub(super) fn describe(&self, index: u32, record: &Record) -> Allocation {
        Allocation {
            id: AllocationId::new(index, record.key),
            size_bytes: record.size_bytes,
            actual_size_bytes: self.actual_bytes(record),
            created: record.created,
            deadline: record.deadline,
            tag: record.tag.and_then(|tag| self.tags.name(tag)),
            arena: None,
        }
    }
}
