//! Large blocks: whole, in pieces, in one piece; freed, idle, damaged; and beside slabs under one limit.

mod many;

use super::super::segment::AccessError;
use super::super::{Backed, Config, Edit, Fit, HugePages, Shape};
use super::*;
use proptest::prelude::*;

const MEBI: u64 = 1 << 20;

fn config(limit: u64) -> Config {
    Config { slab_sizes: vec![4096, 65_536], max_pool_size: limit, ..Config::default() }
}

fn heap(limit: u64) -> Heap {
    let config = Config { initial_slabs_per_size: 0, ..config(limit) };
    Heap::new(&config).expect("the configuration is right")
}

fn take(heap: &Heap, bytes: u64) -> Vec<SlabLocation> {
    try_take(heap, bytes).expect("there is room")
}

fn try_take(heap: &Heap, bytes: u64) -> Result<Vec<SlabLocation>, AllocateError> {
    heap.grant(bytes)?;
    match heap.back_shape(Shape::Run(bytes)) {
        Ok(Backed::Run(segments)) => Ok(segments),
        Ok(Backed::Slab(_)) => panic!("a run was asked for"),
        Err(error) => {
            heap.give_back(bytes);
            Err(error)
        }
    }
}

fn write(heap: &Heap, segment: SlabLocation, offset: u64, bytes: &[u8]) {
    heap.edit(segment, &Edit { offset, pieces: &[bytes], ..Edit::default() }).expect("nobody else holds it");
}

fn lengths(heap: &Heap, segments: &[SlabLocation]) -> Vec<u64> {
    segments.iter().map(|segment| heap.slab_bytes(*segment)).collect()
}

fn free(heap: &Heap, segments: &[SlabLocation]) {
    segments.iter().for_each(|segment| heap.free(*segment));
}

#[test]
fn a_large_block_is_segments_of_4_mebibytes_and_a_rest_that_counts_in_whole_pages() {
    let heap = heap(64 * MEBI);
    assert_eq!(heap.shape_for(65_536), Some((Shape::Slab(SizeClass(1)), 65_536)));
    let (shape, bytes) = heap.shape_for(9 * MEBI + 1).expect("a number says it");
    assert_eq!((shape, bytes), (Shape::Run(bytes), 9 * MEBI + page_size()));
    let segments = take(&heap, bytes);
    assert_eq!(lengths(&heap, &segments), [4 * MEBI, 4 * MEBI, MEBI + page_size()]);
    assert_eq!((heap.in_use_bytes(), heap.stats().pool_size_bytes), (bytes, bytes));
    assert!(segments.iter().all(|segment| heap.writes(*segment) == 0));
    heap.check();
    free(&heap, &segments);
    let stats = heap.stats();
    assert_eq!((stats.in_use_bytes, stats.pool_size_bytes, stats.large.free_bytes), (0, bytes, bytes));
    assert_eq!((stats.large.free_runs, stats.large.largest_free_bytes), (1, bytes), "neighbours are joined");
    assert!(heap.shape_for(u64::MAX).is_none());
    heap.check();
}

#[test]
fn freed_pages_are_zeros_and_are_had_again_in_place() {
    let heap = heap(64 * MEBI);
    let segments = take(&heap, 8 * MEBI);
    write(&heap, segments[0], 100, b"secret");
    write(&heap, segments[1], 4 * MEBI - 6, b"secret");
    free(&heap, &segments);
    let again = take(&heap, 8 * MEBI);
    assert_eq!(again, segments, "the run that fits");
    for segment in &again {
        let (slabs, index) = heap.slabs(*segment);
        let access = slabs.record(index).begin_write().expect("ours");
        assert!(slabs.reads_zero(index, &access, 0..4 * MEBI));
        access.end(0);
    }
    let stats = heap.stats().large;
    assert_eq!((stats.allocations, stats.free_list_hits, stats.frees), (2, 1, 2));
    free(&heap, &again);
    heap.check();
}

#[test]
fn no_block_is_refused_because_free_memory_lies_in_pieces() {
    let heap = heap(16 * MEBI);
    let pieces: Vec<_> = (0..256).map(|_| take(&heap, 65_536)).collect();
    assert!(try_take(&heap, 4096).is_err(), "it is full");
    for pieces in pieces.iter().step_by(2) {
        free(&heap, pieces);
    }
    assert!(heap.stats().large.fragmentation_ratio() > 0.99);
    let large = take(&heap, 8 * MEBI);
    assert_eq!(large.len(), 128);
    assert_eq!(heap.in_use_bytes(), 16 * MEBI);
    heap.check();
    free(&heap, &large);
    for pieces in pieces.iter().skip(1).step_by(2) {
        free(&heap, pieces);
    }
    assert_eq!(heap.stats().large.free_runs, 1);
    assert!(heap.stats().large.fragmentation_ratio().abs() < 1e-9);
}

