//! Dirty masks: 32 bits, one for each 32nd of a block, saying where it was written since it was last zero.
//!
//! Pure arithmetic. A part whose bit is clear is all zeros, was perhaps never backed by a page, and is read from a
//! static buffer of zeros; only parts whose bit is set are ever zeroed.

use std::ops::Range;

/// Bytes one bit of the mask stands for in a block of `block_bytes`, as a power of two: the least of which 32 cover it.
///
/// So a granule divides a page or is whole pages, and in a block of whole pages none straddles the edge of one: zeroing
/// or reading a written granule touches no page that was not written.
#[inline]
fn granule_bits(block_bytes: u64) -> u32 {
    u64::BITS - block_bytes.div_ceil(u64::from(u32::BITS)).saturating_sub(1).leading_zeros()
}

/// Bytes one bit of the mask stands for.
#[inline]
pub(super) fn granule_bytes(block_bytes: u64) -> u64 {
    1 << granule_bits(block_bytes)
}

/// The bits that cover `range` of a block; none for an empty range.
#[inline]
pub(super) fn mask_of(block_bytes: u64, range: &Range<u64>) -> u32 {
    debug_assert!(range.end <= block_bytes, "{range:?} is outside a block of {block_bytes} bytes");
    if range.is_empty() {
        return 0;
    }
    let bits = granule_bits(block_bytes);
    let (first, last) = (range.start >> bits, (range.end - 1) >> bits);
    (u32::MAX >> (31 - (last - first))) << first
}

/// Cuts `range` of a block into the longest parts that are wholly written or wholly not, in order: (part, written).
pub(super) fn parts(
    block_bytes: u64,
    mask: u32,
    range: Range<u64>,
) -> impl Iterator<Item = (Range<u64>, bool)> {
    let bits = granule_bits(block_bytes);
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let bit = at >> bits;
        let written = mask >> bit & 1 == 1;
        let rest = if written { !mask } else { mask } >> bit;
        let length = u64::from(rest.trailing_zeros()); // 32 where the part reaches the mask's end
        let end = ((bit + length) << bits).min(range.end);
        let part = at..end;
        at = end;
        Some((part, written))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_cover_a_range_once_and_agree_with_the_mask(
            block in 1_u64..10_000, ends in (0_u64..10_000, 0_u64..10_000), writes in prop::collection::vec((0_u64..10_000, 0_u64..10_000), 0..5),
        ) {
            let block = block * 8;
            let clip = |(a, b): (u64, u64)| { let (a, b) = (a.min(block), b.min(block)); a.min(b)..a.max(b) };
            let mut written = vec![false; usize::try_from(block).expect("small")];
            let mut mask = 0;
            for write in writes {
                let write = clip(write);
                mask |= mask_of(block, &write);
                for at in write { written[usize::try_from(at).expect("small")] = true; }
            }
            let range = clip(ends);
            let mut at = range.start;
            let mut previous = None;
            for (part, dirty) in parts(block, mask, range.clone()) {
                prop_assert_eq!(part.start, at);
                prop_assert!(!part.is_empty());
                prop_assert_ne!(Some(dirty), previous, "neighbouring parts differ");
                prop_assert!(dirty || part.clone().all(|at| !written[usize::try_from(at).expect("small")]), "a written byte is never called clean");
                previous = Some(dirty);
                at = part.end;
            }
            prop_assert_eq!(at, range.end.max(range.start));
        }
    }

    #[test]
    fn the_smallest_and_the_whole_block_have_masks() {
        assert_eq!(mask_of(8, &(0..8)), 0xff);
        assert_eq!(mask_of(1024, &(0..1024)), u32::MAX);
        assert_eq!(mask_of(1024, &(0..1)), 1);
        assert_eq!(mask_of(1024, &(1023..1024)), 1 << 31);
        assert_eq!(mask_of(1024, &(7..7)), 0);
    }

    #[test]
    fn a_granule_of_whole_pages_never_straddles_the_edge_of_one() {
        let page = crate::memory::page_size();
        for pages in 1..2000 {
            let granule = granule_bytes(pages * page);
            assert!(page.is_multiple_of(granule) || granule.is_multiple_of(page), "{granule} of {pages}");
            assert!(granule * 32 >= pages * page, "32 granules cover the block");
        }
        assert_eq!((granule_bytes(1000), granule_bytes(8)), (32, 1));
    }
}
