//! The search against brute force, and against tables that grow by a factor.

use super::*;
use crate::memory::sizes::SizeCounts;
use proptest::prelude::*;
use std::fmt::Write as _;

fn best(groups: &[SizeGroup], classes: usize) -> TableSearch {
    let mut search = TableSearch::new(groups);
    while search.wants_more(classes) {
        search.add_class();
    }
    search
}

fn groups(sizes: &[(u64, u64)]) -> Vec<SizeGroup> {
    let group = |&(size, count): &(u64, u64)| SizeGroup {
        count,
        largest_bytes: size,
        sum_bytes: u128::from(size) * u128::from(count),
    };
    sizes.iter().map(group).collect()
}

/// Bytes that the groups take with that table; none where one has no class.
fn cost(groups: &[SizeGroup], table: &[u64]) -> Option<u128> {
    let class = |group: &SizeGroup| table.iter().find(|size| **size >= group.largest_bytes);
    groups.iter().map(|group| Some(u128::from(*class(group)?) * u128::from(group.count))).sum()
}

/// The least of all tables of at most so many classes whose sizes are words that hold a group.
fn least_of_all(groups: &[SizeGroup], classes: u32) -> u128 {
    let sizes: Vec<u64> = groups.iter().map(|group| group.largest_bytes.next_multiple_of(8)).collect();
    (1_u32..1 << sizes.len())
        .filter(|chosen| chosen.count_ones() <= classes)
        .filter_map(|chosen| {
            let is_chosen = |at: usize| chosen >> at & 1 == 1;
            let table: Vec<u64> = (0..sizes.len()).filter(|at| is_chosen(*at)).map(|at| sizes[at]).collect();
            cost(groups, &table)
        })
        .min()
        .expect("the largest alone holds all")
}

#[test]
fn a_class_too_many_changes_nothing() {
    for sizes in [&[][..], &[(10, 1)], &[(10, 1), (12, 1)], &[(10, 3), (100, 2), (5000, 1)]] {
        let mut search = best(&groups(sizes), CLASSES_MAX);
        let expected = (search.table(), search.actual_bytes(), search.classes());
        (0..3).for_each(|_| search.add_class());
        assert_eq!((search.table(), search.actual_bytes(), search.classes()), expected, "{sizes:?}");
        assert!(!search.wants_more(CLASSES_MAX));
    }
}

#[test]
fn sizes_and_numbers_beyond_all_have_a_class() {
    let group = SizeGroup { count: u64::MAX, largest_bytes: u64::MAX, sum_bytes: u128::MAX };
    let search = best(&[SizeGroup { largest_bytes: 0, ..group }, group, group], 3);
    assert_eq!(search.table(), [8, 1 << 46]);
}

proptest! {
    #[test]
    fn no_table_wastes_less_than_the_one_that_is_found(
        sizes in prop::collection::btree_map(1_u64..2000, 1_u64..1000, 1..11),
        classes in 1_u32..11,
    ) {
        let groups = groups(&sizes.into_iter().collect::<Vec<_>>());
        let search = best(&groups, classes as usize);
        let table = search.table();
        prop_assert!(table.len() <= classes as usize && table.is_sorted_by(|one, next| one < next));
        prop_assert!(table.iter().all(|size| size % 8 == 0));
        prop_assert_eq!(Some(search.actual_bytes()), cost(&groups, &table), "what it says of its table is true");
        prop_assert_eq!(search.actual_bytes(), least_of_all(&groups, classes));
    }

    #[test]
    fn every_size_that_was_counted_has_a_class(
        sizes in prop::collection::vec(1_u64..1 << 23, 1..200),
        classes in 1_usize..20,
    ) {
        let mut counts = SizeCounts::default();
        sizes.iter().for_each(|size| counts.count(*size, *size, 1));
        let search = best(&counts.groups(), classes);
        let table = search.table();
        let largest = sizes.iter().max().expect("at least one").next_multiple_of(8);
        prop_assert_eq!(table.last(), Some(&largest));
        // Each size in its own class, not only each bucket: none is on the wrong side of a class's end.
        let class = |size: &u64| *table.iter().find(|class| **class >= *size).expect("it has one");
        let actual: u128 = sizes.iter().map(|size| u128::from(class(size))).sum();
        prop_assert_eq!(actual, search.actual_bytes());
    }
}

#[test]
fn a_recurring_size_is_a_class_of_its_own_where_there_are_classes_enough() {
    let mut counts = SizeCounts::default();
    for (size, count) in [(1000, 50), (1500, 7), (100_000, 1), (3, 9)] {
        counts.count(size, 131_072, count);
    }
    assert_eq!(best(&counts.groups(), 13).table(), [8, 1000, 1504, 100_000]);
    assert_eq!(best(&counts.groups(), 1).table(), [100_000]);
    assert_eq!(best(&counts.groups(), 0).classes(), 1, "never none");
}

#[test]
fn of_nothing_there_is_no_table() {
    let search = best(&[], 13);
    assert_eq!((search.table(), search.classes(), search.actual_bytes()), (vec![], 0, 0));
    assert_eq!(waste_ratio(0, 0), None);
    assert_eq!(waste_ratio(3, 4), Some(0.25));
}

