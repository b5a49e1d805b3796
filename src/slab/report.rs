//! What an allocator says of itself: its numbers, how well it does, and what was not given back.

use super::allocator::SlabAllocator;
use super::sites::LeakReport;
use super::stats::{AllocatorStats, Counted, fragmentation};
use super::watch::Watch;
use crate::clock::Now;
use crate::health::{Health, Reading};
use crate::memory;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing::warn;

impl SlabAllocator {
    /// What is in use now, and where the oldest was allocated, where the allocator debugs. `examples/leak_hunt.rs` finds a
    /// leak with it.
    ///
    /// ```
    /// use maas::slab::SlabAllocator;
    ///
    /// let allocator = SlabAllocator::builder(512, 100).debug(true).build()?;
    /// let forgotten = allocator.allocate()?.detach()?; // from here on it is in use until somebody says otherwise
    /// let report = allocator.leaks();
    /// assert_eq!((report.slabs, report.bytes, report.detached), (1, 512, 1));
    /// println!("{report}"); // with a backtrace
    /// # allocator.deallocate_id(forgotten)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn leaks(&self) -> LeakReport {
        let fallbacks = self.counts.fallbacks_live.load(Ordering::Relaxed);
        let slabs = self.heap.stats().classes[0].used + fallbacks;
        LeakReport {
            slabs,
            bytes: slabs * self.fixed.slab_bytes,
            detached: self.detached.len(),
            oldest: self.sites.oldest(LeakReport::SITES_MAX),
        }
    }

    /// All numbers. It sums what CPUs count apart: microseconds, no lock that an allocation from a magazine needs.
    ///
    /// ```
    /// use maas::slab::SlabAllocator;
    ///
    /// let allocator = SlabAllocator::builder(100, 10_000).cache_line(64).build()?;
    /// let held = allocator.allocate_batch(10)?;
    /// drop(allocator.allocate()?);
    /// let stats = allocator.stats();
    /// assert_eq!((stats.used_slabs, stats.peak_used_slabs, stats.total_allocations), (10, 11, 11));
    /// assert_eq!(stats.slab_stride_bytes, 128); // two cache lines
    /// # drop(held);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> AllocatorStats {
        let mut stats =
            AllocatorStats::new(&self.fixed, &self.heap.stats(), &self.counted(), memory::page_size());
        // It is a difference of numbers that are read one after the other.
        let told = self.deallocations_told.fetch_max(stats.total_deallocations, Ordering::Relaxed);
        stats.total_deallocations = stats.total_deallocations.max(told);
        stats
    }

    /// How well it does: rates of what was since the last intervals, and one score of all. [`crate::health`] says how.
    /// Without [`super::Builder::health_checks`] no latency is known.
    ///
    /// ```
    /// use maas::slab::SlabAllocator;
    ///
    /// let allocator = SlabAllocator::production(4096, 1000).build()?;
    /// let health = allocator.health_check();
    /// assert!(health.health_score > 0.8, "look at the parts: {health:?}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn health_check(&self) -> Health {
        let (heap, now) = (self.heap.stats(), Now::read());
        let counted = self.counted();
        let reading = Reading {
            allocations: heap.classes[0].allocations + counted.fallbacks,
            errors: counted.allocation_errors,
            served: heap.classes[0].allocations + counted.fallbacks,
            fast_hits: heap.paths.magazine,
            slow: counted.slow,
            damaged: heap.guard_violations.iter().sum(),
            latency: self.watch.as_ref().map(Watch::latencies).unwrap_or_default(),
            in_use_bytes: heap.in_use_bytes,
            limit_bytes: heap.limit_bytes,
            fragmentation_ratio: fragmentation(&heap, memory::page_size()),
            circuit_open: self.breaker.is_open(),
            last_reclaim: None,
        };
        self.monitor.lock().observe(now, reading)
    }

    fn counted(&self) -> Counted {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let latencies = self.watch.as_ref().map(Watch::latencies).unwrap_or_default();
        Counted {
            batch_allocations: read(&self.counts.batch_allocations),
            batch_deallocations: read(&self.counts.batch_deallocations),
            allocation_errors: read(&self.counts.allocation_errors),
            deallocation_errors: read(&self.counts.deallocation_errors),
            fallbacks: read(&self.counts.fallbacks),
            fallbacks_live: read(&self.counts.fallbacks_live),
            detached: self.detached.len(),
            waiting: self.waiting.waiters(),
            slow: self.watch.as_ref().map_or(0, Watch::slow),
            circuit_opened: self.breaker.opened(),
            mean: latencies.mean(),
            max: Duration::from_nanos(latencies.max()),
        }
    }

    pub(super) fn tell_leaks(&self, report: &LeakReport) {
        if self.leak_report && report.slabs > 0 {
            let (slabs, bytes, detached) = (report.slabs, report.bytes, report.detached);
            self.log(|| {
                warn!(allocator = self.number, slabs, bytes, detached, "slabs were not given back: {report}");
            });
        }
    }
}
