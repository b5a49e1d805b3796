//! Plans: what a request for blocks takes, resolved before anything is taken, and then taken all or not at all.
//!
//! ```text
//!   request ─▶ Plan ──claim──▶ room and budgets granted ──back──▶ blocks ──publish──▶ allocations
//!                └── refused: the reason; nothing was changed
//! ```
//!
//! A plan that is dropped on the way gives back whatever it has. What is claimed is never refused for lack of room any
//! more; only the table, or the system, can still say no.

use super::entries::Slot;
use super::handover::Backing;
use super::id::Key;
use super::local::Local;
use super::object::free_backed;
use super::place::Place;
use super::queue::Need;
use super::table::Record;
use super::tags::{OverBudget, TAGS_MAX, TagNumber, TagShare};
use super::{AllocateError, AllocateRequest, Allocation, Unavailable};
use crate::clock::Now;
use crate::latency::Stopwatch;
use crate::memory::{self, Backed, Heap, Shape};
use std::time::Duration;

/// Granted bytes that are no blocks yet. What is left of them is given back when dropped.
#[derive(Debug)]
pub(super) struct Room<'a> {
    heap: &'a Heap,
    bytes: u64,
}

impl<'a> Room<'a> {
    /// Bytes that were granted to the caller.
    pub(super) fn granted(heap: &'a Heap, bytes: u64) -> Room<'a> {
        Room { heap, bytes }
    }

    /// Turns a part of the room into a block; none where that takes more than a slice of work. One of several blocks, which
    /// together get one slice: `has_time` until it is spent.
    pub(super) fn try_back(
        &mut self,
        shape: Shape,
        has_time: &mut bool,
    ) -> Result<Option<Backed>, memory::AllocateError> {
        let mut backed = self.heap.back_shape_unless_scarce(shape)?;
        if backed.is_none() && std::mem::take(has_time) {
            backed = self.heap.try_back_shape_scarce(shape)?;
        }
        if backed.is_some() {
            self.bytes -= self.heap.shape_bytes(shape);
        }
        Ok(backed)
    }

    /// Bytes that are left.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a part of it: it is the caller's to give back.
    pub(super) fn split_off(&mut self, bytes: u64) -> u64 {
        self.bytes -= bytes;
        bytes
    }

    /// Takes all that is left of it: it is the caller's to give back.
    pub(super) fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.heap.give_back(self.bytes);
        }
    }
}

/// One block of a plan.
#[derive(Clone, Copy, Debug)]
struct Block {
    size_bytes: u64,
    shape: Shape,
    lease: Option<Duration>,
    tag: Option<TagNumber>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    local: &'a Local,
    blocks: Vec<Block>,
    need: Need,
    /// There while claimed.
    room: Option<Room<'a>>,
    /// See [`Plan::handed_over`].
    handed_over: Option<Stopwatch>,
    /// The number of the arena that its allocations end with.
    arena: Option<u32>,
}

/// Why a claim fails.
#[derive(Debug)]
pub(super) enum ClaimError {
    Memory(memory::AllocateError),
    Budget(OverBudget),
    /// The table has fewer free entries.
    Table,
}

impl From<memory::AllocateError> for ClaimError {
    fn from(error: memory::AllocateError) -> ClaimError {
        ClaimError::Memory(error)
    }
}

impl From<OverBudget> for ClaimError {
    fn from(error: OverBudget) -> ClaimError {
        ClaimError::Budget(error)
    }
}

impl Local {
    /// Takes a need from the pool, all of it or nothing.
    pub(super) fn claim(&self, need: &Need) -> Result<(), ClaimError> {
        if need.shares.is_empty() {
            return self.claim_room(need);
        }
        self.tags().take(&need.shares, || self.claim_room(need))
    }

    fn claim_room(&self, need: &Need) -> Result<(), ClaimError> {
        self.heap().grant(need.bytes)?;
        if self.claim_entries(need.entries) {
            return Ok(());
        }
        // Without telling: this may be the queue's own doing.
        self.heap().ungrant(need.bytes);
        Err(ClaimError::Table)
    }

    /// Gives back what was claimed, or set aside, and offers it to those who wait.
    pub(super) fn give_back_claim(&self, need: &Need) {
        need.shares.iter().for_each(|share| self.tags().give_back(*share));
        self.entries().give_back(need.entries);
        self.heap().ungrant(need.bytes);
        self.room_freed();
    }

