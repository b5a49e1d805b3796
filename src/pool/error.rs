//! Why the pool says no. Each variant carries the numbers of its instant.

use super::admission::TurnedAway;
use super::id::AllocationId;
use super::tags::Tag;
use crate::memory;
use std::time::Duration;

/// Why an allocation cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// Several blocks that could never be had together.
    #[error(
        "{blocks} blocks of {size_bytes} bytes in all take more than the {limit_bytes} bytes of the pool"
    )]
    TooLargeTogether {
        /// How many.
        blocks: usize,
        /// Bytes asked for in all.
        size_bytes: u64,
        /// The pool's limit.
        limit_bytes: u64,
    },
    /// More blocks than there can ever be allocations.
    #[error(
        "{blocks} blocks were asked for, and {allocations_max} allocations is the most that there can be"
    )]
    TooMany {
        /// How many.
        blocks: usize,
        /// The table's bound.
        allocations_max: u32,
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
    /// As many tags have allocations or budgets as can be.
    #[error("{tags_max} tags are in use, as many as can be")]
    TagsFull {
        /// The bound.
        tags_max: usize,
    },
    /// The tag's budget leaves no room.
    #[error(
        "{requested_bytes} bytes requested, {in_use_bytes} of the {budget_bytes} bytes of tag {tag} in use"
    )]
    Budget {
        /// Whose budget it is.
        tag: Tag,
        /// Actual bytes asked for.
        requested_bytes: u64,
        /// Actual bytes that the tag's allocations have.
        in_use_bytes: u64,
        /// What they may have.
        budget_bytes: u64,
    },
    /// The policy turns it away for now.
    #[error("deferred: {0}")]
    AdmissionDeferred(TurnedAway),
    /// The policy turns it away.
    #[error("rejected: {0}")]
    AdmissionRejected(TurnedAway),
    /// So many were refused for lack of memory before it that this one is not tried.
    #[error(
        "{requested_bytes} bytes requested, and {smallest_refused_bytes} bytes and more are refused for another {left:?}"
    )]
    CircuitOpen {
        /// Actual bytes asked for.
        requested_bytes: u64,
        /// From how many on the circuit breaker refuses.
        smallest_refused_bytes: u64,
        /// How long it does, if nothing is freed.
        left: Duration,
    },
    /// The request waited for room, in vain.
    #[error("waited {waited_ms} ms: {last}")]
    Waited {
        /// How long.
        waited_ms: u64,
        /// Why it was not served before.
        last: Box<AllocateError>,
    },
    /// The engine takes no new allocations.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl AllocateError {
    /// Whether what refused may go away while a request waits.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            AllocateError::Memory(memory::AllocateError::Exhausted { .. })
            | AllocateError::TableFull { .. } => true,
            AllocateError::Budget { requested_bytes, budget_bytes, .. } => requested_bytes <= budget_bytes,
            _ => false,
        }
    }

    /// Whether the pool lacked what was asked for: not where a tag's budget says no, and not where nobody could ever
    /// have it.
    pub(super) fn is_lack(&self) -> bool {
        match self {
            AllocateError::Memory(_) | AllocateError::TableFull { .. } | AllocateError::TagsFull { .. } => {
                true
            }
            AllocateError::Waited { last, .. } => last.is_lack(),
            _ => false,
        }
    }
}

/// The engine cannot serve the call now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool takes no new allocations: the service is stopping")]
pub struct Unavailable;

/// No live allocation has this id: it was never given out, was freed, or its lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no live allocation has the id {0}")]
pub struct NotFound(pub AllocationId);
