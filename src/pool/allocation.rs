//! The words of the door: what a client asks for, what it holds, what a write left behind.

use super::admission::Priority;
use super::id::{AllocationId, ArenaId};
use super::tags::Tag;
use crate::clock::Now;
use std::time::Duration;

/// What a client holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Its name.
    pub id: AllocationId,
    /// Bytes asked for.
    pub size_bytes: u64,
    /// Bytes of the slab it got; what it takes of its arena, where it has one.
    pub actual_size_bytes: u64,
    /// When it was made.
    pub created: Now,
    /// When it ends by itself; none: it lives until freed. A member's is its arena's.
    pub deadline: Option<Now>,
    /// Whose it is.
    pub tag: Option<Tag>,
    /// The arena that it ends with.
    pub arena: Option<ArenaId>,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocateRequest {
    /// Bytes wanted, at least 1.
    pub size_bytes: u64,
    /// How long the allocation lives if it is not freed before; none: until freed.
    pub lease: Option<Duration>,
    /// Whose it will be.
    pub tag: Option<Tag>,
    /// How much it matters, where room is short.
    pub priority: Priority,
}

impl AllocateRequest {
    /// A request for so many bytes, without lease and tag, as important as most.
    pub const fn new(size_bytes: u64) -> AllocateRequest {
        AllocateRequest { size_bytes, lease: None, tag: None, priority: Priority::Normal }
    }
}

/// What a write left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The content's version: writes counted so far.
    pub version: u64,
    /// Whether the body was all of the content, so that nothing was added to it.
    pub whole: bool,
}
