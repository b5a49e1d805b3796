//! Leases: which allocation ends next. A hierarchical timing wheel (Varghese and Lauck, 1987), one for each slot.
//!
//! An entry with a lease hangs in the bucket of its deadline, by two links of its own, so that hanging it up and taking
//! it down are O(1) and cost no memory. Level 0 has a bucket for each tick of 10 ms; a bucket of the next level spans
//! all of the level below and is dealt out again when its time comes:
//!
//! ```text
//!   level 0   256 × 10 ms          ▲ dealt out
//!   level 1   256 × 2.56 s      ───┘ ▲
//!   level 2   256 × 655 s         ───┘ ▲
//!   level 3   256 × 46.6 h          ───┘    what is later than 497 days waits in the last bucket, and is dealt again
//! ```
//!
//! A renewal to a later time only stores the deadline: the entry is hung up anew when its old bucket comes. The wheel
//! only says whom to look at; what ends an allocation is its deadline, which every look-up compares.

use super::table::Table;
use crate::clock::Now;

/// Nanoseconds of a tick.
pub(super) const TICK_NANOS: u64 = 10_000_000;
/// Bits of a bucket's number in its level.
const LEVEL_BITS: u32 = 8;
const LEVEL_BUCKETS: usize = 1 << LEVEL_BITS;
const LEVELS: u32 = 4;
/// No entry.
const NONE: u32 = u32::MAX;
/// In place of the entry before the first one of a bucket: this bit, and the bucket's number.
const BUCKET: u32 = 1 << 31;

/// The two links of an entry, in one word: the entry before it or its bucket, and the entry after it. Zero is an entry
/// that hangs in no wheel: no entry has entry 0 on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Links {
    before: u32,
    after: u32,
}

impl Links {
    const OUT: u64 = 0;

    fn word(self) -> u64 {
        u64::from(self.before) << 32 | u64::from(self.after)
    }

    fn from_word(word: u64) -> Option<Links> {
        let [before, after] =
            [word >> 32, word & u64::from(u32::MAX)].map(|half| u32::try_from(half).expect("half of a word"));
        (word != Links::OUT).then_some(Links { before, after })
    }
}

/// The leases of one slot. Every method is called under that slot's lock.
#[derive(Debug)]
pub(super) struct Wheel {
    /// First entry of each bucket, level by level.
    buckets: Box<[u32]>,
    /// One bit for each bucket of level 0 that may hold entries.
    near: [u64; LEVEL_BUCKETS / 64],
    /// The tick that is looked at next; every earlier one has been.
    tick: u64,
    /// The tick for which buckets of higher levels were dealt out last.
    dealt: u64,
    /// Entries that hang here.
    count: u64,
    /// A tick whose bucket was looked through, and before when none of its entries ends.
    looked: (u64, Now),
}

fn tick_of(now: Now) -> u64 {
    now.0 / TICK_NANOS
}

