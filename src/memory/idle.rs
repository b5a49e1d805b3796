//! Idle memory: what no client needed for a whole interval goes back to the system.
//!
//! The free slabs of a class that were not needed are those that were left when it had fewest: its low-water mark over
//! the interval. They go back, highest first, down to the slabs that the class always keeps. Of those that were not needed
//! either only the pages go back: slabs are given out lowest first, so they are the highest. And gaps that somebody's
//! reading has left are closed.
//!
//! Whoever knows the time says when an interval is over, and then asks for slice after slice. While anybody is on the
//! scarce path nothing is done: what is free is needed then.

use super::class::Class;
use super::compact::Sweep;
use super::reclaim::ReclaimAction;
use super::{Heap, SizeClass};

/// Bytes of pages given back in one call, unless it is one slab: 4 MiB cost 0.25 ms.
const RUN_BYTES_MAX: u64 = 4 << 20;

/// What an interval has left to be done in a class. Guarded by the class's lock.
#[derive(Debug, Default)]
pub(super) struct IdleWork {
    /// Free slabs that were not needed.
    slabs: u64,
    /// Slabs below held ones that could be held in their place.
    gap_slabs: u64,
    /// Slabs below this gave their pages back, and those above may still have to; none: nothing is to be done.
    rest_from: Option<u64>,
    /// Allocations, and slabs used, when an interval last ended in which nothing was taken or freed: where they are the
    /// same still, so is everything else.
    rested: (u64, u64),
}

impl Heap {
    /// An interval is over: what lay idle all through it is given back from now on, by [`Heap::reclaim_idle_slice`].
    pub fn end_idle_interval(&self) {
        self.shrink_unused_magazines();
        self.end_idle_interval_of_runs();
        for class in &self.classes {
            let mut account = class.lock();
            let unneeded = account.take_free_low_water();
            let stats = account.stats();
            let is_resting = unneeded == stats.free;
            let now = (stats.allocations, stats.used);
            let is_new = now != account.idle.rested;
            let gap_slabs = if class.is_packed() && self.can_move() { account.gap_slabs() } else { 0 };
            account.idle.slabs = unneeded.min(stats.total.saturating_sub(account.kept.slabs()));
            account.idle.gap_slabs = gap_slabs;
            account.idle.rest_from = match unneeded > account.idle.slabs {
                _ if !is_new => None,
                _ if is_resting => Some(0),
                true => account.lowest_of_highest_free(unneeded),
                false => None,
            };
            if is_resting {
                account.idle.rested = now;
            }
        }
    }

    /// Gives a slice of idle memory back. False where nothing is left to be done, or others need the memory first.
    pub fn reclaim_idle_slice(&self) -> bool {
        if self.scarce.is_raised() {
            return false;
        }
        self.reclaim_idle_runs()
            || (0..self.classes.len()).any(|number| {
                let class = SizeClass(u8::try_from(number).expect("`new` allows at most 255 classes"));
                self.reclaim_idle_slabs(class) || self.close_gap(class) || self.rest(self.class(class))
            })
    }

    fn reclaim_idle_slabs(&self, class: SizeClass) -> bool {
        let room = self.class(class);
        let slabs = {
            let mut account = room.lock();
            let stats = account.stats();
            // Others may have given some of them back since.
            let beyond = stats.total.saturating_sub(account.kept.slabs());
            account.idle.slabs = account.idle.slabs.min(stats.free).min(beyond);
            account.idle.slabs
        };
        if slabs == 0 {
            return false;
        }
        let mut sweep = Sweep::new(slabs);
        let given_back = self.reclaim_slice(class, &mut sweep, ReclaimAction::Idle);
        let mut account = room.lock();
        account.idle.slabs = match given_back {
            // A slice may have done nothing but moves.
            Ok(bytes) if bytes > 0 || sweep.cleared > 0 => {
                account.idle.slabs.saturating_sub(bytes / room.slab_bytes())
            }
            Ok(_) | Err(_) => 0, // nothing to be done about it before the next interval
        };
        true
    }

    /// Closes a gap slab that somebody who could not be moved has left: a slab is held there, and one above let go.
    fn close_gap(&self, class: SizeClass) -> bool {
        let room = self.class(class);
        {
            let mut account = room.lock();
            let gaps = account.gap_slabs().min(account.idle.gap_slabs);
            // For a moment it takes the bytes of one slab more.
            if gaps == 0 || !self.budget.take(room.slab_bytes()) {
                account.idle.gap_slabs = 0;
                return false;
            }
            account.idle.gap_slabs = gaps - 1;
            if room.add_fresh(&mut account).is_err() {
                self.budget.give_back(room.slab_bytes());
                return false;
            }
        }
        let before = room.lock().gap_slabs();
        // Where this fails, or moves nothing, the slab is a free one more than before, or a gap again.
        let _ = self.reclaim_slice(class, &mut Sweep::new(1), ReclaimAction::Idle);
        let mut account = room.lock();
        if account.gap_slabs() > before {
            account.idle.gap_slabs = 0;
        }
        true
    }

    /// Gives the pages of a run of free slabs back that stay held. They may come again at the next use.
    fn rest(&self, room: &Class) -> bool {
        let mut account = room.lock();
        let Some(start) = account.idle.rest_from else { return false };
        let run = account.free_run_from(start, (RUN_BYTES_MAX / room.slab_bytes()).max(1));
        account.idle.rest_from = (run.end < account.fresh()).then_some(run.end);
        let pages = room.slabs().layout().pages_within(run);
        if !pages.is_empty() {
            // Where the system does not take them they stay resident, and are as good as before.
            let _ = room.slabs().decommit(pages);
        }
        true
    }
}
