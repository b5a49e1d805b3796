//! The numbers of an allocator.

use crate::memory::HeapStats;
use crate::units::ratio;
use std::time::Duration;

/// All numbers of a [`super::SlabAllocator`]. Each is consistent in itself; what other threads do meanwhile may be in some
/// and not in others.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AllocatorStats {
    // What was set.
    /// Version of this library.
    pub version: &'static str,
    /// Slabs there can be.
    pub total_slabs: u64,
    /// Bytes of a slab that its owner has.
    pub slab_size_bytes: u64,
    /// Bytes that a slab takes: rounded to cache lines, and with room for what the bit guard looks at.
    pub slab_stride_bytes: u64,
    /// Bytes of a cache line that slabs are aligned to; 0: they are not.
    pub cache_line_bytes: u64,
    /// Whether slabs are zeroed when they are given back.
    pub secure: bool,
    /// Whether stray writes are looked for.
    pub bit_guard: bool,
    /// Whether guard pages stand behind slabs.
    pub guard_pages: bool,

    // How it stands.
    /// Slabs in use, retired ones not included.
    pub used_slabs: u64,
    /// Slabs that can be had now.
    pub available_slabs: u64,
    /// The most slabs that were ever in use.
    pub peak_used_slabs: u64,
    /// Allocations that are live: slabs in use, and those from Rust's own allocator.
    pub current_allocations: u64,
    /// Those of them that are known by an id alone.
    pub detached_slabs: u64,
    /// Threads that wait for a slab.
    pub waiting: u64,
    /// Bytes of pages that may be resident.
    pub committed_bytes: u64,
    /// Bytes of records about slabs.
    pub metadata_bytes: u64,

    // What was done since it was made.
    /// Allocations served, however.
    pub total_allocations: u64,
    /// Allocations given back.
    pub total_deallocations: u64,
    /// Calls that allocated several at once.
    pub batch_allocations: u64,
    /// Calls that gave several back.
    pub batch_deallocations: u64,
    /// Calls that allocated nothing: out of memory, out of time, refused by the breaker.
    pub allocation_errors: u64,
    /// Calls that gave nothing back: invalid references, second times, damaged slabs.
    pub deallocation_errors: u64,

    // How fast.
    /// Mean time of an allocation, in nanoseconds, from samples; none without health checks.
    pub average_allocation_ns: Option<f64>,
    /// The longest that was seen: exact for those past the magazine, from samples for the others.
    pub max_allocation_ns: u64,
    /// Allocations over the latency limit.
    pub slow_allocations: u64,
    /// Of the pages that may be resident while slabs are in use, the part that holds none of them: 0 where slabs in use lie
    /// side by side.
    pub fragmentation_ratio: f64,
    /// Slabs in use, of all.
    pub utilization_ratio: f64,

    // Which way.
    /// Allocations that the thread's magazine served.
    pub magazine_hits: u64,
    /// Allocations that were served by what threads share: a lock-free stack, or the free slabs.
    pub shared_hits: u64,
    /// Allocations that took fresh memory.
    pub fresh_slabs: u64,
    /// Allocations that Rust's own allocator served, as all slabs were in use.
    pub heap_fallbacks: u64,
    /// Allocations of a slab that had an owner before, as a part of all.
    pub reuse_rate: f64,
    /// Stray writes found: behind slabs, and to free ones.
    pub guard_violations: u64,
    /// Slabs out of use because of that.
    pub retired_slabs: u64,
    /// Times that the circuit breaker opened.
    pub circuit_opened: u64,
    /// Times that free memory was given back to the system.
    pub reclaims: u64,
}

/// What the allocator counts beside the heap.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) batch_allocations: u64,
    pub(super) batch_deallocations: u64,
    pub(super) allocation_errors: u64,
    pub(super) deallocation_errors: u64,
    pub(super) fallbacks: u64,
    pub(super) fallbacks_live: u64,
    pub(super) detached: u64,
    pub(super) waiting: u64,
    pub(super) slow: u64,
    pub(super) circuit_opened: u64,
    pub(super) mean: Option<f64>,
    pub(super) max: Duration,
}

/// What is set and does not change.
#[derive(Clone, Debug)]
pub(super) struct Fixed {
    pub(super) slab_bytes: u64,
    pub(super) stride_bytes: u64,
    pub(super) capacity: u64,
    pub(super) cache_line_bytes: u64,
    pub(super) secure: bool,
    pub(super) bit_guard: bool,
    pub(super) guard_pages: bool,
}

/// The part of committed bytes that holds no slab in use, while any is.
pub(super) fn fragmentation(heap: &HeapStats, page_bytes: u64) -> f64 {
    let class = &heap.classes[0];
    let needed = ((class.used + class.retired) * class.slab_size_bytes).next_multiple_of(page_bytes);
    if class.used == 0 { 0.0 } else { 1.0 - ratio(needed, heap.committed_bytes.max(needed)) }
}

impl AllocatorStats {
    pub(super) fn new(fixed: &Fixed, heap: &HeapStats, counted: &Counted, page_bytes: u64) -> AllocatorStats {
        let class = &heap.classes[0];
        let (used, retired) = (class.used, class.retired);
        let total_allocations = class.allocations + counted.fallbacks;
        let current_allocations = used + counted.fallbacks_live;
        AllocatorStats {
            version: env!("CARGO_PKG_VERSION"),
            total_slabs: fixed.capacity,
            slab_size_bytes: fixed.slab_bytes,
            slab_stride_bytes: fixed.stride_bytes,
            cache_line_bytes: fixed.cache_line_bytes,
            secure: fixed.secure,
            bit_guard: fixed.bit_guard,
            guard_pages: fixed.guard_pages,
            used_slabs: used,
            available_slabs: fixed.capacity.saturating_sub(used + retired),
            peak_used_slabs: heap.peak_in_use_bytes / fixed.stride_bytes,
            current_allocations,
            detached_slabs: counted.detached,
            waiting: counted.waiting,
            committed_bytes: heap.committed_bytes,
            metadata_bytes: heap.metadata_bytes,
            total_allocations,
            // What was damaged was given back too.
            total_deallocations: total_allocations.saturating_sub(current_allocations),
            batch_allocations: counted.batch_allocations,
            batch_deallocations: counted.batch_deallocations,
            allocation_errors: counted.allocation_errors,
            deallocation_errors: counted.deallocation_errors,
            average_allocation_ns: counted.mean,
            max_allocation_ns: u64::try_from(counted.max.as_nanos()).unwrap_or(u64::MAX),
            slow_allocations: counted.slow,
            fragmentation_ratio: fragmentation(heap, page_bytes),
            utilization_ratio: ratio(used, fixed.capacity),
            magazine_hits: heap.paths.magazine,
            shared_hits: heap.paths.shared,
            fresh_slabs: heap.paths.fresh + heap.paths.reclaim,
            heap_fallbacks: counted.fallbacks,
            reuse_rate: ratio(class.reused, total_allocations),
            guard_violations: heap.guard_violations.iter().sum(),
            retired_slabs: retired,
            circuit_opened: counted.circuit_opened,
            reclaims: heap.reclaim.slices.iter().sum(),
        }
    }
}
