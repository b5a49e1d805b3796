//! Why a call about an arena fails. Each variant carries the facts of its instant.

use super::ArenaState;
use crate::pool::id::{AllocationId, ArenaId};
use crate::pool::{AllocateError, NotFound};

/// Why nothing can be done with an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArenaError {
    /// There is none of that id, and none that ended lately had it.
    #[error("no arena has the id {0}")]
    NotFound(ArenaId),
    /// It has ended.
    #[error("arena {id} has ended: {}", state.name())]
    Ended {
        /// Its id.
        id: ArenaId,
        /// How it ended.
        state: ArenaState,
    },
    /// What is kept outlives its arena, and a child's memory is its parent's to end.
    #[error("arena {0} has a parent: nothing of it can be kept")]
    KeepInChild(ArenaId),
    /// One of those to be kept is no live allocation of the arena. Nothing was changed.
    #[error("{allocation} is no live allocation of arena {id}")]
    NotAMember {
        /// The arena.
        id: ArenaId,
        /// What is none of its own.
        allocation: AllocationId,
    },
}

/// Why an arena, or an allocation in one, cannot be made. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArenaAllocateError {
    /// It is about the arena, or the parent.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The limit of the arena, or of one above it, leaves no room.
    #[error("{requested_bytes} bytes requested, {used_bytes} of the {limit_bytes} bytes of arena {id} used")]
    Exhausted {
        /// Whose limit it is.
        id: ArenaId,
        /// Bytes that it would use more.
        requested_bytes: u64,
        /// Bytes that it uses, arenas in it included.
        used_bytes: u64,
        /// What it may use.
        limit_bytes: u64,
    },
    /// Arenas lie in each other as deep as they can.
    #[error("arenas lie in each other {depth_max} deep at most")]
    TooDeep {
        /// The bound.
        depth_max: usize,
    },
    /// As many are open as can be.
    #[error("{arenas_max} arenas are open, as many as can be")]
    TooManyArenas {
        /// The bound.
        arenas_max: usize,
    },
    /// An arena takes whole pages, and the pool is smaller than one.
    #[error("an arena takes {page_bytes} bytes at least, and the pool has {limit_bytes}")]
    PoolTooSmall {
        /// The size of a page.
        page_bytes: u64,
        /// The pool's limit.
        limit_bytes: u64,
    },
    /// The estimate is more than the pool has.
    #[error("{estimate_bytes} bytes are expected, and the pool has {limit_bytes}")]
    EstimateTooLarge {
        /// What is expected.
        estimate_bytes: u64,
        /// The pool's limit.
        limit_bytes: u64,
    },
    /// The pool says no.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
}

/// Why an allocation cannot get another lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewError {
    /// There is no such allocation.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// It ends with its arena.
    #[error("its lease is that of its arena {0}")]
    InArena(ArenaId),
    /// It was kept when its arena was committed, and lives until it is freed.
    #[error("{0} was kept from an arena, and lives until it is freed")]
    Kept(AllocationId),
}
