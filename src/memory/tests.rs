//! The heap as a whole: its limit, its zeros, its account, under random use and under threads.

mod drift;
mod failing_system;
mod race;
#[cfg(feature = "shuttle")]
mod schedules;

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Barrier;

/// Every class has magazines, however small the pool is: much of it may lie in them.
fn config(limit: u64, sizes: &[u64]) -> Config {
    let with_magazine = ClassConfig { magazine_capacity: Some(8), ..ClassConfig::default() };
    let classes = sizes.iter().map(|size| (*size, with_magazine)).collect();
    Config { slab_sizes: sizes.to_vec(), max_pool_size: limit, classes, ..Config::default() }
}

fn heap(limit: u64, sizes: &[u64]) -> Arc<Heap> {
    Arc::new(Heap::new(&config(limit, sizes)).expect("the configuration is right"))
}

fn allocate(heap: &Heap, size_bytes: u64) -> Result<SlabLocation, AllocateError> {
    heap.allocate(heap.class_for(size_bytes).expect("a class holds it").0)
}

fn write(heap: &Heap, location: SlabLocation, offset: u64, bytes: &[u8]) -> Result<(), AccessError> {
    let writes = Some(heap.writes(location) + 1);
    heap.edit(location, &Edit { offset, pieces: &[bytes], writes, ..Edit::default() })
}

fn content(heap: &Arc<Heap>, location: SlabLocation) -> Vec<u8> {
    let bytes = heap.slabs(location).0.slab_bytes();
    Arc::new(Pin::new(heap, location).expect("held")).read(0..bytes).collect::<Vec<_>>().concat()
}

#[test]
fn a_pool_of_10240_grants_ten_slabs_of_1024_and_refuses_the_eleventh() {
    let heap = heap(10_240, &[1024]);
    let slabs: Vec<_> = (0..10).map(|_| allocate(&heap, 1024).expect("there is room")).collect();
    let exhausted =
        AllocateError::Exhausted { requested_bytes: 1024, in_use_bytes: 10_240, limit_bytes: 10_240 };
    assert_eq!(allocate(&heap, 1), Err(exhausted));
    heap.check();
    heap.free(slabs[3]);
    assert_eq!(allocate(&heap, 1), Ok(slabs[3]), "the freed slab is the next one given out");
    let stats = heap.stats();
    assert_eq!(
        (stats.classes[0].created, stats.classes[0].reused, stats.classes[0].allocations),
        (10, 1, 11)
    );
    assert_eq!(
        (stats.pool_size_bytes, stats.in_use_bytes, stats.peak_in_use_bytes),
        (10_240, 10_240, 10_240)
    );
}

#[test]
fn of_64_threads_racing_for_the_last_slab_exactly_one_gets_it() {
    for _ in 0..50 {
        let heap = heap(2048, &[1024]);
        let first = allocate(&heap, 1024).expect("there is room");
        let start = Barrier::new(64);
        let granted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..64)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        usize::from(allocate(&heap, 1024).is_ok())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(granted, 1);
        heap.free(first);
        heap.check();
    }
}

#[test]
fn free_memory_of_one_class_serves_every_other() {
    let heap = heap(4 << 20, &[1 << 10, 64 << 10, 1 << 20, 4 << 20]);
    let small: Vec<_> = (0..4096).map(|_| allocate(&heap, 1024).expect("there is room")).collect();
    assert!(allocate(&heap, 1).is_err());
    small.into_iter().for_each(|slab| heap.free(slab));
    let large = allocate(&heap, 4 << 20).expect("all of it is free");
    heap.check();
    assert_eq!(heap.stats().pool_size_bytes, 4 << 20);
    heap.free(large);
    for _ in 0..4096 {
        allocate(&heap, 1024).expect("all of it is free again");
    }
    heap.check();
}

#[test]
fn scattered_free_slabs_are_enough_for_a_large_one() {
    let heap = heap(8 << 20, &[1 << 10, 4 << 20]);
    let small: Vec<_> = (0..8192).map(|_| allocate(&heap, 1024).expect("there is room")).collect();
    for (at, slab) in small.iter().enumerate() {
        if at % 4 != 0 {
            heap.free(*slab);
        }
    }
    allocate(&heap, 4 << 20).expect("6 MiB are free");
    assert!(allocate(&heap, 4 << 20).is_err(), "2 MiB are in use, and 4");
    heap.check();
}

