//! Blocks: what their owner may do, and who else may not.

use super::*;
use crate::memory::{AccessError, Config, Edit, Pin};

fn heap(change: impl FnOnce(&mut Config)) -> Arc<Heap> {
    let mut config =
        Config { slab_sizes: vec![1000, 4096, 65_536], max_pool_size: 1 << 20, ..Config::default() };
    change(&mut config);
    Arc::new(Heap::new(&config).expect("a heap"))
}

fn location(block: &Block<'_>) -> SlabLocation {
    SlabLocation::new(block.class, block.slab.as_ref().expect("it lives").index())
}

#[test]
fn a_block_is_bytes_of_the_size_asked_for_and_free_and_zero_after() {
    let heap = heap(|_| ());
    for size in [1, 999, 1000, 1001, 4096, 65_536] {
        let mut block = heap.block(size).expect("there is room");
        assert_eq!(block.len() as u64, size);
        assert!(block.iter().all(|byte| *byte == 0), "{size}");
        block.fill(0xAB);
        assert!(block.iter().all(|byte| *byte == 0xAB));
        let place = location(&block);
        drop(block);
        assert_eq!(heap.in_use_bytes(), 0);
        let again = heap.block(size).expect("there is room");
        assert_eq!(location(&again), place, "the last one freed is the next one given out");
        assert!(again.iter().all(|byte| *byte == 0), "{size}");
    }
    heap.check();
}

#[test]
fn what_does_not_fit_is_an_error_that_says_why() {
    let heap = heap(|_| ());
    let refused = heap.block((1 << 20) + 1).map(|_| ()).expect_err("the limit is smaller");
    assert_eq!(refused, BlockError::TooLarge { size_bytes: (1 << 20) + 1, size_bytes_max: 1 << 20 });
    let all: Vec<_> = (0..16).map(|_| heap.block(65_536).expect("there is room")).collect();
    let refused = heap.block(1).map(|_| ()).expect_err("it is full");
    assert!(matches!(refused, BlockError::Memory(AllocateError::Exhausted { in_use_bytes: 0x10_0000, .. })));
    drop(all);
    heap.block(1).expect("there is room again").free().expect("undamaged");
}

#[test]
fn above_the_largest_class_a_block_is_whole_pages_in_one_piece() {
    let heap = heap(|_| ());
    for (size, taken) in [(65_537, 69_632), (500_000, 503_808), (1 << 20, 1 << 20)] {
        let mut block = heap.block(size).expect("there is room");
        assert_eq!((block.len() as u64, block.slab_bytes(), heap.in_use_bytes()), (size, taken, taken));
        assert!(block.iter().all(|byte| *byte == 0), "{size}");
        block.fill(0xAB);
        assert!(block.iter().all(|byte| *byte == 0xAB));
        block.free().expect("undamaged");
        assert_eq!(heap.in_use_bytes(), 0);
    }
    heap.check();
}

#[test]
fn a_large_block_is_had_wherever_the_memory_lies_free() {
    let heap = heap(|_| ());
    let mut small: Vec<_> = (0..1000).map(|_| heap.block(1000).expect("there is room")).collect();
    small.iter_mut().for_each(|block| block.fill(7));
    small.truncate(10);
    small.extend((0..5).map(|_| heap.block(4096).expect("there is room")));
    let held = heap.in_use_bytes();
    let large = heap.block((1 << 20) - held.next_multiple_of(page_size())).expect("all that is left");
    assert!(large.iter().all(|byte| *byte == 0));
    let refused = heap.block(70_000).map(|_| ());
    assert!(matches!(refused, Err(BlockError::Memory(AllocateError::Exhausted { .. }))), "{refused:?}");
    drop(large);
    let two = [heap.block(400_000).expect("there is room"), heap.block(400_000).expect("there is room")];
    drop((two, small));
    assert_eq!(heap.in_use_bytes(), 0);
    heap.check();
}

#[test]
fn a_large_block_is_zeroed_by_parts_and_watched_behind_its_end() {
    let heap = heap(|_| ());
    let mut block = heap.shared_block(900_001).expect("there is room");
    block.write(400_000, b"middle");
    let (slabs, index) = heap.slabs(location(&block));
    assert_eq!(slabs.record(index).dirty().count_ones(), 1, "one 32nd was written");
    let bytes = block.into_bytes();
    assert_eq!((&bytes[400_000..400_006], bytes.len()), (&b"middle"[..], 900_001));
    drop(bytes);
    let mut block = heap.block(900_001).expect("there is room");
    assert!(block.iter().all(|byte| *byte == 0));
    block[900_000] = 1;
    heap.poke(location(&block), 900_010);
    assert_eq!(block.free(), Err(Damaged { size_bytes: 900_001 }));
    assert_eq!(heap.stats().retired_bytes, 901_120);
    heap.check();
}

