//! What the sizes that were asked for say about the configuration: the class table that would have wasted least, and the
//! pool that would have been enough.

use super::size_table::{TableSearch, waste_ratio};
use super::sizes::SizeGroup;

/// What was seen of clients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The sizes that they asked for, and got, ascending.
    pub groups: Vec<SizeGroup>,
    /// Bytes of the slabs that they got for them.
    pub actual_bytes: u128,
    /// The most bytes that were in use, at actual size.
    pub peak_in_use_bytes: u64,
    /// The size classes that there are, ascending.
    pub slab_sizes: Vec<u64>,
    /// The limit that there is.
    pub limit_bytes: u64,
}

/// What to configure instead.
#[derive(Clone, Debug, PartialEq)]
pub struct Recommendation {
    /// Size classes, ascending. Those that there are, where nothing was seen.
    pub slab_sizes: Vec<u64>,
    /// With them, the part of the bytes of all slabs given out that nobody would have asked for; none where nothing was
    /// seen.
    pub waste_ratio: Option<f64>,
    /// The same of the classes that there are.
    pub current_waste_ratio: Option<f64>,
    /// The limit: a quarter more than was ever in use, and as many times that as the slab of some size that was seen grows,
    /// in whole slabs of the largest class. The one that there is, where nothing was seen.
    pub max_pool_size_bytes: u64,
    /// Requests that this comes from.
    pub samples: u64,
}

impl Seen {
    /// The search for the table; when it has as many classes as are wanted, [`Seen::recommend`] ends it.
    pub fn search(&self) -> TableSearch {
        TableSearch::new(&self.groups)
    }

    /// What the table that was found, and all else that was seen, come to.
    pub fn recommend(&self, search: &TableSearch) -> Recommendation {
        let requested_bytes = self.groups.iter().map(|group| group.sum_bytes).sum();
        let slab_sizes = search.table();
        let samples = self.groups.iter().fold(0_u64, |sum, group| sum.saturating_add(group.count));
        let waste_ratio_of = |actual_bytes| waste_ratio(requested_bytes, actual_bytes);
        Recommendation {
            max_pool_size_bytes: slab_sizes.last().map_or(self.limit_bytes, |_| self.pool_bytes(&slab_sizes)),
            waste_ratio: waste_ratio_of(search.actual_bytes()),
            current_waste_ratio: waste_ratio_of(self.actual_bytes),
            slab_sizes: if slab_sizes.is_empty() { self.slab_sizes.clone() } else { slab_sizes },
            samples,
        }
    }

