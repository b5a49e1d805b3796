//! What arenas of a tag used before, and so which profile the next one of it gets.

use super::Profile;
use crate::pool::tags::{TAGS_MAX, Tag};
use std::collections::HashMap;

/// Arenas of a tag that are counted before all counts are halved: what is long past weighs less.
const COUNTED_MAX: u8 = 64;
/// Tags of which something is learned, and none at all. Those beyond get what those without a history get.
const LEARNED_MAX: usize = TAGS_MAX + 1;
/// Tags that the numbers show.
const SHOWN_MAX: usize = 64;
/// What an arena without a history gets.
const WITHOUT_HISTORY: Profile = Profile::Small;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Learned {
    counts: HashMap<Option<Tag>, [u8; Profile::ALL.len()]>,
}

impl Learned {
    /// What it costs at most.
    pub(super) const BYTES_MAX: u64 = LEARNED_MAX as u64 * 2 * Learned::ENTRY_BYTES;
    const ENTRY_BYTES: u64 = size_of::<(Option<Tag>, [u8; Profile::ALL.len()])>() as u64 + 1;

    /// An arena ended that had used so many bytes at most.
    pub(super) fn note(&mut self, tag: Option<&Tag>, used_bytes: u64) {
        let is_known = self.counts.contains_key(&tag.cloned());
        if !is_known && self.counts.len() >= LEARNED_MAX {
            return;
        }
        let counts = self.counts.entry(tag.cloned()).or_default();
        counts[Profile::for_estimate(used_bytes).number()] += 1;
        if counts.iter().sum::<u8>() >= COUNTED_MAX {
            counts.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// The smallest profile that would have held nine of ten arenas of that tag.
    pub(super) fn profile(&self, tag: Option<&Tag>) -> Profile {
        self.counts.get(&tag.cloned()).map_or(WITHOUT_HISTORY, smallest_that_holds_most)
    }

    /// What was learned, by tag, of as many as are shown: those without a tag first.
    pub(super) fn stats(&self) -> Vec<(Option<Tag>, Profile)> {
        let mut stats: Vec<_> =
            self.counts.iter().map(|(tag, counts)| (tag.clone(), smallest_that_holds_most(counts))).collect();
        stats.sort_unstable();
        stats.truncate(SHOWN_MAX);
        stats
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        self.counts.capacity() as u64 * Learned::ENTRY_BYTES
    }
}

fn smallest_that_holds_most(counts: &[u8; Profile::ALL.len()]) -> Profile {
    let all: u32 = counts.iter().map(|count| u32::from(*count)).sum();
    let mut held = 0;
    for profile in Profile::ALL {
        held += u32::from(counts[profile.number()]);
        if held * 10 >= all * 9 {
            return profile;
        }
    }
    Profile::Huge
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn nine_of_ten_are_held_by_the_profile_that_is_learned() {
        let mut learned = Learned::default();
        assert_eq!(learned.profile(None), WITHOUT_HISTORY);
        (0..9).for_each(|_| learned.note(None, 100));
        assert_eq!(learned.profile(None), Profile::Tiny);
        learned.note(None, 1 << 20);
        assert_eq!(learned.profile(None), Profile::Tiny, "nine of ten");
        learned.note(None, 1 << 20);
        assert_eq!(learned.profile(None), Profile::Medium, "nine of eleven are not enough");
    }

    #[test]
    fn each_tag_learns_for_itself_and_forgets_what_is_long_past() {
        let mut learned = Learned::default();
        let tag: Tag = "queries".parse().expect("a tag");
        (0..1000).for_each(|_| learned.note(Some(&tag), 50 << 20));
        assert_eq!((learned.profile(Some(&tag)), learned.profile(None)), (Profile::Huge, WITHOUT_HISTORY));
        (0..400).for_each(|_| learned.note(Some(&tag), 50 << 10));
        assert_eq!(learned.profile(Some(&tag)), Profile::Small);
        learned.note(None, 1);
        assert_eq!(learned.stats(), [(None, Profile::Tiny), (Some(tag), Profile::Small)]);
    }

    #[test]
    fn the_number_of_tags_is_bounded() {
        let mut learned = Learned::default();
        (0..2 * LEARNED_MAX).for_each(|at| learned.note(format!("t{at}").parse().ok().as_ref(), 1));
        assert_eq!((learned.counts.len(), learned.stats().len()), (LEARNED_MAX, SHOWN_MAX));
        assert!(learned.metadata_bytes() <= Learned::BYTES_MAX);
    }
}
