//! Which size classes would waste least? Exactly, for what was seen.
//!
//! Every request takes the smallest class that holds it. With the sizes in order, the requests of one class are
//! neighbours, and the class is as large as the largest of them: so a table of classes is a way to cut the sizes into runs,
//! and a run of requests costs their number times the largest of them. The best way to cut the first `end` groups into
//! `k` runs is the best way to cut some first `start` of them into `k - 1`, and one run more: dynamic programming.
//!
//! Where the last run starts in the best cut never goes back as `end` grows. For if a run may as well start later, then it
//! may all the more when it ends later: what is in it from there on is paid at a higher price (the cost has the Monge
//! property). So each further class takes O(n log n) steps, by halves: Yao 1980, in the form of Galil and Park 1992.

use super::sizes::{SIZE_BYTES_MAX, SizeGroup, WORD_BYTES};

/// Size classes that a table has at most.
pub const CLASSES_MAX: usize = 64;

/// The search for the best table, one class after the other, so that whoever must not work for long can pause.
#[derive(Debug)]
pub struct TableSearch {
    /// Size of the class that holds each group, ascending.
    sizes: Vec<u64>,
    /// Requests in all groups before each, and in all.
    requests_before: Vec<u64>,
    /// The least bytes that the first so many groups take in as many classes as were searched.
    least_bytes: Vec<u128>,
    /// For each class after the first: where its run starts in the best cut of the first so many groups.
    starts: Vec<Vec<u32>>,
}

impl TableSearch {
    /// Begins with the best table of one class, for groups in ascending order.
    ///
    /// # Panics
    /// Where the groups are in another order.
    pub fn new(groups: &[SizeGroup]) -> TableSearch {
        let sizes: Vec<u64> = groups.iter().map(|group| class_bytes(group.largest_bytes)).collect();
        assert!(sizes.is_sorted(), "groups come in ascending order");
        let mut requests_before = vec![0];
        requests_before.extend(groups.iter().scan(0, |sum: &mut u64, group| {
            *sum = sum.saturating_add(group.count);
            Some(*sum)
        }));
        let mut search = TableSearch { sizes, requests_before, least_bytes: Vec::new(), starts: Vec::new() };
        search.least_bytes = (0..=search.sizes.len()).map(|end| search.run_bytes(0, end)).collect();
        search
    }

    /// Classes of the best table that is known so far.
    pub fn classes(&self) -> usize {
        (self.starts.len() + 1).min(self.sizes.len())
    }

    /// Whether there is a better table of at most so many classes.
    pub fn wants_more(&self, classes_max: usize) -> bool {
        self.classes() < classes_max.min(self.sizes.len())
    }

    /// Finds the best table of one class more: O(n log n) for n groups. Where each group has a class already, there is
    /// none, and nothing changes.
    pub fn add_class(&mut self) {
        let groups = self.sizes.len();
        if self.classes() == groups {
            return;
        }
        let mut least = vec![u128::MAX; groups + 1];
        let mut starts = vec![0; groups + 1];
        // Of fewer groups than classes there is no cut without an empty run.
        let first = self.starts.len() + 2;
        // Each entry: ends to be found, and between which starts theirs lie.
        let mut pending = vec![(first..groups + 1, first - 1..groups)];
        while let Some((ends, candidates)) = pending.pop() {
            if ends.is_empty() {
                continue;
            }
            let end = ends.start + (ends.end - ends.start) / 2;
            let last = candidates.end.min(end);
            let (bytes, start) = (candidates.start..last)
                .map(|start| (self.least_bytes[start] + self.run_bytes(start, end), start))
                .min()
                .expect("a run can always start right before its end");
            least[end] = bytes;
            starts[end] = u32::try_from(start).expect("groups are far fewer");
            pending.push((ends.start..end, candidates.start..start + 1));
            pending.push((end + 1..ends.end, start..candidates.end));
        }
        self.least_bytes = least;
        self.starts.push(starts);
    }

    /// Bytes that all requests take with the best table that is known so far.
    pub fn actual_bytes(&self) -> u128 {
        *self.least_bytes.last().expect("there is one for no groups at all")
    }

    /// The best table that is known so far, ascending; empty where nothing was seen.
    pub fn table(&self) -> Vec<u64> {
        let mut table = Vec::with_capacity(self.classes());
        let mut end = self.sizes.len();
        for starts in self.starts.iter().rev() {
            table.extend(self.sizes[..end].last());
            end = starts[end] as usize;
        }
        table.extend(self.sizes[..end].last());
        table.reverse();
        table.dedup(); // groups of one word
        table
    }

    /// Bytes that the groups from `start` to before `end` take in one class.
    fn run_bytes(&self, start: usize, end: usize) -> u128 {
        let Some(size) = self.sizes[..end].last() else { return 0 };
        u128::from(*size) * u128::from(self.requests_before[end] - self.requests_before[start])
    }
}

/// The smallest class that holds such a size; one beyond the largest there can be counts as that.
pub(super) fn class_bytes(size_bytes: u64) -> u64 {
    size_bytes.clamp(1, SIZE_BYTES_MAX).next_multiple_of(WORD_BYTES)
}

/// The part of the actual bytes that nobody asked for; none where there are none.
#[expect(clippy::cast_precision_loss, reason = "a ratio needs few digits")]
pub fn waste_ratio(requested_bytes: u128, actual_bytes: u128) -> Option<f64> {
    (actual_bytes > 0).then(|| actual_bytes.saturating_sub(requested_bytes) as f64 / actual_bytes as f64)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