    /// A pool that holds with this table what was in use at the peak, whatever that was, and a quarter more.
    ///
    /// The table wastes least of all that was ever given out. Of what lived long it may waste more than the present one:
    /// few large blocks that stay weigh little against many small ones that go, and share a class with larger ones. Nobody
    /// counted what was live at the peak, so all of it may have been of the size whose slab grows most.
    fn pool_bytes(&self, table: &[u64]) -> u64 {
        let mut growth = (1, 1);
        for group in &self.groups {
            let slab_of = |table: &[u64], bytes| table.iter().find(|slab| **slab >= bytes).copied();
            let present = slab_of(&self.slab_sizes, group.smallest_bytes());
            let (Some(new), Some(present)) = (slab_of(table, group.largest_bytes), present) else { continue };
            let (new, present) = (u128::from(new), u128::from(present));
            if new * growth.1 > growth.0 * present {
                growth = (new, present);
            }
        }
        let peak = u128::from(self.peak_in_use_bytes);
        // The product may be beyond 128 bits for figures that no machine has, and then the pool is as large as any.
        let pool = (peak + peak.div_ceil(4)).max(1).saturating_mul(growth.0).div_ceil(growth.1);
        let pool = u64::try_from(pool).unwrap_or(u64::MAX);
        table.last().and_then(|largest| pool.checked_next_multiple_of(*largest)).unwrap_or(pool)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::memory::{Config, Heap, SizeCounts};

    fn seen(slab_sizes: &[u64], sizes: &[(u64, u64)], peak_in_use_bytes: u64) -> Seen {
        let mut counts = SizeCounts::default();
        for &(size, times) in sizes {
            let actual = slab_sizes.iter().find(|slab| **slab >= size).expect("it was allocated");
            counts.count(size, *actual, times);
        }
        let (groups, actual_bytes) = (counts.groups(), counts.actual_bytes());
        Seen {
            groups,
            actual_bytes,
            peak_in_use_bytes,
            slab_sizes: slab_sizes.to_vec(),
            limit_bytes: 1 << 20,
        }
    }

    fn recommend(seen: &Seen, classes: usize) -> Recommendation {
        let mut search = seen.search();
        (1..classes).for_each(|_| search.add_class());
        seen.recommend(&search)
    }

    #[test]
    fn the_pool_is_the_peak_and_a_quarter_in_whole_slabs_of_the_largest_class() {
        let expected = Recommendation {
            slab_sizes: vec![1000, 1504],
            waste_ratio: Some(4.0 / 4504.0),
            current_waste_ratio: Some((7168.0 - 4500.0) / 7168.0),
            max_pool_size_bytes: 4 * 1504,
            samples: 4,
        };
        assert_eq!(recommend(&seen(&[1024, 4096], &[(1000, 3), (1500, 1)], 4096), 2), expected);
    }

    #[test]
    fn a_recommended_pool_never_refuses_the_load_that_it_comes_from() {
        // Few that stay, very many small ones that go, and one that shares its class with those that stay.
        let sizes = [(1000, 5000), (100, 50_000), (2000, 1)];
        let recommended = recommend(&seen(&[1024, 2048], &sizes, 5000 * 1024 + 2048), 2);
        assert_eq!(recommended.slab_sizes, [104, 2000], "those that stay take twice as much");
        let config = Config {
            slab_sizes: recommended.slab_sizes,
            max_pool_size: recommended.max_pool_size_bytes,
            ..Config::default()
        };
        let heap = Heap::new(&config).expect("what is recommended is a configuration");
        for block in 0..5001 {
            let bytes = if block == 0 { 2000 } else { 1000 };
            let (class, _) = heap.class_for(bytes).expect("a class holds it");
            assert!(heap.allocate(class).is_ok(), "block {block}");
        }
    }

    #[test]
    fn a_pool_grows_by_the_slab_that_grows_most_also_where_a_bucket_lies_in_two_classes() {
        // 1001 and 1016 are in one bucket, and only the smaller fits the class of 1008.
        let straddling = seen(&[1008, 4096], &[(1001, 2), (1016, 1), (4000, 1)], 1_000_000);
        assert_eq!(recommend(&straddling, 1).max_pool_size_bytes, 4_960_317_u64.next_multiple_of(4000));
        let alone = seen(&[1008, 4096], &[(1016, 3), (4000, 1)], 1_000_000);
        assert_eq!(recommend(&alone, 1).max_pool_size_bytes, 1_250_000_u64.next_multiple_of(4000));
        let immense = seen(&[8, 1 << 46], &[(8, u64::MAX), (1 << 46, 1)], u64::MAX);
        assert_eq!(recommend(&immense, 1).max_pool_size_bytes, u64::MAX);
    }

    #[test]
    fn where_nothing_was_seen_all_stays_as_it_is_and_nothing_is_claimed() {
        let seen = Seen { slab_sizes: vec![1024, 4096], limit_bytes: 1 << 20, ..Seen::default() };
        let expected = Recommendation {
            slab_sizes: vec![1024, 4096],
            waste_ratio: None,
            current_waste_ratio: None,
            max_pool_size_bytes: 1 << 20,
            samples: 0,
        };
        assert_eq!(seen.recommend(&seen.search()), expected);
    }
}
