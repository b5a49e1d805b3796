//! Whose, for how long, may they? Allocations: their ids, their deadlines, their order, and what they add up to.
//!
//! The door is [`Pool`]. Its calls are `async` because a request may have to wait, and because another engine may
//! stand behind it one day; of the local engine each is ready at the first poll. Time comes in as an argument.
//!
//! ```text
//!   mod.rs       Pool: the door
//!   allocation.rs  the words it speaks
//!   advice.rs    what clients say of how they use a block
//!   admission.rs who may have what there is, where it is short
//!   taking.rs    the calls that take memory
//!   local.rs     the engine that keeps its allocations in this process
//!   fitting.rs   what a size takes, and the largest that can be had
//!   plan.rs      what a request takes: all of it, or nothing
//!   queue.rs     who waits for room                (its bell: lock-free, loom-tested)
//!   turns.rs     requests that wait for their turn
//!   handover.rs  work that is done by the janitor, and awaited
//!   janitor.rs   what the janitor does at this door
//!   relief.rs    free memory given back because it gets full
//!   table.rs     id → allocation
//!   content.rs   reads of one instant, writes whole or not at all
//!   upload.rs    writes of any length
//!   drain.rs     until when readers of what was freed may go on
//!   place.rs     where its bytes lie: a slab, or an object
//!   object.rs    blocks that no class holds
//!   moving.rs    a live block's bytes go elsewhere
//!   deposit.rs   a block that is allocated and written in one go
//!   entries.rs   which entries are free, and how one becomes an allocation
//!   error.rs     why the pool says no
//!   expiry.rs    allocations end with their lease
//!   lease.rs     which lease ends next
//!   lag.rs       how late leases are ended
//!   leaks.rs     allocations that nobody seems to need any more
//!   listing.rs   allocations in the order in which they were made
//!   arena/       groups of allocations that end together
//!   stats.rs     all numbers of the pool
//!   tags.rs      whose it is, and what budget that has
//!   id.rs        what the bits of an id mean
//!   order.rs     creation order, for listing
//!   idempotency.rs  which request was already served
//!   inflight.rs  the second budget: bytes of requests on their way
//!   calls.rs     what is counted of the calls at the door, how long they take, and how the pool does by that
//! ```

mod admission;
mod advice;
mod allocation;
mod arena;
mod calls;
pub mod config;
mod content;
mod deposit;
mod drain;
mod entries;
mod error;
mod expiry;
mod fitting;
mod handover;
mod id;
mod idempotency;
mod inflight;
mod janitor;
mod lag;
mod leaks;
mod lease;
mod listing;
mod local;
mod moving;
mod object;
mod order;
mod place;
mod plan;
mod queue;
mod relief;
mod stats;
mod table;
mod tags;
mod taking;
mod turns;
mod upload;

pub use admission::{Admission, AdmissionStats, BreakerStats, Policy, Priority, TurnedAway};
pub use advice::AdviseError;
pub use allocation::{AllocateRequest, Allocation, Written};
pub use arena::{
    Arena, ArenaAllocateError, ArenaError, ArenaFreed, ArenaPage, ArenaRequest, ArenaSize, ArenaState,
    ArenaStats, Keep, Profile, RenewError,
};
pub use calls::{ALLOCATION_BUCKETS, CallStats};
pub use config::Config;
pub use content::{Content, Placement, Precondition, ReadError, SMALL_WRITE_BYTES, Versions, WriteError};
pub use deposit::Deposit;
pub use drain::{ReaderWatch, Sweep};
pub use error::{AllocateError, NotFound, Unavailable};
pub use expiry::Expired;
pub use handover::Chore;
pub use id::{AllocationId, AllocationNumber, ArenaId, ParseIdError};
pub use idempotency::{
    Begun, Digest, Digester, Idempotency, KEY_IDS_MAX, KEY_KEPT, KEYS_MAX, KeyError, Served, Ticket,
};
pub use inflight::{Inflight, InflightCharge};
pub use janitor::JanitorStats;
pub use lag::{LEASE_LAG_BUCKETS, LeaseLag};
pub use leaks::{LEAKS_SHOWN, LEAKY_TAGS_SHOWN, LeakReport, Leaked, LeakedBy, LeakedTag};
pub use listing::{Cursor, Page};
pub use object::ObjectStats;
pub use relief::{ReliefCount, ReliefSlice, ReliefStats, Relieved};
pub use stats::PoolStats;
pub use tags::{ParseTagError, TAGS_MAX, Tag, TagStats};
pub use upload::Upload;

