//! What `/stats` says of large objects: blocks of whole pages, and the free runs of pages that they are made of.

use crate::pool::PoolStats;
use crate::units::ratio;
use serde::Serialize;
use utoipa::ToSchema;

/// Large objects, and the free memory between them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LargeObjectsBlock {
    /// Live ones: what no class holds, and what is larger than 16 KiB in an arena.
    objects: u64,
    /// Their actual bytes, whole pages.
    bytes: u64,
    /// Segments that they lie in, of at most 4 MiB each.
    segments: u64,
    /// Bytes of free pages that have memory, ready for the next one.
    free_bytes: u64,
    /// Runs of neighbouring pages that these are.
    free_runs: u64,
    /// The longest of them.
    largest_free_bytes: u64,
    /// 1 − `largest_free_bytes` / `free_bytes`: 0 where all free memory is one run, or there is none. No request is ever
    /// refused for it. That of `health` is something else: what live blocks waste.
    fragmentation_ratio: f64,
    /// Blocks of pages given out: objects, new versions of what writes touch, and pieces of memory of arenas.
    allocations: u64,
    /// Of these, those for which all memory was there.
    free_list_hits: u64,
    /// `free_list_hits` / `allocations`.
    free_list_hit_rate: f64,
    /// Free neighbours that were joined.
    coalesces: u64,
    /// Of the segments that came back, the part that was joined with a free neighbour at once.
    coalescing_efficiency: f64,
    /// Of the bytes in use in segments of 2 MiB and more, the part for which huge pages are asked.
    huge_page_ratio: f64,
}

impl LargeObjectsBlock {
    pub(super) fn new(stats: &PoolStats) -> LargeObjectsBlock {
        let large = &stats.heap.large;
        LargeObjectsBlock {
            objects: stats.objects.objects,
            bytes: stats.objects.bytes,
            segments: stats.objects.segments,
            free_bytes: large.free_bytes,
            free_runs: large.free_runs,
            largest_free_bytes: large.largest_free_bytes,
            fragmentation_ratio: large.fragmentation_ratio(),
            allocations: large.allocations,
            free_list_hits: large.free_list_hits,
            free_list_hit_rate: ratio(large.free_list_hits, large.allocations),
            coalesces: large.coalesces,
            coalescing_efficiency: ratio(large.coalesced_frees, large.frees),
            huge_page_ratio: large.huge_page_ratio(),
        }
    }
}