impl Wheel {
    pub(super) fn new() -> Wheel {
        Wheel {
            buckets: vec![NONE; LEVELS as usize * LEVEL_BUCKETS].into(),
            near: [0; _],
            tick: 0,
            dealt: 0,
            count: 0,
            looked: (0, Now(0)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Hangs up an entry whose lease ends at `deadline`. It must not hang anywhere.
    pub(super) fn insert(&mut self, table: &Table, entry: u32, deadline: Now, now: Now) {
        if self.count == 0 {
            // Nothing was looked at while nothing hung here.
            self.tick = self.tick.max(tick_of(now));
            self.dealt = self.tick;
        }
        self.count += 1;
        self.hang(table, entry, deadline);
    }

    fn hang(&mut self, table: &Table, entry: u32, deadline: Now) {
        let due = tick_of(deadline).max(self.tick);
        let ahead = due - self.tick;
        let level = (0..LEVELS).find(|level| ahead >> (LEVEL_BITS * (level + 1)) == 0);
        let bucket = match level {
            Some(level) => bucket_of(due, level),
            // Beyond the last level: the bucket that comes last.
            None => {
                bucket_of(self.tick + ((LEVEL_BUCKETS as u64 - 1) << (LEVEL_BITS * (LEVELS - 1))), LEVELS - 1)
            }
        };
        let first = self.buckets[bucket];
        let before = BUCKET | u32::try_from(bucket).expect("there are 1024 buckets");
        debug_assert_eq!(
            table.used(entry).lease_links(),
            Links::OUT,
            "entry {entry} hangs in a wheel already"
        );
        table.used(entry).set_lease_links(Links { before, after: first }.word());
        if first != NONE {
            let links = self.links(table, first);
            table.used(first).set_lease_links(Links { before: entry, ..links }.word());
        }
        self.buckets[bucket] = entry;
        if due == self.looked.0 {
            self.looked.1 = self.looked.1.min(deadline);
        }
        if bucket < LEVEL_BUCKETS {
            self.near[bucket / 64] |= 1 << (bucket % 64);
        }
    }

    /// The next tick, up to `end`, that may have entries, or at which higher levels are dealt out.
    fn next_tick(&self, end: u64) -> u64 {
        let next = self.tick + 1;
        let at = bucket_of(next, 0);
        let mut word = self.near[at / 64] >> (at % 64) << (at % 64);
        let mut first = at / 64 * 64;
        // At bucket 0 higher levels are dealt out, so the search ends with the last one.
        while at != 0 && word == 0 && first + 64 < LEVEL_BUCKETS {
            first += 64;
            word = self.near[first / 64];
        }
        let bucket = if at == 0 {
            0
        } else if word == 0 {
            LEVEL_BUCKETS
        } else {
            first + word.trailing_zeros() as usize
        };
        (next + (bucket - at) as u64).min(end)
    }

    fn links(&self, table: &Table, entry: u32) -> Links {
        Links::from_word(table.used(entry).lease_links()).expect("the entry hangs in this wheel")
    }

    /// Takes an entry down, if it hangs here.
    pub(super) fn remove(&mut self, table: &Table, entry: u32) {
        let Some(Links { before, after }) = Links::from_word(table.used(entry).lease_links()) else { return };
        if before & BUCKET == 0 {
            let links = self.links(table, before);
            table.used(before).set_lease_links(Links { after, ..links }.word());
        } else {
            self.buckets[(before & !BUCKET) as usize] = after;
        }
        if after != NONE {
            let links = self.links(table, after);
            table.used(after).set_lease_links(Links { before, ..links }.word());
        }
        table.used(entry).set_lease_links(Links::OUT);
        self.count -= 1;
    }

    /// Takes down an entry whose lease ended in a tick before that of `now`, and says which; each look at an entry or
    /// at a tick costs one of `looks`. None where there is no such entry, or no look left.
    pub(super) fn pop_due(&mut self, table: &Table, now: Now, looks: &mut u32) -> Option<u32> {
        let end = tick_of(now);
        while self.count > 0 && self.tick < end {
            if !self.deal(table, looks) {
                return None;
            }
            let entry = self.buckets[bucket_of(self.tick, 0)];
            *looks = looks.checked_sub(1)?;
            if entry == NONE {
                let bucket = bucket_of(self.tick, 0);
                self.near[bucket / 64] &= !(1 << (bucket % 64));
                self.tick = self.next_tick(end);
                continue;
            }
            self.remove(table, entry);
            let deadline = table.used(entry).deadline();
            if tick_of(deadline) < end {
                return Some(entry);
            }
            // Renewed meanwhile.
            self.count += 1;
            self.hang(table, entry, deadline);
        }
        None
    }

    /// Deals out the buckets of higher levels whose time has come. False where `looks` did not last; what is left is
    /// dealt out next time.
    fn deal(&mut self, table: &Table, looks: &mut u32) -> bool {
        if self.dealt == self.tick {
            return true;
        }
        for level in 1..LEVELS {
            if !self.tick.is_multiple_of(1 << (LEVEL_BITS * level)) {
                break;
            }
            let bucket = bucket_of(self.tick, level);
            while self.buckets[bucket] != NONE {
                let Some(left) = looks.checked_sub(1) else { return false };
                *looks = left;
                let entry = self.buckets[bucket];
                self.remove(table, entry);
                self.count += 1;
                self.hang(table, entry, table.used(entry).deadline());
            }
        }
        self.dealt = self.tick;
        true
    }

    /// Takes down entries whose lease ended in the very tick of `now`, before `now`, up to `count_max`. Only when all
    /// earlier ones are down. For whoever needs their memory now and cannot wait for the tick.
    ///
    /// Looks through the bucket at most once for each time that something in it ends.
    pub(super) fn take_due_in_tick(&mut self, table: &Table, now: Now, count_max: usize, due: &mut Vec<u32>) {
        let tick = tick_of(now);
        let nothing_ends = self.looked.0 == tick && now < self.looked.1;
        if self.count == 0 || self.tick != tick || nothing_ends || !self.deal(table, &mut u32::MAX.clone()) {
            return;
        }
        let (mut earliest, mut entry) = (Now(u64::MAX), self.buckets[bucket_of(tick, 0)]);
        let count_max = due.len() + count_max;
        while entry != NONE {
            let after = self.links(table, entry).after;
            let deadline = table.used(entry).deadline();
            if deadline > now {
                earliest = earliest.min(deadline);
            } else if due.len() < count_max {
                self.remove(table, entry);
                due.push(entry);
            } else {
                earliest = Now(0); // more of them next time
                break;
            }
            entry = after;
        }
        self.looked = (tick, earliest);
    }

    /// Asserts that the links are right: every bucket's entries point at each other, and their number is the count.
    #[cfg(all(test, not(feature = "loom")))]
    pub(super) fn check(&self, table: &Table) {
        let mut count = 0;
        for (bucket, first) in self.buckets.iter().enumerate() {
            let mut before = BUCKET | u32::try_from(bucket).expect("there are 1024 buckets");
            let mut entry = *first;
            while entry != NONE {
                let links = self.links(table, entry);
                assert_eq!(links.before, before, "entry {entry} of bucket {bucket} points back wrongly");
                count += 1;
                (before, entry) = (entry, links.after);
            }
        }
        assert_eq!(count, self.count, "the count is that of the entries");
    }
}

/// The bucket of a tick in a level.
fn bucket_of(tick: u64, level: u32) -> usize {
    let [place, ..] = (tick >> (LEVEL_BITS * level)).to_le_bytes();
    level as usize * LEVEL_BUCKETS + usize::from(place)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const ENTRIES: u32 = 200;

    fn table() -> Table {
        let table = Table::new(ENTRIES);
        table.take_fresh(ENTRIES).expect("the table is fresh");
        table
    }

    fn hang(wheel: &mut Wheel, table: &Table, entry: u32, deadline: u64, now: u64) {
        table.used(entry).lock().set_deadline(Now(deadline));
        wheel.insert(table, entry, Now(deadline), Now(now));
    }

    fn pop_all(wheel: &mut Wheel, table: &Table, now: u64, looks_each: u32) -> Vec<u32> {
        let mut popped = Vec::new();
        loop {
            let mut looks = looks_each;
            match wheel.pop_due(table, Now(now), &mut looks) {
                Some(entry) => popped.push(entry),
                None if looks == 0 && !wheel.is_empty() && wheel.tick < tick_of(Now(now)) => {}
                None => break,
            }
        }
        let mut before = usize::MAX;
        while before != popped.len() {
            before = popped.len();
            wheel.take_due_in_tick(table, Now(now), 3, &mut popped);
        }
        wheel.check(table);
        popped.sort_unstable();
        popped
    }

    #[test]
    fn leases_of_every_length_come_up_when_they_end_and_not_before() {
        const SECOND: u64 = 1_000_000_000;
        let (table, mut wheel) = (table(), Wheel::new());
        let start = 1_234_567_890_123;
        let lengths = [
            0,
            1,
            9_999_999,
            10_000_000,
            SECOND,
            3 * SECOND,
            700 * SECOND,
            200_000 * SECOND,
            60_000_000 * SECOND,
        ];
        for (entry, length) in (0..).zip(lengths) {
            hang(&mut wheel, &table, entry, start + length, start);
        }
        for (entry, length) in (0..).zip(lengths) {
            if length > 0 {
                assert_eq!(
                    pop_all(&mut wheel, &table, start + length - 1, 1000),
                    Vec::<u32>::new(),
                    "{length} ns"
                );
            }
            assert_eq!(pop_all(&mut wheel, &table, start + length, 1000), [entry], "{length} ns");
        }
        assert!(wheel.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin {
            entry: u32,
            length: u64,
        },
        /// A later deadline is only stored.
        Renew {
            entry: u32,
            by: u64,
        },
        End {
            entry: u32,
        },
        Advance {
            by: u64,
            looks: u32,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Lengths and leaps of every order of magnitude from a nanosecond to a month.
        let span = || (0_u32..52).prop_flat_map(|bits| 0..1_u64 << bits);
        let step = prop_oneof![
            3 => (0..ENTRIES, span()).prop_map(|(entry, length)| Step::Begin { entry, length }),
            1 => (0..ENTRIES, span()).prop_map(|(entry, by)| Step::Renew { entry, by }),
            1 => (0..ENTRIES).prop_map(|entry| Step::End { entry }),
            2 => (span().prop_map(|by| by.min(1 << 44)), 1_u32..40).prop_map(|(by, looks)| Step::Advance { by, looks }),
        ];
        prop::collection::vec(step, 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// The twin is a map from entry to deadline.
        #[test]
        fn exactly_what_is_due_comes_up(steps in steps()) {
            let (table, mut wheel, mut twin) = (table(), Wheel::new(), BTreeMap::new());
            let mut now = 77_777_777_777;
            for step in steps {
                match step {
                    Step::Begin { entry, length } => {
                        if let std::collections::btree_map::Entry::Vacant(place) = twin.entry(entry) {
                            place.insert(now + length);
                            hang(&mut wheel, &table, entry, now + length, now);
                        }
                    }
                    Step::Renew { entry, by } => {
                        if let Some(deadline) = twin.get_mut(&entry) {
                            *deadline += by;
                            table.used(entry).lock().set_deadline(Now(*deadline));
                        }
                    }
                    Step::End { entry } => {
                        twin.remove(&entry);
                        wheel.remove(&table, entry);
                    }
                    Step::Advance { by, looks } => {
                        now += by;
                        let due: Vec<u32> =
                            twin.iter().filter(|(_, deadline)| **deadline <= now).map(|(entry, _)| *entry).collect();
                        twin.retain(|_, deadline| *deadline > now);
                        prop_assert_eq!(pop_all(&mut wheel, &table, now, looks), due);
                    }
                }
                wheel.check(&table);
                prop_assert_eq!(wheel.count, twin.len() as u64);
            }
        }
    }
}
