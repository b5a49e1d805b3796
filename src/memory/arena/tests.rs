//! Arenas against a twin of vectors: what their pieces are, what limits allow, and that all of it comes back.

use super::*;
use crate::memory::os::faults;
use crate::memory::{Config, SlabLocation};
use proptest::prelude::*;
use std::slice;

const LIMIT: u64 = 4 << 20;

fn heap(change: impl FnOnce(&mut Config)) -> Arc<Heap> {
    let slab_sizes = (10..=16).map(|power| 1 << power).collect();
    let mut config =
        Config { slab_sizes, max_pool_size: LIMIT, initial_slabs_per_size: 0, ..Config::default() };
    change(&mut config);
    Arc::new(Heap::new(&config).expect("a heap"))
}

fn config(initial_bytes: u64, limit_bytes: u64) -> ArenaConfig {
    ArenaConfig { initial_bytes, limit_bytes }
}

fn counted(size_bytes: usize) -> u64 {
    size_bytes.next_multiple_of(16) as u64
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(usize),
    Copy(usize),
    /// Values of eight bytes.
    Values(usize),
    /// What follows, up to its end, is done in a child.
    Child(ArenaConfig),
    End,
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![8 => 0_usize..200, 3 => 0_usize..5000, 1 => 0_usize..100_000];
    let limit = prop_oneof![1_u64..2000, 1_u64..200_000, Just(u64::MAX)];
    let child = (0_u64..20_000, limit).prop_map(|(initial, limit)| Step::Child(config(initial, limit)));
    prop_oneof![
        12 => size.prop_map(Step::Allocate),
        3 => (0_usize..3000).prop_map(Step::Copy),
        2 => (0_usize..300).prop_map(Step::Values),
        3 => child,
        2 => Just(Step::End),
        1 => Just(Step::Reset),
    ]
}

/// An arena and all that it lies in, itself last.
struct Twin<'a> {
    heap: &'a Heap,
    /// Limits, and what is used.
    arenas: Vec<(u64, u64)>,
    steps: slice::Iter<'a, Step>,
}

