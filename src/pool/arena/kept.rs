//! Where the listing finds what arenas left that were committed: by when their kept members were made.
//!
//! There may be many, each with members made over a span of time. By the length of that span they stand in levels, each
//! twice as long as the one before; so those that have anything after a point in time are, in each level, those that begin
//! less than that length before it, and all later ones.

use std::collections::BTreeMap;
use std::ops::Bound;

/// One for each length of a span in bits.
const LEVELS: usize = 65;

/// Arenas of which something was kept: level by level, (first creation time, number) → last creation time.
#[derive(Debug)]
pub(super) struct Kept {
    levels: [BTreeMap<(u64, u32), u64>; LEVELS],
}

impl Default for Kept {
    fn default() -> Kept {
        Kept { levels: std::array::from_fn(|_| BTreeMap::new()) }
    }
}

fn level((first, last): (u64, u64)) -> usize {
    (u64::BITS - (last - first).leading_zeros()) as usize
}

/// What the last of a span is after the first, at most, in that level.
fn longest(level: usize) -> u64 {
    u64::MAX.checked_shr(u64::BITS - u32::try_from(level).expect("there are 65")).unwrap_or(0)
}

impl Kept {
    /// The arena of that number left members that were made in that span, its ends included.
    pub(super) fn insert(&mut self, number: u32, span: (u64, u64)) {
        self.levels[level(span)].insert((span.0, number), span.1);
    }

    /// Nothing is left of it.
    pub(super) fn remove(&mut self, number: u32, span: (u64, u64)) {
        self.levels[level(span)].remove(&(span.0, number));
    }

    /// Those that have anything after `created`, with when their first was made; of each level at most `count_max`. Also how far that goes:
    /// whatever begins up to there is among them, and it is beyond `created` by two at least. None: all.
    pub(super) fn after(&self, created: u64, count_max: usize) -> (Vec<(u64, u32)>, Option<u64>) {
        let (mut found, mut end) = (Vec::new(), None);
        for (level, spans) in self.levels.iter().enumerate() {
            let (mut count, from) = (0, created.saturating_sub(longest(level)));
            for ((first, number), last) in spans.range((from, 0)..) {
                if *last <= created {
                    continue;
                }
                // What began before is needed in any case: nothing else shows it.
                if count >= count_max && *first > created + 2 {
                    let here = *first - 1;
                    end = Some(end.map_or(here, |end: u64| end.min(here)));
                    break;
                }
                found.push((*first, *number));
                count += 1;
            }
        }
        (found, end)
    }

    /// All of them, page by page: the next after a place, at most `count_max`. A place is a level, and what stands there.
    pub(super) fn page(
        &self,
        after: Option<(usize, (u64, u32))>,
        count_max: usize,
    ) -> Vec<(usize, (u64, u32))> {
        let from = after.map_or(0, |(level, _)| level);
        let in_level = |level: usize| {
            let start = match after {
                Some((first, place)) if first == level => Bound::Excluded(place),
                _ => Bound::Unbounded,
            };
            self.levels[level].range((start, Bound::Unbounded)).map(move |(place, _)| (level, *place))
        };
        (from..LEVELS).flat_map(in_level).take(count_max).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.levels.iter().map(BTreeMap::len).sum()
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_level_holds_what_is_no_longer_than_it_says() {
        for (span, level_of, longest_of) in
            [(0, 0, 0), (1, 1, 1), (2, 2, 3), (3, 2, 3), (4, 3, 7), (u64::MAX, 64, u64::MAX)]
        {
            assert_eq!((level((0, span)), longest(level_of)), (level_of, longest_of));
        }
    }

    proptest! {
        #[test]
        fn whoever_has_anything_later_is_found(spans in prop::collection::vec((0_u64..1000, 0_u64..300), 0..60), created in 0_u64..1300) {
            let mut kept = Kept::default();
            let spans: Vec<(u64, u64)> = spans.into_iter().map(|(first, length)| (first, first + length)).collect();
            for (number, span) in spans.iter().enumerate() {
                kept.insert(u32::try_from(number).expect("few"), *span);
            }
            for count_max in [1, 3, 1000] {
                let (found, end) = kept.after(created, count_max);
                prop_assert!(end.is_none_or(|end| end > created + 1), "a page gets on");
                for (number, (first, last)) in spans.iter().enumerate() {
                    let wanted = *last > created && end.is_none_or(|end| *first <= end);
                    let seen = found.contains(&(*first, u32::try_from(number).expect("few")));
                    prop_assert!(seen || !wanted, "{number} is missing");
                    prop_assert!(!seen || *last > created);
                }
            }
            let (mut paged, mut after) = (Vec::new(), None);
            while let [.., last] = kept.page(after, 7)[..] {
                paged.extend(kept.page(after, 7).into_iter().map(|(_, (_, number))| number));
                after = Some(last);
            }
            paged.sort_unstable();
            prop_assert_eq!(paged, (0..u32::try_from(spans.len()).expect("few")).collect::<Vec<_>>());
            for (number, span) in spans.iter().enumerate() {
                kept.remove(u32::try_from(number).expect("few"), *span);
            }
            prop_assert_eq!(kept.len(), 0);
        }
    }
}
