//! What the heap has to say about itself: its numbers, and whether they agree.

use super::class::ClassStats;
use super::{Heap, Violation, segment};
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
    /// Bytes held from the budget.
    pub pool_size_bytes: u64,
    /// The budget.
    pub limit_bytes: u64,
    /// Bytes of pages that may be resident.
    pub committed_bytes: u64,
    /// Bytes of records about slabs.
    pub metadata_bytes: u64,
    /// Each class, smallest first.
    pub classes: Vec<ClassStats>,
}

impl Heap {
    /// All numbers of the heap. Takes each class's lock in turn, for a copy of a few words.
    pub fn stats(&self) -> HeapStats {
        let accounts: Vec<(ClassStats, u64)> = self
            .classes
            .iter()
            .map(|class| {
                let account = class.lock();
                let records = account.fresh() * size_of::<segment::SegmentRecord>() as u64;
                (account.stats(), account.metadata_bytes() + records)
            })
            .collect();
        HeapStats {
            in_use_bytes: self.in_use_bytes(),
            peak_in_use_bytes: self.peak_in_use_bytes.load(Ordering::Relaxed),
            draining_bytes: self.draining_bytes.load(Ordering::Relaxed),
            retired_bytes: accounts.iter().map(|(stats, _)| stats.retired * stats.slab_size_bytes).sum(),
            guard_violations: self.hardening.found(),
            pool_size_bytes: self.budget.held(),
            limit_bytes: self.budget.limit(),
            committed_bytes: accounts.iter().map(|(stats, _)| stats.committed_bytes).sum(),
            metadata_bytes: accounts.iter().map(|(_, metadata)| metadata).sum(),
            classes: accounts.into_iter().map(|(stats, _)| stats).collect(),
        }
    }

    /// Asserts what must be true whenever no call is under way.
    #[cfg(any(test, debug_assertions))]
    pub fn check(&self) {
        let accounts: Vec<_> = self.classes.iter().map(|class| class.lock()).collect();
        let (mut held, mut used) = (0, 0);
        for account in &accounts {
            account.check();
            let stats = account.stats();
            held += stats.total * stats.slab_size_bytes;
            used += (stats.used + stats.retired) * stats.slab_size_bytes;
        }
        assert_eq!(held, self.budget.held(), "the budget is the sum of the slabs held");
        let granted = self.in_use_bytes() + self.hardening.owed_bytes();
        assert!(used <= granted, "{used} bytes are used, but only {granted} were granted");
        assert!(held <= self.budget.limit(), "the limit holds");
        assert!(self.peak_in_use_bytes.load(Ordering::Relaxed) >= used);
    }
}