impl Twin<'_> {
    fn count(&mut self, bytes: u64) {
        self.arenas.iter_mut().for_each(|(_, used)| *used += bytes);
    }

    fn discount(&mut self, bytes: u64) {
        self.arenas.iter_mut().for_each(|(_, used)| *used -= bytes);
    }

    /// Of the innermost arena whose limit would be exceeded.
    fn refusal(&self, requested_bytes: u64) -> Option<ArenaError> {
        let full = self.arenas.iter().rev().find(|(limit, used)| requested_bytes > limit - used);
        full.map(|&(limit_bytes, used_bytes)| ArenaError::Limit { requested_bytes, used_bytes, limit_bytes })
    }

    /// Follows the steps in an arena to its end.
    fn follow<K: Kin>(&mut self, arena: &mut Arena<'_, K>) {
        while !self.follow_to_reset(arena) {
            let (used, allocations) = (arena.used_bytes(), arena.allocations());
            let freed = arena.reset();
            assert_eq!(freed, ArenaFreed { freed_bytes: used, freed_allocations: allocations });
            assert_eq!((arena.used_bytes(), arena.allocations()), (0, 0));
            self.discount(used);
        }
    }

    /// The same up to a reset; true: it was the end.
    fn follow_to_reset<K: Kin>(&mut self, arena: &Arena<'_, K>) -> bool {
        let mut pieces: Vec<(&mut [u8], u8)> = Vec::new();
        let is_over = loop {
            let fill = pieces.len().to_le_bytes()[0] | 1;
            let in_use = self.heap.in_use_bytes();
            let (made, before, size) = match self.steps.next() {
                None | Some(Step::End) => break true,
                Some(Step::Reset) => break false,
                Some(Step::Child(config)) => {
                    self.follow_child(arena, *config);
                    continue;
                }
                Some(Step::Allocate(size)) => (arena.allocate(*size), 0, *size),
                Some(Step::Copy(size)) => (arena.allocate_copy(&vec![fill; *size]), fill, *size),
                Some(Step::Values(count)) => {
                    let made = arena.allocate_slice(&vec![[fill; 8]; *count]);
                    (made.map(|values| values.as_flattened_mut()), fill, 8 * count)
                }
            };
            match (made, self.refusal(counted(size))) {
                (Ok(piece), None) => {
                    assert_eq!(piece.len(), size);
                    assert!(piece.iter().all(|byte| *byte == before) && piece.as_ptr().addr() % 16 == 0);
                    piece.fill(fill);
                    pieces.push((piece, fill));
                    self.count(counted(size));
                }
                (Err(error), Some(expected)) => assert_eq!(error, expected),
                (Err(ArenaError::Memory(AllocateError::Exhausted { .. })), None) => {
                    assert!(in_use + whole_pages(counted(size)) > LIMIT, "{size} bytes, {in_use} in use");
                }
                (made, expected) => panic!("{made:?}, and {expected:?} was expected"),
            }
            assert_eq!(Some(arena.used_bytes()), self.arenas.last().map(|(_, used)| *used));
            assert!(arena.chunk_bytes() <= self.heap.in_use_bytes());
        };
        assert_eq!(arena.allocations(), pieces.len() as u64);
        let mut ranges: Vec<_> = pieces.iter().map(|(piece, _)| piece.as_ptr_range()).collect();
        ranges.sort_by_key(|range| (range.start, range.end));
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "each byte is in one piece");
        for (piece, fill) in pieces {
            assert!(piece.iter().all(|byte| *byte == fill), "nobody else wrote here");
        }
        is_over
    }

    fn follow_child<K: Kin>(&mut self, parent: &Arena<'_, K>, config: ArenaConfig) {
        let in_use = self.heap.in_use_bytes();
        match parent.child(config) {
            Ok(mut child) => {
                assert!(self.arenas.len() < 16);
                self.arenas.push((config.limit_bytes, 0));
                self.follow(&mut child);
                let (_, used) = self.arenas.pop().expect("the child's");
                match used % 3 {
                    0 => drop(child),
                    1 => assert_eq!(child.commit().freed_bytes, used),
                    _ => assert_eq!(child.rollback().freed_bytes, used),
                }
                self.discount(used);
            }
            Err(ArenaError::TooDeep { depth_max }) => {
                assert_eq!((self.arenas.len(), depth_max), (16, 16));
            }
            Err(ArenaError::Memory(AllocateError::Exhausted { .. })) => {
                assert!(in_use + whole_pages(config.initial_bytes) > LIMIT);
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(Some(parent.used_bytes()), self.arenas.last().map(|(_, used)| *used));
    }
}

proptest! {
    #[test]
    fn an_arena_is_a_vector_of_vectors_that_all_end_at_once(
        (initial, limit) in (0_u64..100_000, prop_oneof![1_u64..1_000_000, Just(u64::MAX)]),
        steps in prop::collection::vec(step(), 0..200),
        is_zeroed in any::<bool>(),
    ) {
        let heap = heap(|config| config.zero_on_free = is_zeroed);
        if !is_zeroed {
            heap.block(4096).expect("there is room").fill(9); // what the first chunk finds
        }
        let mut arena = heap.arena(config(initial, limit)).expect("there is room");
        let mut twin = Twin { heap: &heap, arenas: vec![(limit, 0)], steps: steps.iter() };
        twin.follow(&mut arena);
        prop_assert_eq!(heap.in_use_bytes(), arena.chunk_bytes(), "children have nothing any more");
        prop_assert_eq!(arena.commit().freed_bytes, twin.arenas[0].1);
        prop_assert_eq!(heap.in_use_bytes(), 0);
        heap.check();
    }
}

#[test]
fn a_limit_is_exact_and_says_whose_it_is() {
    let heap = heap(|_| ());
    let arena = heap.arena(config(0, 100)).expect("there is room");
    for _ in 0..6 {
        arena.allocate(10).expect("16 bytes each");
    }
    let refused = ArenaError::Limit { requested_bytes: 16, used_bytes: 96, limit_bytes: 100 };
    assert_eq!(arena.allocate(1), Err(refused), "four bytes are left");
    assert_eq!(arena.allocate(0), Ok(&mut [][..]), "nothing fits in nothing");
    let child = arena.child(config(4096, 1000)).expect("it takes nothing");
    assert_eq!(child.allocate(1), Err(refused), "the parent's");
    let one = child.child(config(0, 10)).expect("it takes nothing");
    let own = ArenaError::Limit { requested_bytes: 16, used_bytes: 0, limit_bytes: 10 };
    assert_eq!(one.allocate(1), Err(own));
    assert_eq!((arena.chunk_bytes(), child.chunk_bytes(), heap.in_use_bytes()), (4096, 0, 4096));
}

#[test]
fn an_arena_that_can_never_be_is_an_error() {
    let heap = heap(|_| ());
    assert_eq!(heap.arena(config(4096, 0)).map(drop), Err(ArenaError::ZeroLimit));
    let refused = heap.arena(config(LIMIT + 1, u64::MAX)).map(drop);
    assert!(matches!(refused, Err(ArenaError::Memory(AllocateError::Exhausted { .. }))));
    let arena = heap.arena(ArenaConfig::default()).expect("there is room");
    for size in [usize::MAX, usize::MAX - 15, isize::MAX.unsigned_abs()] {
        let refused = arena.allocate(size).map(|_| ());
        assert!(matches!(refused, Err(ArenaError::Memory(AllocateError::Exhausted { .. }))), "{refused:?}");
    }
    arena.allocate(100).expect("it goes on");
    assert_eq!(arena.commit(), ArenaFreed { freed_bytes: 112, freed_allocations: 1 });
    assert_eq!(heap.in_use_bytes(), 0);
}

#[test]
fn a_reset_keeps_the_first_chunk_and_zeroes_it() {
    let heap = heap(|_| ());
    let mut arena = heap.arena(config(4096, u64::MAX)).expect("there is room");
    for round in 0..3 {
        for size in [1000, 3000, 5000, 100] {
            let piece = arena.allocate(size).expect("there is room");
            assert!(piece.iter().all(|byte| *byte == 0), "round {round}");
            piece.fill(7);
        }
        assert!(heap.in_use_bytes() > 4096);
        assert_eq!(arena.reset().freed_allocations, 4);
        assert_eq!((heap.in_use_bytes(), arena.chunk_bytes(), arena.used_bytes()), (4096, 4096, 0));
    }
    drop(arena);
    assert_eq!(heap.in_use_bytes(), 0);
    heap.check();
}

#[test]
fn an_arena_takes_little_more_of_the_heap_than_its_pieces() {
    let heap = heap(|config| config.max_pool_size = 64 << 20);
    for (pieces, initial, percent) in [(100_000, 4096, 115), (100_000, 1 << 20, 115), (100, 10_000, 123)] {
        let arena = heap.arena(config(initial, u64::MAX)).expect("there is room");
        for _ in 0..pieces {
            arena.allocate(100).expect("there is room");
        }
        let taken = heap.in_use_bytes();
        assert_eq!((taken, arena.used_bytes()), (arena.chunk_bytes(), pieces * 112));
        assert!(taken * 100 <= pieces * 100 * percent, "{taken} bytes for {pieces} pieces of 100");
    }
}

#[test]
fn further_chunks_are_an_eighth_of_the_first_and_no_longer_than_the_limit_leaves() {
    let heap = heap(|_| ());
    let arena = heap.arena(config(60_000, 100_000)).expect("there is room");
    let mut taken = vec![heap.in_use_bytes()];
    while arena.allocate(1000).is_ok() {
        if taken.last() != Some(&heap.in_use_bytes()) {
            taken.push(heap.in_use_bytes());
        }
    }
    assert_eq!(taken, [61_440, 69_632, 77_824, 86_016, 94_208, 102_400]);
    let small = heap.arena(config(60_000, 5000)).expect("there is room");
    assert_eq!(small.chunk_bytes(), 8192, "the limit, in whole pages");
}

#[test]
fn a_long_piece_leaves_what_is_left_of_the_chunk_before_to_those_that_follow() {
    let heap = heap(|_| ());
    let arena = heap.arena(config(16 << 10, u64::MAX)).expect("there is room");
    let first = arena.allocate(16).expect("there is room").as_ptr().addr();
    arena.allocate(64 << 10).expect("a chunk of its own");
    let second = arena.allocate(16).expect("there is room").as_ptr().addr();
    assert_eq!(second - first, 16);
    for _ in 2..1024 {
        arena.allocate(16).expect("of the first chunk");
    }
    assert_eq!(arena.chunk_bytes(), (16 << 10) + (64 << 10));
}

#[test]
fn where_the_heap_is_nearly_full_a_chunk_is_no_longer_than_it_must_be() {
    let heap = heap(|_| ());
    let arena = heap.arena(config(512 << 10, u64::MAX)).expect("there is room");
    arena.allocate(512 << 10).expect("the first chunk");
    let blocks: Vec<_> = std::iter::from_fn(|| heap.block(4096).ok()).collect();
    assert!(arena.allocate(1).is_err(), "not a page is left");
    drop(blocks);
    let left: Vec<_> = (0..(LIMIT - (512 << 10)) / 4096 - 1).map(|_| heap.block(4096)).collect();
    assert!(left.iter().all(Result::is_ok));
    arena.allocate(1).expect("one page is left");
    assert_eq!(heap.free_bytes(), 0);
}

#[test]
fn values_lie_where_their_type_wants_them() {
    let heap = heap(|_| ());
    let arena = heap.arena(ArenaConfig::default()).expect("there is room");
    let letter = arena.allocate_value('a').expect("there is room");
    let wide = arena.allocate_value(u128::MAX).expect("there is room");
    let pairs = arena.allocate_slice(&[(1_u8, 2_u64), (3, 4)]).expect("there is room");
    let words = arena.allocate_value([&*letter, &'b']).expect("there is room"); // even what is borrowed
    pairs[1].0 = 5;
    assert_eq!((&*wide, &*pairs, words[0], words[1]), (&u128::MAX, &[(1, 2), (5, 4)][..], &'a', &'b'));
    assert_eq!(arena.used_bytes(), 16 + 16 + 32 + 16);
    assert_eq!(arena.allocate_slice::<u64>(&[]), Ok(&mut [][..]));
}

#[test]
fn a_child_that_is_forgotten_keeps_its_memory_and_its_parent_goes_on() {
    let heap = heap(|_| ());
    let mut arena = heap.arena(config(4096, 10_000)).expect("there is room");
    let child = arena.child(config(4096, 10_000)).expect("there is room");
    let piece = child.allocate(1000).expect("there is room").as_ptr();
    std::mem::forget(child);
    let others = [arena.allocate(4000), arena.allocate(4000)].map(|piece| piece.map(|piece| piece.as_ptr()));
    assert!(others.iter().all(|other| other.is_ok_and(|other| other != piece)));
    assert!(matches!(arena.allocate(1000), Err(ArenaError::Limit { used_bytes: 9008, .. })));
    assert_eq!((arena.reset().freed_bytes, arena.used_bytes()), (8000, 1008));
    arena.allocate(4096).expect("there is room");
    drop(arena);
    assert_eq!(heap.in_use_bytes(), 4096, "the child's, for ever");
    heap.check();
}

#[test]
fn a_write_behind_the_last_piece_retires_its_chunk() {
    let heap = heap(|_| ());
    let arena = heap.arena(config(4096, u64::MAX)).expect("there is room");
    arena.allocate(100).expect("there is room").fill(1);
    let (class, _) = heap.class_for(4096).expect("it has a class");
    heap.poke(SlabLocation::new(class, 0), 115);
    drop(arena);
    let stats = heap.stats();
    assert_eq!((stats.guard_violations[0], stats.retired_bytes), (1, 4096));
    heap.check();
}

#[test]
fn a_shared_arena_outlives_its_heap_and_goes_to_other_threads() {
    fn is_send<T: Send>(arena: T) -> T {
        arena
    }
    let heap = heap(|_| ());
    let arena = is_send(heap.shared_arena(ArenaConfig::default()).expect("there is room"));
    let borrowed = is_send(heap.arena(ArenaConfig::default()).expect("there is room"));
    drop(borrowed);
    arena.allocate(100).expect("there is room").fill(1);
    let weak = Arc::downgrade(&heap);
    drop(heap);
    let freed = std::thread::spawn(move || {
        arena.allocate(100).expect("there is room").fill(2);
        arena.rollback()
    });
    assert_eq!(freed.join().ok(), Some(ArenaFreed { freed_bytes: 224, freed_allocations: 2 }));
    assert!(weak.upgrade().is_none());
}

#[test]
fn threads_with_arenas_of_their_own_see_nobody_elses_bytes_and_leave_nothing_behind() {
    let heap = heap(|_| ());
    std::thread::scope(|scope| {
        for thread in 1..=4_u8 {
            let heap = &heap;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(u64::from(thread));
                for _ in 0..200 {
                    let limit = random.u64(1..200_000);
                    let Ok(arena) = heap.arena(config(random.u64(0..50_000), limit)) else { continue };
                    let mut pieces = Vec::new();
                    while let Ok(piece) = arena.allocate(random.usize(1..5000)) {
                        assert!(piece.iter().all(|byte| *byte == 0), "somebody else's bytes");
                        piece.fill(thread);
                        pieces.push(piece);
                    }
                    let mut bytes = pieces.iter().flat_map(|piece| piece.iter());
                    assert!(bytes.all(|byte| *byte == thread), "somebody else wrote here");
                }
            });
        }
    });
    assert_eq!(heap.in_use_bytes(), 0);
    heap.check();
}