#[test]
fn prewarmed_slabs_are_created_but_their_first_use_is_no_reuse() {
    let config = Config { slab_sizes: vec![1024, 4096], max_pool_size: 1 << 20, ..Config::default() };
    let heap = Heap::new(&config).expect("the configuration is right");
    let stats = heap.stats();
    assert_eq!((stats.classes[0].created, stats.classes[1].created), (10, 10));
    let slab = allocate(&heap, 1024).expect("there is room");
    assert_eq!(heap.stats().classes[0].reused, 0);
    heap.free(slab);
    allocate(&heap, 1024).expect("there is room");
    assert_eq!(heap.stats().classes[0].reused, 1);
}

#[test]
fn prewarm_takes_a_tenth_of_the_pool_at_most_smallest_class_first() {
    let heap =
        Heap::new(&Config { max_pool_size: 1 << 20, prefault: true, ..Config::default() }).expect("right");
    let stats = heap.stats();
    assert!(stats.pool_size_bytes <= (1 << 20) / 10, "{}", stats.pool_size_bytes);
    assert_eq!(stats.classes.iter().map(|class| class.created).take(4).collect::<Vec<_>>(), [10, 10, 10, 4]);
}

#[test]
fn the_class_in_which_the_prewarm_ends_is_prefaulted_too() {
    let config =
        Config { slab_sizes: vec![4 << 20], max_pool_size: 100 << 20, prefault: true, ..Config::default() };
    let heap = Heap::new(&config).expect("right");
    assert_eq!(heap.stats().classes[0].created, 2, "the cap of a tenth was met");
    let written = |heap: &Heap| {
        let (start, length) = heap.classes[0].slabs().address_range();
        resident_kib(start..start + length)
    };
    assert_eq!(written(&heap), 8 << 10);
}

#[test]
fn a_pool_beyond_what_the_machine_can_address_is_an_error_value() {
    let config = Config { slab_sizes: vec![1000], max_pool_size: 1 << 46, ..Config::default() };
    // It may be had or not, by the machine; in neither case may anything end the process.
    drop(Heap::new(&config));
    assert!(matches!(Heap::new(&Config { max_pool_size: 1 << 60, ..config }), Err(HeapError::System(_))));
}

#[test]
fn a_class_keeps_no_more_free_slabs_than_it_may() {
    let classes =
        [(4096, ClassConfig { initial: Some(0), max_free: Some(2), ..ClassConfig::default() })].into();
    let heap =
        Heap::new(&Config { slab_sizes: vec![4096], max_pool_size: 1 << 20, classes, ..Config::default() })
            .expect("right");
    let slabs: Vec<_> = (0..5).map(|_| allocate(&heap, 4096).expect("there is room")).collect();
    slabs.into_iter().for_each(|slab| heap.free(slab));
    assert_eq!((heap.stats().classes[0].free, heap.stats().pool_size_bytes), (2, 2 * 4096));
    heap.check();
    let classes =
        [(4096, ClassConfig { initial: Some(25), max_free: Some(2), ..ClassConfig::default() })].into();
    let heap =
        Heap::new(&Config { slab_sizes: vec![4096], max_pool_size: 1 << 20, classes, ..Config::default() });
    assert_eq!(heap.expect("right").stats().classes[0].free, 2, "nor are more made ready");
}

#[test]
fn a_reader_keeps_a_freed_slab_as_it_was_and_it_counts_as_draining() {
    let heap = heap(8192, &[4096]);
    let slab = allocate(&heap, 4096).expect("there is room");
    write(&heap, slab, 100, b"hello").expect("the only holder");
    assert!(!heap.has_readers(slab));
    let pin = Arc::new(Pin::new(&heap, slab).expect("held"));
    assert_eq!(write(&heap, slab, 100, b"HELLO"), Err(AccessError::Shared));
    assert!(heap.has_readers(slab) && !heap.is_draining(slab) && !heap.mark_overdue(slab), "it is live");
    heap.free(slab);
    assert!(heap.is_draining(slab) && !pin.is_overdue());
    assert!(heap.mark_overdue(slab) && pin.is_overdue());
    let watch = Arc::downgrade(&pin);
    assert_eq!((heap.stats().draining_bytes, heap.stats().in_use_bytes), (4096, 4096));
    let parts: Vec<_> = pin.read(64..192).collect();
    assert_eq!(parts.concat()[36..41], *b"hello");
    assert_eq!(heap.stats().in_use_bytes, 4096, "a part that is still on its way holds the slab");
    assert_eq!(watch.strong_count(), 1, "and is seen through the pin");
    drop(parts);
    assert_eq!(watch.strong_count(), 0);
    assert_eq!((heap.stats().draining_bytes, heap.stats().in_use_bytes), (0, 0));
    assert!(!heap.is_draining(slab) && !heap.mark_overdue(slab), "its last reader has left");
    heap.check();
    let next = allocate(&heap, 4096).expect("there is room");
    assert_eq!(content(&heap, next), vec![0; 4096]);
}

