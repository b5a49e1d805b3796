//! Compaction by itself: a class under random use against a naive model, with an owner that moves, or does not.

use super::*;
use crate::memory::{ClassConfig, Config, Edit, Pin, ReclaimAction, page_size};
use parking_lot::Mutex;
use proptest::prelude::*;
use std::sync::Arc;

/// Blocks by owner: where each lies, under one lock, as a pool has it under many.
#[derive(Debug, Default)]
struct Owner {
    blocks: Mutex<Vec<Option<SlabLocation>>>,
}

impl Owner {
    /// An owner of blocks of a heap of one or two classes.
    fn of(limit: u64, sizes: &[u64]) -> (Arc<Heap>, Arc<Owner>) {
        let config = Config {
            slab_sizes: sizes.to_vec(),
            max_pool_size: limit,
            initial_slabs_per_size: 0,
            ..Config::default()
        };
        Owner::of_configured(&config)
    }

    fn of_configured(config: &Config) -> (Arc<Heap>, Arc<Owner>) {
        let heap = Arc::new(Heap::new(config).expect("the configuration is right"));
        let owner = Arc::new(Owner::default());
        let (weak, its) = (Arc::downgrade(&heap), Arc::clone(&owner));
        heap.when_moving(move |number, from, to| {
            let heap = weak.upgrade().expect("it asks");
            let place = &mut its.blocks.lock()[number as usize - 1];
            if *place != Some(from) || heap.copy_slab(from, to).is_err() {
                return false;
            }
            heap.set_owner(to, number);
            *place = Some(to);
            true
        });
        (heap, owner)
    }

    fn allocate(&self, heap: &Heap, size_bytes: u64) -> Option<usize> {
        let location = heap.allocate(heap.class_for(size_bytes).expect("a class holds it").0).ok()?;
        let mut blocks = self.blocks.lock();
        blocks.push(Some(location));
        heap.set_owner(location, u32::try_from(blocks.len()).expect("few"));
        Some(blocks.len() - 1)
    }

    fn place(&self, block: usize) -> SlabLocation {
        self.blocks.lock()[block].expect("it lives")
    }

    fn free(&self, heap: &Heap, block: usize) {
        let location = self.blocks.lock()[block].take().expect("it lives");
        heap.free(location);
    }

    fn write(&self, heap: &Heap, block: usize, byte: u8) -> Result<(), AccessError> {
        let location = self.place(block);
        let bytes = heap.slab_bytes(location);
        let length = usize::try_from(bytes).expect("small");
        heap.edit(
            location,
            &Edit { pieces: &[&vec![byte; length]], writes: Some(u64::from(byte)), ..Edit::default() },
        )
    }

    fn shows(&self, heap: &Arc<Heap>, block: usize, byte: u8) -> bool {
        let location = self.place(block);
        let bytes = heap.slab_bytes(location);
        let pin = Arc::new(Pin::new(heap, location).expect("it lives"));
        heap.writes(location) == u64::from(byte)
            && pin.read(0..bytes).all(|part| part.iter().all(|seen| *seen == byte))
    }
}

/// Committed bytes beyond the slabs that are held, in the smallest class.
fn excess(heap: &Heap) -> u64 {
    let class = &heap.stats().classes[0];
    class.committed_bytes.saturating_sub(class.total * class.slab_size_bytes)
}

