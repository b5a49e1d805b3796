//! Hints as the system sees them (`/proc/self/smaps`), before and after a block ends; and content that is given up.

use super::*;
use crate::memory::os::faults;
use crate::memory::tests::resident_kib;
use crate::memory::{Config, Edit, HugePages, Pin, Shape, SizeClass, page_size};
use std::collections::BTreeSet;
use std::sync::Arc;

fn heap(config: Config) -> Arc<Heap> {
    Arc::new(Heap::new(&config).expect("the configuration is right"))
}

fn config(sizes: &[u64]) -> Config {
    Config {
        slab_sizes: sizes.to_vec(),
        max_pool_size: 64 << 20,
        initial_slabs_per_size: 0,
        allow_mergeable: true,
        ..Config::default()
    }
}

fn take(heap: &Heap, size_bytes: u64) -> SlabLocation {
    heap.allocate(heap.class_for(size_bytes).expect("a class holds it").0).expect("there is room")
}

fn fill(heap: &Heap, location: SlabLocation) {
    let bytes = vec![7; usize::try_from(heap.slab_bytes(location)).expect("small")];
    heap.edit(location, &Edit { pieces: &[&bytes], writes: Some(1), ..Edit::default() })
        .expect("the only holder");
}

fn content(heap: &Arc<Heap>, location: SlabLocation) -> Vec<u8> {
    let bytes = heap.slab_bytes(location);
    Arc::new(Pin::new(heap, location).expect("held")).read(0..bytes).collect::<Vec<_>>().concat()
}

/// Addresses of a slab's whole pages.
fn addresses(heap: &Heap, location: SlabLocation) -> Range<usize> {
    let (slabs, index) = heap.slabs(location);
    let (start, _) = slabs.address_range();
    let pages = slabs.pages_inside(index);
    let at = |offset: u64| start + usize::try_from(offset).expect("an address");
    at(pages.start)..at(pages.end)
}

/// What the system's flags say of the page at an address, of what advice changes: `sr` sequential, `rr` random, `hg` huge
/// pages, `nh` none, `mg` mergeable.
fn flags_at(address: usize) -> BTreeSet<String> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("Linux has it");
    let mut is_it = false;
    for line in smaps.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let parse = |text| usize::from_str_radix(text, 16).ok();
        if let Some((Some(start), Some(end))) = range.map(|(start, end)| (parse(start), parse(end))) {
            is_it = (start..end).contains(&address);
        } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| is_it) {
            let known = ["sr", "rr", "hg", "nh", "mg"];
            return flags.split_whitespace().filter(|flag| known.contains(flag)).map(str::to_owned).collect();
        }
    }
    panic!("the address is mapped")
}