#[test]
fn parts_that_were_not_written_cost_no_zeroing_and_read_as_zeros() {
    let heap = heap(|_| ());
    let mut block = heap.block(65_536).expect("there is room");
    block.write(60_000, b"tail");
    let (slabs, index) = heap.slabs(location(&block));
    assert_eq!(slabs.record(index).dirty().count_ones(), 1, "one 32nd was written");
    assert_eq!((&block[60_000..60_004], block[0]), (&b"tail"[..], 0));
    block[0] = 1;
    assert_eq!(slabs.record(index).dirty(), u32::MAX, "a plain slice may be written anywhere");
}

#[test]
fn nobody_else_reads_writes_or_moves_an_owned_slab() {
    let heap = heap(|_| ());
    let mut block = heap.shared_block(1000).expect("there is room");
    block.fill(7);
    let place = location(&block);
    assert_eq!(Pin::new(&heap, place).map(drop), Err(AccessError::Owned));
    let edit = Edit { pieces: &[b"stray"], ..Edit::default() };
    assert_eq!(heap.edit(place, &edit), Err(AccessError::Owned));
    let (slabs, index) = heap.slabs(place);
    assert_eq!(slabs.copy_slab(index, index + 1), Err(AccessError::Owned));
    assert!(block.iter().all(|byte| *byte == 7));
}

#[test]
#[should_panic(expected = "a slab of another heap")]
fn a_slab_of_another_heap_is_refused() {
    let (one, other) = (heap(|_| ()), heap(|_| ()));
    let class = one.class_for(1000).expect("it fits").0;
    let _blocks = other.block(1000).expect("a slab at the same place");
    let slab = one.take_owned(class).expect("there is room");
    let _ = other.owned_bytes(class, &slab);
}

#[test]
fn a_write_beyond_the_end_retires_the_slab_and_says_so() {
    let heap = heap(|_| ());
    let mut block = heap.block(900).expect("there is room");
    block[899] = 1;
    heap.poke(location(&block), 905);
    assert_eq!(block.free(), Err(Damaged { size_bytes: 900 }));
    let stats = heap.stats();
    assert_eq!((stats.retired_bytes, stats.guard_violations[0]), (1000, 1));
    heap.block(900).expect("the others are as they were").free().expect("undamaged");
    heap.check();
}

#[test]
fn without_zeroing_the_next_owner_finds_what_the_last_one_left() {
    let heap = heap(|config| config.zero_on_free = false);
    let mut block = heap.block(1000).expect("there is room");
    block.fill(9);
    drop(block);
    let again = heap.block(1000).expect("there is room");
    assert!(again.iter().all(|byte| *byte == 9));
    drop(again);
    heap.check();
}

#[test]
fn a_shared_block_outlives_its_heap_goes_to_other_threads_and_becomes_bytes() {
    let heap = heap(|_| ());
    let mut block = heap.shared_block(4096).expect("there is room");
    drop(heap);
    let bytes = std::thread::spawn(move || {
        block.write(0, b"sent");
        block.into_bytes()
    })
    .join()
    .expect("no panic");
    let part = bytes.slice(..4);
    drop(bytes);
    assert_eq!(&part[..], b"sent");
}

#[test]
fn threads_that_own_blocks_see_nobody_elses_bytes_and_leave_nothing_behind() {
    let heap = heap(|_| ());
    std::thread::scope(|scope| {
        for thread in 1..=4_u8 {
            let heap = &heap;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(u64::from(thread));
                let mut held: Vec<Block<'_>> = Vec::new();
                for _ in 0..2000 {
                    if random.u8(..) < 128 && !held.is_empty() {
                        let block = held.swap_remove(random.usize(..held.len()));
                        assert!(block.iter().all(|byte| *byte == thread), "somebody else wrote here");
                    } else if let Ok(mut block) = heap.block(random.u64(1..5000)) {
                        assert!(block.iter().all(|byte| *byte == 0), "somebody else's bytes");
                        block.fill(thread);
                        held.push(block);
                    }
                }
            });
        }
    });
    assert_eq!(heap.in_use_bytes(), 0);
    heap.check();
}

#[test]
fn owned_slabs_are_left_where_they_are_when_their_neighbours_are_reclaimed() {
    let heap = heap(|config| config.initial_slabs_per_size = 0);
    let mut small: Vec<_> = (0..1000).map(|_| heap.block(1000).expect("there is room")).collect();
    small.iter_mut().enumerate().for_each(|(at, block)| block.fill(at.to_le_bytes()[0]));
    let places: Vec<_> = small.iter().map(|block| block.as_ptr()).collect();
    let mut at = 0;
    small.retain(|_| {
        at += 1;
        at % 4 == 0 || at > 996
    });
    let large: Vec<_> = std::iter::from_fn(|| heap.block(65_536).ok()).collect();
    assert!(large.len() >= 8, "{}", large.len());
    for block in &small {
        let first = block[0];
        assert!(block.iter().all(|byte| *byte == first));
        assert!(places.contains(&block.as_ptr()));
    }
    drop((small, large));
    heap.check();
}
