//! The sizes that clients ask for, as a distribution: in so little memory that each slot keeps one, and so cheap to
//! write that every allocation is counted.
//!
//! Buckets are log-linear: sizes are counted in words of 8 bytes, up to 64 of them each in a bucket of its own, and
//! beyond that 32 buckets for each doubling, the last of which ends with the power of two. A bucket knows the largest size
//! that it saw, so a class of just that size holds all of the bucket, and a size that comes again and again alone in its
//! bucket is known exactly.
//!
//! Plain words: whoever has one has it under a lock of its own already.

/// Buckets in each doubling, beyond the first two: a bucket is at most a 32nd of its size wide.
const STEPS: usize = 32;
/// Size classes are multiples of so many bytes, so nothing below that makes a difference.
pub(super) const WORD_BYTES: u64 = 8;
/// The largest size that a class or the pool is configured with: 2^46 bytes, so that sums of a few of them, rounded up to
/// pages, never overflow, and one reservation always fits into the 2^47 bytes of a process's address space. Larger requests
/// are counted as that.
pub const SIZE_BYTES_MAX: u64 = 1 << 46;
/// Buckets there can be: the steps below the first doubling, and 38 doublings up to 2^46.
const SIZE_BUCKETS_MAX: usize = bucket_of(SIZE_BYTES_MAX).0 + 1;

const _: () = assert!(SIZE_BUCKETS_MAX == 1248);

/// Sizes that fell into one bucket. Half a cache line, so that it never lies on two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(32))]
struct Bucket {
    count: u64,
    /// Bytes that they lack to the bucket's end, all together. Their sum would take more than 64 bits within days, where
    /// large blocks come and go; this is a 32nd of it at most, and stays where it is when it is full.
    short_bytes: u64,
    largest_bytes: u64,
}

/// How often each size was asked for, to within a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SizeCounts {
    /// As many as the largest size needs, up to [`SIZE_BUCKETS_MAX`].
    buckets: Vec<Bucket>,
    /// Bytes that requests got beyond what they asked for.
    wasted_bytes: u64,
}

/// All requests of about one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeGroup {
    /// How many.
    pub count: u64,
    /// The largest of them.
    pub largest_bytes: u64,
    /// Bytes that they asked for, all together.
    pub sum_bytes: u128,
}

impl SizeGroup {
    /// None of them is smaller: exact where all are of one size. No group is wider than a bucket.
    pub(super) fn smallest_bytes(&self) -> u64 {
        let bucket_starts = self.largest_bytes - self.largest_bytes / STEPS as u64;
        let others = u128::from(self.largest_bytes) * u128::from(self.count.saturating_sub(1));
        let rest = self.sum_bytes.saturating_sub(others).min(self.largest_bytes.into());
        bucket_starts.max(u64::try_from(rest).unwrap_or(bucket_starts)).max(1)
    }
}

impl SizeCounts {
    /// Counts `times` requests of `size_bytes` that got slabs of `actual_bytes` each. A size beyond 2^46 counts as that,
    /// and none as one byte. What no longer fits its count stays where it is.
    ///
    /// Three stores as a rule: whoever counts holds a lock, and gives it up only when they are through.
    #[inline]
    pub fn count(&mut self, size_bytes: u64, actual_bytes: u64, times: u64) {
        let size_bytes = size_bytes.clamp(1, SIZE_BYTES_MAX);
        let wasted = actual_bytes.saturating_sub(size_bytes).saturating_mul(times);
        self.wasted_bytes = self.wasted_bytes.saturating_add(wasted);
        let (at, end_bytes) = bucket_of(size_bytes);
        if at >= self.buckets.len() {
            self.grow(at);
        }
        let bucket = &mut self.buckets[at];
        bucket.count = bucket.count.saturating_add(times);
        let short = (end_bytes - size_bytes).saturating_mul(times);
        bucket.short_bytes = bucket.short_bytes.saturating_add(short);
        if size_bytes > bucket.largest_bytes {
            bucket.largest_bytes = size_bytes; // rarely, and then a store is saved in all other cases
        }
    }

