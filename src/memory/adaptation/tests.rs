//! The rule by itself, and a heap whose use goes up and down.

use super::*;
use crate::memory::{Config, SizeClass, SlabLocation};

const RULES: fn() -> Adaptive = Adaptive::default;

/// What is left above it is for whoever comes.
const ROOMY: Option<Factor> = Some(Factor::thousandths(750));

fn keeping(initial: u32, max_free: Option<u32>, growth: Option<u32>) -> Keeping {
    let class =
        ClassConfig { max_free, growth_factor: growth.map(Factor::thousandths), ..ClassConfig::default() };
    Keeping::new(4096, 100 << 20, initial, &class, &RULES())
}

fn next(keeping: &Keeping, kept: u64, held: u64, used_thousandths: u32) -> u64 {
    keeping.next(kept, held, Factor::thousandths(used_thousandths), true, &RULES())
}

#[test]
fn nearly_all_used_grows_from_what_is_held_and_few_used_shrinks_what_is_kept() {
    let keeping = keeping(10, None, None);
    assert_eq!(next(&keeping, 10, 100, 801), 120);
    assert_eq!(next(&keeping, 10, 100, 800), 10, "above, not at");
    assert_eq!(next(&keeping, 100, 100, 299), 80);
    assert_eq!(next(&keeping, 100, 100, 300), 100, "below, not at");
    assert_eq!(next(&keeping, 11, 1, 0), 10, "never below those made ready at start");
    assert_eq!(keeping.next(10, 100, Factor::thousandths(1000), false, &RULES()), 10, "not while it is full");
}

#[test]
fn a_factor_of_one_adds_nothing() {
    let steady = keeping(10, None, Some(1000));
    assert_eq!(next(&steady, 10, 1000, 1000), 10);
    assert_eq!(next(&steady, 100, 1000, 0), 80, "it shrinks all the same");
}

#[test]
fn a_class_has_a_factor_of_its_own_and_bounds() {
    assert_eq!(next(&keeping(10, None, Some(1500)), 10, 100, 900), 150);
    assert_eq!(next(&keeping(10, Some(110), None), 10, 100, 900), 110);
    assert_eq!(next(&keeping(10, None, None), 10, 1 << 20, 900), 2560, "a tenth of the pool");
    assert_eq!(next(&keeping(200, Some(110), None), 200, 300, 900), 200, "growing never makes it less");
    assert_eq!(next(&keeping(0, None, None), 0, 0, 0), 0);
}

#[test]
fn shrinking_always_arrives() {
    let keeping = keeping(0, None, None);
    let mut kept = 1000;
    for _ in 0..100 {
        kept = next(&keeping, kept, 1000, 0);
    }
    assert_eq!(kept, 0, "rounding holds nothing back");
}

#[test]
fn use_is_the_average_over_the_interval() {
    let mut kept = Kept::new(&keeping(1, None, None));
    assert_eq!(kept.take_use(), None);
    kept.sample(0, 0);
    kept.sample(9, 10);
    kept.sample(3, 4);
    assert_eq!(kept.take_use(), Some(Factor::thousandths(550)));
    assert_eq!(kept.take_use(), None);
}

fn heap(limit: u64, sizes: &[u64]) -> Heap {
    let config = Config {
        slab_sizes: sizes.to_vec(),
        max_pool_size: limit,
        initial_slabs_per_size: 10,
        ..Config::default()
    };
    Heap::new(&config).expect("the configuration is right")
}

fn interval(heap: &Heap) {
    heap.sample_use();
    heap.end_adaptive_interval(ROOMY);
    while heap.keep_ready_slice(ROOMY) {}
    heap.check();
}

fn take(heap: &Heap, class: SizeClass, count: usize) -> Vec<SlabLocation> {
    (0..count).map(|_| heap.allocate(class).expect("there is room")).collect()
}

#[test]
fn a_busy_class_has_slabs_ready_and_an_idle_one_gives_them_back() {
    let heap = heap(64 << 20, &[4096]);
    let class = heap.class_for(4096).expect("it has one").0;
    let taken = take(&heap, class, 1000);
    for held in [1200, 1440] {
        interval(&heap);
        let stats = heap.stats().classes[0];
        assert_eq!((stats.total, stats.used, stats.kept), (held, 1000, held));
    }
    interval(&heap);
    assert_eq!(heap.stats().classes[0].total, 1440, "1000 of 1440 are not nearly all");
    for slab in taken {
        heap.free(slab);
    }
    for kept in [1152, 921] {
        interval(&heap);
        assert_eq!(heap.stats().classes[0].kept, kept);
    }
    for _ in 0..3 {
        heap.end_idle_interval();
        while heap.reclaim_idle_slice() {}
    }
    assert_eq!(heap.stats().classes[0].total, 921, "what is kept stays held");
    for _ in 0..40 {
        interval(&heap);
    }
    heap.end_idle_interval();
    while heap.reclaim_idle_slice() {}
    let stats = heap.stats().classes[0];
    assert_eq!((stats.kept, stats.total), (10, 10));
}

#[test]
fn what_is_kept_ready_refuses_nobody_and_nothing_is_added_to_a_pool_that_is_nearly_full() {
    let heap = heap(8 << 20, &[4096, 1 << 20]);
    let small = heap.class_for(4096).expect("it has one").0;
    let large = heap.class_for(1 << 20).expect("it has one").0;
    let kept = take(&heap, small, 150);
    interval(&heap);
    assert!(heap.stats().classes[0].total > 150 && heap.stats().classes[0].free > 0);
    // 150 small ones take less than one of 1 MiB, so seven fit whatever is kept ready.
    let seven = take(&heap, large, 7);
    let before = heap.stats().pool_size_bytes;
    interval(&heap);
    assert_eq!(heap.stats().pool_size_bytes, before, "nothing is added while so much is in use");
    for slab in kept.into_iter().chain(seven) {
        heap.free(slab);
    }
    heap.check();
}

#[test]
fn what_is_kept_and_lies_idle_gives_its_pages_back_beside_light_traffic() {
    let heap = heap(1 << 30, &[4096]);
    let (class, _) = heap.class_for(4096).expect("there is one");
    let write = |slab: &SlabLocation| {
        let edit = crate::memory::Edit { pieces: &[b"written"], ..Default::default() };
        heap.edit(*slab, &edit).expect("nobody else holds it");
    };
    let mut held = take(&heap, class, 1000);
    held.iter().for_each(write);
    heap.sample_use();
    heap.end_adaptive_interval(ROOMY);
    while heap.keep_ready_slice(ROOMY) {}
    let busy = held.split_off(500);
    busy.into_iter().for_each(|slab| heap.free(slab));
    for _ in 0..3 {
        let few = take(&heap, class, 100);
        few.iter().for_each(write);
        few.into_iter().for_each(|slab| heap.free(slab));
        heap.end_idle_interval();
        while heap.reclaim_idle_slice() {}
    }
    let stats = heap.stats().classes[0];
    assert!(stats.total >= 1000, "they are held still: {stats:?}");
    let slabs = heap.class(class).slabs();
    let with_pages = (0..stats.total).filter(|index| slabs.record(*index).was_written()).count();
    assert!((500..=700).contains(&with_pages), "{with_pages} of {} have pages", stats.total);
    heap.check();
}
