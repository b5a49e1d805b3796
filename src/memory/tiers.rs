//! The tiers: a slab comes from the thread's magazine, from a batch of the class's depot, from the class's free slabs,
//! from fresh bytes, or by the scarce path; whichever comes first has it. Freed, it goes the same way back.
//!
//! ```text
//!   magazine ◀──batch── depot ◀──batch── magazines of other slots
//!       ◀──batch── free slabs of the class, lowest index first ◀── one by one: what has no place in a magazine
//! ```
//!
//! A batch moves under the lock of the rack that it moves to or from, and so does the change of granted bytes that goes
//! with it. Whoever holds all racks' locks in turn, with the gate closed, finds nothing on its way: see `grant.rs`.

use super::bytes::{OwnedSlab, Slabs};
use super::class::Class;
use super::depot::BATCH_ROUNDS;
use super::dirty;
use super::grant::ClosedGate;
use super::magazine::{OpenRack, Round};
use super::segment::Exclusive;
use super::{Heap, SizeClass};
use crate::slot;

/// Written bytes that are zeroed while the rack is held: about as long as a few cache misses take.
const SCRUB_BYTES_MAX: u64 = 8 << 10;
/// Racks that are tried, the thread's own first, before a busy one makes a request go past the magazines.
const RACKS_TRIED: usize = 2;

/// Opens a closed slab for a holder.
#[inline(always)]
fn open_held(slabs: &Slabs, index: u64) -> Option<u64> {
    slabs.open(index).then_some(index)
}