/// Fills the heap with small blocks, frees all but every fourth, and takes all the rest for large ones.
fn checkerboard(size: u64, small: u64) {
    let large = 256 << 10;
    let limit = 4 << 20;
    let (heap, owner) = Owner::of(limit, &[size, large]);
    let mut live = Vec::new();
    for number in 0..small {
        let block = owner.allocate(&heap, size).expect("there is room");
        owner.write(&heap, block, number.to_le_bytes()[0] | 1).expect("nobody reads it");
        live.push((block, number.to_le_bytes()[0] | 1));
    }
    let mut at = 0;
    live.retain(|(block, _)| {
        at += 1;
        if at % 4 != 0 {
            owner.free(&heap, *block);
        }
        at % 4 == 0
    });
    let fitting = heap.free_bytes() / large;
    for _ in 0..fitting {
        owner.allocate(&heap, large).expect("what is free is enough");
        heap.check();
    }
    assert!(owner.allocate(&heap, large).is_none());
    assert!(excess(&heap) < page_size(), "{} bytes of {size}", excess(&heap));
    assert!(heap.stats().committed_bytes <= limit + page_size());
    assert!(heap.stats().compaction.moves > 0 && heap.stats().compaction.kept == 0);
    assert!(live.iter().all(|(block, byte)| owner.shows(&heap, *block, *byte)));
}

#[test]
fn three_of_four_small_blocks_give_their_pages_to_large_ones() {
    for size in [1000, 1024, 3 << 10, 5000, 6 << 10, 20_008] {
        checkerboard(size, (4 << 20) / size);
    }
}

#[test]
fn a_block_that_is_read_stays_and_costs_two_pages_at_most_until_nobody_reads_it() {
    let (heap, owner) = Owner::of(1 << 20, &[1024, 256 << 10]);
    let blocks: Vec<usize> = (0..1024).map(|_| owner.allocate(&heap, 1024).expect("there is room")).collect();
    let read: Vec<usize> = [900, 500, 1000].into_iter().map(|at| blocks[at]).collect();
    read.iter().for_each(|block| owner.write(&heap, *block, 7).expect("nobody reads it"));
    let pins: Vec<_> = read.iter().map(|block| Pin::new(&heap, owner.place(*block)).expect("live")).collect();
    let places: Vec<_> = read.iter().map(|block| owner.place(*block)).collect();
    for block in &blocks {
        if !read.contains(block) {
            owner.free(&heap, *block);
        }
    }
    for _ in 0..3 {
        owner.allocate(&heap, 256 << 10).expect("what is free is enough");
        heap.check();
    }
    assert_eq!(read.iter().map(|block| owner.place(*block)).collect::<Vec<_>>(), places, "nobody moved them");
    assert!(excess(&heap) <= (1 + 2 * 3) * page_size(), "{} bytes", excess(&heap));
    assert!(heap.stats().compaction.kept > 0);
    drop(pins);
    heap.end_idle_interval();
    while heap.reclaim_idle_slice() {}
    heap.end_idle_interval();
    while heap.reclaim_idle_slice() {}
    heap.check();
    assert!(excess(&heap) < page_size(), "{} bytes: the gaps are closed", excess(&heap));
    assert!(read.iter().all(|block| owner.shows(&heap, *block, 7)));
}

#[test]
fn without_anybody_who_moves_them_free_slabs_leave_all_the_same() {
    let config = Config { slab_sizes: vec![1024, 256 << 10], max_pool_size: 1 << 20, ..Config::default() };
    let heap = Heap::new(&config).expect("the configuration is right");
    let (small, _) = heap.class_for(1).expect("a class");
    let blocks: Vec<_> = (0..1024).map(|_| heap.allocate(small).expect("there is room")).collect();
    blocks.iter().step_by(2).for_each(|block| heap.free(*block));
    heap.allocate(heap.class_for(256 << 10).expect("a class").0).expect("512 KiB are free");
    heap.check();
    assert_eq!(heap.stats().compaction, CompactionStats::default());
}

#[test]
fn slabs_beyond_those_that_a_class_keeps_leave_as_whole_pages() {
    let classes =
        [(1024, ClassConfig { initial: Some(0), max_free: Some(4), ..ClassConfig::default() })].into();
    let config = Config { slab_sizes: vec![1024], max_pool_size: 1 << 20, classes, ..Config::default() };
    let (heap, owner) = Owner::of_configured(&config);
    let blocks: Vec<usize> = (0..1000).map(|_| owner.allocate(&heap, 1024).expect("there is room")).collect();
    for block in blocks.iter().step_by(2) {
        owner.free(&heap, *block);
    }
    let class = heap.stats().classes[0];
    assert_eq!((class.used, class.free), (500, 4));
    assert!(excess(&heap) < page_size());
    assert_eq!(heap.stats().reclaim.slices[1], heap.stats().reclaim.slices.iter().sum::<u64>());
    heap.check();
}

