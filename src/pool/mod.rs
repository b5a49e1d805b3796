//! Whose, for how long, may they? Allocations: their ids, their deadlines, their order, and what they add up to.
//!
//! The door is [`Pool`]. Its calls are `async` because a request may have to wait, and because another engine may
//! stand behind it one day; of the local engine each is ready at the first poll. Time comes in as an argument.
//!
//! ```text
//!   mod.rs       Pool: the door, and the words it speaks
//!   local.rs     the engine that keeps its allocations in this process
//!   table.rs     id → allocation
//!   content.rs   reads of one instant, writes whole or not at all
//!   drain.rs     until when readers of what was freed may go on
//!   id.rs        what the bits of an id mean
//!   order.rs     creation order, for listing
//!   lock.rs      the lock of one entry          (lock-free, loom-tested)
//!   inflight.rs  the second budget: bytes of requests on their way
//! ```

pub mod config;
mod content;
mod drain;
mod id;
mod inflight;
mod local;
mod lock;
mod order;
mod table;

pub use config::Config;
pub use content::{
    Content, Placement, Precondition, ReadError, SMALL_WRITE_BYTES, Upload, Versions, WriteError,
};
pub use drain::{ReaderWatch, Sweep};
pub use id::{AllocationId, ParseIdError};
pub use inflight::{Inflight, InflightCharge};

use crate::clock::Now;
use crate::memory::{self, Heap, HeapStats};
use bytes::Bytes;
use local::Local;
use std::sync::Arc;
use std::time::Duration;

/// What a client holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Its name.
    pub id: AllocationId,
    /// Bytes asked for.
    pub size_bytes: u64,
    /// Bytes of the slab it got.
    pub actual_size_bytes: u64,
    /// When it was made.
    pub created: Now,
    /// When it ends by itself; none: it lives until freed.
    pub deadline: Option<Now>,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocateRequest {
    /// Bytes wanted, at least 1.
    pub size_bytes: u64,
    /// How long the allocation lives if it is not freed before; none: until freed.
    pub lease: Option<Duration>,
}

/// What a write left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The content's version: writes counted so far.
    pub version: u64,
    /// Whether the body was all of the content, so that nothing was added to it.
    pub whole: bool,
}

/// Why an allocation cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// It could never be made here, however empty the pool is.
    #[error(
        "{size_bytes} bytes requested, {actual_size_bytes:?} in the class that holds them, {size_bytes_max} can be had at most"
    )]
    TooLarge {
        /// Bytes asked for.
        size_bytes: u64,
        /// Size of the class that holds them, if one does.
        actual_size_bytes: Option<u64>,
        /// The largest size a request may ask for.
        size_bytes_max: u64,
    },
    /// The pool is full, or the system grants no memory.
    #[error(transparent)]
    Memory(#[from] memory::AllocateError),
    /// As many allocations are live as the table holds.
    #[error("{allocations_max} allocations are live, as many as can be")]
    TableFull {
        /// The table's bound.
        allocations_max: u32,
    },
    /// The engine takes no new allocations.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The engine cannot serve the call now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool takes no new allocations: the service is stopping")]
pub struct Unavailable;

/// No live allocation has this id: it was never given out, was freed, or its lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no live allocation has the id {0}")]
pub struct NotFound(pub AllocationId);

/// A place in the creation order. Opaque to clients; survives whatever is freed around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    created: u64,
    slot: u16,
}

impl Cursor {
    /// The cursor as text.
    pub fn encode(self) -> String {
        format!("{:016x}{:04x}", self.created, self.slot)
    }

    /// A cursor from its text; none if it is no cursor.
    pub fn decode(text: &str) -> Option<Cursor> {
        if text.len() != 20 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let created = u64::from_str_radix(&text[..16], 16).ok()?;
        let slot = u16::from_str_radix(&text[16..], 16).ok()?;
        Some(Cursor { created, slot })
    }
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Live allocations in creation order.
    pub allocations: Vec<Allocation>,
    /// Where the next page starts; none after the last. A page may be short and still have one.
    pub next: Option<Cursor>,
}

/// Numbers of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Numbers of the memory below.
    pub heap: HeapStats,
    /// Live allocations.
    pub active_allocations: u64,
    /// Actual bytes of live allocations.
    pub allocated_bytes: u64,
    /// Live allocations at most.
    pub allocations_max: u64,
    /// Bytes of records about allocations and slabs.
    pub metadata_bytes: u64,
    /// What those bytes can become at most.
    pub metadata_bytes_max: u64,
    /// Bytes of requests on their way.
    pub inflight_bytes: u64,
    /// The in-flight budget.
    pub inflight_bytes_max: u64,
    /// Requests that wait for room. No call of this engine waits yet.
    pub waiting_requests: u64,
}

