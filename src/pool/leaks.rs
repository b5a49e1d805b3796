//! Leaks: allocations that nobody seems to need any more, added up by whose they are.
//!
//! Whether an allocation is a leak only its client knows. What can be told is that it has no lease, so that nothing ends
//! it, how old it is, and since when nobody has read or written it. One that has a lease is in no report: it ends by
//! itself, and whoever renews it says that it is needed. Members of an arena are in it where neither the arena has a
//! lease, nor one that it lies in.
//!
//! A look goes through the creation orders of all slots, and through the arenas, oldest first, up to what is too young.
//! It takes a slice at a time: a slot, or a family of arenas, is locked for a step of one, others have their turn after
//! each slice.

use super::local::Local;
use super::tags::{Tag, TagNumber};
use super::{Allocation, AllocationId, Engine, Pool};
use crate::clock::Now;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The largest allocations of a report, which it describes.
pub const LEAKS_SHOWN: usize = 20;
/// Tags that a report tells apart, those with most bytes.
pub const LEAKY_TAGS_SHOWN: usize = 64;

/// Places looked at under one lock: up to about 0.2 ms, where no entry is in a cache.
pub(super) const STEP_LOOKS: usize = 1024;
/// Places looked at before others have their turn: about a millisecond.
const SLICE_LOOKS: usize = 4096;

/// What a look for leaks found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeakReport {
    /// When it was begun.
    pub at: Now,
    /// How old an allocation is at least that is in it.
    pub older_than: Duration,
    /// How many there are.
    pub count: u64,
    /// Their actual bytes.
    pub bytes: u64,
    /// By whose they are, most bytes first.
    pub tags: Vec<LeakedTag>,
    /// The largest, of equal ones the oldest first: at most [`LEAKS_SHOWN`].
    pub allocations: Vec<Leaked>,
}

/// Whose allocations are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeakedBy {
    /// Nobody's: they carry no tag.
    Nobody,
    /// Those of a tag.
    Tag(Tag),
    /// Those of all tags beyond [`LEAKY_TAGS_SHOWN`], and of one that is called `other` itself.
    Others,
}

/// What one of them holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeakedTag {
    /// Whose it is.
    pub by: LeakedBy,
    /// How many allocations.
    pub count: u64,
    /// Their actual bytes.
    pub bytes: u64,
    /// When the oldest was made.
    pub oldest: Now,
    /// When any of them was last read or written, to a second.
    pub touched: Now,
}

/// One allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaked {
    /// What is known of it.
    pub allocation: Allocation,
    /// When its content was last read or written, to a second; when it was made where it never was. Of members in an
    /// arena's chunks it is known of all of them together.
    pub touched: Now,
}

impl LeakedBy {
    /// In place of a name for [`LeakedBy::Others`].
    pub const OTHERS: &str = "other";

    /// The name; none where there is no tag.
    pub fn name(&self) -> Option<&str> {
        match self {
            LeakedBy::Nobody => None,
            LeakedBy::Tag(tag) => Some(tag.as_str()),
            LeakedBy::Others => Some(LeakedBy::OTHERS),
        }
    }
}

impl LeakedTag {
    fn add(&mut self, other: &LeakedTag) {
        self.count += other.count;
        self.bytes += other.bytes;
        self.oldest = self.oldest.min(other.oldest);
        self.touched = self.touched.max(other.touched);
    }
}

/// A look that is under way.
#[derive(Debug)]
pub(super) struct Look {
    at: Now,
    older_than: Duration,
    /// What was made after this is too young.
    pub(super) newest: u64,
    by_tag: BTreeMap<Option<Tag>, LeakedTag>,
    largest: Vec<Leaked>,
    /// Names of tags as they are in this slice: later a number may be another's.
    names: HashMap<TagNumber, Option<Tag>>,
    looks: usize,
}

impl Look {
    /// A look for what is at least so old; none where nothing can be yet.
    fn new(older_than: Duration, now: Now) -> Option<Look> {
        let newest = u64::try_from(older_than.as_nanos()).ok().and_then(|age| now.0.checked_sub(age))?;
        Some(Look {
            at: now,
            older_than,
            newest,
            by_tag: BTreeMap::new(),
            largest: Vec::with_capacity(LEAKS_SHOWN + 1),
            names: HashMap::new(),
            looks: 0,
        })
    }

    /// Lets others have their turn where a slice is over.
    pub(super) async fn looked_at(&mut self, places: usize) {
        self.looks += places;
        if self.looks >= SLICE_LOOKS {
            self.looks = 0;
            self.names.clear();
            tokio::task::yield_now().await;
        }
    }

    /// The name of a tag that something carries which is live.
    pub(super) fn name(&mut self, local: &Local, number: Option<TagNumber>) -> Option<Tag> {
        let number = number?;
        self.names.entry(number).or_insert_with(|| local.tags().name(number)).clone()
    }