#[test]
fn slabs_that_a_class_always_keeps_give_their_pages_back_once_they_lie_idle() {
    let config = Config { slab_sizes: vec![64 << 10], max_pool_size: 4 << 20, ..Config::default() };
    let heap = Arc::new(Heap::new(&config).expect("the configuration is right"));
    let resident = || {
        let (start, length) = heap.classes[0].slabs().address_range();
        crate::memory::tests::resident_kib(start..start + length)
    };
    let (class, _) = heap.class_for(1).expect("a class");
    let blocks: Vec<_> = (0..40).map(|_| heap.allocate(class).expect("there is room")).collect();
    for block in &blocks {
        heap.edit(*block, &Edit { pieces: &[&[7; 64 << 10]], ..Edit::default() }).expect("nobody reads it");
    }
    let work = || {
        heap.end_idle_interval();
        while heap.reclaim_idle_slice() {}
        heap.check();
    };
    work();
    assert_eq!(resident(), 40 * 64, "all of them are in use");
    blocks.into_iter().for_each(|block| heap.free(block));
    work();
    assert_eq!(resident(), 40 * 64, "they were in use a moment ago");
    work();
    assert_eq!((resident(), heap.stats().classes[0].free), (0, 10), "and now not for an interval");
}

#[test]
fn a_sweep_whose_free_slabs_another_gave_back_goes_on_below() {
    let (heap, owner) = Owner::of(1 << 20, &[1024]);
    let class = heap.class_for(1024).expect("a class").0;
    let blocks: Vec<usize> = (0..1024).map(|_| owner.allocate(&heap, 1024).expect("there is room")).collect();
    blocks.iter().step_by(2).for_each(|block| owner.free(&heap, *block));
    let _closed = heap.close_magazines();
    let mut sweep = Sweep::new(10);
    assert!(heap.clear_top(class, &mut sweep));
    assert_eq!(sweep.cleared, 10);
    // A free that leaves the class with more than it keeps does this, on another thread.
    heap.reclaim_slice(class, &mut Sweep::new(10), ReclaimAction::Surplus)
        .expect("the system takes pages back");
    let gives_back = |sweep: &mut Sweep| {
        heap.reclaim_slice(class, sweep, ReclaimAction::Backing).expect("the system takes pages back")
    };
    let given_back: u64 = (0..10).map(|_| gives_back(&mut sweep)).sum();
    assert_eq!(given_back, 10 << 10, "{sweep:?}");
    heap.check();
}

#[test]
fn a_slice_gives_back_few_enough_slabs_however_small_they_are() {
    for size in [8, 64] {
        let (heap, owner) = Owner::of(1 << 20, &[size]);
        let class = heap.class_for(size).expect("a class").0;
        let slabs = 16_384;
        let blocks: Vec<usize> =
            (0..slabs).map(|_| owner.allocate(&heap, size).expect("there is room")).collect();
        blocks.iter().for_each(|block| owner.free(&heap, *block));
        let mut sweep = Sweep::new(slabs);
        for slices in 1.. {
            let bytes = heap
                .reclaim_slice(class, &mut sweep, ReclaimAction::Idle)
                .expect("the system takes pages back");
            assert!(bytes <= 4096 * size, "{bytes} bytes in one slice");
            if sweep.wanted == 0 {
                break;
            }
            assert!(slices < 10, "{sweep:?}");
        }
        let gaps = heap.classes[0].lock().gap_slabs();
        assert_eq!((heap.stats().pool_size_bytes, gaps), (0, 0));
        heap.check();
    }
}