    /// The error that a client gets.
    pub(super) fn refused(&self, error: ClaimError) -> AllocateError {
        match error {
            ClaimError::Memory(error) => error.into(),
            ClaimError::Table => AllocateError::TableFull { allocations_max: self.table().allocations_max() },
            ClaimError::Budget(OverBudget { tag, requested_bytes, in_use_bytes, budget_bytes }) => {
                let tag = self.tags().name(tag).expect("a plan's tags are in use");
                AllocateError::Budget { tag, requested_bytes, in_use_bytes, budget_bytes }
            }
        }
    }
}

impl<'a> Plan<'a> {
    /// What these requests take. All of them together could be had from an empty pool.
    pub(super) fn new(local: &'a Local, requests: &[AllocateRequest]) -> Result<Plan<'a>, AllocateError> {
        Plan::with_shapes(local, requests, |size_bytes| local.shape_for(size_bytes))
    }

    /// As [`Plan::new`], of a block of whole pages that ends with the arena of that number.
    pub(super) fn in_arena(
        local: &'a Local,
        request: &AllocateRequest,
        number: u32,
    ) -> Result<Plan<'a>, AllocateError> {
        let shape_of = |size_bytes| local.page_shape_for(size_bytes);
        let mut plan = Plan::with_shapes(local, std::slice::from_ref(request), shape_of)?;
        plan.arena = Some(number);
        Ok(plan)
    }

