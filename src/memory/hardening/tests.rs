//! Every detector is shown to fire, and what it found to be out of use for good while everything else goes on.

use super::*;
use crate::memory::{ClassConfig, Edit, HeapStats, HugePages, Pin};
use proptest::prelude::*;

/// Without magazines: what is free is where a sweep comes to, and the slab freed last is the next one given out.
fn heap(config: Config) -> Arc<Heap> {
    heap_with_magazines(0, config)
}

fn heap_with_magazines(capacity: u32, config: Config) -> Arc<Heap> {
    let class = ClassConfig { magazine_capacity: Some(capacity), ..ClassConfig::default() };
    let classes = config.slab_sizes.iter().map(|size| (*size, class)).collect();
    let config = Config { initial_slabs_per_size: 0, classes, ..config };
    Arc::new(Heap::new(&config).expect("the configuration is right"))
}

fn heap_of(slab_bytes: u64, slabs: u64) -> Arc<Heap> {
    let max_pool_size = slab_bytes * slabs;
    heap(Config { slab_sizes: vec![slab_bytes], max_pool_size, ..Config::default() })
}

fn allocate(heap: &Heap) -> Result<SlabLocation, AllocateError> {
    heap.allocate(heap.class_for(1).expect("there is a class").0)
}

fn write(heap: &Heap, location: SlabLocation, offset: u64, bytes: &[u8]) {
    let edit = Edit { offset, pieces: &[bytes], writes: Some(heap.writes(location) + 1), ..Edit::default() };
    heap.edit(location, &edit).expect("the only holder");
}

/// A slab that was written and freed.
fn freed(heap: &Heap) -> SlabLocation {
    let slab = allocate(heap).expect("there is room");
    write(heap, slab, 0, b"content");
    heap.free(slab);
    slab
}

fn found(heap: &Heap) -> ([u64; 2], u64) {
    let HeapStats { guard_violations, retired_bytes, .. } = heap.stats();
    heap.check();
    (guard_violations, retired_bytes)
}

#[test]
fn a_stray_write_behind_the_content_is_found_when_the_block_is_freed_and_the_slab_is_retired() {
    let heap = heap_of(1024, 2);
    for offset in [1000, 1023] {
        let slab = allocate(&heap).expect("there is room");
        write(&heap, slab, 0, &[7; 1000]);
        assert!(heap.check_slack(slab, 1000));
        assert_eq!(heap.writes(slab), 1, "a look is no write");
        heap.poke(slab, offset);
        assert!(!heap.check_slack(slab, 1000) && !heap.check_slack(slab, 1000));
        heap.free(slab);
    }
    assert_eq!(found(&heap), ([2, 0], 2048));
    assert_eq!((heap.in_use_bytes(), heap.stats().classes[0].used), (2048, 0), "they are in use for good");
    let refused = AllocateError::Exhausted { requested_bytes: 1024, in_use_bytes: 2048, limit_bytes: 2048 };
    assert_eq!(allocate(&heap), Err(refused));
}

#[test]
fn content_that_fills_its_slab_has_no_slack_and_64_bytes_of_a_long_one_are_looked_at() {
    let heap = heap_of(4096, 1);
    let slab = allocate(&heap).expect("there is room");
    write(&heap, slab, 0, &[7; 4096]);
    assert!(heap.check_slack(slab, 4096));
    assert!(!heap.check_slack(slab, 4095));
    heap.free(slab);
    let heap = heap_of(4096, 1);
    let slab = allocate(&heap).expect("there is room");
    write(&heap, slab, 0, &[7; 100]);
    heap.poke(slab, 164);
    assert!(heap.check_slack(slab, 100), "beyond the bytes that are looked at");
    heap.poke(slab, 163);
    assert!(!heap.check_slack(slab, 100));
}

