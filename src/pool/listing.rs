//! Listing: live allocations in the order in which they were made, page by page.

use super::Allocation;
use super::id::AllocationId;
use super::local::Local;
use super::tags::{Tag, TagNumber};
use crate::clock::Now;
use crate::slot;

/// Entries one listing looks at, over all slots.
const LIST_LOOKS_MAX: usize = 65_536;

/// A place in the creation order. Opaque to clients; survives whatever is freed around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub(super) created: u64,
    /// A slot, or behind these an arena: in each no two are created at the same time.
    pub(super) lane: u32,
}

impl Cursor {
    /// The creation time in a lane after which everything comes after this place.
    pub(super) fn before(self, lane: u32) -> u64 {
        // A later lane may have made an allocation at the very same time.
        if lane > self.lane { self.created.saturating_sub(1) } else { self.created }
    }

    /// The cursor of a page that starts with this place.
    pub(super) fn just_before(self) -> Cursor {
        match self.lane {
            0 => Cursor { created: self.created - 1, lane: u32::MAX },
            lane => Cursor { lane: lane - 1, ..self },
        }
    }

    /// The cursor as text.
    pub fn encode(self) -> String {
        format!("{:016x}{:08x}", self.created, self.lane)
    }

    /// A cursor from its text; none if it is no cursor.
    pub fn decode(text: &str) -> Option<Cursor> {
        if text.len() != 24 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let created = u64::from_str_radix(&text[..16], 16).ok()?;
        let lane = u32::from_str_radix(&text[16..], 16).ok()?;
        Some(Cursor { created, lane })
    }
}

/// What a listing found in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    Entry(u32),
    Member(AllocationId),
}

/// Everything up to here was looked through in every lane; none: all.
#[derive(Debug, Default)]
struct Horizon(Option<Cursor>);

impl Horizon {
    /// A lane was looked through up to there.
    fn note(&mut self, end: Cursor) {
        self.0 = Some(self.0.map_or(end, |known| known.min(end)));
    }
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Live allocations in creation order.
    pub allocations: Vec<Allocation>,
    /// Where the next page starts; none after the last. A page may be short and still have one.
    pub next: Option<Cursor>,
}

impl Local {
    pub(super) fn list(&self, cursor: Option<Cursor>, limit: usize, tag: Option<&Tag>, now: Now) -> Page {
        let tag = match tag.map(|tag| self.tags().find(tag)) {
            Some(None) => return Page { allocations: Vec::new(), next: None }, // nobody carries it
            found => found.flatten(),
        };
        let is_wanted = |index: u32| tag.is_none() || self.table().used(index).tag() == tag;
        let looks_max = LIST_LOOKS_MAX / slot::count();
        let start = cursor.unwrap_or(Cursor { created: 0, lane: u32::MAX });
        let mut found: Vec<(Cursor, Listed)> = Vec::new();
        let mut horizon = Horizon::default();
        for (number, slot) in self.slots().iter().enumerate() {
            let lane = u32::try_from(number).expect("there are at most 256 slots");
            let (members, end) =
                slot.lock().order.after(self.table(), start.before(lane), limit + 1, looks_max, is_wanted);
            let listed = |(created, index)| (Cursor { created, lane }, Listed::Entry(index));
            found.extend(members.into_iter().map(listed));
            end.into_iter().for_each(|created| horizon.note(Cursor { created, lane }));
        }
        let of_arenas = self.list_members(start, limit + 1, LIST_LOOKS_MAX, tag);
        found.extend(of_arenas.found.into_iter().map(|(place, id)| (place, Listed::Member(id))));
        of_arenas.ends.into_iter().for_each(|end| horizon.note(end));
        found.sort_unstable_by_key(|(place, _)| *place);
        let mut allocations = Vec::with_capacity(found.len().min(limit));
        for (place, listed) in found {
            if horizon.0.is_some_and(|horizon| place > horizon) {
                break;
            }
            if allocations.len() == limit {
                return Page { allocations, next: Some(place.just_before()) };
            }
            match listed {
                Listed::Entry(index) => allocations.extend(self.listed_entry(index, place, tag, now)),
                Listed::Member(id) => allocations.extend(self.get_member(id, now)),
            }
        }
        Page { allocations, next: horizon.0 }
    }

    /// The allocation that a listing found, if it still is what it was.
    fn listed_entry(
        &self,
        index: u32,
        place: Cursor,
        tag: Option<TagNumber>,
        now: Now,
    ) -> Option<Allocation> {
        let record = self.table().used(index).lock().read()?;
        // It may have ended, and its entry begun anew, since the order was read.
        let is_same = record.created.0 == place.created && (tag.is_none() || record.tag == tag);
        let is_over = record.deadline.is_some_and(|deadline| deadline <= now);
        if is_same && !is_over { self.describe_found(index, &record, now) } else { None }
    }
}
