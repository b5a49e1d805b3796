//! Blocks of very many pieces: taken in parts, and freed in one step.

use super::*;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

const PIECES: u64 = 2048;

/// A pool of single pages, every other of which is free, and those that are not.
fn in_pieces(extra_bytes: u64) -> (Arc<Heap>, Vec<SlabLocation>) {
    let heap = Arc::new(heap(PIECES * page_size() + extra_bytes));
    let pieces: Vec<_> = (0..PIECES).flat_map(|_| take(&heap, page_size())).collect();
    pieces.iter().step_by(2).for_each(|piece| heap.free(*piece));
    let used = pieces.into_iter().skip(1).step_by(2).collect();
    (heap, used)
}

#[test]
fn a_block_of_many_pieces_leaves_use_in_one_step_that_is_told_once_and_is_zeroed_in_few_slices() {
    let (heap, _used) = in_pieces(0);
    let block = take(&heap, PIECES / 2 * page_size());
    assert_eq!(block.len() as u64, PIECES / 2);
    block.iter().step_by(3).for_each(|segment| write(&heap, *segment, 0, b"secret"));
    heap.hold(block[7]).expect("it is live");
    heap.begin_draining(block[9]);
    let told = Arc::new(AtomicU64::new(0));
    let bell = Arc::clone(&told);
    let weak = Arc::downgrade(&heap);
    heap.when_room_is_freed(move || {
        let heap = Weak::upgrade(&weak).expect("it rings");
        assert_eq!(heap.in_use_bytes(), (PIECES / 2 + 1) * page_size(), "all of it, but what is held");
        bell.fetch_add(1, Ordering::Relaxed);
    });
    heap.free_all_unscrubbed(block.iter().copied());
    assert_eq!((told.load(Ordering::Relaxed), heap.draining_bytes()), (1, 0));
    heap.check();
    let mut slices = 0;
    while heap.scrub_slice() {
        slices += 1;
        heap.check();
    }
    assert!((4..=8).contains(&slices), "{slices} slices");
    assert_eq!(heap.stats().large.free_bytes, (PIECES / 2 - 1) * page_size());
}

#[test]
fn a_block_in_parts_takes_held_pages_and_fresh_ones_and_its_bytes_read_as_zeros() {
    for extra_pages in [0, 300] {
        let (heap, used) = in_pieces(extra_pages * page_size());
        let bytes = (PIECES / 2 + extra_pages) * page_size();
        let before = heap.stats().large;
        let block = take(&heap, bytes);
        assert_eq!(lengths(&heap, &block).iter().sum::<u64>(), bytes);
        let stats = heap.stats();
        assert_eq!((stats.in_use_bytes, stats.large.free_bytes), (heap.limit_bytes(), 0));
        assert_eq!(stats.large.allocations, before.allocations + 1);
        assert_eq!(stats.large.free_list_hits, before.free_list_hits + u64::from(extra_pages == 0));
        assert!(block.iter().all(|segment| !heap.is_written(*segment)));
        heap.check();
        heap.free_all_unscrubbed(block.iter().copied());
        while heap.scrub_slice() {}
        free(&heap, &used);
        assert_eq!((heap.in_use_bytes(), heap.stats().large.free_runs), (0, 1));
        heap.check();
    }
}

#[test]
fn a_block_in_parts_whose_fresh_pages_the_system_refuses_gives_all_parts_back() {
    use super::super::super::os::faults;
    let (heap, _used) = in_pieces(300 * page_size());
    let before = heap.stats();
    let bytes = (PIECES / 2 + 300) * page_size();
    faults::fail_after(0);
    let outcome = try_take(&heap, bytes);
    let was_ahead = faults::disarm();
    assert!(!was_ahead && matches!(outcome, Err(AllocateError::System { .. })), "{outcome:?}");
    let after = heap.stats();
    assert_eq!((after.in_use_bytes, after.pool_size_bytes), (before.in_use_bytes, before.pool_size_bytes));
    assert_eq!(after.large.free_bytes, before.large.free_bytes);
    heap.check();
    assert!(try_take(&heap, bytes).is_ok());
}