use crate::clock::Now;
use crate::memory::{self, Heap};
use crate::pressure::{Gauge, Level, Reading};
use bytes::Bytes;
use calls::Calls;
use local::Local;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Who keeps the allocations.
#[derive(Debug)]
enum Engine {
    Local(Arc<Local>),
}

/// The door to all allocations. Handlers and tasks call this and nothing below it.
#[derive(Debug)]
pub struct Pool {
    engine: Engine,
    inflight: Inflight,
    idempotency: Idempotency,
    calls: Calls,
    write_wait: Duration,
    last_leaks: Mutex<Option<Arc<LeakReport>>>,
    /// Bytes in use from which on the level is above normal.
    moderate_bytes: u64,
}

impl Pool {
    /// A pool on `heap`, with the usual watermarks.
    pub fn new(heap: Heap, config: &Config) -> Pool {
        Pool::with_gauge(heap, config, Arc::new(Gauge::default()))
    }

    /// A pool on `heap` whose fullness this gauge shows.
    pub fn with_gauge(heap: Heap, config: &Config, gauge: Arc<Gauge>) -> Pool {
        let moderate_bytes = gauge.watermarks().moderate.of(heap.limit_bytes());
        let local = Local::new(Arc::new(heap), config, gauge);
        let inflight = local.inflight().clone();
        let engine = Engine::Local(local);
        let write_wait = Duration::from_millis(config.write_wait_ms);
        Pool {
            engine,
            inflight,
            idempotency: Idempotency::default(),
            calls: Calls::default(),
            write_wait,
            last_leaks: Mutex::new(None),
            moderate_bytes,
        }
    }

    /// Gives an allocation a lease of that length from now on, whatever lease it had.
    ///
    /// # Errors
    /// [`RenewError`] where no live allocation has the id, or it ends with its arena.
    pub async fn renew(&self, id: AllocationId, lease: Duration, now: Now) -> Result<Allocation, RenewError> {
        let Engine::Local(local) = &self.engine;
        local.renew(id, now.after(lease), now)
    }

    /// Looks an allocation up.
    ///
    /// # Errors
    /// [`NotFound`] where no live allocation has the id.
    pub async fn get(&self, id: AllocationId, now: Now) -> Result<Allocation, NotFound> {
        let Engine::Local(local) = &self.engine;
        local.get(id, now)
    }

    /// Ends an allocation: its id is dead, its bytes are zeroed and free, once nobody reads them any more.
    ///
    /// # Errors
    /// [`NotFound`] where no live allocation has the id.
    pub async fn free(&self, id: AllocationId, now: Now) -> Result<(), NotFound> {
        let Engine::Local(local) = &self.engine;
        local.free(id, now).map(drop).inspect_err(|_| self.calls.count_missing(1))
    }

    /// Ends all of these allocations, each as [`Pool::free`] does, and returns those that were not found. One that stands
    /// twice is not found the second time.
    pub async fn free_batch(&self, ids: &[AllocationId], now: Now) -> Vec<AllocationId> {
        /// Bytes freed, or ids looked at, before others have their turn: all may have to be zeroed, about 0.5 ms.
        const SLICE: (u64, usize) = (16 << 20, 1024);
        let Engine::Local(local) = &self.engine;
        let (mut missing, mut bytes, mut looks) = (Vec::new(), 0, 0);
        self.calls.count_batch_free();
        for id in ids {
            if bytes >= SLICE.0 || looks >= SLICE.1 {
                (bytes, looks) = (0, 0);
                tokio::task::yield_now().await;
            }
            looks += 1;
            match local.free(*id, now) {
                Ok(freed) => bytes += freed,
                Err(NotFound(id)) => missing.push(id),
            }
        }
        self.calls.count_missing(missing.len());
        missing
    }