    /// Makes room for a bucket and the rest of its doubling.
    #[cold]
    fn grow(&mut self, at: usize) {
        let wanted = (at + 1).next_multiple_of(STEPS);
        if wanted > self.buckets.len() {
            self.buckets.reserve_exact(wanted - self.buckets.len());
            self.buckets.resize(wanted, Bucket::default());
        }
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &SizeCounts) {
        if other.buckets.len() > self.buckets.len() {
            self.grow(other.buckets.len() - 1);
        }
        for (mine, its) in self.buckets.iter_mut().zip(&other.buckets) {
            mine.count = mine.count.saturating_add(its.count);
            mine.short_bytes = mine.short_bytes.saturating_add(its.short_bytes);
            mine.largest_bytes = mine.largest_bytes.max(its.largest_bytes);
        }
        self.wasted_bytes = self.wasted_bytes.saturating_add(other.wasted_bytes);
    }

    /// What was asked for, smallest first.
    pub fn groups(&self) -> Vec<SizeGroup> {
        let seen = self.buckets.iter().enumerate().filter(|(_, bucket)| bucket.count > 0);
        let group = |(at, bucket): (usize, &Bucket)| SizeGroup {
            count: bucket.count,
            largest_bytes: bucket.largest_bytes,
            sum_bytes: u128::from(bucket.count) * u128::from(end_of(at)) - u128::from(bucket.short_bytes),
        };
        seen.map(group).collect()
    }

    /// Requests that were counted.
    pub fn samples(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, bucket| sum.saturating_add(bucket.count))
    }

    /// Bytes that were asked for.
    pub fn requested_bytes(&self) -> u128 {
        self.groups().iter().map(|group| group.sum_bytes).sum()
    }

    /// Bytes of the slabs that they got.
    pub fn actual_bytes(&self) -> u128 {
        self.requested_bytes() + u128::from(self.wasted_bytes)
    }

    /// Bytes of the counts themselves.
    pub fn metadata_bytes(&self) -> u64 {
        (self.buckets.capacity() * size_of::<Bucket>()) as u64
    }

    /// … at most, while nothing larger than `size_bytes` is asked for.
    pub fn metadata_bytes_max(size_bytes: u64) -> u64 {
        let buckets = (bucket_of(size_bytes.min(SIZE_BYTES_MAX)).0 + 1).next_multiple_of(STEPS);
        (buckets * size_of::<Bucket>()) as u64
    }
}

/// The bucket of a size, and its last size: the word itself below [`STEPS`] of them, after that so many more for each
/// doubling.
#[inline]
const fn bucket_of(size_bytes: u64) -> (usize, u64) {
    // From 0, so that the last word of a doubling is in its last bucket, and a class of a power of two ends with one.
    let word = size_bytes.saturating_sub(1) / WORD_BYTES;
    let shift = (word | STEPS as u64).ilog2() - STEPS.ilog2();
    let step = (word >> shift) as usize;
    let last_word = word | ((1 << shift) - 1);
    (shift as usize * STEPS + step, (last_word + 1).saturating_mul(WORD_BYTES))
}

