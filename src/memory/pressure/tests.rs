//! Passes over heaps that were busy: what they leave, that each slice is bounded, and that nothing is lost.

use super::*;
use crate::memory::os::{faults, page_size};
use crate::memory::{Config, Edit, Pin, Shape, SlabLocation};
use std::sync::Arc;

const SIZES: [u64; 4] = [1000, 4096, 64 << 10, 1 << 20];
/// Slabs of each class that are made ready at start.
const INITIAL: u32 = 3;

fn heap(limit: u64) -> Arc<Heap> {
    let config = Config {
        slab_sizes: SIZES.to_vec(),
        max_pool_size: limit,
        initial_slabs_per_size: INITIAL,
        ..Config::default()
    };
    Arc::new(Heap::new(&config).expect("the configuration is right"))
}

fn take(heap: &Heap, size: u64, count: usize) -> Vec<SlabLocation> {
    let class = heap.class_for(size).expect("a class holds it").0;
    let slabs: Vec<_> = (0..count).map(|_| heap.allocate(class).expect("there is room")).collect();
    slabs.iter().for_each(|slab| write(heap, *slab));
    slabs
}

fn write(heap: &Heap, location: SlabLocation) {
    heap.edit(location, &Edit { pieces: &[b"written"], ..Edit::default() }).expect("nobody else holds it");
}

fn take_large(heap: &Heap, bytes: u64) -> Vec<SlabLocation> {
    heap.grant(bytes).expect("there is room");
    let backed = heap.back_shape(Shape::Run(bytes)).expect("there is room");
    backed.locations().iter().for_each(|segment| write(heap, *segment));
    backed.locations().to_vec()
}

/// A whole pass; returns the bytes that it gave back.
fn pass(heap: &Heap, depth: ReclaimDepth) -> u64 {
    let mut bytes = 0;
    for _ in 0..100_000 {
        let slice = heap.reclaim_for_pressure_slice(depth);
        assert!(slice.reclaimed_bytes <= 4 << 20, "{slice:?} is more than a slice");
        bytes += slice.reclaimed_bytes;
        if slice.is_done {
            heap.check();
            return bytes;
        }
    }
    panic!("a pass has an end");
}

fn totals(heap: &Heap) -> Vec<u64> {
    heap.stats().classes.iter().map(|class| class.total).collect()
}

#[test]
fn gentle_leaves_what_was_there_at_start_and_aggressive_what_is_in_use() {
    let heap = heap(64 << 20);
    let before = heap.stats();
    let slabs: Vec<_> = SIZES.into_iter().flat_map(|size| take(&heap, size, 12)).collect();
    let large = take_large(&heap, 6 << 20);
    let kept = take(&heap, 64 << 10, 1);
    slabs.into_iter().chain(large).for_each(|slab| heap.free(slab));
    let busy = heap.stats();
    let bytes = pass(&heap, ReclaimDepth::Gentle);
    let after = heap.stats();
    assert_eq!(totals(&heap), [u64::from(INITIAL); 4]);
    assert_eq!(after.pool_size_bytes, before.pool_size_bytes, "large blocks keep nothing");
    assert_eq!(busy.pool_size_bytes - after.pool_size_bytes, bytes);
    assert_eq!(pass(&heap, ReclaimDepth::Gentle), 0, "a second pass finds nothing");
    pass(&heap, ReclaimDepth::Aggressive);
    assert_eq!(totals(&heap), [0, 0, 1, 0]);
    let stats = heap.stats();
    assert_eq!((stats.pool_size_bytes, stats.committed_bytes), (64 << 10, 64 << 10));
    let pressed = stats.reclaim.slices[ReclaimAction::Pressure as usize];
    assert!(pressed > 0 && stats.reclaim.slices.iter().sum::<u64>() == pressed, "{:?}", stats.reclaim);
    assert_eq!(stats.reclaim.bytes, busy.pool_size_bytes - (64 << 10));
    assert_eq!(heap.in_use_bytes(), 64 << 10);
    kept.into_iter().for_each(|slab| heap.free(slab));
}

#[test]
fn what_waits_to_be_zeroed_is_zeroed_first_and_goes_too() {
    let heap = heap(64 << 20);
    take_large(&heap, 20 << 20).into_iter().for_each(|segment| heap.free_unscrubbed(segment));
    assert!(heap.has_unscrubbed());
    assert!(pass(&heap, ReclaimDepth::Gentle) >= 20 << 20);
    assert!(!heap.has_unscrubbed());
    assert_eq!(heap.stats().large.held_bytes(), 0);
}

#[test]
fn what_adaptation_kept_beyond_the_start_is_given_up() {
    let heap = heap(64 << 20);
    let slabs = take(&heap, 4096, 1000);
    heap.sample_use();
    let roomy = Some(crate::units::Factor::thousandths(900));
    heap.end_adaptive_interval(roomy);
    while heap.keep_ready_slice(roomy) {}
    assert!(heap.stats().classes[1].kept > 1000);
    pass(&heap, ReclaimDepth::Gentle);
    let stats = heap.stats().classes[1];
    assert_eq!((stats.kept, stats.total, stats.used), (u64::from(INITIAL), 1000, 1000));
    assert!(!heap.keep_ready_slice(roomy), "and is not made ready again");
    slabs.into_iter().for_each(|slab| heap.free(slab));
}

