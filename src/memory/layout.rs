//! Where the slabs of a class lie in its region, and their records in their table: arithmetic from an index to bytes and
//! pages, and nothing else.
//!
//! Without guards slabs lie packed, also across pages. With guards they lie in runs, a slab of whole pages each or as
//! many smaller ones as 64 KiB hold, and the end of a run's last slab is the first byte of a guard page:
//!
//! ```text
//!   packed    │ 0 │ 1 │ 2 │ 3 │ 4 │ …
//!   guarded   │unused│ 0 │ 1 │ 2 │guard│unused│ 3 │ 4 │ 5 │guard│ …
//!             └──────── stride ────────┘
//! ```
//!
//! What slabs leave over of a run's pages lies before them, so that a write past the last one meets the guard at once.

use std::ops::Range;

/// A run of slabs smaller than that holds as many as fit; address space is made usable in steps of about as much.
pub(super) const RUN_BYTES: u64 = 64 << 10;

/// Bytes of a slab's record; see `segment.rs`.
const RECORD_BYTES: u64 = 16;

/// Records among which neighbours are spread: a power of two.
pub(super) const RECORDS_SPREAD: u64 = 128;

/// Where a slab's record stands: neighbours 128 bytes apart, which are two lines of a cache that fetches them in pairs.
/// Slots get neighbouring slabs, and their records are what is written most.
#[inline]
pub(super) fn spread(index: u64) -> u64 {
    const APART: u64 = 128 / RECORD_BYTES;
    let (group, within) = (index / RECORDS_SPREAD * RECORDS_SPREAD, index % RECORDS_SPREAD);
    let rows = RECORDS_SPREAD / APART;
    group + within % rows * APART + within / rows
}

/// Where slabs lie. See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    slab_bytes: u64,
    page_bytes: u64,
    /// None: packed.
    runs: Option<Runs>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Runs {
    slabs: u64,
    /// Before the first slab of a run.
    unused_bytes: u64,
    /// From one run to the next.
    stride_bytes: u64,
}

impl Layout {
    /// Slabs side by side.
    pub(super) fn packed(slab_bytes: u64, page_bytes: u64) -> Layout {
        Layout { slab_bytes, page_bytes, runs: None }
    }

    /// Slabs in runs that begin at a multiple of `align_bytes`, each with a guard page behind it.
    pub(super) fn guarded(slab_bytes: u64, page_bytes: u64, align_bytes: u64) -> Layout {
        let slabs = if slab_bytes.is_multiple_of(page_bytes) { 1 } else { (RUN_BYTES / slab_bytes).max(1) };
        let content_bytes = slabs * slab_bytes;
        let up = |bytes: u64, to: u64| bytes.checked_next_multiple_of(to).unwrap_or(u64::MAX);
        let run_bytes = up(content_bytes, page_bytes);
        let stride_bytes = up(run_bytes.saturating_add(page_bytes), align_bytes);
        let runs = Runs { slabs, unused_bytes: run_bytes - content_bytes, stride_bytes };
        Layout { slab_bytes, page_bytes, runs: Some(runs) }
    }

    pub(super) fn slab_bytes(&self) -> u64 {
        self.slab_bytes
    }

