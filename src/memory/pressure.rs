//! Reclaim under pressure: free memory goes back to the system at once, whether it lay idle or not, slice by slice.
//!
//! ```text
//!   magazines and depots ─▶ what waits to be zeroed ─▶ free runs ─▶ free slabs, the largest class first
//! ```
//!
//! A pass goes over the heap once, and is bounded by what was free when it came to each part: traffic beside it does not
//! keep it going. Gentle leaves each class the slabs that it was made ready with, aggressive leaves none. What adaptation
//! keeps beyond is given up by both. Nobody is refused for a pass: what it gives back is the budget's, and had again from
//! there. While anybody is on the scarce path nothing is done: what is free is needed then.
//!
//! Whoever knows how full it is asks for slice after slice.

use super::compact::Sweep;
use super::reclaim::{ReclaimAction, slabs_in_slice};
use super::{Heap, SizeClass};
use crate::sync::Mutex;

/// Magazines and depots looked at, and slabs taken out of them, in one slice: 20 to 50 ns each, 0.2 ms.
const SLICE_ROUNDS_MAX: u64 = 4096;

/// How much free memory is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReclaimDepth {
    /// Each class keeps the slabs that it was made ready with.
    Gentle,
    /// All of it.
    Aggressive,
}

/// What a slice came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct ReclaimSlice {
    /// Bytes that went back: from classes and runs to the budget and the system, from magazines to their classes.
    pub reclaimed_bytes: u64,
    /// It was the last one of its pass; the next begins another. Where it is not, and nothing was reclaimed, others
    /// needed the memory first, or the slice made ready what the next gives back.
    pub is_done: bool,
}

/// Where the passes stand. Held by whoever does a slice, for as long as that takes.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    pass: Mutex<Option<Pass>>,
    shrinking: Mutex<Shrinking>,
}

/// How far a pass is.
#[derive(Debug)]
struct Pass {
    depth: ReclaimDepth,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Magazines(Shrinking),
    /// Segments that waited to be zeroed when it came here, and still do.
    Scrubs(usize),
    /// Bytes of free runs that there were, and still are.
    Runs(u64),
    /// Classes still to come, and what is left to be done in the one before them.
    Classes(usize, Option<InClass>),
}

/// What is left to be done in one class.
#[derive(Debug)]
struct InClass {
    class: SizeClass,
    slabs: u64,
    sweep: Sweep,
}

/// How many of all magazines, slot by slot, and then of all depots were emptied.
#[derive(Debug, Default)]
struct Shrinking(usize);

/// What a slice did, if there was anything to do.
type Done = Option<u64>;

impl Heap {
    /// One slice of giving free memory back, at most about a millisecond. Asked for another depth, the pass begins anew.
    pub fn reclaim_for_pressure_slice(&self, depth: ReclaimDepth) -> ReclaimSlice {
        if self.scarce.is_raised() {
            return ReclaimSlice::default();
        }
        let mut pass = self.pressure.pass.lock();
        let begin = || Pass { depth, stage: Stage::Magazines(Shrinking::default()) };
        let mut going = pass.take().filter(|pass| pass.depth == depth).unwrap_or_else(begin);
        loop {
            if let Some(reclaimed_bytes) = self.stage_slice(&mut going) {
                *pass = Some(going);
                return ReclaimSlice { reclaimed_bytes, is_done: false };
            }
            going.stage = match going.stage {
                Stage::Magazines(_) => Stage::Scrubs(self.unscrubbed()),
                Stage::Scrubs(_) => Stage::Runs(self.large.free_bytes()),
                Stage::Runs(_) => Stage::Classes(self.classes.len(), None),
                Stage::Classes(0, _) => return ReclaimSlice { reclaimed_bytes: 0, is_done: true },
                Stage::Classes(left, _) => Stage::Classes(left - 1, self.enter_class(left - 1, depth)),
            };
        }
    }

    /// One slice of emptying all magazines and depots: what they held is free in its classes, and each magazine begins
    /// small again. It grows by its misses.
    pub fn shrink_magazines_slice(&self) -> ReclaimSlice {
        let mut shrinking = self.pressure.shrinking.lock();
        match self.shrink_slice(&mut shrinking) {
            Some(reclaimed_bytes) => ReclaimSlice { reclaimed_bytes, is_done: false },
            None => {
                *shrinking = Shrinking::default();
                ReclaimSlice { reclaimed_bytes: 0, is_done: true }
            }
        }
    }

    /// A slice of what is to be done where a pass is; none where that is over.
    fn stage_slice(&self, pass: &mut Pass) -> Done {
        match &mut pass.stage {
            Stage::Magazines(shrinking) => self.shrink_slice(shrinking).map(|_| 0),
            Stage::Scrubs(left) => {
                *left = left.checked_sub(1)?;
                self.scrub_slice().then_some(0)
            }
            Stage::Runs(0) => None,
            Stage::Runs(left) => {
                // What the system does not take back stays free.
                let bytes = self.reclaim_runs(*left, ReclaimAction::Pressure).unwrap_or(0);
                *left = left.saturating_sub(bytes);
                (bytes > 0).then_some(bytes)
            }
            Stage::Classes(_, left) => self.class_slice(left.as_mut()?),
        }
    }

    /// What a class is to give back.
    fn enter_class(&self, number: usize, depth: ReclaimDepth) -> Option<InClass> {
        let class = SizeClass(u8::try_from(number).expect("`new` allows at most 255 classes"));
        let room = self.class(class);
        let mut account = room.lock();
        account.kept.give_up(room.keeping());
        let stats = account.stats();
        let keeps = match depth {
            ReclaimDepth::Gentle => room.keeping().initial(),
            ReclaimDepth::Aggressive => 0,
        };
        let slabs = stats.free.min(stats.total.saturating_sub(keeps));
        (slabs > 0).then(|| InClass { class, slabs, sweep: Sweep::new(slabs) })
    }

    fn class_slice(&self, work: &mut InClass) -> Done {
        let size = self.class(work.class).slab_bytes();
        let before = (work.sweep.below, work.sweep.cleared);
        // No more than leaves in one slice is looked for in it.
        work.sweep.wanted = work.slabs.min(slabs_in_slice(size));
        if work.sweep.wanted == 0 {
            return None;
        }
        // What the system does not take back stays free.
        let bytes = self.reclaim_slice(work.class, &mut work.sweep, ReclaimAction::Pressure).ok()?;
        work.slabs -= bytes / size;
        // A slice may have done nothing but walk and move slabs, or lose to others what it had cleared. Each goes further
        // down, so that ends.
        (bytes > 0 || (work.sweep.below, work.sweep.cleared) != before).then_some(bytes)
    }

    fn shrink_slice(&self, shrinking: &mut Shrinking) -> Done {
        let classes = self.classes.len();
        let magazines = self.racks.iter().count() * classes;
        let (mut rounds, mut bytes) = (0, 0);
        let began = shrinking.0;
        while shrinking.0 < magazines + classes && rounds < SLICE_ROUNDS_MAX {
            let number = shrinking.0 % classes;
            let class = SizeClass(u8::try_from(number).expect("`new` allows at most 255 classes"));
            let slabs = if shrinking.0 < magazines {
                self.reset_magazine(shrinking.0 / classes, class)
            } else {
                self.empty_depot(self.class(class))
            };
            shrinking.0 += 1;
            rounds += 1 + slabs;
            bytes += slabs * self.class_bytes(class);
        }
        (shrinking.0 > began).then_some(bytes)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