    /// Adds an allocation without a lease.
    pub(super) fn add(&mut self, allocation: Allocation, touched: Now) {
        let of_it = LeakedTag {
            by: allocation.tag.clone().map_or(LeakedBy::Nobody, LeakedBy::Tag),
            count: 1,
            bytes: allocation.actual_size_bytes,
            oldest: allocation.created,
            touched,
        };
        match self.by_tag.get_mut(&allocation.tag) {
            Some(known) => known.add(&of_it),
            None => drop(self.by_tag.insert(allocation.tag.clone(), of_it)),
        }
        let order = |leaked: &Leaked| rank(&leaked.allocation);
        let at = self.largest.partition_point(|known| order(known) <= rank(&allocation));
        if at < LEAKS_SHOWN {
            self.largest.insert(at, Leaked { allocation, touched });
            self.largest.truncate(LEAKS_SHOWN);
        }
    }

    fn report(self) -> LeakReport {
        let sum = |of: fn(&LeakedTag) -> u64| self.by_tag.values().map(of).sum();
        LeakReport {
            at: self.at,
            older_than: self.older_than,
            count: sum(|tag| tag.count),
            bytes: sum(|tag| tag.bytes),
            tags: shown(self.by_tag.into_values().collect()),
            allocations: self.largest,
        }
    }
}

/// By what the largest come first, and of equal ones the oldest.
fn rank(allocation: &Allocation) -> (Reverse<u64>, Now) {
    (Reverse(allocation.actual_size_bytes), allocation.created)
}

/// The tags that are told apart, and the rest in one.
fn shown(mut all: Vec<LeakedTag>) -> Vec<LeakedTag> {
    let order = |tag: &LeakedTag| (Reverse(tag.bytes), tag.by.clone());
    all.sort_by_cached_key(order);
    let (mut shown, mut others): (Vec<LeakedTag>, Option<LeakedTag>) = (Vec::new(), None);
    let mut named = 0;
    for tag in all {
        let is_shown = match &tag.by {
            LeakedBy::Nobody => true,
            LeakedBy::Tag(name) => named < LEAKY_TAGS_SHOWN && name.as_str() != LeakedBy::OTHERS,
            LeakedBy::Others => false,
        };
        named += usize::from(is_shown && tag.by != LeakedBy::Nobody);
        match &mut others {
            _ if is_shown => shown.push(tag),
            Some(others) => others.add(&tag),
            None => others = Some(LeakedTag { by: LeakedBy::Others, ..tag }),
        }
    }
    shown.extend(others);
    shown.sort_by_cached_key(order);
    shown
}

impl Pool {
    /// Looks for allocations without a lease that are at least so old. The look is taken in slices, with others having
    /// their turn in between; what lives through all of it is in the report exactly once.
    pub async fn leaks(&self, older_than: Duration, now: Now) -> LeakReport {
        let Engine::Local(local) = &self.engine;
        local.leaks(older_than, now).await
    }

    /// Keeps a report as the last one, for whoever wants to know without a look.
    pub fn publish_leaks(&self, report: LeakReport) {
        *self.last_leaks.lock() = Some(Arc::new(report));
    }

    /// The report that was published last.
    pub fn last_leaks(&self) -> Option<Arc<LeakReport>> {
        self.last_leaks.lock().clone()
    }

    /// Whether an allocation is live.
    pub fn is_live(&self, id: AllocationId, now: Now) -> bool {
        let Engine::Local(local) = &self.engine;
        local.get(id, now).is_ok()
    }
}

impl Local {
    async fn leaks(&self, older_than: Duration, now: Now) -> LeakReport {
        let Some(mut look) = Look::new(older_than, now) else {
            let (tags, allocations) = (Vec::new(), Vec::new());
            return LeakReport { at: now, older_than, count: 0, bytes: 0, tags, allocations };
        };
        for slot in self.slots().iter() {
            let mut seen = Some(0);
            while let Some(after) = seen {
                let (found, end) =
                    slot.lock().order.after(self.table(), after, usize::MAX, STEP_LOOKS, |_| true);
                let is_last = found.last().is_some_and(|(created, _)| *created > look.newest);
                seen = end.filter(|_| !is_last);
                for (created, index) in found {
                    if created > look.newest {
                        break;
                    }
                    self.look_at_entry(index, created, &mut look);
                }
                look.looked_at(STEP_LOOKS).await;
            }
        }
        self.look_at_members(&mut look).await;
        look.report()
    }

    /// Adds the allocation of an entry that was found in the creation order, if it is still that one and has no lease.
    fn look_at_entry(&self, index: u32, created: u64, look: &mut Look) {
        let entry = self.table().used(index).lock();
        let Some(record) = entry.read().filter(|record| record.created.0 == created) else { return };
        let touched = entry.touched();
        drop(entry);
        if record.deadline.is_some() {
            return;
        }
        let allocation = match record.arena {
            // The arena may have a lease, and be over by now.
            Some(_) => self.describe_found(index, &record, look.at).filter(|found| found.deadline.is_none()),
            None => {
                let tag = look.name(self, record.tag);
                Some(Allocation {
                    tag,
                    ..self.describe(index, &super::table::Record { tag: None, ..record })
                })
            }
        };
        if let Some(allocation) = allocation {
            look.add(allocation, touched);
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
