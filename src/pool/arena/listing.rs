//! Listing: open arenas, and members in chunks, each arena a lane of the creation order.

use super::ArenaPage;
use super::tree::Standing;
use crate::clock::Now;
use crate::pool::Cursor;
use crate::pool::id::AllocationId;
use crate::pool::local::Local;
use crate::pool::tags::TagNumber;
use crate::slot::SLOTS_MAX;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound;

/// The lane of the arena of number 0: behind those of slots.
const FIRST_LANE: u32 = 256;
const _: () = assert!(FIRST_LANE as usize == SLOTS_MAX);

/// Members that come after a place.
#[derive(Debug, Default)]
pub(in crate::pool) struct ListedMembers {
    pub(in crate::pool) found: Vec<(Cursor, AllocationId)>,
    /// Places up to which some lane was looked through, of those that were not to their end.
    pub(in crate::pool) ends: Vec<Cursor>,
}

/// An arena that may have members after the place where a page starts.
///
/// Ordered by how far it was looked through: what may come first is looked at first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    /// Every member made up to then was seen.
    seen: u64,
    number: u32,
    /// Members that are asked for next: more each time, so that one with many is soon through.
    batch: usize,
}

impl Local {
    /// Collects members in chunks that come after `start` and carry the tag, if one is given: the first `count_max` of all
    /// arenas, and some more. Looks at about `looks_max`, and at one of each arena at least that has any after `start`.
    ///
    /// Arenas are merged by when their members were made, so that those whose members come later cost this page nothing.
    pub(in crate::pool) fn list_members(
        &self,
        start: Cursor,
        count_max: usize,
        looks_max: usize,
        tag: Option<TagNumber>,
    ) -> ListedMembers {
        let mut listed = ListedMembers::default();
        let mut lanes = self.lanes_after(start, looks_max, &mut listed);
        // The first so many of what was found.
        let mut first: BinaryHeap<Cursor> = BinaryHeap::new();
        let mut looks_left = looks_max;
        while let Some(Reverse(Lane { seen, number, batch })) = lanes.pop() {
            let place = |created| Cursor { created, lane: FIRST_LANE + number };
            let is_full = first.len() >= count_max && first.peek().is_some_and(|last| *last <= place(seen));
            if is_full || (looks_left == 0 && place(seen) > start) {
                listed.ends.push(place(seen)); // all others were looked through as far, or further
                break;
            }
            let Some(family) = self.arenas().family(number) else { continue };
            let tree = family.lock();
            let Some(node) = tree.nodes.get(&number) else { continue };
            if tag.is_some() && node.tag != tag {
                continue;
            }
            let after = node.members.after(seen, batch, looks_left.max(1));
            drop(tree);
            looks_left = looks_left.saturating_sub(after.looks);
            for (created, id) in after.found {
                listed.found.push((place(created), id));
                first.push(place(created));
                if first.len() > count_max {
                    first.pop();
                }
            }
            let more = |seen| Reverse(Lane { seen, number, batch: (2 * batch).min(count_max) });
            lanes.extend(after.end.map(more));
        }
        listed
    }

    /// The arenas that may have members after `start`.
    fn lanes_after(
        &self,
        start: Cursor,
        looks_max: usize,
        listed: &mut ListedMembers,
    ) -> BinaryHeap<Reverse<Lane>> {
        let index = self.arenas().index();
        // The places of one time have many lanes: all that begins at that very time is looked at again.
        let (kept, end) = index.kept.after(start.created.saturating_sub(1), looks_max);
        listed.ends.extend(end.map(|created| Cursor { created, lane: u32::MAX }));
        let open = index.open.iter().filter_map(|(_, number)| {
            let (first, last) = self.arenas().members_span(*number)?;
            (last > start.before(FIRST_LANE + number)).then_some((first, *number))
        });
        let lane = |(first, number): (u64, u32)| {
            let seen = start.before(FIRST_LANE + number).max(first.saturating_sub(1));
            Reverse(Lane { seen, number, batch: 1 })
        };
        open.chain(kept).map(lane).collect()
    }

    pub(in crate::pool) fn list_arenas(&self, cursor: Option<Cursor>, limit: usize, now: Now) -> ArenaPage {
        let start = match cursor {
            Some(Cursor { created, lane }) => Bound::Excluded((created, lane)),
            None => Bound::Unbounded,
        };
        let mut places: Vec<(u64, u32)> = {
            let index = self.arenas().index();
            index.open.range((start, Bound::Unbounded)).take(limit + 1).copied().collect()
        };
        let has_more = places.len() > limit;
        places.truncate(limit);
        let next = places
            .last()
            .filter(|_| has_more)
            .map(|(created, lane)| Cursor { created: *created, lane: *lane });
        let mut arenas = Vec::with_capacity(places.len());
        for (created, number) in places {
            let Some(family) = self.arenas().family(number) else { continue };
            let tree = family.lock();
            // It may have ended, and its number begun anew.
            let Some(node) = tree.nodes.get(&number).filter(|node| node.created.0 == created) else {
                continue;
            };
            if tree.standing(number, node.key, now) == Standing::Open {
                arenas.push(self.describe_arena(&tree, number));
            }
        }
        ArenaPage { arenas, next }
    }
}