#[test]
fn a_damaged_block_is_served_to_its_readers_and_retired_when_the_last_has_left() {
    let heap = heap_of(1024, 4);
    let slab = allocate(&heap).expect("there is room");
    write(&heap, slab, 0, b"content");
    let pin = Pin::new(&heap, slab).expect("held");
    heap.poke(slab, 10);
    assert!(!heap.check_slack(slab, 7), "also beside readers");
    heap.free(slab);
    assert_eq!(pin.as_ref()[..7], *b"content");
    assert_eq!((found(&heap), heap.draining_bytes()), (([1, 0], 0), 1024));
    drop(pin);
    assert_eq!((found(&heap), heap.draining_bytes(), heap.in_use_bytes()), (([1, 0], 1024), 0, 1024));
    assert!(Pin::new(&heap, slab).is_err(), "it has no holders any more");
    assert_ne!(allocate(&heap).expect("there is room"), slab);
    found(&heap);
}

#[test]
fn a_block_that_was_not_written_near_its_end_is_not_looked_at_and_touches_no_page() {
    let heap = heap_of(4 << 20, 2);
    let slab = allocate(&heap).expect("there is room");
    heap.poke(slab, (4 << 20) - 10);
    assert!(heap.check_slack(slab, (4 << 20) - 10), "nothing was written at all");
    write(&heap, slab, 0, b"far from the end");
    assert!(heap.check_slack(slab, (4 << 20) - 10));
    heap.free(slab);
}

#[test]
fn what_wrote_to_a_free_slab_is_found_when_it_is_given_out_and_another_is_given() {
    let heap = heap_of(1024, 3);
    for (round, offset) in [0, 1023].into_iter().enumerate() {
        let slab = freed(&heap);
        heap.poke(slab, offset);
        let given = allocate(&heap).expect("there is another one");
        assert_ne!(given, slab);
        assert_eq!(found(&heap), ([0, round as u64 + 1], 1024 * (round as u64 + 1)));
        heap.free(given);
    }
    assert_eq!(heap.in_use_bytes(), 2048);
    let last = allocate(&heap).expect("one is left");
    assert!(allocate(&heap).is_err());
    heap.free(last);
    assert_eq!(heap.in_use_bytes(), 2048);
}

/// What lies in a magazine is granted: a slab that is retired there keeps its bytes.
#[test]
fn what_wrote_to_a_slab_in_a_magazine_is_found_when_it_is_given_out_and_another_is_given() {
    let config = Config { slab_sizes: vec![1024], max_pool_size: 4 * 1024, ..Config::default() };
    let heap = heap_with_magazines(4, config);
    let slabs: Vec<_> = (0..3).map(|_| allocate(&heap).expect("there is room")).collect();
    slabs.iter().for_each(|slab| write(&heap, *slab, 0, b"content"));
    slabs.iter().for_each(|slab| heap.free(*slab));
    heap.poke(slabs[2], 1023);
    heap.poke(slabs[1], 0);
    let given = allocate(&heap).expect("there is another one");
    assert_eq!(given, slabs[0], "the two that were freed after it are damaged");
    assert_eq!(found(&heap), ([0, 2], 2048));
    assert_eq!(heap.in_use_bytes(), 3072);
    heap.check();
    let last = allocate(&heap).expect("one is left");
    assert!(allocate(&heap).is_err());
    [given, last].into_iter().for_each(|slab| heap.free(slab));
    assert_eq!(heap.in_use_bytes(), 2048);
    heap.check();
}

#[test]
fn small_slabs_are_looked_at_whole_before_they_are_given_out() {
    for offset in 0..128 {
        let heap = heap_of(128, 100);
        let slab = freed(&heap);
        heap.poke(slab, offset);
        assert_ne!(allocate(&heap).expect("there is another one"), slab, "a write at {offset}");
    }
}

#[test]
fn the_last_slab_being_damaged_is_a_refusal_and_its_bytes_stay_in_use() {
    let heap = heap_of(1024, 1);
    let slab = freed(&heap);
    heap.poke(slab, 0);
    let refused = AllocateError::Exhausted { requested_bytes: 1024, in_use_bytes: 1024, limit_bytes: 1024 };
    for _ in 0..2 {
        assert_eq!(allocate(&heap), Err(refused));
        assert_eq!((found(&heap), heap.in_use_bytes()), (([0, 1], 1024), 1024));
    }
}