#[test]
fn counts_and_sizes_as_large_as_they_come_do_not_overflow() {
    let search = best(&groups(&[(1 << 45, u64::MAX / 2), (1 << 46, u64::MAX / 2)]), 2);
    assert_eq!(search.table(), [1 << 45, 1 << 46]);
    assert_eq!(search.actual_bytes(), 3 * (1 << 45) * u128::from(u64::MAX / 2));
}

/// The classes of a table that grows by a quarter, as memcached's does, from one that holds the smallest size on to one
/// that holds the largest. It begins at 96 bytes there, or below the smallest size where that is less.
fn grown_by_a_quarter(smallest: u64, largest: u64) -> Vec<u64> {
    let mut size = smallest.min(96).next_multiple_of(8);
    let mut table = vec![size];
    while size < largest {
        size = (size * 5 / 4).next_multiple_of(8);
        table.push(size);
    }
    let first = table.iter().position(|class| *class >= smallest).expect("the last holds the largest");
    table.split_off(first)
}

/// A generator whose numbers are the same everywhere: that of Steele, Lea and Flood, 2014.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn within(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    /// About normal, mean 0, variance 1: twelve uniform numbers.
    fn normal(&mut self) -> f64 {
        let uniform =
            |bits: u64| f64::from(u32::try_from(bits >> 32).expect("32 bits")) / f64::from(u32::MAX);
        (0..12).map(|_| uniform(self.next())).sum::<f64>() - 6.0
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes are small and positive"
    )]
    fn log_normal(&mut self, median: f64, spread: f64) -> u64 {
        (median * (spread * self.normal()).exp()).clamp(16.0, 1_048_576.0) as u64
    }
}

/// 200,000 sizes of each kind.
fn distributions() -> [(&'static str, SizeCounts); 5] {
    let mut numbers = Numbers(1);
    let mut of = |mut size: Box<dyn FnMut(&mut Numbers) -> u64>| {
        let mut counts = SizeCounts::default();
        for _ in 0..200_000 {
            let size = size(&mut numbers);
            counts.count(size, size, 1);
        }
        counts
    };
    let few = [100, 1000, 1500, 4136, 9000, 65_600];
    [
        ("log-normal, median 1 KiB, σ 1", of(Box::new(|numbers| numbers.log_normal(1024.0, 1.0)))),
        ("log-normal, median 8 KiB, σ 0.3", of(Box::new(|numbers| numbers.log_normal(8192.0, 0.3)))),
        (
            "bimodal, around 200 B and 20 KB",
            of(Box::new(|numbers| {
                let median = if numbers.next() % 10 < 7 { 200.0 } else { 20_000.0 };
                numbers.log_normal(median, 0.1)
            })),
        ),
        ("uniform, 64 B to 64 KiB", of(Box::new(|numbers| numbers.within(64, 65_536)))),
        (
            "six sizes: 100, 1000, 1500, 4136, 9000, 65600",
            of(Box::new(move |numbers| few[usize::try_from(numbers.next() % 6).expect("below 6")])),
        ),
    ]
}

fn percent(ratio: Option<f64>) -> String {
    format!("{:.1} %", ratio.expect("something was asked for") * 100.0)
}

/// The table of `docs/recommendations.md`; and the waste of each kind: found, grown.
fn comparison() -> (String, Vec<(f64, f64)>) {
    let mut text = "| sizes | classes | waste, growing by 1.25 | waste, recommended | classes recommended for no more waste |\n\
                    |---|---|---|---|---|\n"
        .to_owned();
    let mut wastes = Vec::new();
    for (name, counts) in distributions() {
        let groups = counts.groups();
        let smallest = groups[0].largest_bytes;
        let grown = grown_by_a_quarter(smallest, groups[groups.len() - 1].largest_bytes);
        let grown_bytes = cost(&groups, &grown).expect("it holds all");
        let found = best(&groups, grown.len());
        let waste = |bytes| waste_ratio(counts.requested_bytes(), bytes);
        let mut few = TableSearch::new(&groups);
        while few.actual_bytes() > grown_bytes {
            few.add_class();
        }
        let (before, after) = (waste(grown_bytes), waste(found.actual_bytes()));
        let (before_text, after_text) = (percent(before), percent(after));
        let _ =
            writeln!(text, "| {name} | {} | {before_text} | {after_text} | {} |", grown.len(), few.classes());
        wastes.push((after.expect("not empty"), before.expect("not empty")));
    }
    (text, wastes)
}

#[test]
fn it_wastes_less_than_a_table_that_grows_by_a_quarter_on_every_kind_of_sizes() {
    let (text, wastes) = comparison();
    for (found, grown) in wastes {
        assert!(found < 0.8 * grown, "{found} against {grown}\n{text}");
    }
    let page = include_str!("../../../docs/recommendations.md");
    assert!(page.contains(&text), "docs/recommendations.md lacks\n{text}");
}
