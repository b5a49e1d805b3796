//! Why the allocator says no.

use crate::memory::OsError;
use std::time::Duration;

/// Why a call failed. Nothing is lost with any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlabError {
    /// All slabs are in use.
    #[error("{requested} slabs requested, {in_use} of {capacity} in use")]
    OutOfMemory {
        /// Slabs asked for.
        requested: u64,
        /// Slabs in use, damaged ones included.
        in_use: u64,
        /// Slabs there are.
        capacity: u64,
    },
    /// There are slabs left, but the system grants no memory for them.
    #[error("the system grants no memory for a slab: {0}")]
    System(OsError),
    /// No slab was freed in time.
    #[error("waited {waited:?} in vain for a slab")]
    Timeout {
        /// How long.
        waited: Duration,
    },
    /// So many allocations failed in a row that no more are tried for a while.
    #[error("the circuit breaker is open for another {retry_in:?}")]
    CircuitOpen {
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The reference or id is of another allocator, of before a reset, or was never given out.
    #[error("the reference is not valid here")]
    InvalidReference,
    /// The slab was given back before.
    #[error("the slab was given back before")]
    DoubleFree,
    /// Something wrote beyond the end of the slab: it is out of use from now on.
    #[error("something wrote beyond the end of slab {id}: it is retired")]
    Corrupted {
        /// The slab's number.
        id: u64,
    },
    /// The allocator was closed.
    #[error("the allocator is closed")]
    Closed,
}

/// Why an allocator cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting breaks a rule.
    #[error("{setting} is {value}: {rule}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What it is.
        value: u64,
        /// The rule.
        rule: &'static str,
    },
    /// The memory beneath cannot be had.
    #[error(transparent)]
    Heap(#[from] crate::memory::HeapError),
}
