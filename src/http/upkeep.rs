//! What `/stats` says of the upkeep of memory: what was given back, what was moved for it, and what the janitor did.

use crate::clock::Now;
use crate::memory::{CompactionStats, ReclaimAction, ReclaimStats};
use crate::pool::JanitorStats;
use serde::Serialize;
use utoipa::ToSchema;

/// Free memory that was given back, slice by slice.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReclaimBlock {
    /// Slices for a request that needed the room in another size.
    backing: u64,
    /// Slices of what a size had more than it keeps.
    surplus: u64,
    /// Slices of what nobody needed for a while.
    idle: u64,
    /// Slices because the pool, or the system, got full.
    pressure: u64,
    /// Bytes given back in all.
    reclaimed_bytes: u64,
    /// Whole seconds since the last one, to about a second; null where there was none.
    #[schema(required)]
    seconds_since_last: Option<u64>,
    janitor: JanitorBlock,
}

/// The thread that does what takes long.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JanitorBlock {
    /// Requests that it finished.
    chores: u64,
    /// Requests that wait for it.
    waiting: u64,
    /// Time that it has worked.
    busy_seconds: f64,
}

/// Live blocks that were moved, so that whole pages could be given back.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CompactionBlock {
    /// Blocks moved.
    moves: u64,
    /// Their bytes.
    moved_bytes: u64,
    /// Times that a block was left where it is, because it was being read or written.
    kept: u64,
}

impl ReclaimBlock {
    pub(super) fn new(stats: &ReclaimStats, janitor: &JanitorStats, now: Now) -> ReclaimBlock {
        let slices = |action: ReclaimAction| stats.slices[action as usize];
        ReclaimBlock {
            backing: slices(ReclaimAction::Backing),
            surplus: slices(ReclaimAction::Surplus),
            idle: slices(ReclaimAction::Idle),
            pressure: slices(ReclaimAction::Pressure),
            reclaimed_bytes: stats.bytes,
            seconds_since_last: janitor.since_last_reclaim(now).map(|since| since.as_secs()),
            janitor: JanitorBlock {
                chores: janitor.chores,
                waiting: janitor.waiting,
                busy_seconds: janitor.busy.as_secs_f64(),
            },
        }
    }
}

impl CompactionBlock {
    pub(super) fn new(stats: &CompactionStats) -> CompactionBlock {
        CompactionBlock { moves: stats.moves, moved_bytes: stats.moved_bytes, kept: stats.kept }
    }
}