#[test]
fn a_block_of_very_many_pieces_is_no_work_for_a_slice() {
    let heap = heap(4 * MEBI);
    let pieces: Vec<_> = (0..1024).map(|_| take(&heap, 4096)).collect();
    pieces.iter().step_by(2).for_each(|piece| free(&heap, piece));
    heap.grant(2 * MEBI).expect("half is free");
    let shape = Shape::Run(2 * MEBI);
    assert_eq!(heap.back_shape_unless_scarce(shape), Ok(None), "512 runs");
    assert_eq!(heap.try_back_shape_scarce(shape), Ok(None));
    let Ok(Backed::Run(block)) = heap.back_shape(shape) else { panic!("it is granted") };
    assert_eq!(block.len(), 512);
    free(&heap, &block);
    pieces.iter().skip(1).step_by(2).for_each(|piece| free(&heap, piece));
    heap.check();
}

#[test]
fn free_runs_and_free_slabs_serve_each_other() {
    let heap = heap(4 * MEBI);
    let class = heap.class_for(4096).expect("a class").0;
    let run = take(&heap, 4 * MEBI);
    assert!(heap.allocate(class).is_err());
    free(&heap, &run);
    let slabs: Vec<_> = (0..1024).map(|_| heap.allocate(class).expect("the run's memory")).collect();
    assert_eq!((heap.in_use_bytes(), heap.stats().large.free_bytes), (4 * MEBI, 0));
    assert!(try_take(&heap, 4096).is_err());
    slabs.into_iter().for_each(|slab| heap.free(slab));
    let run = take(&heap, 4 * MEBI);
    assert_eq!(heap.stats().classes[0].total, 0);
    free(&heap, &run);
    // Some of it, where the rest is in use.
    let slabs: Vec<_> = (0..512).map(|_| heap.allocate(class).expect("half of it")).collect();
    let half = take(&heap, 2 * MEBI);
    assert_eq!(heap.in_use_bytes(), 4 * MEBI);
    heap.check();
    free(&heap, &half);
    slabs.into_iter().for_each(|slab| heap.free(slab));
    heap.check();
}

#[test]
fn one_piece_is_found_even_if_free_memory_lies_in_pieces() {
    let heap = heap(16 * MEBI);
    let pieces: Vec<_> = (0..256).map(|_| take(&heap, 65_536)).collect();
    for pieces in pieces.iter().step_by(2) {
        free(&heap, pieces);
    }
    let mut owned = heap.take_owned_run(8 * MEBI).expect("memory is taken from the free runs");
    assert_eq!(heap.owned_len(SizeClass::RUNS, &owned), 8 * MEBI);
    assert!(heap.owned_bytes(SizeClass::RUNS, &owned).iter().all(|byte| *byte == 0));
    heap.owned_bytes_mut(SizeClass::RUNS, &mut owned, 5 * MEBI..5 * MEBI + 3).copy_from_slice(b"abc");
    assert_eq!(heap.in_use_bytes(), 16 * MEBI);
    assert!(heap.take_owned_run(1).is_err());
    heap.check();
    assert!(heap.free_owned(SizeClass::RUNS, owned, 8 * MEBI));
    for pieces in pieces.iter().skip(1).step_by(2) {
        free(&heap, pieces);
    }
    assert_eq!(heap.in_use_bytes(), 0);
    assert!(heap.take_owned_run(u64::MAX).is_err() && heap.take_owned_run(17 * MEBI).is_err());
    heap.check();
}

#[test]
fn one_piece_longer_than_any_range_of_addresses_is_an_error_and_costs_nothing() {
    let heap = heap(16 * MEBI);
    // Every fourth page of the region stays in use.
    let mut pages = Vec::new();
    while let Ok(page) = try_take(&heap, 4096) {
        pages.push(page);
    }
    let kept: Vec<_> = pages.iter().step_by(4).cloned().collect();
    for (at, page) in pages.iter().enumerate() {
        if at % 4 != 0 {
            free(&heap, page);
        }
    }
    let rest = take(&heap, 12 * MEBI);
    free(&heap, &rest);
    assert!(heap.take_owned_run(12 * MEBI).is_ok_and(|owned| heap.free_owned(SizeClass::RUNS, owned, 0)));
    heap.check();
    kept.iter().for_each(|page| free(&heap, page));
    assert_eq!(heap.in_use_bytes(), 0);
}