    /// Lists live allocations in creation order, from the beginning or after `cursor`, at most `limit` of them; where a
    /// tag is given only those that carry it.
    pub async fn list(&self, cursor: Option<Cursor>, limit: usize, tag: Option<&Tag>, now: Now) -> Page {
        let Engine::Local(local) = &self.engine;
        local.list(cursor, limit, tag, now)
    }

    /// Ends allocations whose lease is over, in a slice of bounded length. To be called every tick of 10 ms while there
    /// are leases.
    pub fn expire(&self, now: Now) -> Expired {
        let Engine::Local(local) = &self.engine;
        local.expire(now)
    }

    /// Waits until there are leases where there were none.
    pub async fn leases_begun(&self) {
        let Engine::Local(local) = &self.engine;
        local.leases_begun.notified().await;
    }

    /// The content as of this instant.
    ///
    /// # Errors
    /// [`ReadError`] where no live allocation has the id.
    pub async fn read(&self, id: AllocationId, now: Now) -> Result<Content, ReadError> {
        let Engine::Local(local) = &self.engine;
        local.read(id, now)
    }

    /// Writes a body of at most [`SMALL_WRITE_BYTES`] that is all there.
    ///
    /// # Errors
    /// [`WriteError`]; nothing was changed then.
    pub async fn write(
        &self,
        id: AllocationId,
        placement: Placement,
        pieces: &[Bytes],
        precondition: &Precondition,
        now: Now,
    ) -> Result<Written, WriteError> {
        let Engine::Local(local) = &self.engine;
        match local.write(id, placement, pieces, precondition, None, now).await {
            // In place there is always room, where readers are not in the way, nor much that would have to be zeroed.
            Err(WriteError::NoRoom(memory::AllocateError::Exhausted { requested_bytes, .. }))
                if local.may_be_freed(requested_bytes) || local.may_be_written_in_place(id, now) =>
            {
                let write = |room, now| local.write(id, placement, pieces, precondition, room, now);
                local.write_in_turn(requested_bytes, self.write_wait, now, write).await
            }
            outcome => outcome,
        }
    }

