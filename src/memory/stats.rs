//! What the heap has to say about itself: its numbers, and whether they agree.

use super::class::{Class, ClassStats};
use super::magazine::Rack;
use super::{AdviceStats, CompactionStats, Heap, LargeStats, ReclaimStats, Violation, segment};
use std::sync::atomic::Ordering;

/// Numbers of the whole heap, each consistent in itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeapStats {
    /// Bytes of all slabs in clients' hands or held by readers, at actual size.
    pub in_use_bytes: u64,
    /// The most that was ever in use.
    pub peak_in_use_bytes: u64,
    /// Bytes of freed blocks that a reader still holds; part of `in_use_bytes`.
    pub draining_bytes: u64,
    /// Bytes of slabs that are out of use for good; part of `in_use_bytes`.
    pub retired_bytes: u64,
    /// Stray writes that were found, by what found them: see [`super::Violation`].
    pub guard_violations: [u64; Violation::ALL.len()],
    /// Whether stray writes are looked for.
    pub canaries: bool,
    /// Whether there are guard pages.
    pub guard_pages: bool,
    /// Bytes held from the budget.
    pub pool_size_bytes: u64,
    /// The budget.
    pub limit_bytes: u64,
    /// Bytes of pages that may be resident.
    pub committed_bytes: u64,
    /// Bytes of records about slabs.
    pub metadata_bytes: u64,
    /// Large blocks, and free runs.
    pub large: LargeStats,
    /// Each class, smallest first.
    pub classes: Vec<ClassStats>,
    /// What was given back, and why.
    pub reclaim: ReclaimStats,
    /// What clients advised, and what became of it.
    pub advice: AdviceStats,
    /// What was moved.
    pub compaction: CompactionStats,
    /// How many allocations each tier served.
    pub paths: PathCounts,
}

/// How many allocations each tier served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounts {
    /// From the thread's magazine.
    pub magazine: u64,
    /// From what the slots share: a batch of the depot, or a free slab of the class.
    pub shared: u64,
    /// Of these, from a batch of the depot, which takes no lock.
    pub depot: u64,
    /// By fresh bytes from the budget.
    pub fresh: u64,
    /// By memory that was taken from other classes.
    pub reclaim: u64,
}

impl Heap {
    /// All numbers of the heap. Takes each class's lock in turn, for a copy of a few words.
    pub fn stats(&self) -> HeapStats {
        let refills: u64 = self.racks.iter().map(Rack::refills).sum();
        let depot = self.racks.iter().map(Rack::depot_refills).sum();
        let mut paths = PathCounts { shared: refills, depot, ..PathCounts::default() };
        let (mut classes, mut committed_bytes, mut metadata_bytes) = (Vec::new(), 0, 0);
        for (at, class) in self.classes.iter().enumerate() {
            let (mut stats, account_bytes, touched) = {
                let account = class.lock();
                (account.stats(), account.metadata_bytes(), account.fresh_max())
            };
            committed_bytes += stats.committed_bytes;
            metadata_bytes += account_bytes + touched * size_of::<segment::SegmentRecord>() as u64;
            // Magazines and the depot are read beside the lock: what is just on its way counts here or there.
            let ready: u64 = self.racks.iter().map(|rack| rack.len(at)).sum::<u64>() + class.depot().slabs();
            let ready = ready.min(stats.used);
            (stats.free, stats.used) = (stats.free + ready, stats.used - ready);
            paths.shared += stats.from_class;
            paths.fresh += stats.from_fresh;
            paths.reclaim += stats.from_reclaim;
            for rack in self.racks.iter() {
                let (allocations, reused) = rack.allocations_and_reused(at);
                paths.magazine += allocations;
                stats.allocations += allocations;
                stats.reused += reused;
            }
            classes.push(stats);
        }
        paths.magazine = paths.magazine.saturating_sub(refills);
        let large = self.large.stats();
        committed_bytes += large.held_bytes();
        metadata_bytes += self.large.metadata_bytes();
        HeapStats {
            in_use_bytes: self.in_use_bytes(),
            peak_in_use_bytes: self.peak_in_use_bytes.load(Ordering::Relaxed),
            draining_bytes: self.draining_bytes.load(Ordering::Relaxed),
            retired_bytes: classes.iter().map(|class| class.retired * class.slab_size_bytes).sum::<u64>()
                + large.retired_bytes,
            large,
            guard_violations: self.hardening.found(),
            canaries: self.hardening.canaries(),
            guard_pages: self.classes.iter().all(|class| class.slabs().layout().is_guarded()),
            pool_size_bytes: self.budget.held(),
            limit_bytes: self.budget.limit(),
            committed_bytes,
            metadata_bytes,
            classes,
            paths,
            reclaim: self.reclaimed.stats(),
            advice: self.advised.stats(),
            compaction: self.compactor.stats(),
        }
    }

    /// The most bytes that were ever in use.
    pub fn peak_in_use_bytes(&self) -> u64 {
        self.peak_in_use_bytes.load(Ordering::Relaxed)
    }

    /// Bytes ever given out, at actual size: what each thread got from its magazine, and all others. Never less than before.
    /// Takes each class's lock in turn, for a copy of a few words.
    pub fn given_out_bytes(&self) -> u64 {
        let given_out = |(at, class): (usize, &Class)| {
            let from_magazines: u64 = self.racks.iter().map(|rack| rack.allocations_and_reused(at).0).sum();
            (class.lock().stats().allocations + from_magazines) * class.slab_bytes()
        };
        self.classes.iter().enumerate().map(given_out).sum::<u64>() + self.large.taken_bytes()
    }

    /// How often anything was reclaimed. Cheap: a few loads.
    pub fn reclaim_count(&self) -> u64 {
        self.reclaimed.stats().slices.iter().sum()
    }

    /// Asserts what must be true whenever no call is under way.
    #[cfg(any(test, debug_assertions))]
    pub fn check(&self) {
        self.large.check();
        for class in &self.classes {
            class.lock().check();
        }
        let stats = self.stats();
        let mut held = stats.large.held_bytes();
        let mut used = stats.large.used_bytes + stats.large.retired_bytes;
        for class in &stats.classes {
            held += class.total * class.slab_size_bytes;
            used += (class.used + class.retired) * class.slab_size_bytes;
            let placed = class.used + class.free + class.scrubbing + class.retired;
            assert_eq!(class.total, placed, "every slab is in one place");
        }
        assert_eq!(held, self.budget.held(), "the budget is the sum of the slabs held");
        let granted = self.in_use_bytes() + self.hardening.owed_bytes();
        assert!(used <= granted, "{used} bytes are used, but only {granted} were granted");
        assert!(held <= self.budget.limit(), "the limit holds");
        assert!(self.peak_in_use_bytes.load(Ordering::Relaxed) >= used);
    }
}