/// What one arena, its child and a reset do; returns how often the system refused.
fn work(heap: &Heap) -> u64 {
    let mut failures = 0;
    let mut arena = loop {
        match heap.arena(config(8192, u64::MAX)) {
            Ok(arena) => break arena,
            Err(ArenaError::Memory(AllocateError::System { .. })) if failures < 3 => failures += 1,
            Err(ArenaError::Memory(AllocateError::System { .. })) => return failures,
            Err(error) => panic!("{error}"),
        }
    };
    for size in [100, 8100, 20_000, 300_000, 5] {
        for child in [None, arena.child(config(4096, u64::MAX)).ok()] {
            let made = match &child {
                Some(child) => child.allocate(size),
                None => arena.allocate(size),
            };
            match made {
                Ok(piece) => piece.fill(1),
                Err(ArenaError::Memory(AllocateError::System { .. })) => failures += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    arena.reset();
    if let Ok(piece) = arena.allocate(5000) {
        assert!(piece.iter().all(|byte| *byte == 0));
    }
    failures
}

#[test]
fn a_system_that_fails_at_any_call_is_an_error_value_and_nothing_leaks() {
    for fail in [faults::fail_after as fn(u64), faults::fail_on_after] {
        for nth in 0.. {
            let heap = heap(|_| ());
            fail(nth);
            let failures = work(&heap);
            let is_over = faults::disarm();
            assert_eq!(heap.in_use_bytes(), 0, "call {nth}");
            heap.check();
            assert_eq!(work(&heap), 0, "the next calls work");
            assert_eq!(heap.in_use_bytes(), 0);
            if is_over {
                assert_eq!(failures, 0, "nothing failed by itself");
                assert!(nth > 2, "there is more to fail than {nth} calls");
                break;
            }
        }
    }
}
