//! Which one of ten: proportions that hold over any ten draws that follow each other from a multiple of ten, and not only
//! on average.
//!
//! Each ten is a permutation of the numbers from 0 to 9, another one each time: a client that asks in a rhythm is not the one
//! that is always drawn.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many draws hold the proportions together.
pub(super) const TEN: u64 = 10;
/// What has no divisor in common with ten: multiplied by one of these, ten numbers stay ten numbers.
const STEPS: [u64; 4] = [1, 3, 7, 9];

/// See the module.
#[derive(Debug)]
pub(super) struct Draw {
    drawn: AtomicU64,
    seed: u64,
}

impl Draw {
    pub(super) fn new(seed: u64) -> Draw {
        Draw { drawn: AtomicU64::new(0), seed }
    }

    /// The next number, below ten.
    pub(super) fn next(&self) -> u64 {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        let (ten, place) = (drawn / TEN, drawn % TEN);
        let mixed = mix(self.seed ^ ten);
        let step = STEPS[usize::try_from(mixed % 4).expect("it is below four")];
        (place * step + (mixed >> 2) % TEN) % TEN
    }
}

/// Spreads what differs in few bits over all of them (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_ten_has_every_number_once(seed: u64) {
            let draw = Draw::new(seed);
            for _ in 0..20 {
                let mut ten: Vec<u64> = (0..TEN).map(|_| draw.next()).collect();
                ten.sort_unstable();
                prop_assert_eq!(ten, (0..TEN).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn whoever_asks_once_in_ten_is_not_always_drawn() {
        let draw = Draw::new(7);
        let first_of_each: Vec<u64> =
            (0..1000).map(|_| (0..TEN).map(|_| draw.next()).next_back().expect("ten")).collect();
        let zeros = first_of_each.iter().filter(|drawn| **drawn == 0).count();
        assert!((60..140).contains(&zeros), "{zeros} of 1000");
    }
}