#[derive(Debug, Clone)]
enum Action {
    Allocate,
    Free(usize),
    Write(usize, u8),
    Pin(usize),
    Unpin(usize),
    /// Memory for the other class, and back.
    Large(u64),
    Idle,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => Just(Action::Allocate),
        4 => any::<usize>().prop_map(Action::Free),
        3 => (any::<usize>(), 1..=255_u8).prop_map(|(at, byte)| Action::Write(at, byte)),
        1 => any::<usize>().prop_map(Action::Pin),
        1 => any::<usize>().prop_map(Action::Unpin),
        2 => (1_u64..4).prop_map(Action::Large),
        1 => Just(Action::Idle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The model: a list of live blocks with the byte that fills each, and how many of them are read.
    #[test]
    fn blocks_keep_their_bytes_wherever_they_are_moved(
        size in prop_oneof![Just(1000_u64), Just(1024), Just(3 << 10), Just(5000), Just(4096)],
        actions in prop::collection::vec(action(), 1..150),
    ) {
        let large = 64 << 10;
        let limit = 256 << 10;
        let (heap, owner) = Owner::of(limit, &[size, large]);
        let mut live: Vec<(usize, u8)> = Vec::new();
        let mut pins: Vec<(usize, Pin)> = Vec::new();
        let (mut used, mut pinned_ever) = (0, false);
        for action in actions {
            match action {
                Action::Allocate => for _ in 0..8 {
                    let made = owner.allocate(&heap, size);
                    prop_assert_eq!(made.is_some(), used + size <= limit);
                    if let Some(block) = made {
                        prop_assert!(owner.shows(&heap, block, 0));
                        live.push((block, 0));
                        used += size;
                    }
                },
                Action::Free(at) => for step in 0..6 {
                    let unread: Vec<usize> = (0..live.len()).filter(|at| pins.iter().all(|pin| pin.0 != live[*at].0)).collect();
                    let Some(at) = unread.get((at.wrapping_add(step * 7)) % unread.len().max(1)) else { break };
                    owner.free(&heap, live.remove(*at).0);
                    used -= size;
                },
                Action::Write(at, byte) if !live.is_empty() => {
                    let at = at % live.len();
                    let is_read = pins.iter().any(|pin| pin.0 == live[at].0);
                    prop_assert_eq!(owner.write(&heap, live[at].0, byte).is_err(), is_read);
                    if !is_read { live[at].1 = byte; }
                }
                Action::Pin(at) if !live.is_empty() => {
                    let block = live[at % live.len()].0;
                    pins.push((block, Pin::new(&heap, owner.place(block)).expect("live")));
                    pinned_ever = true;
                }
                Action::Unpin(at) if !pins.is_empty() => drop(pins.swap_remove(at % pins.len())),
                Action::Large(count) => {
                    let count = count.min((limit - used) / large);
                    let made: Vec<usize> = (0..count).map(|_| owner.allocate(&heap, large).expect("there is room")).collect();
                    heap.check();
                    if !pinned_ever { prop_assert!(excess(&heap) < page_size()); }
                    made.into_iter().for_each(|block| owner.free(&heap, block));
                    prop_assert!(live.iter().all(|(block, byte)| owner.shows(&heap, *block, *byte)));
                }
                Action::Idle => {
                    heap.end_idle_interval();
                    while heap.reclaim_idle_slice() {}
                    if pins.is_empty() && heap.stats().pool_size_bytes + size <= limit {
                        prop_assert!(excess(&heap) < page_size(), "gaps are closed: {}", excess(&heap));
                    }
                }
                _ => {}
            }
            heap.check();
            prop_assert_eq!(heap.in_use_bytes(), used);
        }
        prop_assert!(live.iter().all(|(block, byte)| owner.shows(&heap, *block, *byte)));
    }
}