#[test]
fn parts_never_written_are_read_from_the_static_zeros() {
    let heap = heap(8 << 20, &[4 << 20]);
    let slab = allocate(&heap, 4 << 20).expect("there is room");
    write(&heap, slab, 1 << 20, &[1]).expect("the only holder");
    let zeros = ZEROS.as_ptr_range();
    let mut from_memory = 0;
    for part in Arc::new(Pin::new(&heap, slab).expect("held")).read(0..4 << 20) {
        if !zeros.contains(&part.as_ptr()) {
            from_memory += part.len();
        }
    }
    assert_eq!(from_memory, (4 << 20) / 32, "one 32nd was written");
}

/// KiB of the mappings that begin in a range of addresses that are resident.
pub(super) fn resident_kib(addresses: Range<usize>) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("Linux has it");
    let mut inside = false;
    let mut kib = 0;
    for line in smaps.lines() {
        let start = line.split_once('-').and_then(|(start, _)| usize::from_str_radix(start, 16).ok());
        if let Some(start) = start {
            inside = addresses.contains(&start);
        } else if let Some(rss) = line.strip_prefix("Rss:").filter(|_| inside) {
            kib += rss.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
        }
    }
    kib
}

#[test]
fn allocating_and_freeing_without_a_write_touches_no_page() {
    let heap = heap(64 << 20, &[4 << 20]);
    let resident = |heap: &Heap| {
        let (start, length) = heap.classes[0].slabs().address_range();
        resident_kib(start..start + length)
    };
    for _ in 0..100 {
        let slab = allocate(&heap, 4 << 20).expect("there is room");
        drop(content(&heap, slab));
        heap.free(slab);
    }
    assert_eq!(resident(&heap), 0);
    let slab = allocate(&heap, 4 << 20).expect("there is room");
    write(&heap, slab, 0, &[1; 4096]).expect("the only holder");
    assert_eq!(resident(&heap), 4, "one page was written");
}

#[test]
fn whole_page_classes_give_their_pages_back_when_another_class_needs_the_room() {
    let heap = heap(16 << 20, &[4096, 16 << 20]);
    let slabs: Vec<_> = (0..4096).map(|_| allocate(&heap, 4096).expect("there is room")).collect();
    for slab in &slabs {
        write(&heap, *slab, 0, &[1; 4096]).expect("the only holder");
    }
    slabs.into_iter().for_each(|slab| heap.free(slab));
    assert_eq!(heap.stats().committed_bytes, 16 << 20);
    allocate(&heap, 16 << 20).expect("all of it is free");
    assert_eq!(heap.stats().committed_bytes, 16 << 20);
    assert_eq!(heap.stats().classes[0].committed_bytes, 0);
}

#[test]
fn requests_that_race_with_frees_and_scrubs_are_refused_only_when_there_is_no_room() {
    // Four threads each use at most a quarter of the pool, in drifting classes and with bytes written, so at no
    // instant is there a reason to refuse anybody.
    const QUARTER: u64 = 1 << 20;
    let heap = heap(4 * QUARTER, &[1 << 10, 3000, 16 << 10, 256 << 10, 1 << 20]);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let heap = &heap;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut live = VecDeque::new();
                let mut live_bytes = 0;
                for _ in 0..4000 {
                    let size = [1 << 10, 3000, 16 << 10, 256 << 10, 1 << 20][random.usize(0..5)];
                    while live_bytes + size > QUARTER {
                        let (slab, bytes) = live.pop_front().expect("something is live");
                        heap.free(slab);
                        live_bytes -= bytes;
                    }
                    let slab = allocate(heap, size).expect("this thread stays within its quarter");
                    if random.bool() {
                        let length = random.usize(1..1024);
                        write(heap, slab, random.u64(0..size - 1023), &vec![0xaa; length])
                            .expect("the only holder");
                    }
                    live.push_back((slab, size));
                    live_bytes += size;
                }
                live.into_iter().for_each(|(slab, _)| heap.free(slab));
            });
        }
    });
    heap.check();
    assert_eq!(heap.in_use_bytes(), 0);
}