#[test]
fn a_request_that_was_granted_what_a_retired_slab_takes_pays_for_it_and_all_others_are_backed() {
    let heap = heap_of(1024, 4);
    let slab = freed(&heap);
    heap.poke(slab, 0);
    heap.grant(4096).expect("all of it is free");
    let class = heap.class_for(1024).expect("there is a class").0;
    assert!(matches!(heap.back(class), Err(AllocateError::Exhausted { .. })));
    heap.give_back(1024); // as whoever is refused does
    assert_eq!(heap.in_use_bytes(), 4096, "the retired slab is paid from it");
    let others: Vec<_> = (0..3).map(|_| heap.back(class).expect("it was granted")).collect();
    assert_eq!(found(&heap), ([0, 1], 1024));
    others.into_iter().for_each(|slab| heap.free(slab));
    assert_eq!(heap.in_use_bytes(), 1024);
    found(&heap);
}

#[test]
fn a_sweep_comes_to_every_byte_of_every_free_slab_and_retires_what_is_damaged() {
    let sizes = vec![1024, 3000, 4096, 1 << 20];
    let heap = heap(Config { slab_sizes: sizes.clone(), max_pool_size: 64 << 20, ..Config::default() });
    let slabs: Vec<_> = sizes
        .iter()
        .flat_map(|size| [*size; 5])
        .map(|size| heap.allocate(heap.class_for(size).expect("there is a class").0).expect("there is room"))
        .collect();
    slabs.iter().for_each(|slab| write(&heap, *slab, 0, &[1]));
    slabs.iter().for_each(|slab| heap.free(*slab));
    let round = |bytes_max| {
        let mut sum = Swept::default();
        loop {
            let swept = heap.sweep_slice(bytes_max);
            assert!(swept.bytes <= bytes_max);
            (sum.bytes, sum.retired) = (sum.bytes + swept.bytes, sum.retired + swept.retired);
            if swept.is_round_over {
                return sum;
            }
        }
    };
    let all_bytes = 5 * sizes.iter().sum::<u64>();
    for bytes_max in [1000, 4096, 100_000, 1 << 30] {
        assert_eq!(round(bytes_max), Swept { bytes: all_bytes, ..Swept::default() });
    }
    for slab in [1, 7, 12, 18] {
        heap.poke(slabs[slab], heap.slab_bytes(slabs[slab]) / 2);
    }
    assert_eq!(round(10_000).retired, 4);
    let retired_bytes = sizes.iter().sum::<u64>();
    assert_eq!((found(&heap), heap.in_use_bytes()), (([0, 4], retired_bytes), retired_bytes));
    let rest = round(1 << 20);
    assert_eq!((rest.retired, rest.bytes), (0, all_bytes - retired_bytes), "it is not looked at again");
}

#[test]
fn a_sweep_leaves_a_damaged_slab_to_those_to_whom_all_room_is_granted() {
    let heap = heap_of(1024, 1);
    let slab = freed(&heap);
    heap.poke(slab, 512);
    heap.grant(1024).expect("all of it is free");
    assert_eq!(heap.sweep_slice(1 << 20).retired, 0);
    heap.give_back(1024);
    while heap.sweep_slice(1 << 20).retired == 0 {}
    assert_eq!((found(&heap), heap.in_use_bytes()), (([0, 1], 1024), 1024));
}

