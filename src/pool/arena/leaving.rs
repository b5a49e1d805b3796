//! What arenas had that have ended, on its way back: outside of their families' locks, a slice at a time.

use super::members::Run;
use super::space::Chunk;
use crate::clock::Now;
use crate::pool::id::Key;
use crate::pool::local::Local;
use crate::pool::tags::{TagNumber, TagShare};
use std::ops::Range;

/// What is given back in one slice at most, about half a millisecond of each: arenas, …
const SLICE_ARENAS: usize = 128;
/// … records of members in chunks, by runs of 64, …
const SLICE_RUNS: usize = 2048;
/// … bytes to be zeroed between what was kept, …
const SLICE_BYTES: u64 = 4 << 20;
/// (a range that is shorter than this counts as so long, for what it takes to get there)
const GAP_BYTES: u64 = 4 << 10;
/// … and members with blocks of their own.
const SLICE_ATTACHED: usize = 256;

/// What an arena had.
#[derive(Debug, Default)]
pub(super) struct Remains {
    pub(super) number: u32,
    pub(super) chunks: Vec<Chunk>,
    pub(super) runs: Vec<Run>,
    pub(super) attached: Vec<(u32, Key)>,
    /// Places between what was kept: number and key of the arena, and the range.
    pub(super) gaps: Vec<(u32, Key, Range<u64>)>,
    /// Members in chunks that ended.
    pub(super) ended: u64,
    pub(super) tag: Option<TagNumber>,
    /// The arena itself is gone, and carries its tag no more.
    pub(super) ends_tag: bool,
}

/// What is still to be given back. Nobody finds any of it any more.
#[derive(Debug, Default)]
pub(super) struct Left {
    arenas: Vec<Remains>,
    gaps: Vec<(u32, Key, Range<u64>)>,
    /// Entries of the table, with their keys: still to be ended themselves.
    attached: Vec<(u32, Key)>,
}

impl Left {
    pub(super) fn is_empty(&self) -> bool {
        self.arenas.is_empty() && self.gaps.is_empty() && self.attached.is_empty()
    }

    fn append(&mut self, mut other: Left) {
        if self.is_empty() {
            *self = other;
            return;
        }
        self.arenas.append(&mut other.arenas);
        self.gaps.append(&mut other.gaps);
        self.attached.append(&mut other.attached);
    }
}

/// Somebody's work to give it back. Dropped, what is left of it is done by whoever ends what leases ended.
#[derive(Debug)]
pub(super) struct Leaving<'a> {
    local: &'a Local,
    left: Left,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if !self.left.is_empty() {
            self.local.arenas().leaving.lock().append(std::mem::take(&mut self.left));
            self.local.leases_begun.notify_one();
        }
    }
}

impl<'a> Leaving<'a> {
    pub(super) fn new(local: &'a Local, arenas: Vec<Remains>) -> Leaving<'a> {
        Leaving { local, left: Left { arenas, ..Left::default() } }
    }

    /// Goes on with what somebody left.
    pub(super) fn of_left(local: &'a Local, left: Left) -> Leaving<'a> {
        Leaving { local, left }
    }

    /// Gives all of it back, and says how many allocations ended with it.
    pub(super) async fn give_back(mut self, now: Now) -> u64 {
        let mut ended = 0;
        loop {
            ended += self.give_back_slice(now);
            if self.left.is_empty() {
                return ended;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Gives a slice of it back, and says how many allocations ended with that.
    pub(super) fn give_back_slice(&mut self, now: Now) -> u64 {
        let mut ended = 0;
        let mut runs_left = SLICE_RUNS;
        for _ in 0..SLICE_ARENAS {
            let Some(mut own) = self.left.arenas.pop() else { break };
            let runs = tail(&mut own.runs, runs_left);
            runs_left -= runs.len();
            self.local.leave_runs(&runs);
            if own.runs.is_empty() {
                ended += self.give_back_arena(own);
            } else {
                self.left.arenas.push(own);
                break;
            }
        }
        self.local.room_freed(); // what others wait for may have been no memory
        let mut bytes = 0;
        while bytes < SLICE_BYTES
            && let Some((number, key, gap)) = self.left.gaps.pop()
        {
            bytes += (gap.end - gap.start).max(GAP_BYTES);
            self.local.zero_gap(number, key, gap);
        }
        for (index, key) in tail(&mut self.left.attached, SLICE_ATTACHED) {
            let entry = self.local.table().used(index).lock();
            if let Some(record) = entry.read().filter(|record| record.key == key) {
                self.local.end(index, entry, &record, now);
                ended += 1;
            }
        }
        ended
    }

    /// Gives back what one had whose records are given back, and says how many members in chunks ended with it.
    fn give_back_arena(&mut self, mut own: Remains) -> u64 {
        let local = self.local;
        self.left.attached.append(&mut own.attached);
        self.left.gaps.append(&mut own.gaps);
        if let Some(tag) = own.tag {
            local.tags().end_members(tag, own.ended);
            let bytes = own.chunks.iter().map(Chunk::bytes).sum();
            local.tags().end_chunk(TagShare { tag, bytes });
            if own.ends_tag {
                local.tags().end_block(tag);
            }
        }
        // Last, so that whoever gets the memory finds the rest too.
        local.free_chunks(own.chunks);
        local.freed_in_arena(own.number);
        own.ended
    }
}

/// Takes out the last ones.
fn tail<T>(all: &mut Vec<T>, count_max: usize) -> Vec<T> {
    all.split_off(all.len().saturating_sub(count_max))
}

impl Local {
    /// These runs have no members any more: others may have their places and their entries.
    pub(super) fn leave_runs(&self, runs: &[Run]) {
        self.arenas().directory.leave(runs.iter().map(|run| run.number));
        self.entries().give_back(runs.iter().map(Run::entries).sum());
    }

    /// Zeroes what ended beside something kept, as far as that is still there.
    fn zero_gap(&self, number: u32, key: Key, gap: Range<u64>) {
        if let Some(family) = self.arenas().family(number)
            && let Some(node) = family.lock().nodes.get_mut(&number).filter(|node| node.key == key)
        {
            node.space.zero(self.heap(), gap);
        }
    }
}
