//! Expiry: allocations whose lease is over end, whether anybody looks at them or not.
//!
//! A task asks for it every tick; whoever is refused for lack of room asks for it too, so that what a lease has ended
//! never stands in anybody's way.

use super::entries::Slot;
use super::id::{AllocationId, Key};
use super::local::Local;
use super::table::Record;
use super::{Allocation, NotFound, RenewError};
use crate::clock::Now;
use parking_lot::Mutex;

/// Leases ended in one slice.
const SLICE_LEASES: usize = 64;
/// Entries and ticks of a wheel looked at in one slice.
const SLICE_LOOKS: u32 = 1024;
/// Bytes of content in one slice, all of which may have to be zeroed: about 0.2 ms.
const SLICE_BYTES: u64 = 8 << 20;

/// What one round of expiry did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Allocations that it ended.
    pub ended: usize,
    /// Whether there are more that are due.
    pub more: bool,
    /// Whether any allocation has a lease.
    pub leases: bool,
}

impl Local {
    /// Lets an allocation live for `deadline`, whatever its lease was.
    pub(super) fn renew(&self, id: AllocationId, deadline: Now, now: Now) -> Result<Allocation, RenewError> {
        if id.is_member() {
            return Err(self.renew_member(id, now));
        }
        let (index, entry, record) = self.look_up(id, now)?;
        if let Some(number) = record.arena {
            drop(entry);
            let attached = self.attached_to(number, index, record.key, now);
            return Err(attached.map_or(NotFound(id).into(), |attached| RenewError::InArena(attached.arena)));
        }
        entry.set_deadline(deadline);
        drop(entry);
        // A later one is found when the old one comes up.
        if record.deadline.is_none_or(|old| deadline < old) {
            self.hang_anew(index, record.key, now);
        }
        let described = self.describe_live(index, &Record { deadline: Some(deadline), ..record });
        Ok(described.ok_or(NotFound(id))?)
    }

    /// Hangs a live allocation up at the deadline that it has by now.
    fn hang_anew(&self, index: u32, key: Key, now: Now) {
        let entry = self.table().used(index);
        let Some(slot) = entry.slot() else { return };
        let mut slot = self.slots().of(slot).lock();
        // Live, so that was its slot. Whoever ends it clears the key, then takes this lock, and takes it down after us.
        if entry.is_live(key) {
            slot.wheel.remove(self.table(), index);
            self.hang(&mut slot, index, entry.deadline(), now);
        }
    }

    /// Hangs an entry of the slot into its wheel of leases.
    pub(super) fn hang(&self, slot: &mut Slot, index: u32, deadline: Now, now: Now) {
        if slot.wheel.is_empty() {
            self.leases_begun.notify_one();
        }
        slot.wheel.insert(self.table(), index, deadline, now);
    }

    /// Does what may be refused for lack of room, and refuses only if it is refused although no lease is left that was
    /// over at `now`.
    pub(super) fn unless_due<T, E>(
        &self,
        now: Now,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut outcome = attempt();
        while outcome.is_err() {
            let ended = self.reap_due(now);
            // Once more even where nothing was left to end: another thread may just have ended it.
            outcome = attempt();
            if ended == 0 {
                break;
            }
        }
        outcome
    }

    /// Ends some leases that are over, of allocations or of an arena, and says how many; none only if there is none.
    #[cold]
    pub(super) fn reap_due(&self, now: Now) -> usize {
        if self.end_one_due(now).is_some() {
            return 1;
        }
        for slot in self.slots().iter() {
            loop {
                let slice = self.expire_slice(slot, now, true);
                if slice.ended > 0 {
                    return slice.ended;
                }
                if !slice.more {
                    break;
                }
            }
        }
        0
    }

    /// Ends an allocation that a look-up found over at `now`.
    #[cold]
    pub(super) fn end_due(&self, index: u32, key: Key, now: Now) {
        // As for those that are taken from a wheel: it is in no wheel any more before its memory is free.
        let _reaping = self.reaping.lock();
        let entry = self.table().used(index).lock();
        // Another may have ended it meanwhile.
        let is_over =
            |record: &Record| record.key == key && record.deadline.is_some_and(|deadline| deadline <= now);
        if let Some(record) = entry.read().filter(is_over) {
            self.end(index, entry, &record, now);
        }
    }

    /// Ends leases that are over by a tick, a slice of each slot.
    pub(super) fn expire(&self, now: Now) -> Expired {
        let mut expired = Expired::default();
        for slot in self.slots().iter() {
            let slice = self.expire_slice(slot, now, false);
            expired.ended += slice.ended;
            expired.more |= slice.more;
            expired.leases |= slice.leases;
        }
        let of_arenas = self.expire_arenas(now);
        expired.ended += of_arenas.ended;
        expired.more |= of_arenas.more;
        expired.leases |= of_arenas.leases;
        expired
    }

    /// One slice of one slot; `in_tick` also of what ended in this very tick.
    fn expire_slice(&self, slot: &Mutex<Slot>, now: Now, in_tick: bool) -> Expired {
        // Held until what was taken down has ended: whoever finds nothing left to end finds its memory free too.
        let _reaping = self.reaping.lock();
        let (mut due, mut bytes, mut looks) = (Vec::new(), 0, SLICE_LOOKS);
        let mut expired = Expired::default();
        {
            let mut slot = slot.lock();
            while due.len() < SLICE_LEASES
                && bytes < SLICE_BYTES
                && let Some(index) = slot.wheel.pop_due(self.table(), now, &mut looks)
            {
                bytes += self.table().used(index).size_bytes();
                due.push(index);
            }
            expired.more = looks == 0 || due.len() == SLICE_LEASES || bytes >= SLICE_BYTES;
            if in_tick && !expired.more {
                slot.wheel.take_due_in_tick(self.table(), now, SLICE_LEASES - due.len(), &mut due);
            }
            expired.leases = !slot.wheel.is_empty();
        }
        expired.ended = due.into_iter().filter(|index| self.expire_entry(*index, now)).count();
        expired
    }

    /// Ends the allocation of an entry that was taken down from its wheel, if its lease is over.
    fn expire_entry(&self, index: u32, now: Now) -> bool {
        let entry = self.table().used(index).lock();
        // Freed, or made anew, since: whoever did that took care of its lease too.
        let Some(record) = entry.read() else { return false };
        match record.deadline {
            Some(deadline) if deadline <= now => {
                self.end(index, entry, &record, now);
                true
            }
            Some(_) => {
                drop(entry);
                self.hang_anew(index, record.key, now);
                false
            }
            None => false,
        }
    }
}