#[derive(Debug, Clone)]
enum Action {
    Allocate(u64),
    Free(usize),
    Write(usize, u64, u64),
    Pin(usize),
    Unpin(usize),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (1_u64..20_000).prop_map(Action::Allocate),
        3 => any::<usize>().prop_map(Action::Free),
        3 => (any::<usize>(), any::<u64>(), 1_u64..3000).prop_map(|(at, offset, length)| Action::Write(at, offset, length)),
        1 => any::<usize>().prop_map(Action::Pin),
        1 => any::<usize>().prop_map(Action::Unpin),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The twin: a list of live blocks with their bytes, a list of pinned ones, and addition.
    #[test]
    fn it_agrees_with_a_naive_twin(limit in 30_000_u64..120_000, actions in prop::collection::vec(action(), 1..200)) {
        let sizes = [1024, 1496, 4096, 10_000, 20_480];
        let heap = heap(limit, &sizes);
        let mut live: Vec<(SlabLocation, Vec<u8>)> = Vec::new();
        let mut pins: Vec<(SlabLocation, Pin, Vec<u8>, bool)> = Vec::new();
        let in_memory = |bytes: u64| usize::try_from(bytes).expect("small");
        for action in actions {
            let used: u64 = live.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>()
                + pins.iter().enumerate().filter(|(at, (slab, _, _, freed))| *freed && !pins[..*at].iter().any(|other| other.0 == *slab && other.3)).map(|(_, (_, _, bytes, _))| bytes.len() as u64).sum::<u64>();
            match action {
                Action::Allocate(size) => {
                    let actual = *sizes.iter().find(|class| **class >= size).expect("there is a class");
                    match allocate(&heap, size) {
                        Ok(slab) => {
                            prop_assert!(used + actual <= limit);
                            prop_assert_eq!(content(&heap, slab), vec![0; in_memory(actual)], "a fresh block is zeros");
                            live.push((slab, vec![0; in_memory(actual)]));
                        }
                        Err(error) => {
                            prop_assert!(used + actual > limit, "refused with room: {}", error);
                            prop_assert_eq!(error, AllocateError::Exhausted { requested_bytes: actual, in_use_bytes: used, limit_bytes: limit });
                        }
                    }
                }
                Action::Free(at) if !live.is_empty() => {
                    let (slab, _) = live.swap_remove(at % live.len());
                    heap.free(slab);
                    for pin in &mut pins { pin.3 |= pin.0 == slab; }
                }
                Action::Write(at, offset, length) if !live.is_empty() => {
                    let at = at % live.len();
                    let (slab, bytes) = &mut live[at];
                    let offset = offset % bytes.len() as u64;
                    let length = length.min(bytes.len() as u64 - offset);
                    let patch: Vec<u8> = (0..length).map(|step| (step * 7 + offset).to_le_bytes()[0] | 1).collect();
                    let pinned = pins.iter().any(|pin| pin.0 == *slab);
                    match write(&heap, *slab, offset, &patch) {
                        Ok(()) => {
                            prop_assert!(!pinned);
                            bytes[in_memory(offset)..in_memory(offset + length)].copy_from_slice(&patch);
                        }
                        Err(error) => prop_assert!(pinned && error == AccessError::Shared),
                    }
                }
                Action::Pin(at) if !live.is_empty() => {
                    let (slab, bytes) = &live[at % live.len()];
                    pins.push((*slab, Pin::new(&heap, *slab).expect("held"), bytes.clone(), false));
                }
                Action::Unpin(at) if !pins.is_empty() => {
                    let (_, pin, bytes, _) = pins.swap_remove(at % pins.len());
                    let read: Vec<u8> = Arc::new(pin).read(0..bytes.len() as u64).flatten().collect();
                    prop_assert_eq!(read, bytes, "a pin sees one instant's content");
                }
                _ => {}
            }
            heap.check();
        }
        for (slab, bytes) in live {
            prop_assert_eq!(content(&heap, slab), bytes);
            heap.free(slab);
        }
        drop(pins);
        heap.check();
        prop_assert_eq!(heap.in_use_bytes(), 0);
        prop_assert_eq!(heap.stats().draining_bytes, 0);
    }
}
