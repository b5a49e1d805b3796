//! How large a slab should be, and how many of them there should be.

/// Bytes of a cache line of most machines of today.
pub const CACHE_LINE_BYTES: u64 = 64;

/// A size rounded up to whole lines of `line_bytes`: slabs of such a size share no line.
///
/// ```
/// use maas::slab::sizing::{CACHE_LINE_BYTES, round_to_cache_line};
///
/// assert_eq!(round_to_cache_line(100, CACHE_LINE_BYTES), 128);
/// assert_eq!(round_to_cache_line(128, CACHE_LINE_BYTES), 128);
/// ```
///
/// # Panics
/// If `line_bytes` is 0, or no number says the result.
pub fn round_to_cache_line(size_bytes: u64, line_bytes: u64) -> u64 {
    size_bytes.checked_next_multiple_of(line_bytes).expect("the size is far below 2^64, the line above 0")
}

/// How many slabs there should be for `peak` in use at once, with so many per cent more to be safe: 20 to 30 are usual.
///
/// ```
/// assert_eq!(maas::slab::sizing::capacity_for(1000, 25), 1250);
/// ```
pub fn capacity_for(peak: u32, margin_percent: u32) -> u32 {
    let margin = (u64::from(peak) * u64::from(margin_percent)).div_ceil(100);
    u32::try_from(u64::from(peak).saturating_add(margin)).unwrap_or(u32::MAX)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn capacities_round_up_and_stop_at_the_end() {
        assert_eq!((capacity_for(10, 25), capacity_for(0, 25), capacity_for(7, 0)), (13, 0, 7));
        assert_eq!(capacity_for(u32::MAX, 20), u32::MAX);
        assert_eq!(capacity_for(1 << 31, u32::MAX), u32::MAX);
    }
}
