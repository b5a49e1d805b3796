//! Expiry: allocations whose lease is over end, whether anybody looks at them or not.
//!
//! A task asks for it every tick; whoever is refused for lack of room asks for it too, so that what a lease has ended
//! never stands in anybody's way.

use super::entries::Slot;
use super::id::{AllocationId, Key};
use super::local::Local;
use super::table::Record;
use super::{Allocation, NotFound};
use crate::clock::Now;

/// Leases ended, and entries of a wheel looked at, under one hold of a slot's lock.
const EXPIRE_SLICE: (usize, u32) = (64, 1024);

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
    pub(super) fn renew(&self, id: AllocationId, deadline: Now, now: Now) -> Result<Allocation, NotFound> {
        let (index, entry, record) = self.look_up(id, now)?;
        entry.set_deadline(deadline);
        drop(entry);
        // A later one is found when the old one comes up.
        if record.deadline.is_none_or(|old| deadline < old) {
            self.hang_anew(index, record.key, now);
        }
        Ok(self.describe(index, &Record { deadline: Some(deadline), ..record }))
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

    /// Ends all leases that are over, because their memory is needed, and says how many.
    #[cold]
    pub(super) fn reap_due(&self, now: Now) -> usize {
        let mut ended = 0;
        loop {
            let expired = self.expire(now);
            ended += expired.ended;
            if !expired.more {
                break;
            }
        }
        for slot in self.slots().iter() {
            // The closure ends before the allocation is ended, which takes the slot's lock itself.
            let pop = || slot.lock().wheel.pop_due_in_tick(self.table(), now);
            while let Some(index) = pop() {
                ended += usize::from(self.expire_entry(index, now));
            }
        }
        ended
    }

    /// Ends leases that are over by a tick, in a slice of bounded length.
    pub(super) fn expire(&self, now: Now) -> Expired {
        let (count_max, looks_max) = EXPIRE_SLICE;
        let mut expired = Expired::default();
        for slot in self.slots().iter() {
            let (mut due, mut looks) = (Vec::new(), looks_max);
            {
                let mut slot = slot.lock();
                while due.len() < count_max
                    && let Some(index) = slot.wheel.pop_due(self.table(), now, &mut looks)
                {
                    due.push(index);
                }
                expired.leases |= !slot.wheel.is_empty();
            }
            expired.more |= looks == 0 || due.len() == count_max;
            expired.ended += due.into_iter().filter(|index| self.expire_entry(*index, now)).count();
        }
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