#[test]
fn nothing_grows_while_the_caller_forbids_it() {
    let heap = heap(64 << 20);
    let roomy = Some(crate::units::Factor::thousandths(900));
    take(&heap, 4096, 1000);
    heap.sample_use();
    heap.end_adaptive_interval(None);
    assert_eq!(heap.stats().classes[1].kept, u64::from(INITIAL));
    heap.sample_use();
    heap.end_adaptive_interval(roomy);
    let before = heap.stats().classes[1];
    assert!(before.kept > before.total, "some are to be made ready");
    while heap.keep_ready_slice(None) {}
    assert_eq!(heap.stats().classes[1].total, before.total);
}

#[test]
fn readers_keep_their_slabs_and_their_bytes_while_all_around_them_goes() {
    let heap = heap(64 << 20);
    let slabs = take(&heap, 1000, 20_000);
    let pins: Vec<_> = slabs.iter().step_by(1000).map(|slab| Pin::new(&heap, *slab).expect("held")).collect();
    slabs.into_iter().for_each(|slab| heap.free(slab));
    pass(&heap, ReclaimDepth::Aggressive);
    let stats = heap.stats();
    assert_eq!((stats.classes[0].total, stats.draining_bytes), (20, 20_000));
    assert!(stats.committed_bytes <= 20 * 2 * page_size(), "{} bytes", stats.committed_bytes);
    for pin in pins {
        let bytes: Vec<u8> = Arc::new(pin).read(0..7).flatten().collect();
        assert_eq!(bytes, b"written");
    }
    assert_eq!(pass(&heap, ReclaimDepth::Aggressive), 20_000);
    assert_eq!(heap.stats().pool_size_bytes, 0);
}

#[test]
fn another_depth_begins_anew_and_the_deeper_one_leaves_nothing_of_what_was_left() {
    let heap = heap(64 << 20);
    take(&heap, 1 << 20, 20).into_iter().for_each(|slab| heap.free(slab));
    for _ in 0..3 {
        assert!(!heap.reclaim_for_pressure_slice(ReclaimDepth::Gentle).is_done);
    }
    pass(&heap, ReclaimDepth::Aggressive);
    assert_eq!(totals(&heap), [0; 4]);
}

#[test]
fn a_system_that_takes_nothing_back_ends_the_pass_and_loses_nothing() {
    let heap = heap(64 << 20);
    let slabs: Vec<_> = SIZES.into_iter().flat_map(|size| take(&heap, size, 12)).collect();
    slabs.into_iter().chain(take_large(&heap, 6 << 20)).for_each(|slab| heap.free(slab));
    let before = heap.stats().pool_size_bytes;
    faults::fail_on_after(0);
    let bytes = pass(&heap, ReclaimDepth::Aggressive);
    faults::disarm();
    assert_eq!((bytes, heap.stats().pool_size_bytes), (0, before));
    assert_eq!(pass(&heap, ReclaimDepth::Aggressive), before, "and it can be asked again");
}

#[test]
fn magazines_that_were_shrunk_are_empty_and_small_and_grow_with_misses() {
    let heap = heap(1 << 30);
    let class = heap.class_for(4096).expect("it has one").0;
    let busy = || {
        let slabs: Vec<_> = (0..300).map(|_| heap.allocate(class).expect("there is room")).collect();
        slabs.into_iter().for_each(|slab| heap.free(slab));
    };
    (0..5).for_each(|_| busy());
    let at = usize::from(class.0);
    let ready = |heap: &Heap| heap.racks.iter().map(|rack| rack.len(at)).sum::<u64>();
    assert!(ready(&heap) > 8 && heap.classes[at].depot().slabs() > 0);
    let (before, mut bytes) = (heap.stats(), 0);
    loop {
        let slice = heap.shrink_magazines_slice();
        bytes += slice.reclaimed_bytes;
        if slice.is_done {
            break;
        }
    }
    heap.check();
    assert_eq!((ready(&heap), heap.classes[at].depot().slabs(), heap.magazine_bytes()), (0, 0, 0));
    assert!(bytes > 0);
    let after = heap.stats();
    assert_eq!(
        (after.pool_size_bytes, after.classes[at].free),
        (before.pool_size_bytes, before.classes[at].free)
    );
    let places = |heap: &Heap| heap.racks.mine().open().places(at);
    assert_eq!(places(&heap), 4);
    busy();
    assert!(ready(&heap) > 4, "misses made it larger again");
    heap.check();
}

#[test]
fn of_very_many_magazines_a_slice_empties_a_part() {
    let sizes: Vec<u64> = (1..=200).map(|number| number * 64).collect();
    let config = Config { slab_sizes: sizes.clone(), max_pool_size: 1 << 30, ..Config::default() };
    let heap = Heap::new(&config).expect("the configuration is right");
    for size in sizes {
        let class = heap.class_for(size).expect("it has one").0;
        let slabs: Vec<_> = (0..200).map(|_| heap.allocate(class).expect("there is room")).collect();
        slabs.into_iter().for_each(|slab| heap.free(slab));
    }
    let (mut slices, ready) = (0, heap.magazine_bytes());
    loop {
        let slice = heap.shrink_magazines_slice();
        slices += 1;
        if slice.is_done {
            break;
        }
        assert!(slices > 1 || heap.magazine_bytes() > 0, "the first takes a part of {ready} bytes");
    }
    assert!(slices > 3, "{slices} slices");
    assert_eq!(heap.magazine_bytes(), 0);
    heap.check();
}