    fn with_shapes(
        local: &'a Local,
        requests: &[AllocateRequest],
        shape_of: impl Fn(u64) -> Result<(Shape, u64), AllocateError>,
    ) -> Result<Plan<'a>, AllocateError> {
        let mut plan = Plan {
            local,
            blocks: Vec::with_capacity(requests.len()),
            need: Need::default(),
            room: None,
            handed_over: None,
            arena: None,
        };
        plan.need.entries = requests.len() as u64;
        for request in requests {
            let (shape, actual_bytes) = shape_of(request.size_bytes)?;
            plan.need.bytes = plan.need.bytes.saturating_add(actual_bytes);
            let limit_bytes = local.heap().limit_bytes();
            if plan.need.bytes > limit_bytes {
                let size_bytes =
                    requests.iter().map(|request| request.size_bytes).fold(0, u64::saturating_add);
                return Err(AllocateError::TooLargeTogether {
                    blocks: requests.len(),
                    size_bytes,
                    limit_bytes,
                });
            }
            let tag = match &request.tag {
                None => None,
                Some(tag) => Some(
                    local.tags().begin_block(tag).ok_or(AllocateError::TagsFull { tags_max: TAGS_MAX })?,
                ),
            };
            // Noted at once, so that a plan that fails here ends the blocks it began.
            plan.blocks.push(Block { size_bytes: request.size_bytes, shape, lease: request.lease, tag });
            if let Some(tag) = tag {
                plan.add_share(TagShare { tag, bytes: actual_bytes });
            }
        }
        let allocations_max = local.table().allocations_max();
        if plan.need.entries > u64::from(allocations_max) {
            return Err(AllocateError::TooMany { blocks: requests.len(), allocations_max });
        }
        Ok(plan)
    }

    fn add_share(&mut self, share: TagShare) {
        let shares = &mut self.need.shares;
        match shares.binary_search_by_key(&share.tag, |known| known.tag) {
            Ok(at) => shares[at].bytes += share.bytes,
            Err(at) => shares.insert(at, share),
        }
    }

    pub(super) fn need(&self) -> &Need {
        &self.need
    }

    /// Whether the budgets could ever hold it.
    pub(super) fn fits_budgets(&self) -> bool {
        let fits = |share: &TagShare| {
            self.local.tags().budget_bytes(share.tag).is_none_or(|budget_bytes| share.bytes <= budget_bytes)
        };
        self.need.shares.iter().all(fits)
    }

    /// Takes the room, ending leases that are over if that is what it takes.
    pub(super) fn claim(&mut self, now: Now) -> Result<(), AllocateError> {
        match self.local.unless_due(now, || self.local.claim(&self.need)) {
            Ok(()) => {
                self.claimed();
                Ok(())
            }
            Err(error) => {
                if let ClaimError::Table = error {
                    self.local.room_freed(); // its memory was taken for a moment: somebody may have missed it
                }
                if let ClaimError::Memory(_) = error {
                    self.local.drains().memory_is_needed(self.local.heap());
                }
                Err(self.local.refused(error))
            }
        }
    }

    /// The need was claimed for this plan.
    pub(super) fn claimed(&mut self) {
        self.room = Some(Room::granted(self.local.heap(), self.need.bytes));
    }

    /// Gives back what was claimed and is not the table's.
    fn unclaim(&mut self) {
        let Some(room) = self.room.take() else { return };
        self.need.shares.iter().for_each(|share| self.local.tags().give_back(*share));
        self.local.entries().give_back(self.need.entries);
        drop(room);
        self.local.room_freed(); // what others wait for may have been no memory
    }

    /// Turns the room into the memory of each block. Waits only where that takes more than a slice of work in all.
    pub(super) async fn back(&mut self) -> Result<Vec<Backed>, AllocateError> {
        let room = self.room.as_mut().expect("a plan is claimed before it is backed");
        let mut made = Vec::with_capacity(self.blocks.len());
        let mut has_time = true;
        for (at, block) in self.blocks.iter().enumerate() {
            match room.try_back(block.shape, &mut has_time) {
                Ok(Some(backed)) => made.push(backed),
                Ok(None) => {
                    self.handed_over = Some(Stopwatch::start());
                    let missing = self.blocks[at..].iter().map(|block| block.shape).collect();
                    let backing = Backing::new(self.local.heap(), made, missing, room.take_bytes());
                    let made = self.local.finish(backing).await;
                    return made.map_err(|error| {
                        self.unclaim();
                        error.into()
                    });
                }
                Err(error) => {
                    made.into_iter().for_each(|backed| free_backed(self.local.heap(), &backed));
                    self.unclaim();
                    return Err(error.into());
                }
            }
        }
        Ok(made)
    }

    /// Since when its work was handed over, where it took more than a slice.
    pub(super) fn handed_over(&self) -> Option<Stopwatch> {
        self.handed_over
    }

    /// Enters the blocks, which lie there, into the table: from here on they are allocations.
    pub(super) fn publish(&mut self, places: &[Place], now: Now) -> Vec<Allocation> {
        let entries = self.local.take_entries(places.len());
        let mut made = Vec::with_capacity(places.len());
        for block in &self.blocks {
            // Before the allocation is there, so that nobody ends it before it began.
            let bytes = self.local.heap().shape_bytes(block.shape);
            let share = block.tag.map(|tag| TagShare { tag, bytes });
            share.into_iter().for_each(|share| self.local.tags().begin_allocation(share));
        }
        self.local.with_slot(|slot: &mut Slot| {
            for ((block, place), index) in self.blocks.iter().zip(places).zip(entries) {
                let record = Record {
                    key: Key::random(),
                    size_bytes: block.size_bytes,
                    place: *place,
                    created: now,
                    deadline: block.lease.map(|lease| now.after(lease)),
                    tag: block.tag,
                    arena: self.arena,
                };
                let created = self.local.enter(slot, index, &record, now);
                made.push((index, Record { created, ..record }));
            }
        });
        // Named while the blocks still keep the tags' numbers.
        let made = made.iter().map(|(index, record)| self.local.describe(*index, record)).collect();
        // They are the table's from here on.
        (self.room, self.blocks, self.need) = (None, Vec::new(), Need::default());
        made
    }

    /// Makes the allocations of a claimed plan.
    pub(super) async fn fulfil(&mut self, now: Now) -> Result<Vec<Allocation>, AllocateError> {
        if self.local.is_closed() {
            return Err(Unavailable.into());
        }
        let made = self.back().await?;
        let place =
            |(backed, block): (Backed, &Block)| self.local.objects().place(backed, block.size_bytes, 0);
        let places: Vec<_> = made.into_iter().zip(&self.blocks).map(place).collect();
        Ok(self.publish(&places, now))
    }
}

impl Drop for Plan<'_> {
    fn drop(&mut self) {
        self.unclaim();
        self.blocks.iter().filter_map(|block| block.tag).for_each(|tag| self.local.tags().end_block(tag));
    }
}
