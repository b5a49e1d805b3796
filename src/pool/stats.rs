//! All numbers of the pool, as one snapshot.

use super::arena::Arenas;
use super::calls::Calls;
use super::inflight::Inflight;
use super::lag::LeaseLag;
use super::local::Local;
use super::order::Order;
use super::table::Table;
use super::{AdmissionStats, ArenaStats, CallStats, JanitorStats, ObjectStats, ReliefStats, TagStats};
use crate::memory::{HeapStats, Seen, SizeCounts};

/// Numbers of the pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolStats {
    /// Numbers of the memory below.
    pub heap: HeapStats,
    /// Large objects among the live allocations.
    pub objects: ObjectStats,
    /// Live allocations.
    pub active_allocations: u64,
    /// Actual bytes of live allocations.
    pub allocated_bytes: u64,
    /// Bytes that were asked for of these.
    pub requested_bytes: u64,
    /// Allocations ever made.
    pub allocations_made: u64,
    /// Live allocations at most.
    pub allocations_max: u64,
    /// Bytes of records about allocations and slabs.
    pub metadata_bytes: u64,
    /// What those bytes can become at most.
    pub metadata_bytes_max: u64,
    /// Bytes of requests on their way.
    pub inflight_bytes: u64,
    /// The in-flight budget.
    pub inflight_bytes_max: u64,
    /// Requests that wait for room.
    pub waiting_requests: u64,
    /// Bytes set aside for one of them; part of what is in use.
    pub reserved_bytes: u64,
    /// What each tag holds, by name.
    pub tags: Vec<TagStats>,
    /// Allocations that their lease ended.
    pub leases_expired: u64,
    /// How late that was.
    pub lease_lag: LeaseLag,
    /// What the janitor did.
    pub janitor: JanitorStats,
    /// What was given back because it got full.
    pub relief: ReliefStats,
    /// Numbers of the arenas.
    pub arenas: ArenaStats,
    /// Who was turned away at the door.
    pub admission: AdmissionStats,
    /// What was counted of the calls at the door.
    pub calls: CallStats,
}

impl Local {
    /// Bytes of the creation order.
    pub(super) fn order_bytes(&self) -> u64 {
        self.slots().iter().map(|slot| slot.lock().order.metadata_bytes()).sum()
    }

    /// What clients asked for, and how much of it at once.
    pub(super) fn seen(&self) -> Seen {
        let mut sizes = SizeCounts::default();
        self.slots().iter().for_each(|slot| sizes.add(&slot.lock().sizes));
        Seen {
            groups: sizes.groups(),
            actual_bytes: sizes.actual_bytes(),
            peak_in_use_bytes: self.heap().peak_in_use_bytes(),
            slab_sizes: self.heap().class_sizes().to_vec(),
            limit_bytes: self.heap().limit_bytes(),
        }
    }

    pub(super) fn stats(&self, inflight: &Inflight, calls: &Calls) -> PoolStats {
        let heap = self.heap().stats();
        let (mut live, mut live_bytes, mut requested_bytes, mut made) = (0, 0, 0, 0);
        let (mut lease_lag, mut sizes_bytes) = (LeaseLag::default(), 0);
        for slot in self.slots().iter() {
            let slot = slot.lock();
            live += slot.live;
            live_bytes += slot.live_bytes;
            sizes_bytes += slot.sizes.metadata_bytes();
            requested_bytes += slot.live_requested_bytes;
            made += slot.sizes.samples() + slot.classless_made;
            lease_lag.add(&slot.lease_lag);
        }
        let members = self.arenas().live();
        (live, live_bytes, requested_bytes) =
            (live + members.0, live_bytes + members.1, requested_bytes + members.2);
        PoolStats {
            active_allocations: live,
            allocated_bytes: live_bytes,
            requested_bytes,
            allocations_made: made,
            allocations_max: u64::from(self.table().allocations_max()),
            metadata_bytes: heap.metadata_bytes
                + self.table().metadata_bytes()
                + self.order_bytes()
                + self.objects().metadata_bytes()
                + sizes_bytes
                + self.arenas().metadata_bytes(),
            metadata_bytes_max: self.heap().metadata_bytes_max()
                + u64::from(self.table().allocations_max()) * (Table::ENTRY_BYTES + Order::ENTRY_BYTES_MAX)
                + self.slots().iter().count() as u64
                    * SizeCounts::metadata_bytes_max(self.heap().largest_class_bytes())
                + Arenas::metadata_bytes_max(self.heap().limit_bytes())
                + self.objects().metadata_bytes_max(),
            inflight_bytes: inflight.bytes(),
            inflight_bytes_max: inflight.bytes_max(),
            waiting_requests: self.queue().bell.waiting(),
            reserved_bytes: self.queue().reserved_bytes(),
            tags: self.tags().stats(),
            objects: self.objects().stats(),
            leases_expired: lease_lag.total(),
            lease_lag,
            janitor: self.janitor.stats(self.handover().waiting(), heap.reclaim.slices.iter().sum()),
            relief: self.relief.stats(),
            arenas: self.arenas().stats(),
            admission: self.doorkeeper().stats(),
            calls: calls.stats(),
            heap,
        }
    }
}