impl Heap {
    /// The thread's rack, or a neighbour's where that is busy; none while the gate is closed.
    #[inline(always)]
    pub(super) fn open_rack(&self) -> Option<OpenRack<'_>> {
        let mine = self.racks.mine().try_open();
        let rack = mine.or_else(|| self.open_another_rack())?;
        // Under the lock: whoever closes the gate takes every rack's lock after that.
        if self.gate.is_closed() { None } else { Some(rack) }
    }

    #[cold]
    fn open_another_rack(&self) -> Option<OpenRack<'_>> {
        let others = slot::near(slot::current()).take(RACKS_TRIED - 1);
        others.into_iter().find_map(|slot| self.racks.of(slot).try_open())
    }

    /// A slab from the thread's magazine, claimed and in use.
    #[inline(always)]
    pub(super) fn take_from_magazine(&self, class: SizeClass) -> Option<u64> {
        let rack = self.open_rack()?;
        let index = self.take_from_rack(&rack, class, open_held)?;
        self.note_peak_from(&rack);
        Some(index)
    }

    /// As [`Heap::take_from_magazine`], for an owner.
    #[inline(always)]
    pub(super) fn take_owned_from_magazine(&self, class: SizeClass) -> Option<OwnedSlab> {
        let rack = self.open_rack()?;
        let owned = self.take_from_rack(&rack, class, Slabs::open_owned)?;
        self.note_peak_from(&rack);
        Some(owned)
    }

    /// Takes the slab on top, opened by `open`, which has none where it is damaged.
    #[inline(always)]
    fn take_from_rack<T>(
        &self,
        rack: &OpenRack<'_>,
        class: SizeClass,
        open: impl Fn(&Slabs, u64) -> Option<T>,
    ) -> Option<T> {
        let at = usize::from(class.0);
        loop {
            let round = rack.take(at)?;
            if let Some(opened) = open(self.classes[at].slabs(), round.index()) {
                rack.count_given(at, round);
                return Some(opened);
            }
            self.retire_closed(class, round.index());
        }
    }

    /// As [`Heap::take_from_magazine`], for a slab whose bytes were granted to the caller already: those are given back.
    /// The peak was noted with the grant; here the slab would count twice.
    pub(super) fn take_granted_from_magazine(&self, class: SizeClass) -> Option<u64> {
        let rack = self.open_rack()?;
        let index = self.take_from_rack(&rack, class, open_held)?;
        self.return_granted(self.classes[usize::from(class.0)].slab_bytes());
        Some(index)
    }

    /// The magazine was empty: fills it, and takes a slab from it. Of what the caller was granted already, `granted`,
    /// the slab's bytes are given back. None where there is nothing to fill it with; nothing changed then.
    #[cold]
    pub(super) fn refill(&self, class: SizeClass, granted: bool) -> Option<u64> {
        let at = usize::from(class.0);
        let room = &self.classes[at];
        let rack = self.open_rack()?;
        let mut by_depot = false;
        if rack.len(at) == 0 {
            rack.grow(at);
            let wanted = rack.places(at).min(BATCH_ROUNDS as u64);
            by_depot = wanted > 0 && self.fill_from_depot(&rack, class);
            if !by_depot && (wanted == 0 || !self.fill_from_class(&rack, class, wanted)) {
                return None;
            }
        }
        let index = self.take_from_rack(&rack, class, open_held)?;
        rack.count_refill(by_depot);
        if granted {
            self.return_granted(room.slab_bytes());
        } else {
            self.note_peak_from(&rack);
        }
        Some(index)
    }

    fn fill_from_depot(&self, rack: &OpenRack<'_>, class: SizeClass) -> bool {
        let at = usize::from(class.0);
        let room = &self.classes[at];
        let places = rack.places(at);
        let may_take = |slabs: u64| slabs <= places && self.in_use.take(slabs * room.slab_bytes());
        room.depot().take(may_take, |round| rack.put(at, round)).is_some()
    }

    fn fill_from_class(&self, rack: &OpenRack<'_>, class: SizeClass, wanted: u64) -> bool {
        let at = usize::from(class.0);
        let room = &self.classes[at];
        // Not waited for with the rack in hand: who holds it may be giving pages back.
        let Some(mut account) = room.try_lock() else { return false };
        let count = wanted.min(account.free_slabs());
        if count == 0 || self.scarce.is_raised() || !self.in_use.take(count * room.slab_bytes()) {
            return false;
        }
        // Lowest index last, so that it goes first.
        let mut rounds = [Round::new(0, false); BATCH_ROUNDS];
        let rounds = &mut rounds[..usize::try_from(count).expect("at most a batch")];
        rounds.iter_mut().for_each(|round| *round = room.take_round(&mut account).expect("it was counted"));
        rounds.iter().rev().for_each(|round| rack.put(at, *round));
        true
    }

    /// Takes a freed slab into the thread's magazine, zeroed. Gives the access back where that cannot be done.
    #[inline(always)]
    pub(super) fn put_into_magazine<'a>(
        &self,
        class: SizeClass,
        index: u64,
        access: Exclusive<'a>,
    ) -> Option<Exclusive<'a>> {
        let at = usize::from(class.0);
        let Some(room) = self.classes.get(at) else { return Some(access) }; // a segment of a run
        let slabs = room.slabs();
        let dirty = access.dirty();
        if dirty != 0
            && u64::from(dirty.count_ones()) * dirty::granule_bytes(slabs.slab_bytes()) > SCRUB_BYTES_MAX
        {
            return Some(access);
        }
        let Some(rack) = self.open_rack() else { return Some(access) };
        if !rack.has_place(at) && !self.empty_half(&rack, class) {
            return Some(access);
        }
        if dirty != 0 {
            slabs.scrub(index, &access);
        }
        access.stay_closed();
        rack.put(at, Round::new(index, true));
        None
    }

    /// The magazine is full: half of it goes to the depot, or to the class's free slabs. False where it has no places, and
    /// where the class keeps only so many free slabs: who goes past the magazine gives those beyond back.
    #[cold]
    fn empty_half(&self, rack: &OpenRack<'_>, class: SizeClass) -> bool {
        let at = usize::from(class.0);
        let count = rack.len(at).div_ceil(2).min(BATCH_ROUNDS as u64);
        if count == 0 || self.classes[at].is_bounded() {
            return false;
        }
        self.empty(rack, class, count);
        true
    }

    /// Takes so many slabs out of a magazine: they are free, and granted no more.
    pub(super) fn empty(&self, rack: &OpenRack<'_>, class: SizeClass, count: u64) {
        let at = usize::from(class.0);
        let room = &self.classes[at];
        let mut left = count;
        while left > 0 {
            let mut rounds = [Round::new(0, false); BATCH_ROUNDS];
            let batch = &mut rounds[..usize::try_from(left).unwrap_or(BATCH_ROUNDS).min(BATCH_ROUNDS)];
            batch.iter_mut().for_each(|round| *round = rack.take(at).expect("as many as it holds"));
            if self.gate.is_closed() || !room.depot().put(batch) {
                let mut account = room.lock();
                room.put_rounds(&mut account, batch.iter().copied());
            }
            self.return_granted(batch.len() as u64 * room.slab_bytes());
            left -= batch.len() as u64;
        }
    }

    /// Empties all magazines. With the gate closed, and kept closed, nothing is in them or on its way afterwards.
    pub(super) fn empty_magazines(&self) {
        for rack in self.racks.iter() {
            let open = rack.open();
            if rack.bytes() == 0 {
                continue;
            }
            for class in 0..self.classes.len() {
                let class = SizeClass(u8::try_from(class).expect("`new` allows at most 255 classes"));
                let count = open.len(usize::from(class.0));
                self.empty(&open, class, count);
            }
        }
    }

    /// Keeps everybody from the magazines until what is returned is dropped; all free slabs are in their classes.
    pub(super) fn close_magazines(&self) -> ClosedGate<'_> {
        let closed = self.gate.close();
        self.empty_magazines();
        self.empty_depots();
        closed
    }

    /// Takes all batches out of the depots. After [`Heap::empty_magazines`], all free slabs are in their classes.
    fn empty_depots(&self) {
        for room in &self.classes {
            self.empty_depot(room);
        }
    }

    /// Takes all batches out of a class's depot; how many slabs these were.
    pub(super) fn empty_depot(&self, room: &Class) -> u64 {
        let mut account = room.lock();
        let take = || room.depot().take(|_| true, |round| room.put_rounds(&mut account, [round]));
        std::iter::from_fn(take).sum()
    }

    /// Takes all slabs out of the magazine of a class in one slot, which begins small again; how many these were.
    pub(super) fn reset_magazine(&self, slot: usize, class: SizeClass) -> u64 {
        let rack = self.racks.of(slot).open();
        let slabs = rack.reset(usize::from(class.0));
        self.empty(&rack, class, slabs);
        slabs
    }

    /// Gives back what magazines held and nobody wanted since the last call, and lets them hold less. The depots
    /// are emptied too.
    pub(super) fn shrink_unused_magazines(&self) {
        for rack in self.racks.iter() {
            for class in 0..self.classes.len() {
                let class = SizeClass(u8::try_from(class).expect("`new` allows at most 255 classes"));
                let rack = rack.open();
                let unused = rack.shrink(usize::from(class.0));
                self.empty(&rack, class, unused);
            }
        }
        self.empty_depots();
    }

    /// Bytes in magazines, as of a moment ago.
    #[inline]
    pub(super) fn magazine_bytes(&self) -> u64 {
        self.racks.iter().map(super::magazine::Rack::bytes).sum()
    }
}