#[test]
fn slabs_that_were_never_written_or_whose_pages_are_gone_are_not_looked_at() {
    let heap = heap(Config { slab_sizes: vec![4096, 1 << 20], max_pool_size: 1 << 20, ..Config::default() });
    let slab = allocate(&heap).expect("there is room");
    heap.free(slab);
    assert_eq!(heap.sweep_slice(1 << 20).bytes, 0, "it was never written");
    let slabs: Vec<_> = (0..256).map(|_| allocate(&heap).expect("there is room")).collect();
    slabs.iter().for_each(|slab| write(&heap, *slab, 0, b"content"));
    slabs.iter().for_each(|slab| heap.free(*slab));
    while !heap.sweep_slice(64 << 20).is_round_over {}
    assert_eq!(heap.sweep_slice(64 << 20).bytes, 1 << 20);
    let large = heap.allocate(heap.class_for(1 << 20).expect("a class").0).expect("all of it is free");
    heap.free(large);
    while !heap.sweep_slice(64 << 20).is_round_over {}
    assert_eq!(heap.sweep_slice(64 << 20).bytes, 0, "their pages went to the other class, unwritten so far");
    assert_eq!(found(&heap), ([0, 0], 0));
}

#[test]
fn with_canaries_off_nothing_is_looked_at() {
    let config = Config { slab_sizes: vec![1024], max_pool_size: 1024, canaries: false, ..Config::default() };
    let heap = heap(config);
    let slab = freed(&heap);
    heap.poke(slab, 0);
    assert!(heap.sweep_slice(1 << 20).is_round_over);
    let slab = allocate(&heap).expect("there is room");
    write(&heap, slab, 0, &[7; 1000]);
    heap.poke(slab, 1000);
    assert!(heap.check_slack(slab, 1000));
    heap.free(slab);
    assert_eq!(found(&heap), ([0, 0], 0));
}

/// Flags and KiB that are resident of the mappings that begin in a class's region.
fn mappings(heap: &Heap, class: usize) -> Vec<(String, u64)> {
    let (start, length) = heap.classes[class].slabs().address_range();
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("Linux has it");
    let mut found: Vec<(String, u64)> = Vec::new();
    let mut inside = false;
    for line in smaps.lines() {
        let address = line.split_once('-').and_then(|(start, _)| usize::from_str_radix(start, 16).ok());
        if let Some(address) = address {
            inside = (start..start + length).contains(&address);
            found.extend(inside.then(|| (String::new(), 0)));
        }
        let Some(mapping) = found.last_mut().filter(|_| inside) else { continue };
        if let Some(rss) = line.strip_prefix("Rss:") {
            mapping.1 = rss.trim().trim_end_matches(" kB").parse().expect("a number");
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            mapping.0 = format!("{flags} ");
        }
    }
    found
}

#[test]
fn no_byte_of_a_block_stands_in_a_core_dump() {
    let config = Config { slab_sizes: vec![1000, 1 << 20], max_pool_size: 8 << 20, ..Config::default() };
    for guard_pages in [false, true] {
        let heap = heap(Config { guard_pages, ..config.clone() });
        for class in 0..2 {
            let slab = heap.allocate(SizeClass(u8::try_from(class).expect("small"))).expect("there is room");
            write(&heap, slab, 0, b"secret");
            let mappings = mappings(&heap, class);
            assert!(mappings.iter().any(|(_, kib)| *kib > 0), "{mappings:?}");
            assert!(mappings.iter().all(|(flags, _)| flags.contains(" dd ")), "{mappings:?}");
        }
    }
}

#[test]
fn huge_pages_are_asked_for_where_slabs_are_whole_ones_and_forbidden_elsewhere() {
    let config =
        Config { slab_sizes: vec![4096, 2 << 20, 3 << 20], max_pool_size: 16 << 20, ..Config::default() };
    let flags = |huge_pages, guard_pages| {
        let heap = heap(Config { huge_pages, guard_pages, ..config.clone() });
        [0, 1, 2].map(|class| {
            let slab = heap.allocate(SizeClass(class)).expect("there is room");
            write(&heap, slab, 0, b"content");
            let mappings = mappings(&heap, usize::from(class));
            let all = |flag| mappings.iter().all(|(flags, _)| flags.contains(flag));
            (all(" hg "), all(" nh "))
        })
    };
    let (no, yes) = ((false, true), (true, false));
    for guard_pages in [false, true] {
        assert_eq!(flags(HugePages::Off, guard_pages), [no, no, no]);
        assert_eq!(flags(HugePages::TwoMebibytes, guard_pages), [no, yes, no]);
        assert_eq!(flags(HugePages::OneGibibyte, guard_pages), [no, no, no]);
    }
    let heap = heap(Config { huge_pages: HugePages::TwoMebibytes, guard_pages: true, ..config });
    let (start, _) = heap.classes[1].slabs().address_range();
    assert!((start as u64).is_multiple_of(2 << 20), "they lie where huge pages do");
}

