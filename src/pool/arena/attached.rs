//! Members that have blocks of their own: entries of the table, which know the number of the arena that they end with.

use crate::clock::Now;
use crate::pool::id::{AllocationId, ArenaId, Key};
use crate::pool::local::Local;
use crate::pool::table::{LockedEntry, Record};
use crate::pool::{Allocation, NotFound};
use std::sync::atomic::Ordering;

/// The arena that an entry is attached to.
#[derive(Clone, Copy, Debug)]
pub(in crate::pool) struct AttachedTo {
    pub(in crate::pool) arena: ArenaId,
    deadline: Option<Now>,
}

impl Local {
    /// As [`Local::look_up`], of an entry that was found attached to an arena: it ends with that.
    #[cold]
    pub(in crate::pool) fn look_up_attached(
        &self,
        id: AllocationId,
        index: u32,
        found: &Record,
        now: Now,
    ) -> Result<(u32, LockedEntry<'_>, Record), NotFound> {
        // Not under the entry's lock: an arena's is taken before an entry's.
        let is_open =
            found.arena.is_some_and(|arena| self.attached_to(arena, index, found.key, now).is_some());
        let entry = self.table().used(index).lock();
        let record = entry.read().filter(|record| record.key == found.key).ok_or(NotFound(id))?;
        // It may have been kept meanwhile, and be on its own.
        if is_open || record.arena.is_none() { Ok((index, entry, record)) } else { Err(NotFound(id)) }
    }

    /// As [`Local::describe_live`], with the arena that it ends with.
    pub(in crate::pool) fn describe_found(
        &self,
        index: u32,
        record: &Record,
        now: Now,
    ) -> Option<Allocation> {
        let described = self.describe_live(index, record)?;
        let Some(number) = record.arena else { return Some(described) };
        let attached = self.attached_to(number, index, record.key, now)?;
        Some(Allocation { arena: Some(attached.arena), deadline: attached.deadline, ..described })
    }

    /// The open arena of that number, if the entry at `index` with that key is attached to it.
    pub(in crate::pool) fn attached_to(
        &self,
        number: u32,
        index: u32,
        key: Key,
        now: Now,
    ) -> Option<AttachedTo> {
        loop {
            let family = self.arenas().family(number)?;
            let tree = family.lock();
            let node = tree.nodes.get(&number)?;
            node.attached.get(&index).filter(|(attached, _)| *attached == key)?;
            let Some(over) = tree.over(number, now) else {
                return Some(AttachedTo { arena: tree.id(number), deadline: tree.deadline(number) });
            };
            drop(tree);
            self.end_over(over, now); // and look again: it may just have been renewed
        }
    }

    /// An entry that was attached to the arena of that number was freed.
    pub(in crate::pool) fn detach(&self, number: u32, index: u32, key: Key) {
        let Some(family) = self.arenas().family(number) else { return };
        let mut tree = family.lock();
        let Some(node) = tree.nodes.get_mut(&number) else { return };
        if node.attached.get(&index).is_some_and(|(attached, _)| *attached == key) {
            let records = node.record_bytes();
            node.attached.remove(&index);
            let totals = &self.arenas().totals;
            totals.record_bytes.fetch_sub(records - node.record_bytes(), Ordering::Relaxed);
            totals.attached.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