fn flags(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn places(heap: &Heap) -> u64 {
    heap.advised.places.load(Ordering::Relaxed)
}

/// The flag of each advice that leaves one, beside that of the region.
const MARKS: [(Advice, &[&str]); 4] = [
    (Advice::Sequential, &["nh", "sr"]),
    (Advice::Random, &["nh", "rr"]),
    (Advice::HugePage, &["hg"]),
    (Advice::Mergeable, &["nh", "mg"]),
];

#[test]
fn a_hint_is_for_the_pages_of_the_block_and_gone_with_it() {
    let heap = heap(config(&[64 << 10]));
    for (advice, mark) in MARKS {
        let (block, beside) = (take(&heap, 64 << 10), take(&heap, 64 << 10));
        fill(&heap, block);
        assert_eq!(heap.advise(block, 0..64 << 10, advice), AdviceOutcome::Applied);
        let pages = addresses(&heap, block);
        for page in [pages.start, pages.end - 1] {
            assert_eq!(flags_at(page), flags(mark), "{advice:?}");
        }
        assert_eq!(
            flags_at(addresses(&heap, beside).start),
            flags(&["nh"]),
            "{advice:?}: only for that block"
        );
        assert_eq!((places(&heap), content(&heap, block)), (1, vec![7; 64 << 10]));
        heap.free(block);
        assert_eq!(places(&heap), 0);
        assert_eq!(flags_at(pages.start), flags(&["nh"]), "{advice:?}: nobody else gets it");
        let next = take(&heap, 64 << 10);
        assert_eq!((next, content(&heap, next)), (block, vec![0; 64 << 10]), "the same place, and zeros");
        heap.free(next);
        heap.free(beside);
        heap.check();
    }
}

#[test]
fn hints_add_up_and_their_opposites_take_them_back() {
    let heap = heap(config(&[64 << 10]));
    let block = take(&heap, 64 << 10);
    let page = addresses(&heap, block).start;
    let advise = |advice| assert_eq!(heap.advise(block, 0..64 << 10, advice), AdviceOutcome::Applied);
    [Advice::Random, Advice::HugePage, Advice::Mergeable].into_iter().for_each(advise);
    assert_eq!(flags_at(page), flags(&["rr", "hg", "mg"]));
    [Advice::Sequential, Advice::NoHugePage, Advice::Unmergeable].into_iter().for_each(advise);
    assert_eq!((flags_at(page), places(&heap)), (flags(&["sr", "nh"]), 1));
    heap.free(block);
    assert_eq!((flags_at(page), places(&heap)), (flags(&["nh"]), 0));
}

#[test]
fn a_region_of_huge_pages_has_them_again_when_a_block_without_ends() {
    let huge = Config { huge_pages: HugePages::TwoMebibytes, ..config(&[2 << 20]) };
    let heap = heap(huge);
    let block = take(&heap, 2 << 20);
    let page = addresses(&heap, block).start;
    assert_eq!(heap.advise(block, 0..2 << 20, Advice::NoHugePage), AdviceOutcome::Applied);
    assert_eq!(flags_at(page), flags(&["nh"]));
    heap.free(block);
    assert_eq!(flags_at(page), flags(&["hg"]));
}

#[test]
fn segments_of_a_large_block_lose_their_hints_wherever_they_are_zeroed() {
    let heap = heap(config(&[1024]));
    for later in [false, true] {
        heap.grant(12 << 20).expect("there is room");
        let backed = heap.back_shape(Shape::Run(12 << 20)).expect("there is room");
        for segment in backed.locations() {
            assert_eq!(heap.advise(*segment, 0..4 << 20, Advice::Random), AdviceOutcome::Applied);
        }
        let pages: Vec<_> = backed.locations().iter().map(|at| addresses(&heap, *at).start).collect();
        assert_eq!((places(&heap), flags_at(pages[2])), (3, flags(&["nh", "rr"])));
        for segment in backed.locations() {
            if later { heap.free_unscrubbed(*segment) } else { heap.free(*segment) }
        }
        assert_eq!(heap.has_unscrubbed(), later, "untouched ones wait too, for their hints");
        while heap.scrub_slice() {}
        assert_eq!(places(&heap), 0);
        assert!(pages.into_iter().all(|page| flags_at(page) == flags(&["nh"])));
        heap.check();
    }
}

#[test]
fn very_many_segments_that_are_freed_together_lose_their_hints_too() {
    let heap = heap(config(&[1024]));
    let page = page_size();
    let mut segments = Vec::new();
    for _ in 0..300 {
        heap.grant(page).expect("there is room");
        segments.push(heap.back_shape(Shape::Run(page)).expect("there is room").only());
    }
    for segment in segments.iter().step_by(3) {
        assert_eq!(heap.advise(*segment, 0..page, Advice::Sequential), AdviceOutcome::Applied);
    }
    assert_eq!(places(&heap), 100);
    let last = addresses(&heap, segments[297]).start;
    heap.free_all_unscrubbed(segments.into_iter());
    while heap.scrub_slice() {}
    assert_eq!((places(&heap), flags_at(last)), (0, flags(&["nh"])));
    heap.check();
}

#[test]
fn a_reader_of_a_freed_block_is_the_last_and_undoes_its_hints() {
    let heap = heap(config(&[64 << 10]));
    let block = take(&heap, 64 << 10);
    fill(&heap, block);
    heap.advise(block, 0..64 << 10, Advice::Random);
    let pin = Pin::new(&heap, block).expect("held");
    heap.free(block);
    assert_eq!((places(&heap), heap.draining_bytes()), (1, 64 << 10));
    drop(pin);
    assert_eq!((places(&heap), heap.draining_bytes(), heap.in_use_bytes()), (0, 0, 0));
    heap.check();
}

#[test]
fn a_block_that_shares_its_pages_has_no_hints_and_one_that_is_moved_leaves_them_behind() {
    const SIZE: u64 = 20_000;
    let heap = heap(config(&[1000, SIZE]));
    let small = take(&heap, 1000);
    assert_eq!(heap.advise(small, 0..1000, Advice::Random), AdviceOutcome::Nothing);
    heap.free(small);
    let (below, block) = (take(&heap, SIZE), take(&heap, SIZE));
    fill(&heap, block);
    assert_eq!(heap.advise(block, 0..SIZE, Advice::Random), AdviceOutcome::Applied);
    let page = addresses(&heap, block).start;
    let mover = Arc::downgrade(&heap);
    heap.when_moving(move |_, from, to| {
        mover.upgrade().expect("there is a heap").copy_slab(from, to).expect("the only holders");
        true
    });
    heap.set_owner(block, 1);
    heap.free(below);
    // Moves it down to where the other was.
    while !heap.reclaim_for_pressure_slice(crate::memory::ReclaimDepth::Aggressive).is_done {}
    assert_eq!(heap.stats().compaction.moves, 1);
    assert_eq!((places(&heap), flags_at(page)), (0, flags(&["nh"])));
    assert_eq!((content(&heap, below), heap.writes(below)), (vec![7; 20_000], 1));
    heap.free(below);
    heap.check();
}

#[test]
fn what_is_wanted_soon_has_its_pages_and_only_those_that_were_named() {
    let heap = heap(config(&[1 << 20]));
    let block = take(&heap, 1 << 20);
    let pages = addresses(&heap, block);
    let (start, length) = heap.slabs(block).0.address_range();
    let resident = || resident_kib(start..start + length);
    assert_eq!(resident(), 0);
    assert_eq!(heap.advise(block, 100..256 << 10, Advice::WillNeed), AdviceOutcome::Applied);
    assert_eq!((resident(), places(&heap)), (256, 0));
    assert_eq!(heap.advise(block, 0..1 << 20, Advice::WillNeed), AdviceOutcome::Applied);
    assert_eq!((resident(), content(&heap, block)), (1024, vec![0; 1 << 20]));
    assert_eq!(flags_at(pages.start), flags(&["nh"]), "it leaves nothing");
}

#[test]
fn what_is_discarded_is_zeros_and_its_pages_are_gone() {
    for size in [1000, 5000, 20_000, 1 << 20] {
        let heap = heap(config(&[size]));
        let (block, beside) = (take(&heap, size), take(&heap, size));
        fill(&heap, block);
        fill(&heap, beside);
        let (start, length) = heap.slabs(block).0.address_range();
        let resident = || resident_kib(start..start + length) << 10;
        let (before, inside) = (resident(), addresses(&heap, block));
        heap.discard(block, Some(2)).expect("nobody else holds it");
        assert_eq!(before - resident(), inside.len() as u64, "of {size}");
        assert_eq!((content(&heap, block), heap.writes(block)), (vec![0; content(&heap, block).len()], 2));
        assert!(content(&heap, beside).iter().all(|byte| *byte == 7), "what lies beside is as it was");
        fill(&heap, block);
        assert!(content(&heap, block).iter().all(|byte| *byte == 7), "it can be written again");
        heap.free(block);
        heap.free(beside);
        let next = take(&heap, size);
        assert!(content(&heap, next).iter().all(|byte| *byte == 0));
        heap.check();
    }
}

#[test]
fn what_somebody_reads_is_not_discarded() {
    let heap = heap(config(&[64 << 10]));
    let block = take(&heap, 64 << 10);
    fill(&heap, block);
    let pin = Pin::new(&heap, block).expect("held");
    assert_eq!(heap.discard(block, None), Err(AccessError::Shared));
    assert_eq!(content(&heap, block), vec![7; 64 << 10]);
    drop(pin);
    heap.discard(block, None).expect("nobody else holds it");
    assert_eq!(heap.writes(block), 1, "not counted as a write where nobody says so");
    heap.free(block);
    assert_eq!(heap.discard(block, None), Err(AccessError::Free));
}

#[test]
fn a_system_that_takes_no_pages_back_is_no_reason_for_old_bytes() {
    let heap = heap(config(&[64 << 10]));
    let block = take(&heap, 64 << 10);
    fill(&heap, block);
    faults::fail_after(0);
    heap.discard(block, Some(2)).expect("nobody else holds it");
    assert!(!faults::disarm(), "the call failed");
    assert_eq!((content(&heap, block), heap.writes(block)), (vec![0; 64 << 10], 2));
    heap.free(block);
    heap.check();
}

#[test]
fn a_system_that_fails_is_an_outcome_and_nothing_stays_counted() {
    let heap = heap(config(&[64 << 10]));
    for advice in Advice::ALL.into_iter().filter(|advice| !advice.discards()) {
        let block = take(&heap, 64 << 10);
        faults::fail_on_after(0);
        assert_eq!(heap.advise(block, 0..64 << 10, advice), AdviceOutcome::Refused, "{advice:?}");
        heap.free(block);
        faults::disarm();
        assert_eq!((places(&heap), heap.in_use_bytes()), (0, 0), "{advice:?}");
        heap.check();
    }
}

#[test]
fn no_more_places_have_hints_than_leave_the_process_its_mappings() {
    let heap = heap(config(&[4096]));
    let slabs: Vec<_> = (0..ADVISED_MAX + 2).map(|_| take(&heap, 4096)).collect();
    heap.advised.places.store(ADVISED_MAX - 1, Ordering::Relaxed);
    assert_eq!(heap.advise(slabs[0], 0..4096, Advice::Random), AdviceOutcome::Applied);
    assert_eq!(heap.advise(slabs[1], 0..4096, Advice::Random), AdviceOutcome::Refused);
    assert_eq!(
        heap.advise(slabs[0], 0..4096, Advice::Sequential),
        AdviceOutcome::Applied,
        "it has its place"
    );
    assert_eq!(heap.advise(slabs[1], 0..4096, Advice::WillNeed), AdviceOutcome::Applied, "that needs none");
    heap.free(slabs[0]);
    assert_eq!(heap.advise(slabs[1], 0..4096, Advice::Random), AdviceOutcome::Applied);
    heap.free(slabs[1]);
    assert_eq!(places(&heap), ADVISED_MAX - 1);
}

#[test]
fn threads_that_write_advise_and_read_leave_nothing_and_see_no_byte_change() {
    let heap = heap(config(&[16 << 10]));
    let block = take(&heap, 16 << 10);
    let turns = if cfg!(debug_assertions) { 2000 } else { 20_000 };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 1..=turns {
                let mark = [u8::try_from(turn % 251).expect("small"); 64];
                let edit = Edit { pieces: &[&mark], writes: Some(turn), ..Edit::default() };
                let _ = heap.edit(block, &edit); // unless it is read just now
            }
        });
        scope.spawn(|| {
            for turn in 0..turns {
                let advice = if turn % 2 == 0 { Advice::Random } else { Advice::Sequential };
                assert_eq!(heap.advise(block, 0..16 << 10, advice), AdviceOutcome::Applied);
            }
        });
        for _ in 0..turns {
            let pin = Arc::new(Pin::new(&heap, block).expect("held"));
            let bytes: Vec<u8> = pin.read(0..64).flatten().collect();
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "of one write: {bytes:?}");
        }
    });
    assert_eq!(places(&heap), 1, "once, however often");
    heap.free(block);
    assert_eq!(places(&heap), 0);
    heap.check();
}

#[test]
fn a_heap_that_may_not_merge_says_so_and_undoes_the_other_hints() {
    assert!(heap(config(&[4096])).may_merge());
    let plain = heap(Config { allow_mergeable: false, ..config(&[4096]) });
    assert!(!plain.may_merge());
    let block = plain.allocate(SizeClass(0)).expect("there is room");
    plain.advise(block, 0..4096, Advice::Random);
    plain.free(block);
    assert_eq!(places(&plain), 0);
}
