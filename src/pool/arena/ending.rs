//! How arenas end, are reset, and renewed.
//!
//! What ends is taken out of the tree, with all that lies in it, under the family's lock: from there on nobody finds
//! anything of it. What it had is given back after that, outside of the lock.

use super::directory::RUN_MEMBERS;
use super::leaving::{Leaving, Remains};
use super::members::{Member, Members};
use super::space::Chunk;
use super::tree::{Node, Tree};
use super::{Arena, ArenaError, ArenaFreed, ArenaState, Keep};
use crate::clock::Now;
use crate::pool::expiry::Expired;
use crate::pool::id::{AllocationId, ArenaId, Key};
use crate::pool::local::Local;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// Arenas ended in one slice of expiry.
const SLICE_ARENAS: usize = 8;

/// What of the members is kept.
enum Kept {
    All,
    /// Entries of the table with their keys; and of those in chunks, by run of the directory, a bit for each.
    These {
        attached: Vec<(u32, Key)>,
        masks: HashMap<u32, u64>,
    },
}

impl Kept {
    fn of(ids: &[AllocationId]) -> Kept {
        let mut masks: HashMap<u32, u64> = HashMap::new();
        for (member, _) in ids.iter().filter_map(|id| id.decode_member()) {
            *masks.entry(member / RUN_MEMBERS).or_default() |= 1 << (member % RUN_MEMBERS);
        }
        Kept::These { attached: ids.iter().filter_map(|id| id.decode()).collect(), masks }
    }
}

impl Local {
    pub(in crate::pool) fn arena(&self, id: ArenaId, now: Now) -> Result<Arena, ArenaError> {
        match self.with_open(id, now, |_, tree, number| self.describe_arena(tree, number)) {
            Err(ArenaError::Ended { .. }) => {
                self.arenas().index().ended(id, now).cloned().ok_or(ArenaError::NotFound(id))
            }
            outcome => outcome,
        }
    }

    pub(in crate::pool) fn renew_arena(
        &self,
        id: ArenaId,
        deadline: Now,
        now: Now,
    ) -> Result<Arena, ArenaError> {
        self.with_open(id, now, |_, tree, number| {
            let old = tree.node(number).deadline.replace(deadline);
            let mut index = self.arenas().index();
            if index.leases.is_empty() {
                self.leases_begun.notify_one();
            }
            if let Some(old) = old {
                index.leases.remove(&(old.0, number));
            }
            index.leases.insert((deadline.0, number));
            drop(index);
            self.describe_arena(tree, number)
        })
    }

    pub(in crate::pool) async fn rollback_arena(
        &self,
        id: ArenaId,
        now: Now,
    ) -> Result<ArenaFreed, ArenaError> {
        let (freed_bytes, remains) = self.with_open(id, now, |_, tree, number| {
            (tree.nodes[&number].used_bytes, self.take_out(tree, number, ArenaState::RolledBack, now))
        })?;
        let freed_allocations = Leaving::new(self, remains).give_back(now).await;
        Ok(ArenaFreed { freed_bytes, freed_allocations, state: ArenaState::RolledBack })
    }

    pub(in crate::pool) async fn commit_arena(
        &self,
        id: ArenaId,
        keep: &Keep,
        now: Now,
    ) -> Result<ArenaFreed, ArenaError> {
        let (freed_bytes, remains) = self.with_open(id, now, |_, tree, number| {
            let used_bytes = tree.nodes[&number].used_bytes;
            let kept = match keep {
                Keep::Nothing => {
                    return Ok((used_bytes, self.take_out(tree, number, ArenaState::Committed, now)));
                }
                _ if tree.nodes[&number].parent.is_some() => return Err(ArenaError::KeepInChild(id)),
                Keep::All => Kept::All,
                Keep::These(ids) => {
                    for allocation in ids {
                        if !self.is_member(tree.node(number), number, *allocation) {
                            return Err(ArenaError::NotAMember { id, allocation: *allocation });
                        }
                    }
                    Kept::of(ids)
                }
            };
            let (kept_bytes, remains) = self.take_out_but(tree, number, &kept, now);
            Ok((used_bytes - kept_bytes, remains))
        })??;
        let freed_allocations = Leaving::new(self, remains).give_back(now).await;
        Ok(ArenaFreed { freed_bytes, freed_allocations, state: ArenaState::Committed })
    }

    pub(in crate::pool) async fn reset_arena(&self, id: ArenaId, now: Now) -> Result<ArenaFreed, ArenaError> {
        let (freed_bytes, remains) = self.with_open(id, now, |_, tree, number| {
            let used_bytes = tree.nodes[&number].used_bytes;
            let mut remains = self.take_out_children(tree, number, now);
            tree.discharge_above(number);
            let node = tree.node(number);
            let before = node.record_bytes();
            let mut own = self.empty(node);
            own.number = number;
            own.chunks = node.space.reset(self.heap());
            self.uncount_chunks(&own.chunks);
            self.uncount_records(before - node.record_bytes());
            (node.own_used_bytes, node.used_bytes) = (0, 0);
            remains.push(own);
            self.arenas().index().counts.resets += 1;
            (used_bytes, remains)
        })?;
        let freed_allocations = Leaving::new(self, remains).give_back(now).await;
        Ok(ArenaFreed { freed_bytes, freed_allocations, state: ArenaState::Open })
    }