/// Who keeps the allocations.
#[derive(Debug)]
enum Engine {
    Local(Local),
}

/// The door to all allocations. Handlers and tasks call this and nothing below it.
#[derive(Debug)]
pub struct Pool {
    engine: Engine,
    inflight: Inflight,
    write_wait: Duration,
}

impl Pool {
    /// A pool on `heap`.
    pub fn new(heap: Heap, config: &Config) -> Pool {
        let engine = Engine::Local(Local::new(Arc::new(heap), config));
        let write_wait = Duration::from_millis(config.write_wait_ms);
        Pool { engine, inflight: Inflight::new(config.max_inflight_bytes), write_wait }
    }

    /// Makes an allocation.
    ///
    /// # Errors
    /// [`AllocateError`], with the numbers; nothing was changed then.
    pub async fn allocate(&self, request: &AllocateRequest, now: Now) -> Result<Allocation, AllocateError> {
        let Engine::Local(local) = &self.engine;
        local.allocate(request, now)
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
        local.free(id, now)
    }

    /// Lists live allocations in creation order, from the beginning or after `cursor`, at most `limit` of them.
    pub async fn list(&self, cursor: Option<Cursor>, limit: usize, now: Now) -> Page {
        let Engine::Local(local) = &self.engine;
        local.list(cursor, limit, now)
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
        // In place there is always room: it is only readers that can be in the way.
        self.once_there_is_room(|| local.write(id, placement, pieces, precondition, now), |_, _| true).await
    }

    /// Begins to write a body of any length, piece by piece. Of the precondition only what can never hold any more is
    /// refused here; [`Upload::commit`] decides.
    ///
    /// # Errors
    /// [`WriteError`] where no live allocation has the id, or there is no room for a second version.
    pub async fn upload(
        &self,
        id: AllocationId,
        placement: Placement,
        precondition: &Precondition,
        now: Now,
    ) -> Result<Upload<'_>, WriteError> {
        let Engine::Local(local) = &self.engine;
        let draining = |in_use: u64, requested: u64| {
            in_use.saturating_sub(local.heap().draining_bytes()) + requested <= local.heap().limit_bytes()
        };
        self.once_there_is_room(|| local.upload(id, placement, precondition, now), draining).await
    }

    /// Tries a write again, for as long as a write may wait, while readers alone hold the room that it needs:
    /// `would_fit(in_use, requested)` says whether it would go without them.
    async fn once_there_is_room<T>(
        &self,
        attempt: impl Fn() -> Result<T, WriteError>,
        would_fit: impl Fn(u64, u64) -> bool,
    ) -> Result<T, WriteError> {
        const STEP: Duration = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        loop {
            let outcome = attempt();
            let Err(WriteError::NoRoom(memory::AllocateError::Exhausted {
                requested_bytes,
                in_use_bytes,
                ..
            })) = outcome
            else {
                return outcome;
            };
            if !would_fit(in_use_bytes, requested_bytes) {
                return outcome;
            }
            if waited >= self.write_wait {
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                return Err(WriteError::Waited { waited_ms });
            }
            tokio::time::sleep(STEP).await;
            waited += STEP;
        }
    }

    /// All numbers.
    pub async fn stats(&self) -> PoolStats {
        let Engine::Local(local) = &self.engine;
        local.stats(&self.inflight)
    }

    /// Bytes in use and the limit. Two loads, for whoever asks often.
    pub fn in_use_and_limit_bytes(&self) -> (u64, u64) {
        let Engine::Local(local) = &self.engine;
        (local.heap().in_use_bytes(), local.heap().limit_bytes())
    }

    /// The largest block that `free_bytes` leave room for; none where even the smallest needs more.
    pub fn largest_block_within(&self, free_bytes: u64) -> Option<u64> {
        let Engine::Local(local) = &self.engine;
        local.heap().largest_class_within(free_bytes)
    }

    /// Looks at those who read what was freed or replaced: marks whose time is over, and says who is left. Wants to be
    /// called a few times a second from [`Pool::draining_begins`] on until nothing drains.
    pub fn sweep_readers(&self, now: Now) -> Sweep {
        let Engine::Local(local) = &self.engine;
        local.drains().sweep(local.heap(), now)
    }

    /// Returns when something drains that nobody sweeps yet.
    pub async fn draining_begins(&self) {
        let Engine::Local(local) = &self.engine;
        local.drains().begun().await;
    }

    /// The second budget: bytes of requests that are being received.
    pub fn inflight(&self) -> &Inflight {
        &self.inflight
    }

    /// From now on every new allocation is refused with [`Unavailable`]. Everything else goes on.
    pub fn close(&self) {
        let Engine::Local(local) = &self.engine;
        local.close();
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
