//! Listing: live allocations in the order in which they were made, page by page.

use super::Allocation;
use super::local::Local;
use super::tags::Tag;
use crate::clock::Now;
use crate::slot;

/// Entries one listing looks at, over all slots.
const LIST_LOOKS_MAX: usize = 65_536;

/// A place in the creation order. Opaque to clients; survives whatever is freed around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    created: u64,
    slot: u16,
}

impl Cursor {
    /// The cursor as text.
    pub fn encode(self) -> String {
        format!("{:016x}{:04x}", self.created, self.slot)
    }

    /// A cursor from its text; none if it is no cursor.
    pub fn decode(text: &str) -> Option<Cursor> {
        if text.len() != 20 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let created = u64::from_str_radix(&text[..16], 16).ok()?;
        let slot = u16::from_str_radix(&text[16..], 16).ok()?;
        Some(Cursor { created, slot })
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
        let start = cursor.unwrap_or(Cursor { created: 0, slot: u16::MAX });
        let mut found: Vec<(Cursor, u32)> = Vec::new();
        // Everything up to here was looked through in every slot.
        let mut horizon: Option<Cursor> = None;
        for (number, slot) in self.slots().iter().enumerate() {
            let number = u16::try_from(number).expect("there are at most 256 slots");
            // A slot after the cursor's may have made an allocation at the very same time.
            let after = if number > start.slot { start.created.saturating_sub(1) } else { start.created };
            let (members, end) =
                slot.lock().order.after(self.table(), after, limit + 1, looks_max, is_wanted);
            found.extend(
                members.into_iter().map(|(created, index)| (Cursor { created, slot: number }, index)),
            );
            if let Some(created) = end {
                let end = Cursor { created, slot: number };
                horizon = Some(horizon.map_or(end, |horizon| horizon.min(end)));
            }
        }
        found.sort_unstable();
        let mut allocations = Vec::with_capacity(found.len().min(limit));
        for (place, index) in found {
            if horizon.is_some_and(|horizon| place > horizon) {
                break;
            }
            if allocations.len() == limit {
                // `place` is the first that did not fit: the next page starts just before it.
                let before = Cursor { created: place.created - 1, slot: u16::MAX };
                let before = if place.slot == 0 { before } else { Cursor { slot: place.slot - 1, ..place } };
                return Page { allocations, next: Some(before) };
            }
            let record = self.table().used(index).lock().read();
            // It may have ended, and its entry begun anew, since the order was read.
            let record = record.filter(|record| record.created.0 == place.created);
            let record = record.filter(|record| tag.is_none() || record.tag == tag);
            if let Some(record) =
                record.filter(|record| record.deadline.is_none_or(|deadline| deadline > now))
            {
                allocations.extend(self.describe_live(index, &record));
            }
        }
        Page { allocations, next: horizon }
    }
}