#[test]
fn what_is_freed_unscrubbed_is_free_at_once_and_zeroed_later_or_when_it_is_needed() {
    let heap = heap(8 * MEBI);
    let segments = take(&heap, 8 * MEBI);
    segments.iter().for_each(|segment| write(&heap, *segment, 0, b"secret"));
    segments.iter().for_each(|segment| heap.free_unscrubbed(*segment));
    assert_eq!((heap.in_use_bytes(), heap.stats().large.scrubbing_bytes), (0, 8 * MEBI));
    assert!(heap.has_unscrubbed());
    assert!(matches!(heap.hold(segments[0]), Err(AccessError::Free)));
    heap.check();
    assert!(heap.scrub_slice());
    assert_eq!(heap.stats().large.free_bytes, 4 * MEBI);
    let again = take(&heap, 8 * MEBI);
    assert!(!heap.has_unscrubbed() && !heap.scrub_slice(), "whoever needed it zeroed it");
    let mut read = Vec::new();
    for segment in &again {
        let (slabs, index) = heap.slabs(*segment);
        let access = slabs.record(index).begin_write().expect("ours");
        read.push(slabs.reads_zero(index, &access, 0..6));
        access.end(0);
    }
    assert_eq!(read, [true, true]);
    free(&heap, &again);
    heap.check();
}

#[test]
fn a_reader_keeps_a_segment_and_the_last_one_frees_it() {
    let heap = std::sync::Arc::new(heap(8 * MEBI));
    let segments = take(&heap, 4 * MEBI);
    write(&heap, segments[0], 0, b"content");
    let pin = super::super::Pin::new(&heap, segments[0]).expect("it is live");
    assert!(heap.has_other_holders(segments[0]));
    heap.free(segments[0]);
    assert_eq!((heap.draining_bytes(), heap.in_use_bytes()), (4 * MEBI, 4 * MEBI));
    assert_eq!(&pin.as_ref()[..7], b"content");
    drop(pin);
    assert_eq!((heap.draining_bytes(), heap.in_use_bytes()), (0, 0));
    heap.check();
}

#[test]
fn a_segment_that_two_versions_share_is_freed_with_the_second() {
    let heap = heap(8 * MEBI);
    let segments = take(&heap, 4 * MEBI);
    heap.hold(segments[0]).expect("it is live");
    assert!(heap.edit(segments[0], &Edit::default()).is_err(), "it is shared");
    heap.free_unscrubbed(segments[0]);
    assert_eq!(heap.in_use_bytes(), 4 * MEBI);
    heap.free_unscrubbed(segments[0]);
    assert_eq!(heap.in_use_bytes(), 0);
    heap.check();
}

#[test]
fn idle_runs_go_back_to_the_system_after_an_interval_in_which_nobody_needed_them() {
    let heap = heap(64 * MEBI);
    let segments = take(&heap, 20 * MEBI);
    free(&heap, &segments);
    heap.end_idle_interval();
    while heap.reclaim_idle_slice() {}
    assert_eq!(heap.stats().pool_size_bytes, 20 * MEBI, "it was needed in this one");
    let part = take(&heap, 5 * MEBI);
    free(&heap, &part);
    heap.end_idle_interval();
    while heap.reclaim_idle_slice() {}
    assert_eq!(heap.stats().large.free_bytes, 5 * MEBI);
    heap.end_idle_interval();
    while heap.reclaim_idle_slice() {}
    let stats = heap.stats();
    assert_eq!((stats.pool_size_bytes, stats.committed_bytes, stats.large.free_runs), (0, 0, 0));
    assert!(stats.reclaim.bytes >= 20 * MEBI);
    heap.check();
}

#[test]
fn a_stray_write_retires_the_segment_and_its_bytes_stay_in_use() {
    let heap = heap(16 * MEBI);
    let segments = take(&heap, 8 * MEBI);
    write(&heap, segments[0], 0, b"content");
    free(&heap, &segments);
    heap.poke(segments[0], 0); // nobody has it
    let found = take(&heap, 8 * MEBI);
    assert!(!found.contains(&segments[0]), "another was taken in its place");
    let stats = heap.stats();
    assert_eq!(
        (stats.in_use_bytes, stats.retired_bytes, stats.large.retired_bytes),
        (12 * MEBI, 4 * MEBI, 4 * MEBI)
    );
    assert_eq!(stats.guard_violations.iter().sum::<u64>(), 1);
    free(&heap, &found);
    heap.check();
}