/// The last size of a bucket.
fn end_of(at: usize) -> u64 {
    let shift = (at / STEPS).saturating_sub(1);
    ((at - shift * STEPS + 1) as u64 * WORD_BYTES) << shift
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    fn at(size_bytes: u64) -> usize {
        bucket_of(size_bytes).0
    }

    #[test]
    fn buckets_follow_each_other_are_a_32nd_wide_and_end_with_powers_of_two() {
        assert_eq!((at(1), at(8), at(9), at(512)), (0, 0, 1, 63));
        for power in 9..46 {
            let (end, next) = (1_u64 << power, (1_u64 << power) + 1);
            assert_eq!(at(end) + 1, at(next), "2^{power} is the last of its bucket");
            let width = end / STEPS as u64;
            assert_eq!(at(end), at(end - width / 2 + 1));
            assert_eq!(at(next), at(end + width));
            assert_eq!(at(next) + 1, at(next + width));
        }
        assert_eq!(at(1 << 46), SIZE_BUCKETS_MAX - 1);
        for bucket in 0..SIZE_BUCKETS_MAX {
            assert_eq!(bucket_of(end_of(bucket)), (bucket, end_of(bucket)));
            assert_eq!(at(end_of(bucket) + 1), bucket + 1);
        }
    }

    #[test]
    fn a_size_that_comes_again_is_known_exactly_and_the_largest_of_a_bucket_is_kept() {
        let mut counts = SizeCounts::default();
        counts.count(100_000, 131_072, 1);
        counts.count(100_000, 131_072, 2);
        counts.count(5, 1024, 1);
        counts.count(3, 1024, 1);
        let expected = [
            SizeGroup { count: 2, largest_bytes: 5, sum_bytes: 8 },
            SizeGroup { count: 3, largest_bytes: 100_000, sum_bytes: 300_000 },
        ];
        assert_eq!(counts.groups(), expected);
        assert_eq!((counts.samples(), counts.requested_bytes()), (5, 300_008));
        assert_eq!(counts.actual_bytes(), 3 * 131_072 + 2 * 1024);
    }

    #[test]
    fn counts_of_several_slots_add_up_whichever_saw_the_larger_sizes() {
        let (mut small, mut large) = (SizeCounts::default(), SizeCounts::default());
        small.count(10, 16, 3);
        small.count(12, 16, 1);
        large.count(11, 16, 1);
        large.count(1 << 46, 1 << 46, 1);
        let mut both = small.clone();
        both.add(&large);
        large.add(&small);
        assert_eq!(both, large);
        assert_eq!(both.groups()[0], SizeGroup { count: 5, largest_bytes: 12, sum_bytes: 53 });
        assert_eq!(both.samples(), 6);
    }

    #[test]
    fn memory_is_bounded_whatever_is_asked_for() {
        let mut counts = SizeCounts::default();
        assert_eq!(counts.metadata_bytes(), 0, "nothing before the first request");
        for power in 0..64 {
            counts.count(1 << power, 1 << power, 1);
            counts.count(u64::MAX >> power, 8, 1);
            assert!(counts.metadata_bytes() <= SizeCounts::metadata_bytes_max(u64::MAX));
        }
        assert_eq!(SizeCounts::metadata_bytes_max(u64::MAX), 1248 * 32);
        assert_eq!(SizeCounts::metadata_bytes_max(4 << 20), 480 * 32);
    }

    #[test]
    fn no_size_and_no_number_of_requests_is_too_much() {
        let mut counts = SizeCounts::default();
        for size in [0, 1, SIZE_BYTES_MAX, SIZE_BYTES_MAX + 1, u64::MAX] {
            (0..2).for_each(|_| counts.count(size, u64::MAX, u64::MAX));
        }
        let other = counts.clone();
        counts.add(&other);
        let ends: Vec<u64> = counts.groups().iter().map(|group| group.largest_bytes).collect();
        assert_eq!((counts.samples(), ends), (u64::MAX, vec![1, SIZE_BYTES_MAX]));
        assert!(counts.actual_bytes() > counts.requested_bytes());
    }

    #[test]
    fn more_bytes_than_64_bits_hold_are_counted_all_the_same() {
        let mut counts = SizeCounts::default();
        (0..3).for_each(|_| counts.count(1 << 40, 1 << 40, 1 << 30));
        assert_eq!((counts.requested_bytes(), counts.actual_bytes()), (3 << 70, 3 << 70));
        counts.count(u64::MAX, 0, u64::MAX - counts.samples());
        assert_eq!(
            counts.groups()[1].sum_bytes,
            u128::from(u64::MAX - (3 << 30)) << 46,
            "as the largest there is"
        );
    }
}
