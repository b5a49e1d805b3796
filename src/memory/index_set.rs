//! A set of indices that finds its lowest and highest member in a few steps, however large it is.
//!
//! A bitmap with summaries: bit `i` of a level says that word `i` of the level below is not zero, until one word
//! remains. 2^24 indices make 4 levels. The words lie in side tables, so a large empty set costs no memory, and
//! what cannot be had is an error value.

use super::os::{OsError, SideTable};
use std::sync::atomic::{AtomicU64, Ordering};

/// A set of indices below a fixed bound. For one thread at a time: its words are atomic only because side tables are
/// shared by nature.
#[derive(Debug)]
pub(super) struct IndexSet {
    /// Level 0 holds the members, the last level is one word.
    levels: Vec<SideTable<AtomicU64>>,
    len: u64,
    /// The fewest members since [`IndexSet::take_low_water`].
    low_water: u64,
}

/// Word and bit of an index.
fn place(index: u64) -> (u64, u64) {
    (index / 64, 1 << (index % 64))
}

fn word(level: &SideTable<AtomicU64>, at: u64) -> u64 {
    level.get(at).load(Ordering::Relaxed)
}

impl IndexSet {
    /// An empty set for indices below `bound`. Costs no memory yet.
    pub(super) fn new(bound: u64) -> Result<IndexSet, OsError> {
        let mut levels = Vec::new();
        let mut words = bound.div_ceil(64).max(1);
        loop {
            levels.push(SideTable::new(words)?);
            if words == 1 {
                return Ok(IndexSet { levels, len: 0, low_water: 0 });
            }
            words = words.div_ceil(64);
        }
    }

    /// Number of members.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn contains(&self, index: u64) -> bool {
        let (at, bit) = place(index);
        word(&self.levels[0], at) & bit != 0
    }

    /// Adds `index`; false if it was a member already.
    pub(super) fn insert(&mut self, index: u64) -> bool {
        if self.contains(index) {
            return false;
        }
        let mut at = index;
        for level in &self.levels {
            let (place, bit) = place(at);
            let before = word(level, place);
            level.get(place).store(before | bit, Ordering::Relaxed);
            if before != 0 {
                break; // the summaries above say so already
            }
            at /= 64;
        }
        self.len += 1;
        true
    }

    /// Takes `index` out; false if it was no member.
    pub(super) fn remove(&mut self, index: u64) -> bool {
        if !self.contains(index) {
            return false;
        }
        let mut at = index;
        for level in &self.levels {
            let (place, bit) = place(at);
            let after = word(level, place) & !bit;
            level.get(place).store(after, Ordering::Relaxed);
            if after != 0 {
                break; // the summaries above stay true
            }
            at /= 64;
        }
        self.len -= 1;
        self.low_water = self.low_water.min(self.len);
        true
    }

    /// The fewest members that there were since the last call.
    pub(super) fn take_low_water(&mut self) -> u64 {
        std::mem::replace(&mut self.low_water, self.len)
    }

    /// The lowest member.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.descend(|word| u64::from(word.trailing_zeros()))
    }

    /// The highest member.
    pub(super) fn highest(&self) -> Option<u64> {
        self.descend(|word| 63 - u64::from(word.leading_zeros()))
    }

    /// The lowest of the `count` highest members; none where there are fewer. A look at each word from the top down to it.
    pub(super) fn lowest_of_highest(&self, count: u64) -> Option<u64> {
        if count == 0 || count > self.len {
            return None;
        }
        let (mut left, mut at) = (count, self.highest()? / 64);
        loop {
            let mut members = word(&self.levels[0], at);
            let here = u64::from(members.count_ones());
            if here >= left {
                for _ in 0..here - left {
                    members &= members - 1; // without its lowest
                }
                return Some(at * 64 + u64::from(members.trailing_zeros()));
            }
            left -= here;
            at -= 1; // more are left, so there are words below
        }
    }

    /// The first member from `index` on.
    pub(super) fn first_from(&self, index: u64) -> Option<u64> {
        let mut at = index;
        for (height, level) in self.levels.iter().enumerate() {
            // Members of this word from our bit on; else the next word that has any, which the level above knows.
            if at / 64 >= level.count() {
                return None;
            }
            let found = word(level, at / 64) & (u64::MAX << (at % 64));
            if found != 0 {
                let first = at / 64 * 64 + u64::from(found.trailing_zeros());
                let below = self.levels[..height].iter().rev();
                return Some(
                    below.fold(first, |at, level| at * 64 + u64::from(word(level, at).trailing_zeros())),
                );
            }
            at = at / 64 + 1;
        }
        None
    }

    fn descend(&self, choose_bit: impl Fn(u64) -> u64) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        Some(self.levels.iter().rev().fold(0, |at, level| at * 64 + choose_bit(word(level, at))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_agrees_with_an_ordered_set(bound in 1_u64..300_000, steps in prop::collection::vec((any::<bool>(), any::<u64>()), 0..300)) {
            let (mut set, mut twin) = (IndexSet::new(bound).expect("a little address space can be had"), BTreeSet::new());
            let mut fewest = 0;
            for (add, index) in steps {
                let index = index % bound;
                if add {
                    prop_assert_eq!(set.insert(index), twin.insert(index));
                } else {
                    prop_assert_eq!(set.remove(index), twin.remove(&index));
                }
                prop_assert_eq!(set.len(), twin.len() as u64);
                fewest = fewest.min(set.len());
                if index.is_multiple_of(4) {
                    prop_assert_eq!(set.take_low_water(), fewest);
                    fewest = set.len();
                }
                prop_assert_eq!(set.contains(index), twin.contains(&index));
                prop_assert_eq!(set.lowest(), twin.first().copied());
                prop_assert_eq!(set.first_from(index / 2), twin.range(index / 2..).next().copied());
                prop_assert_eq!(set.first_from(index + 1), twin.range(index + 1..).next().copied());
                prop_assert_eq!(set.highest(), twin.last().copied());
                let count = index % (twin.len() as u64 + 2);
                let expected = count.checked_sub(1).and_then(|others| twin.iter().rev().nth(usize::try_from(others).expect("few")));
                prop_assert_eq!(set.lowest_of_highest(count), expected.copied());
            }
        }
    }
}