#[test]
fn where_there_is_no_room_in_place_of_a_damaged_segment_the_pool_has_that_much_less() {
    let heap = heap(8 * MEBI);
    let segments = take(&heap, 8 * MEBI);
    write(&heap, segments[0], 0, b"content");
    free(&heap, &segments);
    heap.poke(segments[0], 5);
    assert!(matches!(try_take(&heap, 8 * MEBI), Err(AllocateError::Exhausted { .. })));
    assert_eq!((heap.in_use_bytes(), heap.stats().retired_bytes), (4 * MEBI, 4 * MEBI));
    let rest = take(&heap, 4 * MEBI);
    assert!(try_take(&heap, 4096).is_err());
    free(&heap, &rest);
    heap.check();
}

#[test]
fn a_sweep_finds_a_stray_write_to_free_pages_and_retires_only_those_around_it() {
    let heap = heap(16 * MEBI);
    let segments = take(&heap, 8 * MEBI);
    free(&heap, &segments);
    heap.poke(segments[0], MEBI + 5);
    let (mut bytes, mut retired) = (0, 0);
    loop {
        let swept = heap.sweep_slice(64 << 10);
        (bytes, retired) = (bytes + swept.bytes, retired + swept.retired);
        if swept.is_round_over {
            break;
        }
    }
    assert_eq!((bytes, retired), (8 * MEBI, 1));
    let stats = heap.stats();
    assert_eq!((stats.in_use_bytes, stats.large.retired_bytes), (32 << 10, 32 << 10));
    assert_eq!(stats.large.free_runs, 2, "what is left on both sides");
    heap.check();
    let rest = take(&heap, 15 * MEBI);
    free(&heap, &rest);
    heap.check();
}

#[test]
fn a_write_beyond_the_content_is_found_when_the_block_ends() {
    let heap = heap(16 * MEBI);
    let segments = take(&heap, MEBI);
    write(&heap, segments[0], 0, &[1; 1000]);
    heap.poke(segments[0], 1003);
    assert!(!heap.check_slack(segments[0], 1000));
    heap.free(segments[0]);
    assert_eq!((heap.in_use_bytes(), heap.stats().large.retired_bytes), (MEBI, MEBI));
    heap.check();
}

#[test]
fn every_failing_system_call_is_an_error_and_nothing_is_lost() {
    use super::super::os::faults;
    for successes in 0..4 {
        let heap = heap(8 * MEBI);
        let class = heap.class_for(4096).expect("a class").0;
        // Two parts are held by free slabs, so that memory must be given back for the run.
        let slabs: Vec<_> = (0..1024).map(|_| heap.allocate(class).expect("there is room")).collect();
        slabs.into_iter().for_each(|slab| heap.free(slab));
        faults::fail_after(successes);
        let outcome = try_take(&heap, 8 * MEBI);
        let was_ahead = faults::disarm();
        assert!(was_ahead || outcome.is_err(), "call {successes} failed, and nobody noticed");
        if let Ok(segments) = outcome {
            free(&heap, &segments);
        }
        heap.check();
        assert_eq!(heap.in_use_bytes(), 0);
        free(&heap, &take(&heap, 8 * MEBI));
        heap.check();
    }
}

#[test]
fn with_huge_pages_long_runs_begin_at_one() {
    let config = Config { huge_pages: HugePages::TwoMebibytes, large_fit: Fit::First, ..config(64 * MEBI) };
    let heap = Heap::new(&config).expect("right");
    assert!(heap.large.slabs().address_range().0.is_multiple_of(2 << 20));
    let small = take(&heap, 65_536);
    let large = take(&heap, 9 * MEBI);
    let stats = heap.stats().large;
    assert_eq!(
        (stats.huge_eligible_bytes, stats.huge_bytes),
        (8 * MEBI, 8 * MEBI),
        "the last MiB is too short"
    );
    assert!((stats.huge_page_ratio() - 1.0).abs() < 1e-9);
    free(&heap, &small);
    free(&heap, &large);
    assert_eq!((heap.stats().large.huge_eligible_bytes, heap.stats().large.huge_bytes), (0, 0));
    heap.check();
}

#[derive(Clone, Debug)]
enum Action {
    Run(u64),
    InOne(u64),
    Slab(usize),
    Write(usize, u64),
    Free(usize),
    FreeUnscrubbed(usize),
    Scrub,
    EndInterval,
    ReclaimIdle,
}

