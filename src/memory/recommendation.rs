//! What the sizes that were asked for say about the configuration: the class table that would have wasted least, and the
//! pool that would have been enough.

use super::size_table::{TableSearch, waste_ratio};
use super::sizes::SizeCounts;

/// What was seen of clients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The sizes that they asked for, and got.
    pub sizes: SizeCounts,
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
    /// The limit: a quarter more than was ever in use, in whole slabs of the largest class. The one that there is, where
    /// nothing was seen.
    pub max_pool_size_bytes: u64,
    /// Requests that this comes from.
    pub samples: u64,
}

impl Seen {
    /// The search for the table; when it has as many classes as are wanted, [`Seen::recommend`] ends it.
    pub fn search(&self) -> TableSearch {
        TableSearch::new(&self.sizes.groups())
    }

    /// What the table that was found, and all else that was seen, come to.
    pub fn recommend(&self, search: &TableSearch) -> Recommendation {
        let requested_bytes = self.sizes.requested_bytes();
        let table = search.table();
        let (slab_sizes, max_pool_size_bytes) = match table.last() {
            None => (self.slab_sizes.clone(), self.limit_bytes),
            Some(largest) => {
                let and_a_quarter = self.peak_in_use_bytes.saturating_add(self.peak_in_use_bytes.div_ceil(4));
                let whole = and_a_quarter.max(1).checked_next_multiple_of(*largest);
                (table, whole.unwrap_or(and_a_quarter))
            }
        };
        Recommendation {
            slab_sizes,
            waste_ratio: waste_ratio(requested_bytes, search.actual_bytes()),
            current_waste_ratio: waste_ratio(requested_bytes, self.sizes.actual_bytes()),
            max_pool_size_bytes,
            samples: self.sizes.samples(),
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_the_peak_and_a_quarter_in_whole_slabs_of_the_largest_class() {
        let mut seen = Seen {
            peak_in_use_bytes: 4096,
            slab_sizes: vec![1024, 4096],
            limit_bytes: 1 << 20,
            ..Seen::default()
        };
        seen.sizes.count(1000, 1024, 3);
        seen.sizes.count(1500, 4096, 1);
        let mut search = seen.search();
        search.add_class();
        let expected = Recommendation {
            slab_sizes: vec![1000, 1504],
            waste_ratio: Some(4.0 / 4504.0),
            current_waste_ratio: Some((7168.0 - 4500.0) / 7168.0),
            max_pool_size_bytes: 4 * 1504,
            samples: 4,
        };
        assert_eq!(seen.recommend(&search), expected);
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