#[derive(Debug, Clone)]
enum Action {
    Allocate(u64),
    Free(usize),
    /// To a live block, at a share of its content.
    Write(usize, u64),
    /// By somebody who has no right to, behind the content of a live block.
    Overrun(usize),
    /// The same, to the last slab that was freed.
    WriteAfterFree,
    Sweep(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (1_u64..6000).prop_map(Action::Allocate),
        6 => any::<usize>().prop_map(Action::Free),
        6 => (any::<usize>(), any::<u64>()).prop_map(|(at, share)| Action::Write(at, share)),
        1 => any::<usize>().prop_map(Action::Overrun),
        1 => Just(Action::WriteAfterFree),
        2 => (1_u64..100_000).prop_map(Action::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is damaged, a block that is given out reads as zeros, the account agrees, and room that is not in use is
    /// granted.
    #[test]
    fn a_heap_with_damaged_slabs_goes_on(guard_pages in any::<bool>(), actions in prop::collection::vec(action(), 1..150)) {
        let sizes = vec![1024, 1496, 4096, 8192];
        let heap = heap(Config { slab_sizes: sizes, max_pool_size: 100_000, guard_pages, ..Config::default() });
        let mut live: Vec<(SlabLocation, u64)> = Vec::new();
        let mut last_freed = None;
        for action in actions {
            match action {
                Action::Allocate(size) => {
                    let (class, actual) = heap.class_for(size).expect("a class holds it");
                    match heap.allocate(class) {
                        Ok(slab) => {
                            let pin = Arc::new(Pin::new(&heap, slab).expect("held"));
                            prop_assert!(pin.read(0..actual).all(|part| part.iter().all(|byte| *byte == 0)));
                            live.push((slab, size));
                            last_freed = None; // it may have been this one
                        }
                        Err(AllocateError::Exhausted { .. }) => {
                            prop_assert!(heap.in_use_bytes() + actual > heap.limit_bytes());
                        }
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
                Action::Free(at) if !live.is_empty() => {
                    let (slab, size) = live.swap_remove(at % live.len());
                    last_freed = heap.check_slack(slab, size).then_some(slab);
                    heap.free(slab);
                }
                Action::Write(at, share) if !live.is_empty() => {
                    let (slab, size) = live[at % live.len()];
                    write(&heap, slab, share % size, &[1]);
                }
                Action::Overrun(at) if !live.is_empty() => {
                    let (slab, size) = live[at % live.len()];
                    if size < heap.slab_bytes(slab) {
                        write(&heap, slab, size - 1, &[1]);
                        heap.poke(slab, size);
                        prop_assert!(!heap.check_slack(slab, size));
                    }
                }
                Action::WriteAfterFree => {
                    if let Some(slab) = last_freed.take() && heap.slabs(slab).0.record(heap.slabs(slab).1).was_written() {
                        heap.poke(slab, 0);
                    }
                }
                Action::Sweep(bytes) => drop(heap.sweep_slice(bytes)),
                _ => {}
            }
            heap.check();
        }
        live.into_iter().for_each(|(slab, _)| heap.free(slab));
        while !heap.sweep_slice(1 << 20).is_round_over {}
        while !heap.sweep_slice(1 << 20).is_round_over {}
        heap.check();
        prop_assert_eq!(heap.in_use_bytes(), heap.stats().retired_bytes);
    }
}