    /// Whether an allocation is a live member of the arena.
    fn is_member(&self, node: &mut Node, number: u32, id: AllocationId) -> bool {
        if let Some((index, key)) = id.decode() {
            return node.attached.get(&index).is_some_and(|(attached, _)| *attached == key);
        }
        let Some((member, key)) = id.decode_member() else { return false };
        self.arenas().directory.find(member / RUN_MEMBERS).is_some_and(|place| {
            place.arena == number && node.members.find(place.first_created, member, key).is_some()
        })
    }

    fn uncount_chunks(&self, chunks: &[Chunk]) {
        let bytes = chunks.iter().map(Chunk::bytes).sum();
        self.arenas().totals.chunk_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn uncount_records(&self, bytes: u64) {
        self.arenas().totals.record_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Members in chunks are none any more: what they were, and what they are now.
    fn uncount_members(&self, before: (u64, u64, u64), members: &Members) {
        let totals = &self.arenas().totals;
        totals.live.fetch_sub(before.0 - members.live, Ordering::Relaxed);
        totals.live_bytes.fetch_sub(before.1 - members.actual_bytes, Ordering::Relaxed);
        totals.requested_bytes.fetch_sub(before.2 - members.requested_bytes, Ordering::Relaxed);
    }

    /// Ends all members of an arena, except for what stands in its chunks.
    fn empty(&self, node: &mut Node) -> Remains {
        let totals = &self.arenas().totals;
        let before = (node.members.live, node.members.actual_bytes, node.members.requested_bytes);
        let runs = node.members.take_all();
        self.uncount_members(before, &node.members);
        totals.used_bytes.fetch_sub(node.own_used_bytes, Ordering::Relaxed);
        totals.attached.fetch_sub(node.attached.len() as u64, Ordering::Relaxed);
        let attached = std::mem::take(&mut node.attached).into_iter().map(|(index, (key, _))| (index, key));
        Remains { runs, attached: attached.collect(), ended: before.0, tag: node.tag, ..Remains::default() }
    }

    /// Takes an open arena out with all that lies in it: from here on nobody finds any of them.
    fn take_out(&self, tree: &mut Tree, number: u32, state: ArenaState, now: Now) -> Vec<Remains> {
        let mut remains = self.take_out_children(tree, number, now);
        remains.push(self.take_out_one(tree, number, state, now));
        remains
    }

    fn take_out_children(&self, tree: &mut Tree, number: u32, now: Now) -> Vec<Remains> {
        let children = tree.descendants(number);
        children
            .into_iter()
            .map(|child| self.take_out_one(tree, child, ArenaState::RolledBack, now))
            .collect()
    }

    /// Says of an arena that it has ended.
    fn close_arena(&self, tree: &mut Tree, number: u32, state: ArenaState, now: Now) {
        tree.discharge_above(number);
        let described = self.describe_arena(tree, number);
        let node = &tree.nodes[&number];
        let (parent, used_bytes_peak) = (node.parent, node.used_bytes_peak);
        let deadline = node.deadline; // its own: that of its lease
        let ended = Arena { state, used_bytes: 0, allocations: 0, deadline, ..described };
        self.arenas().index().close(number, ended, used_bytes_peak, now);
        if let Some(parent) = parent {
            tree.node(parent).children.remove(&number);
        }
    }

    /// Takes out an arena in which no other lies.
    fn take_out_one(&self, tree: &mut Tree, number: u32, state: ArenaState, now: Now) -> Remains {
        self.close_arena(tree, number, state, now);
        let mut node = tree.nodes.remove(&number).expect("the arena is open");
        self.uncount_records(node.record_bytes());
        let mut remains = self.empty(&mut node);
        remains.chunks = node.space.take_unkept();
        self.uncount_chunks(&remains.chunks);
        (remains.number, remains.ends_tag) = (number, true);
        self.arenas().vacate(&mut self.arenas().index(), number);
        remains
    }

    /// Takes an open arena out that lies in no other, with all that lies in it, but for what is kept. Also says what that
    /// takes.
    fn take_out_but(&self, tree: &mut Tree, number: u32, kept: &Kept, now: Now) -> (u64, Vec<Remains>) {
        let mut remains = self.take_out_children(tree, number, now);
        let node = tree.node(number);
        let mut kept_bytes = self.release_attached(node, kept);
        let before = (node.members.live, node.members.actual_bytes, node.members.requested_bytes);
        let bytes_before = node.record_bytes();
        let runs = match kept {
            Kept::All => node.members.retain_live(),
            Kept::These { masks, .. } => node.members.retain(masks),
        };
        if node.members.live == 0 {
            let records_ended = bytes_before - node.record_bytes();
            let mut own = self.take_out_one(tree, number, ArenaState::Committed, now);
            own.runs.extend(runs);
            own.ended += before.0;
            let zero = Members::default();
            self.uncount_members(before, &zero);
            self.uncount_records(records_ended);
            remains.push(own);
            return (kept_bytes, remains);
        }
        self.close_arena(tree, number, ArenaState::Committed, now);
        let node = tree.node(number);
        self.uncount_members(before, &node.members);
        kept_bytes += node.members.actual_bytes;
        let own_ended = before.0 - node.members.live;
        node.space.keep(node.members.iter().map(Member::range));
        let chunks = node.space.take_unkept();
        self.uncount_chunks(&chunks);
        let gaps = match kept {
            Kept::All => Vec::new(), // what was freed before was zeroed then
            Kept::These { .. } => node.space.gaps(node.members.iter().map(Member::range)),
        };
        let gaps = gaps.into_iter().map(|gap| (number, node.key, gap)).collect();
        let created = |member: Option<&Member>| member.expect("some are kept").created;
        let span = (created(node.members.iter().next()), created(node.members.last()));
        (node.kept, node.deadline) = (Some(span), None);
        let mut own =
            Remains { number, chunks, runs, gaps, ended: own_ended, tag: node.tag, ..Remains::default() };
        let totals = &self.arenas().totals;
        totals.used_bytes.fetch_sub(node.own_used_bytes, Ordering::Relaxed);
        totals.attached.fetch_sub(node.attached.len() as u64, Ordering::Relaxed);
        let attached = std::mem::take(&mut node.attached).into_iter();
        own.attached = attached.map(|(index, (key, _))| (index, key)).collect();
        self.uncount_records(bytes_before - node.record_bytes());
        self.arenas().index().kept.insert(number, span);
        remains.push(own);
        (kept_bytes, remains)
    }

    /// Lets kept members that have blocks of their own live on by themselves, and says how many bytes they have.
    fn release_attached(&self, node: &mut Node, kept: &Kept) -> u64 {
        let before = node.record_bytes();
        let released: Vec<(u32, (Key, u64))> = match kept {
            Kept::All => std::mem::take(&mut node.attached).into_iter().collect(),
            Kept::These { attached, .. } => attached
                .iter()
                .filter_map(|(index, _)| node.attached.remove(index).map(|entry| (*index, entry)))
                .collect(),
        };
        self.uncount_records(before - node.record_bytes());
        let mut bytes = 0;
        for (index, (key, actual_bytes)) in released {
            self.arenas().totals.attached.fetch_sub(1, Ordering::Relaxed);
            let entry = self.table().used(index).lock();
            // It may just have been freed.
            if entry.read().is_some_and(|record| record.key == key) {
                entry.leave_arena();
                bytes += actual_bytes;
            }
        }
        bytes
    }

    /// Ends the arena of that number if its lease is over at `now`.
    pub(super) fn end_over(&self, number: u32, now: Now) {
        let _reaping = self.reaping.lock(); // as `end_one_due` holds it
        self.end_if_over(number, now);
    }

    /// Ends the arena of that number if its lease is over at `now`, and says how many allocations ended with it.
    /// Those beyond a slice are left for [`Local::end_one_due`].
    fn end_if_over(&self, number: u32, now: Now) -> Option<u64> {
        let family = self.arenas().family(number)?;
        let remains = {
            let mut tree = family.lock();
            let node = tree.nodes.get(&number)?;
            let is_over = node.kept.is_none() && node.deadline.is_some_and(|deadline| deadline <= now);
            is_over.then(|| self.take_out(&mut tree, number, ArenaState::Expired, now))
        };
        let mut leaving = Leaving::new(self, remains?);
        Some(leaving.give_back_slice(now))
    }

    /// Ends one arena whose lease is over, or a slice of what such arenas had, if there is any, and says how many allocations
    /// ended.
    pub(in crate::pool) fn end_one_due(&self, now: Now) -> Option<u64> {
        // Held until what it had is given back: whoever finds nothing left to end finds its memory free too.
        let _reaping = self.reaping.lock();
        let left = std::mem::take(&mut *self.arenas().leaving.lock());
        if !left.is_empty() {
            return Some(Leaving::of_left(self, left).give_back_slice(now));
        }
        loop {
            // Another may have ended it, or renewed it, by then: under the family's lock, so that it is here no more.
            let number = self.arenas().index().due(now)?;
            if let Some(ended) = self.end_if_over(number, now) {
                return Some(ended);
            }
        }
    }

    /// Ends arenas whose lease is over, a slice of them.
    pub(in crate::pool) fn expire_arenas(&self, now: Now) -> Expired {
        let mut expired = Expired::default();
        for _ in 0..SLICE_ARENAS {
            let Some(ended) = self.end_one_due(now) else { break };
            expired.ended += usize::try_from(ended).unwrap_or(usize::MAX);
        }
        let is_left = !self.arenas().leaving.lock().is_empty();
        let index = self.arenas().index();
        expired.more = is_left || index.due(now).is_some();
        expired.leases = is_left || !index.leases.is_empty();
        expired
    }
}
