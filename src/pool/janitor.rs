//! The janitor at the pool's door: what it may do here, and what is known of its work. The thread itself, and the time,
//! are a task's.

use super::handover::Chore;
use super::{Engine, Pool};
use crate::clock::Now;
use crate::memory::{ReclaimDepth, ReclaimSlice};
use crate::pressure::Level;
use crate::units::Factor;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is known of the janitor's work.
#[derive(Debug, Default)]
pub(super) struct Janitor {
    /// Things done that a request waited for.
    chores: AtomicU64,
    busy_nanoseconds: AtomicU64,
    /// `Heap::reclaim_count` at the last look.
    reclaims: AtomicU64,
    /// When a look last found it greater than before; 0: never.
    last_reclaim: AtomicU64,
}

/// Numbers of the janitor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JanitorStats {
    /// Requests that it finished, because that took longer than a slice of work.
    pub chores: u64,
    /// Requests that wait for it.
    pub waiting: u64,
    /// Time that it has worked.
    pub busy: Duration,
    /// When memory was last found to have been reclaimed, by whomever, to about a second.
    pub last_reclaim: Option<Now>,
    /// More was reclaimed since.
    pub has_reclaimed_since: bool,
}

impl JanitorStats {
    /// Time since memory was last reclaimed, to about a second; none where it never was.
    pub fn since_last_reclaim(&self, now: Now) -> Option<Duration> {
        if self.has_reclaimed_since {
            return Some(Duration::ZERO);
        }
        self.last_reclaim.map(|last| now.since(last))
    }
}

impl Janitor {
    /// Where so many requests wait, and the heap counts so many reclaims.
    pub(super) fn stats(&self, waiting: usize, reclaims: u64) -> JanitorStats {
        let last_reclaim = self.last_reclaim.load(Ordering::Relaxed);
        JanitorStats {
            chores: self.chores.load(Ordering::Relaxed),
            waiting: waiting as u64,
            busy: Duration::from_nanos(self.busy_nanoseconds.load(Ordering::Relaxed)),
            last_reclaim: (last_reclaim > 0).then_some(Now(last_reclaim)),
            has_reclaimed_since: reclaims > self.reclaims.load(Ordering::Relaxed),
        }
    }
}

impl Pool {
    /// From now on work that takes long is handed over to the caller, who does it by [`Pool::do_chore`], until
    /// [`Pool::end_janitor`].
    pub fn begin_janitor(&self) {
        let Engine::Local(local) = &self.engine;
        local.handover().set_served(true);
    }

    /// Has [`Pool::await_chore`] say that it is over, when nothing is left. Later work is done where it arises.
    pub fn end_janitor(&self) {
        let Engine::Local(local) = &self.engine;
        local.handover().set_served(false);
    }

    /// For a janitor that has ended, for whatever reason: what it has not done is given up, so that nobody waits for it.
    pub fn abandon_chores(&self) {
        let Engine::Local(local) = &self.engine;
        local.handover().abandon();
        while local.heap().scrub_slice() || local.clean_slice() {}
    }

    /// Waits up to `patience` for something that a request waits for.
    pub fn await_chore(&self, patience: Duration) -> Chore {
        let Engine::Local(local) = &self.engine;
        local.handover().await_chore(patience)
    }

    /// Waits up to `patience` for something that a request waits for, although there is something else to do.
    pub fn pause_for_requests(&self, patience: Duration) {
        let Engine::Local(local) = &self.engine;
        local.handover().await_job(patience);
    }

