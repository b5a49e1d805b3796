//! Plans: what a request for blocks takes, resolved before anything is taken, and then taken all or not at all.
//!
//! ```text
//!   request ─▶ Plan ──claim──▶ room and budgets granted ──back──▶ slabs ──publish──▶ allocations
//!                └── refused: the reason; nothing was changed
//! ```
//!
//! A plan that is dropped on the way gives back whatever it has. What is claimed is never refused for lack of room any
//! more; only the table, or the system, can still say no.

use super::entries::Slot;
use super::id::Key;
use super::local::Local;
use super::queue::Need;
use super::table::Record;
use super::tags::{OverBudget, TAGS_MAX, TagNumber, TagShare};
use super::{AllocateError, AllocateRequest, Allocation, Unavailable};
use crate::clock::Now;
use crate::memory::{self, Heap, SizeClass, SlabLocation};
use std::time::Duration;

/// Granted bytes that are not slabs yet. What is left of them is given back when dropped.
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

    /// Turns a part of the room into a slab.
    pub(super) fn back(&mut self, class: SizeClass) -> Result<SlabLocation, memory::AllocateError> {
        let location = self.heap.back(class)?;
        self.bytes -= self.heap.slab_bytes(location);
        Ok(location)
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
    class: SizeClass,
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
}

/// Why a claim fails.
#[derive(Debug)]
pub(super) enum ClaimError {
    Memory(memory::AllocateError),
    Budget(OverBudget),
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
            return Ok(self.heap().grant(need.bytes)?);
        }
        self.tags().take(&need.shares, || Ok(self.heap().grant(need.bytes)?))
    }

    /// Takes what a need has of tags, where its bytes are granted already.
    pub(super) fn claim_shares(&self, need: &Need) -> Result<(), ClaimError> {
        self.tags().take(&need.shares, || Ok(()))
    }

    /// Gives back what was claimed.
    pub(super) fn give_back_claim(&self, need: &Need) {
        need.shares.iter().for_each(|share| self.tags().give_back(*share));
        self.heap().give_back(need.bytes);
    }

    /// Whether the budgets of a need's tags leave room for it now.
    pub(super) fn budgets_have_room(&self, need: &Need) -> bool {
        need.shares.iter().all(|share| self.tags().has_room(*share))
    }

    /// The error that a client gets.
    fn refused(&self, error: ClaimError) -> AllocateError {
        match error {
            ClaimError::Memory(error) => error.into(),
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
        let mut plan =
            Plan { local, blocks: Vec::with_capacity(requests.len()), need: Need::default(), room: None };
        plan.need.entries = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        for request in requests {
            let (class, actual_bytes) = local.class_for(request.size_bytes)?;
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
            plan.blocks.push(Block { size_bytes: request.size_bytes, class, lease: request.lease, tag });
            if let Some(tag) = tag {
                plan.add_share(TagShare { tag, bytes: actual_bytes });
            }
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
        loop {
            match self.local.claim(&self.need) {
                Ok(()) => break,
                Err(error) => {
                    if self.local.reap_due(now) == 0 {
                        if matches!(error, ClaimError::Memory(_)) {
                            self.local.drains().memory_is_needed(self.local.heap());
                        }
                        return Err(self.local.refused(error));
                    }
                }
            }
        }
        self.claimed();
        Ok(())
    }

    /// The need was claimed for this plan.
    pub(super) fn claimed(&mut self) {
        self.room = Some(Room::granted(self.local.heap(), self.need.bytes));
    }

    /// Gives back what was claimed.
    fn unclaim(&mut self) {
        if self.room.take().is_some() {
            self.need.shares.iter().for_each(|share| self.local.tags().give_back(*share));
        }
    }

    /// Turns the room into slabs, one for each block.
    pub(super) fn back(&mut self) -> Result<Vec<SlabLocation>, AllocateError> {
        let room = self.room.as_mut().expect("a plan is claimed before it is backed");
        let mut slabs = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            match room.back(block.class) {
                Ok(slab) => slabs.push(slab),
                Err(error) => {
                    slabs.into_iter().for_each(|slab| self.local.heap().free(slab));
                    self.unclaim();
                    return Err(error.into());
                }
            }
        }
        Ok(slabs)
    }

    /// Enters the slabs into the table: from here on they are allocations.
    pub(super) fn publish(
        &mut self,
        slabs: &[SlabLocation],
        now: Now,
    ) -> Result<Vec<Allocation>, AllocateError> {
        let Some(entries) = self.local.take_entries(slabs.len(), now) else {
            slabs.iter().for_each(|slab| self.local.heap().free(*slab));
            self.unclaim();
            return Err(AllocateError::TableFull { allocations_max: self.local.table().allocations_max() });
        };
        let mut made = Vec::with_capacity(slabs.len());
        self.local.with_slot(|slot: &mut Slot| {
            for ((block, location), index) in self.blocks.iter().zip(slabs).zip(entries) {
                let record = Record {
                    key: Key::random(),
                    size_bytes: block.size_bytes,
                    location: *location,
                    created: now,
                    deadline: block.lease.map(|lease| now.after(lease)),
                    tag: block.tag,
                };
                made.push((index, self.local.enter(slot, index, record, now)));
            }
        });
        // They are the table's from here on.
        (self.room, self.blocks, self.need) = (None, Vec::new(), Need::default());
        Ok(made.iter().map(|(index, record)| self.local.describe(*index, record)).collect())
    }

    /// Makes the allocations of a claimed plan.
    pub(super) fn fulfil(&mut self, now: Now) -> Result<Vec<Allocation>, AllocateError> {
        if self.local.is_closed() {
            return Err(Unavailable.into());
        }
        let slabs = self.back()?;
        self.publish(&slabs, now)
    }
}

impl Drop for Plan<'_> {
    fn drop(&mut self) {
        self.unclaim();
        self.blocks.iter().filter_map(|block| block.tag).for_each(|tag| self.local.tags().end_block(tag));
    }
}