#[derive(Debug)]
enum Mine {
    Slab(SlabLocation),
    Run(Vec<SlabLocation>),
    InOne(OwnedSlab),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        4 => (1..200_u64).prop_map(Action::Run),
        2 => (1..100_u64).prop_map(Action::InOne),
        4 => (0..2_usize).prop_map(Action::Slab),
        3 => (any::<usize>(), any::<u64>()).prop_map(|(at, offset)| Action::Write(at, offset)),
        6 => any::<usize>().prop_map(Action::Free),
        3 => any::<usize>().prop_map(Action::FreeUnscrubbed),
        1 => Just(Action::Scrub),
        1 => Just(Action::EndInterval),
        2 => Just(Action::ReclaimIdle),
    ];
    prop::collection::vec(action, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// In one thread every answer is foretold: a request is refused if, and only if, it and what is in use exceed the limit.
    #[test]
    fn runs_and_slabs_share_the_limit_exactly(actions in actions(), fit in prop_oneof![Just(Fit::Best), Just(Fit::First), Just(Fit::Worst)]) {
        const LIMIT: u64 = 2 * MEBI;
        let config = Config { large_fit: fit, initial_slabs_per_size: 2, ..config(LIMIT) };
        let heap = Heap::new(&config).expect("right");
        let (mut mine, mut in_use) = (Vec::<(Mine, u64)>::new(), 0);
        for action in actions {
            let fits = |bytes: u64, in_use: u64| in_use + bytes <= LIMIT;
            match action {
                Action::Run(pages) => {
                    let bytes = pages * page_size();
                    let taken = try_take(&heap, bytes);
                    prop_assert_eq!(taken.is_ok(), fits(bytes, in_use), "{} with {} in use", bytes, in_use);
                    if let Ok(segments) = taken {
                        prop_assert_eq!(lengths(&heap, &segments).iter().sum::<u64>(), bytes);
                        mine.push((Mine::Run(segments), bytes));
                        in_use += bytes;
                    }
                }
                Action::InOne(pages) => {
                    let bytes = pages * page_size();
                    match heap.take_owned_run(bytes) {
                        Ok(owned) => {
                            prop_assert!(heap.owned_bytes(SizeClass::RUNS, &owned).iter().all(|byte| *byte == 0));
                            mine.push((Mine::InOne(owned), bytes));
                            in_use += bytes;
                        }
                        // With little memory and many blocks there may be no range of addresses as long.
                        Err(AllocateError::System { .. }) => prop_assert!(fits(bytes, in_use) && pages > 8),
                        Err(_) => prop_assert!(!fits(bytes, in_use)),
                    }
                }
                Action::Slab(class) => {
                    let class = SizeClass(u8::try_from(class).expect("small"));
                    let bytes = heap.class_bytes(class);
                    let taken = heap.allocate(class);
                    prop_assert_eq!(taken.is_ok(), fits(bytes, in_use), "{} with {} in use", bytes, in_use);
                    if let Ok(slab) = taken {
                        mine.push((Mine::Slab(slab), bytes));
                        in_use += bytes;
                    }
                }
                Action::Write(at, offset) if !mine.is_empty() => {
                    let at = at % mine.len();
                    match &mut mine[at] {
                        (Mine::Slab(slab), bytes) => write(&heap, *slab, offset % *bytes, &[7]),
                        (Mine::Run(segments), _) => {
                            let segment = segments[usize::try_from(offset).expect("64 bits") % segments.len()];
                            write(&heap, segment, offset % heap.slab_bytes(segment), &[7]);
                        }
                        (Mine::InOne(owned), bytes) => {
                            let offset = offset % *bytes;
                            heap.owned_bytes_mut(SizeClass::RUNS, owned, offset..offset + 1)[0] = 7;
                        }
                    }
                }
                Action::Free(at) | Action::FreeUnscrubbed(at) if !mine.is_empty() => {
                    let later = matches!(action, Action::FreeUnscrubbed(_));
                    let (ended, bytes) = mine.swap_remove(at % mine.len());
                    in_use -= bytes;
                    match ended {
                        Mine::Slab(slab) => heap.free(slab),
                        Mine::Run(segments) if later => {
                            segments.iter().for_each(|segment| heap.free_unscrubbed(*segment));
                        }
                        Mine::Run(segments) => free(&heap, &segments),
                        Mine::InOne(owned) => prop_assert!(heap.free_owned(SizeClass::RUNS, owned, bytes)),
                    }
                }
                Action::Write(..) | Action::Free(_) | Action::FreeUnscrubbed(_) => {}
                Action::Scrub => { heap.scrub_slice(); }
                Action::EndInterval => heap.end_idle_interval(),
                Action::ReclaimIdle => { heap.reclaim_idle_slice(); }
            }
            prop_assert_eq!(heap.in_use_bytes(), in_use);
            heap.check();
        }
    }
}