    /// Begins to write a body of any length, piece by piece. Of the precondition only what can never hold any more is
    /// refused here; [`Upload::commit`] decides.
    ///
    /// # Errors
    /// [`WriteError`] where the allocation is gone, or there is no room for a second version, nor will there be when
    /// readers have gone and waiters are served.
    pub async fn upload(
        &self,
        id: AllocationId,
        placement: Placement,
        precondition: &Precondition,
        now: Now,
    ) -> Result<Upload<'_>, WriteError> {
        self.upload_body(id, (placement, None), precondition, now).await
    }

    /// As [`Pool::upload`], of a body of just this length. It takes no more memory than a body of that length needs: of a
    /// large object the segments that it touches.
    ///
    /// # Errors
    /// As [`Pool::upload`]; and [`WriteError::PastEnd`] where the body would end behind the content.
    pub async fn upload_exactly(
        &self,
        id: AllocationId,
        placement: Placement,
        length: u64,
        precondition: &Precondition,
        now: Now,
    ) -> Result<Upload<'_>, WriteError> {
        self.upload_body(id, (placement, Some(length)), precondition, now).await
    }

    async fn upload_body(
        &self,
        id: AllocationId,
        body: (Placement, Option<u64>),
        precondition: &Precondition,
        now: Now,
    ) -> Result<Upload<'_>, WriteError> {
        let Engine::Local(local) = &self.engine;
        match local.upload(id, body, precondition, None, now).await {
            Err(WriteError::NoRoom(memory::AllocateError::Exhausted { requested_bytes, .. }))
                if local.may_be_freed(requested_bytes) =>
            {
                let upload = |room, now| local.upload(id, body, precondition, room, now);
                local.write_in_turn(requested_bytes, self.write_wait, now, upload).await
            }
            outcome => outcome,
        }
    }

    /// Bytes of the block that a request for so many bytes takes, however full the pool is.
    ///
    /// # Errors
    /// [`AllocateError::TooLarge`] where there can never be one.
    pub fn actual_size(&self, size_bytes: u64) -> Result<u64, AllocateError> {
        let Engine::Local(local) = &self.engine;
        local.shape_for(size_bytes).map(|(_, actual)| actual)
    }

    /// All numbers.
    pub async fn stats(&self) -> PoolStats {
        let Engine::Local(local) = &self.engine;
        local.stats(&self.inflight, &self.calls)
    }

    /// What clients asked for since the start, for whoever recommends a configuration. A copy of up to 40 KiB a slot.
    pub fn seen(&self) -> memory::Seen {
        let Engine::Local(local) = &self.engine;
        local.seen()
    }

    /// Bytes in use and the limit. Two loads, for whoever asks often.
    pub fn in_use_and_limit_bytes(&self) -> (u64, u64) {
        let Engine::Local(local) = &self.engine;
        (local.heap().in_use_bytes(), local.heap().limit_bytes())
    }

    /// How full memory is at this instant.
    pub fn pressure(&self, now: Now) -> Reading {
        let (in_use, limit) = self.in_use_and_limit_bytes();
        self.gauge().observe(in_use, limit, now)
    }

    /// The level at this instant where it is above normal. Cheap where it is not: a few loads.
    #[inline]
    pub fn raised_level(&self, now: Now) -> Option<Level> {
        let Engine::Local(local) = &self.engine;
        // What is granted is no less than what is in use.
        if local.heap().granted_bytes() < self.moderate_bytes && self.gauge().is_normal_but_for_the_pool(now)
        {
            return None;
        }
        Some(self.pressure(now).level).filter(|level| *level > Level::Normal)
    }

    /// What shows how full memory is.
    pub fn gauge(&self) -> &Arc<Gauge> {
        let Engine::Local(local) = &self.engine;
        local.doorkeeper().gauge()
    }

    /// The largest size that a request may ask for where so many bytes are free; none where even the smallest block needs
    /// more.
    pub fn largest_block_within(&self, free_bytes: u64) -> Option<u64> {
        let Engine::Local(local) = &self.engine;
        local.largest_within(free_bytes)
    }

    /// Looks at those who read what was freed or replaced: marks whose time is over, and says who is left. Wants to be
    /// called a few times a second from [`Pool::draining_begins`] on until nothing drains.
    pub fn sweep_readers(&self, now: Now) -> Sweep {
        let Engine::Local(local) = &self.engine;
        local.sweep_readers(now)
    }

    /// Returns when something drains that nobody sweeps yet.
    pub async fn draining_begins(&self) {
        let Engine::Local(local) = &self.engine;
        local.drains().begun().await;
    }

    /// Looks at the next free slabs, about `bytes_max` of them, for what a stray write left, and takes those out of use
    /// that it damaged. Calls that follow each other come to every free slab. 1 MiB takes about 0.1 ms.
    pub fn sweep_free_slabs(&self, bytes_max: u64) -> memory::Swept {
        let Engine::Local(local) = &self.engine;
        local.heap().sweep_slice(bytes_max)
    }

    /// The second budget: bytes of requests that are being received.
    pub fn inflight(&self) -> &Inflight {
        &self.inflight
    }

    /// Requests that were served, by the keys that their clients gave them.
    pub fn idempotency(&self) -> &Idempotency {
        &self.idempotency
    }

    /// From now on nobody waits for room to allocate: who does is refused with [`Unavailable`], now and later. Writes
    /// still wait for readers.
    pub fn stop_waiting(&self) {
        let Engine::Local(local) = &self.engine;
        local.queue().close();
    }

    /// From now on every new allocation is refused with [`Unavailable`]. Everything else goes on.
    pub fn close(&self) {
        let Engine::Local(local) = &self.engine;
        local.close();
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