    /// Does one thing that a request waits for, if there is any.
    pub fn do_chore(&self) {
        let Engine::Local(local) = &self.engine;
        if local.handover().do_chore() {
            local.janitor.chores.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Zeroes a slice of what was freed, or of what an upload left behind. Wants to be called while
    /// [`Pool::await_chore`] says so.
    pub fn scrub_slice(&self) {
        let Engine::Local(local) = &self.engine;
        let may_be_more = local.handover().take_scrubs() && local.heap().scrub_slice();
        if may_be_more && local.heap().has_unscrubbed() && !local.handover().wants_scrubs() {
            while local.heap().scrub_slice() {} // the janitor's service is over, and this is the end of its work
        }
        local.clean_slice();
    }

    /// An interval is over: memory that lay idle all through it goes back from now on.
    pub fn end_idle_interval(&self) {
        let Engine::Local(local) = &self.engine;
        local.heap().end_idle_interval();
    }

    /// Gives a slice of idle memory back. False where nothing is left to be done, or requests come first.
    pub fn reclaim_idle_slice(&self) -> bool {
        let Engine::Local(local) = &self.engine;
        local.handover().waiting() == 0 && local.heap().reclaim_idle_slice()
    }

    /// Notes how much of each class is in use; to be called about once a second.
    pub fn sample_use(&self) {
        let Engine::Local(local) = &self.engine;
        local.heap().sample_use();
    }

    /// Actual bytes of memory ever given out. Takes each class's lock in turn.
    pub fn given_out_bytes(&self) -> u64 {
        let Engine::Local(local) = &self.engine;
        local.heap().given_out_bytes()
    }

    /// Gives a slice of free memory back, because it gets full. Nothing is done while requests wait for the janitor.
    pub fn reclaim_for_pressure_slice(&self, depth: ReclaimDepth) -> ReclaimSlice {
        let Engine::Local(local) = &self.engine;
        if local.handover().waiting() > 0 {
            return ReclaimSlice::default();
        }
        local.heap().reclaim_for_pressure_slice(depth)
    }

    /// Empties a slice of all magazines, which begin small again. Nothing is done while requests wait for the janitor.
    pub fn shrink_magazines_slice(&self) -> ReclaimSlice {
        let Engine::Local(local) = &self.engine;
        if local.handover().waiting() > 0 {
            return ReclaimSlice::default();
        }
        local.heap().shrink_magazines_slice()
    }

    /// An interval is over: what each class keeps ready follows its use over it from now on. None keeps more at high and
    /// above.
    pub fn end_adaptive_interval(&self) {
        let Engine::Local(local) = &self.engine;
        local.heap().end_adaptive_interval(self.grows_below());
    }

    /// Makes a slice of what is to be kept ready, until as much of the pool is held as makes it high. False where nothing is
    /// left to be done, or requests come first, or it is high already.
    pub fn keep_ready_slice(&self) -> bool {
        let Engine::Local(local) = &self.engine;
        local.handover().waiting() == 0 && local.heap().keep_ready_slice(self.grows_below())
    }

    /// What may be made ready leaves the pool below high; where it is high, by whatever reading, nothing may.
    fn grows_below(&self) -> Option<Factor> {
        let gauge = self.gauge();
        (gauge.level() < Level::High).then_some(gauge.watermarks().high)
    }

    /// Notes that the janitor worked for so long, and whether memory was reclaimed since the last note.
    pub fn note_janitor(&self, busy: Duration, now: Now) {
        let Engine::Local(local) = &self.engine;
        let nanoseconds = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        local.janitor.busy_nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        let reclaims = local.heap().reclaim_count();
        if local.janitor.reclaims.swap(reclaims, Ordering::Relaxed) != reclaims {
            local.janitor.last_reclaim.store(now.0, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::memory::{self, Heap};
    use crate::pool::{AllocateRequest, Config};
    use crate::pressure::SystemReading;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    const NOW: Now = Now(1_000_000_000);

    fn pool() -> Pool {
        let memory = memory::Config {
            slab_sizes: vec![4096],
            max_pool_size: 64 << 20,
            initial_slabs_per_size: 10,
            ..memory::Config::default()
        };
        Pool::new(Heap::new(&memory).expect("the configuration is right"), &Config::default())
    }

    #[tokio::test]
    async fn no_size_grows_while_the_system_is_at_high_though_the_pool_is_not() {
        let pool = pool();
        for _ in 0..1000 {
            pool.allocate(&AllocateRequest::new(4096), Duration::ZERO, NOW).await.expect("there is room");
        }
        let used_percent = Arc::new(AtomicU64::new(80));
        let its = Arc::clone(&used_percent);
        pool.gauge().read_system_by(Box::new(move || SystemReading {
            used_bytes: its.load(Ordering::Relaxed),
            limit_bytes: 100,
            psi_avg10: None,
        }));
        let mut now = NOW;
        let mut held_after_interval = async || {
            now = Now(now.0 + 1_000_000_000);
            pool.pressure(now);
            pool.sample_use();
            pool.end_adaptive_interval();
            while pool.keep_ready_slice() {}
            pool.stats().await.heap.classes[0].total
        };
        let before = held_after_interval().await;
        used_percent.store(10, Ordering::Relaxed);
        let grown = held_after_interval().await;
        assert!(before <= 1024 && grown >= before * 6 / 5, "{before}, then {grown}");
        used_percent.store(80, Ordering::Relaxed);
        assert_eq!(held_after_interval().await, grown);
    }

    #[tokio::test]
    async fn what_is_free_goes_back_in_slices_as_deep_as_it_is_asked_for() {
        let pool = pool();
        let mut ids = Vec::new();
        for _ in 0..1000 {
            let made = pool.allocate(&AllocateRequest::new(4096), Duration::ZERO, NOW).await;
            ids.push(made.expect("there is room").id);
        }
        for id in ids.drain(1..) {
            pool.free(id, NOW).await.expect("live");
        }
        for (depth, left) in [(ReclaimDepth::Gentle, 10), (ReclaimDepth::Aggressive, 1)] {
            while !pool.reclaim_for_pressure_slice(depth).is_done {}
            while !pool.shrink_magazines_slice().is_done {}
            let heap = pool.stats().await.heap;
            assert_eq!((heap.classes[0].total, heap.in_use_bytes), (left, 4096));
        }
    }
}
