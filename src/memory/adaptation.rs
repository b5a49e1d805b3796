//! Adaptation: how many slabs a class keeps held, however long they lie idle, follows how many of them are in use.
//!
//! It begins with the slabs that are made ready at start. When over an interval nearly all held slabs of a class were in
//! use, more are held: fresh ones are added to those there are, so that the next to come find them ready. When few were,
//! fewer are kept, and what lies idle goes back (`idle.rs`).
//!
//! What is kept is free memory like any other: it is reclaimed when another class needs it, so nobody is ever refused for
//! it. Nothing is added while memory is under pressure, which the caller knows, or beyond the share of the pool that it
//! names. Under pressure what was added is given up (`pressure.rs`).
//!
//! Whoever knows the time calls [`Heap::sample_use`] about once a second, says when an interval is over, and then asks for
//! slice after slice.

use super::Heap;
use super::class::Class;
use super::config::{Adaptive, ClassConfig, Config};
use crate::units::Factor;

/// Share of the pool that may be made ready at start: one part in ten.
const PREWARM_SHARE: u64 = 10;
/// Slabs added in one slice, under one hold of the class's lock: up to 3 µs each where they are large, 0.1 ms.
const SLICE_SLABS: u64 = 32;

/// Between what bounds a class keeps slabs held, and how fast they become more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeping {
    /// The least: those made ready at start.
    initial: u64,
    /// The most.
    max: u64,
    growth: Factor,
}

impl Keeping {
    /// Of a class of a pool of that size, of which `initial` slabs are made ready at start.
    pub(super) fn new(
        slab_bytes: u64,
        pool_bytes: u64,
        initial: u32,
        class: &ClassConfig,
        rules: &Adaptive,
    ) -> Keeping {
        let initial = u64::from(initial);
        let share = pool_bytes / PREWARM_SHARE / slab_bytes;
        let max = class.max_free.map_or(share, u64::from).max(initial);
        Keeping { initial, max, growth: class.growth_factor.unwrap_or(rules.grow_factor) }
    }

    /// Slabs made ready at start.
    pub(super) fn initial(&self) -> u64 {
        self.initial
    }

    /// How many slabs to keep from now on, of a class that keeps `kept`, holds `held`, and had that part of them in use.
    fn next(&self, kept: u64, held: u64, used: Factor, may_grow: bool, rules: &Adaptive) -> u64 {
        if used > rules.grow_above && may_grow && self.growth > Factor::thousandths(1000) {
            // From those held: of them nearly all were used. Where that is more than the bound, nothing is added.
            kept.max(self.growth.of(held).min(self.max))
        } else if used < rules.shrink_below {
            rules.shrink_factor.of_rounded_down(kept).max(self.initial)
        } else {
            kept
        }
    }
}

/// What a class keeps, and how much of it was used. Guarded by the class's lock.
#[derive(Debug)]
pub(super) struct Kept {
    /// Slabs held however long they lie idle.
    slabs: u64,
    /// Slabs still to be added to those held.
    wanted: u64,
    /// Parts used, in thousandths, and how many samples they are the sum of.
    used_thousandths: u64,
    samples: u64,
}

impl Kept {
    pub(super) fn new(keeping: &Keeping) -> Kept {
        Kept { slabs: keeping.initial, wanted: 0, used_thousandths: 0, samples: 0 }
    }

    /// Slabs held however long they lie idle.
    pub(super) fn slabs(&self) -> u64 {
        self.slabs
    }

    /// No more than at start are kept from now on.
    pub(super) fn give_up(&mut self, keeping: &Keeping) {
        self.slabs = keeping.initial;
        self.wanted = 0;
    }

    fn sample(&mut self, used: u64, held: u64) {
        self.used_thousandths += (used.min(held) * 1000).checked_div(held).unwrap_or(0);
        self.samples += 1;
    }

    /// The part used on average since the last call; none where there were no samples.
    fn take_use(&mut self) -> Option<Factor> {
        let average =
            std::mem::take(&mut self.used_thousandths).checked_div(std::mem::take(&mut self.samples))?;
        Some(Factor::thousandths(u32::try_from(average).expect("no more than all are used")))
    }
}

impl Heap {
    /// Makes slabs ready, smallest class first, until a tenth of the pool is held. What cannot be had is left out:
    /// it is only a head start.
    pub(super) fn prewarm(&self, config: &Config) {
        let bytes_max = self.budget.limit() / PREWARM_SHARE;
        for class in &self.classes {
            let wanted = class.keeping().initial().min(class.max_free());
            let mut account = class.lock();
            let mut is_enough = false;
            for _ in 0..wanted {
                is_enough = self.budget.held() + class.slab_bytes() > bytes_max
                    || !self.budget.take(class.slab_bytes());
                if is_enough {
                    break;
                }
                if class.add_fresh(&mut account).is_err() {
                    self.budget.give_back(class.slab_bytes());
                    is_enough = true;
                    break;
                }
            }
            if config.prefault {
                // Without its pages the slab works all the same: they come at the first write.
                let _ = class.slabs().populate(0..account.fresh());
            }
            if is_enough {
                return;
            }
        }
    }

    /// Notes how much of each class is in use.
    pub fn sample_use(&self) {
        for (at, class) in self.classes.iter().enumerate() {
            let mut account = class.lock();
            let stats = account.stats();
            // What lies ready in magazines and in the depot counts as used there.
            let ready: u64 = self.racks.iter().map(|rack| rack.len(at)).sum::<u64>() + class.depot().slabs();
            account.kept.sample(stats.used.saturating_sub(ready), stats.total);
        }
    }

    /// An interval is over: from now on each class keeps as many slabs as its use over the interval asks for. What is
    /// missing is added by [`Heap::keep_ready_slice`]. None grows while as much of the pool is in use as `grows_below`, nor
    /// where it is none.
    pub fn end_adaptive_interval(&self, grows_below: Option<Factor>) {
        let may_grow = grows_below.is_some_and(|share| self.in_use_bytes() < share.of(self.limit_bytes()));
        for class in &self.classes {
            let mut account = class.lock();
            let Some(used) = account.kept.take_use() else { continue };
            let held = account.stats().total;
            let next = class.keeping().next(account.kept.slabs, held, used, may_grow, &self.adaptive);
            let has_grown = next > account.kept.slabs;
            account.kept.slabs = next;
            account.kept.wanted = if has_grown { next.saturating_sub(held) } else { 0 };
        }
    }

    /// Adds a slice of the slabs that are to be kept ready, until as much of the pool is held as `grows_below`. False where
    /// nothing is left to be done, or others need the memory, or it is none.
    pub fn keep_ready_slice(&self, grows_below: Option<Factor>) -> bool {
        let held_max = grows_below.map_or(0, |share| share.of(self.limit_bytes()));
        !self.scarce.is_raised() && self.classes.iter().any(|class| self.keep_ready(class, held_max))
    }

    fn keep_ready(&self, class: &Class, held_max: u64) -> bool {
        let mut account = class.lock();
        let slice = account.kept.wanted.min(SLICE_SLABS);
        for _ in 0..slice {
            let has_room = account.free_slabs() < class.max_free()
                && self.budget.held() + class.slab_bytes() <= held_max
                && !self.scarce.is_raised()
                && self.budget.take(class.slab_bytes());
            if !has_room {
                account.kept.wanted = 0;
                break;
            }
            if class.add_fresh(&mut account).is_err() {
                self.budget.give_back(class.slab_bytes());
                account.kept.wanted = 0; // it is only a head start
                break;
            }
            account.kept.wanted -= 1;
        }
        slice > 0
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
