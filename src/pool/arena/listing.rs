//! Listing: open arenas, and members in chunks, each arena a lane of the creation order.

use super::ArenaPage;
use super::tree::Standing;
use crate::clock::Now;
use crate::pool::Cursor;
use crate::pool::id::AllocationId;
use crate::pool::local::Local;
use crate::pool::tags::TagNumber;
use crate::slot::SLOTS_MAX;
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

impl Local {
    /// Collects members in chunks that come after `start` and carry the tag, if one is given: of each arena the first
    /// `count_max`. Looks at about `looks_max`, and at one of each arena at least.
    pub(in crate::pool) fn list_members(
        &self,
        start: Cursor,
        count_max: usize,
        looks_max: usize,
        tag: Option<TagNumber>,
    ) -> ListedMembers {
        let mut listed = ListedMembers::default();
        let numbers = {
            let index = self.arenas().index();
            // The places of one time have many lanes: all that begins at that very time is looked at again.
            let (kept, end) = index.kept.after(start.created.saturating_sub(1), looks_max);
            listed.ends.extend(end.map(|created| Cursor { created, lane: u32::MAX }));
            let open = index.open.iter().map(|(_, number)| *number);
            open.chain(kept).collect::<Vec<u32>>()
        };
        let looks_each = (looks_max / numbers.len().max(1)).max(1);
        for number in numbers {
            let lane = FIRST_LANE + number;
            let Some(family) = self.arenas().family(number) else { continue };
            let tree = family.lock();
            let Some(node) = tree.nodes.get(&number) else { continue };
            if tag.is_some() && node.tag != tag {
                continue;
            }
            let (members, end) = node.members.after(start.before(lane), count_max, looks_each);
            let place = |created| Cursor { created, lane };
            listed.found.extend(members.into_iter().map(|(created, id)| (place(created), id)));
            listed.ends.extend(end.map(place));
        }
        listed
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