    /// Runs that so many slabs lie in, each of which may leave over a part of a page; none where they are packed.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn runs_of(&self, slabs: u64) -> u64 {
        self.runs.map_or(0, |runs| slabs.div_ceil(runs.slabs))
    }

    pub(super) fn is_guarded(&self) -> bool {
        self.runs.is_some()
    }

    /// Bytes of address space for so many slabs; `u64::MAX` where no number says it.
    pub(super) fn region_bytes(&self, slabs: u64) -> u64 {
        match self.runs {
            None => self.slab_bytes.saturating_mul(slabs),
            Some(runs) => slabs.div_ceil(runs.slabs).saturating_mul(runs.stride_bytes),
        }
    }

    /// The bytes of one slab.
    #[inline]
    pub(super) fn span(&self, index: u64) -> Range<u64> {
        let start = match self.runs {
            None => index * self.slab_bytes,
            Some(runs) => {
                let (run, place) = (index / runs.slabs, index % runs.slabs);
                run * runs.stride_bytes + runs.unused_bytes + place * self.slab_bytes
            }
        };
        start..start + self.slab_bytes
    }

    /// The pages from the first to the last that a run of neighbours lies on, guard pages between them included.
    pub(super) fn pages_of(&self, slabs: Range<u64>) -> Range<u64> {
        if slabs.is_empty() {
            return 0..0;
        }
        let end = self.span(slabs.end - 1).end;
        self.span(slabs.start).start / self.page_bytes..end.div_ceil(self.page_bytes)
    }

    /// The pages that lie wholly between the first byte of a run of neighbours and the last, guard pages between them
    /// included.
    pub(super) fn pages_within(&self, slabs: Range<u64>) -> Range<u64> {
        if slabs.is_empty() {
            return 0..0;
        }
        let start = self.span(slabs.start).start.div_ceil(self.page_bytes);
        let end = self.span(slabs.end - 1).end / self.page_bytes;
        start..end.max(start)
    }

    /// The slabs that have a byte in common with `bytes`.
    pub(super) fn slabs_on(&self, bytes: Range<u64>) -> Range<u64> {
        self.slabs_by(bytes.start, |part| part / self.slab_bytes)
            ..self.slabs_by(bytes.end, |part| part.div_ceil(self.slab_bytes))
    }

    /// How many slabs lie before `offset`, where `count` says how many of them so many bytes of slabs are.
    fn slabs_by(&self, offset: u64, count: impl Fn(u64) -> u64) -> u64 {
        match self.runs {
            None => count(offset),
            Some(runs) => {
                let (run, within) = (offset / runs.stride_bytes, offset % runs.stride_bytes);
                run * runs.slabs + count(within.saturating_sub(runs.unused_bytes)).min(runs.slabs)
            }
        }
    }

    /// Where address space that is made usable for a slab ends: behind its run's guard, and a step at least.
    pub(super) fn usable_end(&self, index: u64) -> u64 {
        match self.runs {
            None => self.span(index).end.next_multiple_of(self.page_bytes.max(RUN_BYTES)),
            Some(runs) => {
                let step = (RUN_BYTES / runs.stride_bytes).max(1) * runs.stride_bytes;
                (index / runs.slabs * runs.stride_bytes + runs.stride_bytes).next_multiple_of(step)
            }
        }
    }

    /// The runs that begin in `bytes`: for each the slabs below its end, and the bytes of its guard page.
    pub(super) fn guards_in(&self, bytes: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let Layout { slab_bytes, page_bytes, runs } = *self;
        runs.into_iter().flat_map(move |runs| {
            let first = bytes.start.div_ceil(runs.stride_bytes);
            (first..bytes.end.div_ceil(runs.stride_bytes)).map(move |run| {
                let guard = run * runs.stride_bytes + runs.unused_bytes + runs.slabs * slab_bytes;
                ((run + 1) * runs.slabs, guard..guard + page_bytes)
            })
        })
    }

    /// The slab that `offset` lies in, or that lies last before it.
    pub(super) fn slab_before(&self, offset: u64) -> u64 {
        self.slabs_by(offset.saturating_add(1), |part| part.div_ceil(self.slab_bytes)).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = 4096;

    #[test]
    fn whole_pages_are_followed_by_their_guard_and_smaller_slabs_end_at_that_of_their_run() {
        let whole = Layout::guarded(8192, PAGE, PAGE);
        assert_eq!((whole.span(0), whole.span(3)), (0..8192, 36_864..45_056));
        let guards: Vec<_> = whole.guards_in(0..whole.region_bytes(2)).collect();
        assert_eq!(guards, [(1, 8192..12_288), (2, 20_480..24_576)]);
        let small = Layout::guarded(1000, PAGE, PAGE);
        // 65 slabs of 1000 bytes take 16 pages less 536 bytes.
        assert_eq!((small.span(0).start, small.span(64).end), (536, 65_536));
        assert_eq!(small.span(65).start, 65_536 + 4096 + 536);
        assert_eq!(small.guards_in(0..small.region_bytes(66)).next(), Some((65, 65_536..69_632)));
        assert_eq!((small.slab_before(65_536), small.slab_before(65_535), small.slab_before(0)), (64, 64, 0));
        let odd = Layout::guarded(100_000, PAGE, PAGE);
        assert_eq!((odd.span(0), odd.usable_end(0)), (2400..102_400, 102_400 + 4096));
        let huge = Layout::guarded(2 << 20, PAGE, 2 << 20);
        assert_eq!(huge.span(1).start, 4 << 20);
        assert_eq!(
            Layout::guarded(u64::MAX - 7, PAGE, PAGE).region_bytes(2),
            u64::MAX,
            "no machine has that"
        );
    }

    proptest! {
        #[test]
        fn no_slab_touches_another_or_a_guard_and_what_lies_where_agrees(
            eighths in 1_u64..40_000, slabs in 1_u64..300, guarded in any::<bool>(), ends in (0_u64..1000, 0_u64..1000),
        ) {
            let slab = eighths * 8;
            let layout = if guarded { Layout::guarded(slab, PAGE, PAGE) } else { Layout::packed(slab, PAGE) };
            let region = layout.region_bytes(slabs);
            let mut taken: Vec<_> = (0..slabs).map(|index| layout.span(index)).collect();
            prop_assert!(taken.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let guards: Vec<_> = layout.guards_in(0..region).map(|(_, guard)| guard).collect();
            prop_assert_eq!(guards.is_empty(), !guarded);
            prop_assert!(guards.iter().all(|guard| guard.start.is_multiple_of(PAGE) && guard.end <= region));
            for (at, guard) in guards.iter().enumerate() {
                let slabs_before = layout.guards_in(0..region).nth(at).expect("the same").0;
                if slabs_before <= slabs {
                    prop_assert_eq!(taken[usize::try_from(slabs_before - 1).expect("small")].end, guard.start);
                }
            }
            let (one, other) = (ends.0 * region / 1000, ends.1 * region / 1000);
            let bytes = one.min(other)..one.max(other);
            let overlapping: Vec<u64> = (0..slabs)
                .filter(|index| { let span = layout.span(*index); span.start < bytes.end && bytes.start < span.end })
                .collect();
            if !bytes.is_empty() {
                let named: Vec<u64> = layout.slabs_on(bytes.clone()).filter(|index| *index < slabs).collect();
                prop_assert_eq!(named, overlapping);
            }
            let some = ends.0 * slabs / 1000..ends.1 * slabs / 1000;
            let pages = layout.pages_within(some.clone());
            if !pages.is_empty() {
                let on_them = layout.slabs_on(pages.start * PAGE..pages.end * PAGE);
                prop_assert!(some.start <= on_them.start && on_them.end <= some.end, "{:?} in {:?}", on_them, some);
            }
            taken.extend(guards);
            taken.sort_by_key(|range| range.start);
            prop_assert!(taken.windows(2).all(|pair| pair[0].end <= pair[1].start));
            for index in 0..slabs {
                prop_assert!(layout.usable_end(index) >= layout.span(index).end);
                prop_assert_eq!(layout.slab_before(layout.span(index).start), index);
                prop_assert_eq!(layout.slab_before(layout.span(index).end - 1), index);
            }
        }
    }
}
